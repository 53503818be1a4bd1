"""A sweep of 20 thresholds against one run, in one process.

    python tests/benchmarks/bench_sweep.py --rounds 5

Scenes of the tiny world whose stuff is background, with the embedded model: the worst case, as a larger model takes
more of the time and is decoded as often.  Both sides go through the use-case, from the check of the data to the written
result; each has a folder of its own that is empty.  First values of the sweep must have the mIoU of the run with them.
Then the sides take turns on one thread, the first place changing from round to round; time is CPU time of the process.
Shown is the median over rounds of the ratio.  The program ends with an error if one is above the goal.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from things import write_things

from ovss.harness.runs.plan import RunSpec
from ovss.harness.use.pairs import every_pair
from ovss.harness.use.run import run
from ovss.harness.use.sweep import sweep

FIELD = "probability_threshold"
VALUES = tuple(k / 20 for k in range(20))
OWN = 0.3
GOAL = 1.5


@dataclass(frozen=True)
class Case:
    """A method on some images."""

    method: str
    images: int

    @property
    def title(self) -> str:
        return f"tiny-clip, {self.method}, {self.images} images"


CASES = (Case("maskclip", 40), Case("sclip", 40))


def spec_for(case: Case, data: Path, threshold: float) -> RunSpec:
    """The run with a threshold."""
    changes = {"templates": "simple", "logit_scale": 40.0, FIELD: threshold}
    return every_pair([case.method], [str(data)], changes=changes, backbone="tiny-clip")[0]


def seconds(work: Callable[[Path], Any]) -> float:
    """CPU time of ``work`` on an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        work(Path(folder))
        return time.process_time() - started


def measure(case: Case, folder: Path, rounds: int) -> tuple[list[str], float]:
    """A row of the table, and the median ratio."""
    data = write_things(folder, case.images)
    spec = spec_for(case, data, OWN)
    found = sweep(spec, FIELD, VALUES, folder / "results").methods[0]
    assert found.one_decode and len(found.points) == len(VALUES)
    for point in found.points[::6]:
        (one,) = run(spec_for(case, data, point.value), folder / "results")
        assert point.miou == one.result.miou, "a sweep and a run give different numbers"
    sides = (lambda results: sweep(spec, FIELD, VALUES, results), lambda results: run(spec, results, fresh=True))
    pairs = []
    for number in range(rounds):
        turns = sides if number % 2 else sides[::-1]
        taken = [seconds(side) for side in turns]
        pairs.append(taken if number % 2 else taken[::-1])
    low, middle, high = np.percentile([swept / alone for swept, alone in pairs], [25, 50, 75])
    swept, alone = (1e3 * float(np.median(side)) / case.images for side in zip(*pairs, strict=True))
    goal = f"{GOAL:g} {'met' if middle <= GOAL else 'MISSED'}"
    row = [case.title, f"{swept:.1f}", f"{alone:.1f}", f"{middle:.3f}", f"{low:.3f} - {high:.3f}", goal]
    return row, float(middle)


def main() -> None:
    parser = argparse.ArgumentParser(description="A sweep of 20 thresholds against one run.")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    missed = []
    table = Table(title=f"CPU time per image, one thread, {rounds} rounds, torch {torch.__version__}")
    for column in ("", "20 thresholds ms", "one run ms", "ratio", "quartiles", "goal"):
        table.add_column(column)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["OVSS_CACHE"] = str(folder / "cache")
        for number, case in enumerate(CASES):
            row, ratio = measure(case, folder / f"case {number}", rounds)
            table.add_row(*row)
            if ratio > GOAL:
                missed.append(f"{case.title}: {ratio:.3f} is above {GOAL:g}")
    Console(width=160).print(table)
    if missed:
        sys.exit("\n".join(missed))


if __name__ == "__main__":
    main()
