"""``bench time``."""

import sys
from pathlib import Path
from typing import Any

from ..runs.scored import STAGES
from ..show.progress import bars
from ..show.tables import print_json, print_line, print_table, print_warning
from ..use.pairs import every_pair
from ..use.timing import time_methods
from ..use.timing_record import Machine, Spread, Timing
from .name_value import names_of, parse_changes, parse_options


def time_command(
    *,
    methods: str,
    dataset: str,
    repeats: int,
    limit: int | None,
    changes: list[str],
    options: list[str],
    allow_download: bool,
    results: Path,
    as_json: bool,
    **spec: Any,
) -> None:
    """Time methods and print what was found; ``spec`` are other arguments of ``every_pair``."""
    pairs = every_pair(
        names_of(methods),
        [dataset],
        changes=parse_changes(changes),
        options=parse_options(options, "--option"),
        say=print_warning,
        **spec,
    )
    try:
        with bars() as progress:
            found = time_methods(pairs, repeats, results, limit, progress, print_warning, allow_download)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; a timing keeps nothing until it is finished\n")
        sys.exit(130)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _print(found, results)


def _print(found: Timing, results: Path) -> None:
    title = (
        f"ms per image on {found.dataset} {found.split}, {found.images} images, {found.repeats} passes: median "
        "[quartiles]"
    )
    rows = [
        (m.method, _ms(m.seconds_per_image), *(f"{1e3 * m.seconds_per_stage[s].median:.1f}" for s in STAGES))
        for m in found.methods
    ]
    print_table(title, ("method", "all", *STAGES), rows)
    if found.ratios:
        ratios = [(f"{r.method} / {r.against}", _spread(r.ratio, 1.0, 3)) for r in found.ratios]
        print_table("time of the same passes", ("ratio", "median [quartiles]"), ratios)
    for m in found.methods:
        named = f"weights {m.weights['name']} {m.weights['sha256'][:17]}" if m.weights else "no weights"
        print_line(f"{m.method}: protocol {m.protocol} {m.protocol_hash[:8]}, {named}")
    threads = found.environment["threads"]
    print_line(
        f"{found.environment['device']}, {threads} thread{'' if threads == 1 else 's'}, {found.images_per_batch} image "
        f"at a time, decoder {found.environment['decoder']}, code {found.code_version}"
    )
    print_line(_machine(found.machine))
    print_line(f"timing {results / 'timings' / found.name}.json")


def _machine(machine: Machine) -> str:
    """What the machine did besides."""
    load = [f"{load:.2f}" if load is not None else "unknown" for load in (machine.load_before, machine.load_after)]
    others = "unknown" if machine.others_share is None else f"{100 * machine.others_share:.0f} %"
    return (
        f"{machine.cores} cores, load {load[0]} before and {load[1]} after, used by others {others}, governor "
        f"{machine.governor or 'unknown'}"
    )


def _ms(spread: Spread) -> str:
    return _spread(spread, 1e3, 1)


def _spread(spread: Spread, unit: float, digits: int) -> str:
    median, low, high = (f"{unit * v:.{digits}f}" for v in (spread.median, spread.low, spread.high))
    return f"{median} [{low}, {high}]"
