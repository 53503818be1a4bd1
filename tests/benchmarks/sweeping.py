"""A sweep of 20 thresholds, and one run: the sides of a line.

Scenes of the tiny world whose stuff is background, with the embedded model: the worst case, as a larger model takes
more of the time and is decoded as often.  Both sides go through the use-case, from the check of the data to the written
result; each has a folder of its own that is empty.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from things import write_things

from ovss.harness.runs.plan import RunSpec
from ovss.harness.use.pairs import every_pair
from ovss.harness.use.run import run
from ovss.harness.use.sweep import sweep

FIELD = "probability_threshold"
VALUES = tuple(k / 20 for k in range(20))
OWN = 0.3


@dataclass(frozen=True)
class Case:
    """A method on some images."""

    method: str
    images: int


@dataclass(frozen=True)
class Sides:
    """What is done in an empty folder."""

    one: Callable[[Path], Any]
    swept: Callable[[Path], Any]


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


def check(case: Case, folder: Path) -> None:
    """Some values of the sweep have the mIoU of the run with them."""
    spec = spec_for(case, written(case, folder), OWN)
    found = sweep(spec, FIELD, VALUES, folder / "results").methods[0]
    assert found.one_decode and len(found.points) == len(VALUES)
    for point in found.points[::6]:
        (one,) = run(spec_for(case, written(case, folder), point.value), folder / "results")
        assert point.miou == one.result.miou, "a sweep and a run give different numbers"


def sides(case: Case, folder: Path) -> Sides:
    """One run and the sweep."""
    spec = spec_for(case, written(case, folder), OWN)
    return Sides(
        lambda results: run(spec, results, fresh=True),
        lambda results: sweep(spec, FIELD, VALUES, results),
    )


@cache
def written(case: Case, folder: Path) -> Path:
    """The record of the case's images."""
    return write_things(folder, case.images)
