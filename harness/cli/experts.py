"""``bench experts``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..show.progress import bars
from ..show.tables import print_json, print_line, print_table, print_warning
from ..use.experts import choose_experts
from ..use.pairs import every_pair
from .name_value import parse_options

if TYPE_CHECKING:
    from ...methods.blocks.experts import Experts

_SHOWN = 3
"""Texts of templates that a row has room for."""


def experts_command(
    *,
    method: str,
    dataset: str,
    out: Path,
    limit: int | None,
    count: int,
    changes: list[str],
    options: list[str],
    allow_download: bool,
    as_json: bool,
    **spec: Any,
) -> None:
    """Choose experts and print them; ``spec`` are other arguments of ``every_pair``."""
    (pair,) = every_pair(
        [method],
        [dataset],
        changes=parse_options(changes, "--set"),
        options=parse_options(options, "--option"),
        say=print_warning,
        **spec,
    )
    try:
        with bars() as progress:
            found = choose_experts(pair, out, limit, count, progress, print_warning, allow_download)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; nothing is kept until all images were looked at\n")
        sys.exit(130)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _print(found, out, method)


def _print(found: "Experts", out: Path, method: str) -> None:
    rows = [_row(found, c) for c in range(len(found.classes))]
    print_table("", ("class", "entropy of these", "of all", "templates, best first"), rows)
    never = [name for name, chosen in zip(found.classes, found.chosen, strict=True) if not chosen]
    if never:
        print_line(f"no template ever gave a pixel to {', '.join(never)}: these keep all templates")
    weights, protocol, dataset = found.method.get("weights") or {}, found.protocol, found.dataset
    partial = "" if found.images == found.planned else f" of {found.planned} (partial)"
    print_line(
        f"ranked by {method} on {found.images}{partial} images of {dataset['key']} {dataset['split']}, labels not used"
    )
    print_line(
        f"protocol {protocol['name']} {protocol['hash'][:8]}, weights {weights['name']} {weights['sha256'][:17]}, "
        f"{found.method['precision']}, {found.environment['device']}, code {found.code_version}"
    )
    print_line(f"experts {out}")
    if found.note:
        print_line(f"note: {found.note}")


def _row(found: "Experts", c: int) -> tuple[str, ...]:
    """Mean entropy in nats of the chosen templates and of all that gave the class a pixel, weighted by no pixels."""
    chosen, seen = found.chosen[c], [e for e in found.entropy[c] if e is not None]
    texts = [found.templates[t] for t in chosen]
    best = [e for t in chosen if (e := found.entropy[c][t]) is not None]
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return (found.classes[c], _mean(best), _mean(seen), "; ".join(texts[:_SHOWN]) + more)


def _mean(values: list[float]) -> str:
    return f"{sum(values) / len(values):.3f}" if values else "-"
