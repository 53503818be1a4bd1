"""What is wrong with ``bench sweep`` and ``bench time`` and can be seen before torch is loaded."""

from pathlib import Path

from ...methods import UserError
from ..use.sweep_values import asked_of
from .early import check_run
from .name_value import names_of, parse_changes


def check_sweep(
    methods: str,
    dataset: str,
    protocol: str | None,
    backbone: str | None,
    weights: Path | None,
    data_root: Path | None,
    device: str,
    changes: list[str],
    options: list[str],
    results: Path,
) -> None:
    """Raise ``UserError`` or ``DataError`` for a sweep of nothing, of another field, or of bad values."""
    check_one_data_set(dataset)
    asked = asked_of(parse_changes(changes))
    others = [text for text in changes if text.partition("=")[0].strip().replace("-", "_") != asked.field]
    for value in (asked.values[0], asked.values[-1]):
        check_run(
            methods=methods,
            datasets=dataset,
            protocol=protocol,
            backbone=backbone,
            weights=weights,
            data_root=data_root,
            device=device,
            changes=[*others, f"{asked.field}={value}"],
            options=options,
            picture=None,
            folders={"--results": results},
        )


def check_one_data_set(dataset: str) -> None:
    """Refuse several."""
    names = names_of(dataset)
    if names[1:]:
        raise UserError(f"--dataset names {len(names)} data sets here: name one, and repeat the command for the others")
