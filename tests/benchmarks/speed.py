"""Speed ratios against the field's own programs and plain operations: one table, both sides of a line in one run.

    python tests/benchmarks/speed.py --rounds 7 --output results/benchmarks.md

Every line first asserts that both sides agree.  Then they take turns on one thread; time is CPU time of the process
unless the line says wall time.  Shown is the median over rounds of peer / ours, with its quartiles; the lower quartile
decides whether a goal is met.  A goal that is missed makes the exit code 1.  ``--only decode,sclip`` picks lines whose
names begin so; ``--peer DIR`` is a checkout of SCLIP's released program; ``--scaling`` adds the curves.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import lines_decode, lines_model, lines_run, scaling
from benchmarks.document import Row, page, row_of
from benchmarks.machine import Machine, is_zen5
from benchmarks.table import AbsentError, Line, measured

from ovss.harness.runs.storing import store
from ovss.harness.use.machine import now

OUTPUT = Path(__file__).resolve().parents[2] / "results" / "benchmarks.md"
Makers = dict[str, Callable[[], Line]]


@dataclass(frozen=True)
class Asked:
    """What the command line says."""

    only: tuple[str, ...]
    rounds: int
    output: Path | None
    peer: Path | None
    scaling: scaling.Sizes | None


def rows_of(makers: Makers, rounds: int, zen5: bool) -> Iterator[Row]:
    """Every line, measured; one that cannot be is a row that says why."""
    for name, make in makers.items():
        try:
            line = make()
            row = row_of(name, line, measured(line, rounds), zen5)
        except AbsentError as error:
            row = Row(name, skipped=str(error))
        sys.stdout.write(f"{row.markdown}\n")
        sys.stdout.flush()
        yield row


def picked(makers: Makers, only: tuple[str, ...]) -> Makers:
    """Lines whose names begin with one of ``only``; all, if that is empty."""
    unknown = [word for word in only if not any(name.startswith(word) for name in makers)]
    if unknown:
        sys.exit(f"no line begins with {', '.join(unknown)}; there are {', '.join(makers)}")
    return {name: make for name, make in makers.items() if not only or name.startswith(only)}


def asked_of(words: list[str]) -> Asked:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="beginnings of names of lines, separated by commas")
    parser.add_argument("--output", type=Path, help=f"write the page there, such as {OUTPUT.parent.name}/{OUTPUT.name}")
    parser.add_argument("--peer", type=Path, metavar="DIR", help="checkout with clip_segmentor.py")
    parser.add_argument("--scaling", action="store_true", help="the curves too, which take minutes")
    parser.add_argument("--images", type=int, default=10_000, help="most images of the curve of merging")
    parser.add_argument("--runs", type=int, default=100, help="most runs of the curve of the leaderboard")
    given = parser.parse_args(words)
    sizes = scaling.Sizes(given.images, given.runs) if given.scaling else None
    return Asked(tuple(filter(None, given.only.split(","))), given.rounds, given.output, given.peer, sizes)


def main(words: list[str]) -> int:
    asked = asked_of(words)
    torch.set_num_threads(1)
    with ExitStack() as context:
        folder = Path(context.enter_context(tempfile.TemporaryDirectory()))
        os.environ["OVSS_CACHE"] = str(folder / "cache")
        before = now()
        makers = {**lines_decode.LINES, **lines_model.lines(folder, asked.peer, context), **lines_run.lines(folder)}
        rows = list(rows_of(picked(makers, asked.only), asked.rounds, is_zen5()))
        curves = [] if asked.scaling is None else scaling.curves(asked.scaling)
        text = page(rows, curves, asked.rounds, Machine.between(before, now()))
    if asked.output is not None:
        store(asked.output, text.encode())
    missed = [row for row in rows if row.met is False]
    for row in missed:
        sys.stderr.write(f"below the goal: {row.name}: {row.ratio}\n")
    for curve in curves:
        sys.stdout.write(f"{curve.markdown}\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
