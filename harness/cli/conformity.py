"""``bench test``: the conformity suite for one method."""

from pathlib import Path

from ...methods import Method, create_method, find_method
from ...methods.models.backbone import load_backbone
from ..runs.conformity import check_method
from ..show.tables import print_json, print_table
from .name_value import parse_options


def test_command(
    method: str, backbone: str, weights: Path | None, device: str, options: list[str], as_json: bool
) -> None:
    """Run the checks; exit code 1 if one fails."""
    find_method(method)  # a clear error for an unknown name, before anything is loaded
    parts = load_backbone(backbone, weights)
    chosen = parse_options(options, "--option")

    def factory() -> Method:
        return create_method(method, backbone=parts, device=device, **chosen)

    checks = list(check_method(factory))
    if as_json:
        print_json([{"check": c.name, "passed": c.passed, "detail": c.detail} for c in checks])
    else:
        rows = [(c.name, "passed" if c.passed else "FAILED", c.detail) for c in checks]
        print_table(f"conformity of {method}", ("check", "result", "detail"), rows)
    if not all(c.passed for c in checks):
        raise SystemExit(1)
