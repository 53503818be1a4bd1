"""``bench sweep``."""

import sys
from pathlib import Path
from typing import Any

from ..metrics.bootstrap import why_no_interval
from ..runs.loading import Loading
from ..show.progress import bars
from ..show.tables import print_json, print_line, print_table, print_warning, with_interval
from ..use.pairs import every_pair
from ..use.sweep import FILE, sweep
from ..use.sweep_record import Gap, Score, Sweep, SweptMethod
from ..use.sweep_values import asked_of
from .name_value import names_of, parse_changes, parse_options

_BAR = 30


def sweep_command(
    *,
    methods: str,
    dataset: str,
    limit: int | None,
    loading: tuple[int | None, Path | None],
    fresh: bool,
    changes: list[str],
    options: list[str],
    allow_download: bool,
    results: Path,
    as_json: bool,
    **spec: Any,
) -> None:
    """Sweep a field of the decode rule and print what was found; ``spec`` are other arguments of ``every_pair``."""
    asked = asked_of(parse_changes(changes))
    pairs = every_pair(
        names_of(methods),
        [dataset],
        changes=asked.changes,
        options=parse_options(options, "--option"),
        say=print_warning,
        **spec,
    )
    try:
        with bars() as progress:
            told = (progress, print_warning, allow_download, Loading(*loading))
            found = sweep(pairs, asked.field, asked.values, results, limit, fresh, *told)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; a sweep keeps nothing until it is finished\n")
        sys.exit(130)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _print(found, results)


def _print(found: Sweep, results: Path) -> None:
    for method in found.methods:
        _print_curve(found, method)
    _print_tuned(found)
    if found.pairs:
        _print_pairs(found)
    for reason in dict.fromkeys(filter(None, (why_no_interval(u) for u in (found.units, found.test_units)))):
        print_line(reason)
    for method in found.methods:
        print_line(f"{method.method}: {_means(found, method)}")
    if not all(method.one_decode for method in found.methods):
        print_line("every value was decoded by itself: only a probability threshold without gates takes one decode")
    print_line(f"sweep {results / 'sweeps' / found.name / FILE}")
    for note in dict.fromkeys(m.note for m in found.methods if m.note):
        print_line(f"note: {note}")


def _print_curve(found: Sweep, method: SweptMethod) -> None:
    """Every value over all images, with a bar from the lowest mIoU to the highest."""
    known = [p.miou for p in method.points if p.miou is not None]
    low, span = min(known, default=0.0), max(known, default=0.0) - min(known, default=0.0)
    partial = "" if found.images == found.planned else f" of {found.planned} (partial)"
    rows = [
        (
            f"{p.value:g}",
            with_interval(p.miou, p.interval),
            "" if p.miou is None or not span else "#" * round(1 + (_BAR - 1) * (p.miou - low) / span),
            _marks(method, p.value),
        )
        for p in method.points
    ]
    title = f"{method.method} on {found.dataset} {found.split}, {found.images}{partial} images"
    print_table(title, (found.field, "mIoU [95 %]", "curve", ""), rows)


def _marks(method: SweptMethod, value: float) -> str:
    marks = {
        f"protocol {method.protocol}": method.own,
        method.paper_protocol or "": method.paper,
        "best on the tuning half": method.tuned,
    }
    return ", ".join(name for name, marked in marks.items() if marked == value)


def _print_tuned(found: Sweep) -> None:
    rows = [
        (
            m.method,
            f"{m.own:g}",
            _score(m.own_on_test),
            f"{m.tuned:g}",
            _score(m.tuned_on_test),
            _gap(m.gain),
            "" if m.gain.p_value is None else f"{m.gain.p_value:.4f}",
        )
        for m in found.methods
    ]
    title = (
        f"chosen on {found.tuning_units} units, reported on the {found.test_units} others ({found.test_images} images)"
    )
    columns = ("method", "protocol", "mIoU [95 %]", "tuned", "mIoU [95 %]", "gain [95 %]", "p")
    print_table(title, columns, rows)


def _print_pairs(found: Sweep) -> None:
    rows = [(f"{p.method} - {p.against}", _gap(p.at_own), _gap(p.at_tuned), _gap(p.of_value)) for p in found.pairs]
    columns = ("difference", "protocol's values", "tuned values", f"of it {found.field}")
    print_table("how much of a difference is the value, on the same units [95 %]", columns, rows)


def _score(score: Score) -> str:
    return with_interval(score.miou, score.interval)


def _gap(gap: Gap) -> str:
    return with_interval(gap.estimate, gap.interval)


def _means(found: Sweep, method: SweptMethod) -> str:
    weights = method.weights
    named = f"weights {weights['name']} {weights['sha256'][:17]}" if weights else "no weights"
    if not weights.get("activation_checked", True):
        named += f" ({weights['activation_note']})"
    return (
        f"protocol {method.protocol} {method.protocol_hash[:8]}, {named}, {found.environment['device']}, decoder "
        f"{found.environment['decoder']}, code {found.code_version}"
    )
