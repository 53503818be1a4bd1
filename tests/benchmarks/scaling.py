"""How time grows: classes, pixels, images, runs; each curve with the exponent that fits it.

    python tests/benchmarks/scaling.py --images 1000000 --runs 1000

The exponent is the slope of a line through (log size, log seconds) by least squares: 1 is linear.  A step whose own
slope is more than 0.35 above it is a cliff and is named.  A fixed cost at small sizes makes the slope of later steps
rise without any cliff, and noise of a loaded machine makes some: look at the seconds.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench_merge import make
from benchmarks.made_up import blocky, field_of
from benchmarks.table import Side, timed

from ovss.harness.decoding.decode import decode
from ovss.harness.metrics.counting import count
from ovss.harness.report.leaderboard import leaderboard

CLIFF = 0.35
CLASSES = (10, 30, 100, 300, 1000, 2000, 5000)
SIDES_PX = (300, 600, 1200, 2400, 4000)
IMAGES = (10, 100, 1000, 10_000, 100_000, 1_000_000)
RUNS = (10, 30, 100, 300, 1000)
ROUNDS = 3


@dataclass(frozen=True)
class Sizes:
    """The largest sizes of the curves that take long."""

    images: int
    runs: int


@dataclass(frozen=True)
class Curve:
    """Seconds of some work by size."""

    what: str
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    @property
    def exponent(self) -> float:
        slope, _ = np.polyfit(np.log(self.sizes), np.log(self.seconds), 1)
        return float(slope)

    @property
    def cliffs(self) -> list[str]:
        """Steps that are steeper than the fit."""
        found = []
        for (small, before), (large, after) in pairwise(zip(self.sizes, self.seconds, strict=True)):
            slope = math.log(after / before) / math.log(large / small)
            if slope > self.exponent + CLIFF:
                found.append(f"{small:,} to {large:,}: {slope:.2f}")
        return found

    @property
    def markdown(self) -> str:
        told = "no cliff" if not self.cliffs else f"steeper steps: {'; '.join(self.cliffs)}"
        rows = (
            f"| {self.what} | " + " | ".join(f"{size:,}" for size in self.sizes) + " |",
            "|---" * (len(self.sizes) + 1) + "|",
            "| CPU time, ms | " + " | ".join(f"{1e3 * s:,.{0 if s >= 0.1 else 2}f}" for s in self.seconds) + " |",
        )
        return "\n".join([f"Exponent {self.exponent:.2f}, {told}.", "", *rows])


def curve(what: str, sizes: Sequence[int], side: Callable[[int], Side], rounds: int = ROUNDS) -> Curve:
    """The best of some rounds for each size; sizes take turns, so that a load hits all alike."""
    sides = [side(size) for size in sizes]
    found = [[run() for run in sides] for _ in range(rounds)]
    return Curve(what, tuple(sizes), tuple(float(s) for s in np.min(found, axis=0)))


def curves(largest: Sizes) -> list[Curve]:
    """All of them."""
    return [
        curve("decode to 512 x 683, by classes", CLASSES, decoding_classes),
        curve("count 512 x 683, by classes", CLASSES, counting_classes),
        curve("decode 21 classes, by side in px", SIDES_PX, decoding_side),
        curve("count 21 classes, by side in px", SIDES_PX, counting_side),
        curve("merge a run of 21 classes, by images", up_to(IMAGES, largest.images), merging, rounds=1),
        curve("leaderboard of runs of 500 images, 21 classes, by runs", up_to(RUNS, largest.runs), comparing, rounds=1),
    ]


def up_to(sizes: Sequence[int], largest: int) -> list[int]:
    """At least the first three, which a fit needs."""
    return [*sizes[:3], *(size for size in sizes[3:] if size <= largest)]


def decoding_classes(classes: int) -> Side:
    field = field_of("CLIP-like", classes)
    return timed(lambda: decode(field, (512, 683)))


def decoding_side(side: int) -> Side:
    patches = side // 16
    field = field_of("CLIP-like", 21, (side, side), (patches, patches))
    return timed(lambda: decode(field, (side, side)))


def counting_classes(classes: int) -> Side:
    label, prediction = (blocky((512, 683), classes, 24, seed).short() for seed in (1, 2))
    return timed(lambda: count(prediction, label, classes, 32767))


def counting_side(side: int) -> Side:
    label, prediction = (blocky((side, side), 21, side // 25, seed).byte() for seed in (1, 2))
    return timed(lambda: count(prediction, label, 21))


def merging(images: int) -> Side:
    """Parts of workers to the merged counts with their metrics."""

    def seconds() -> float:
        with TemporaryDirectory() as folder:
            run = make(Path(folder), images, 21, dense=False)
            started = time.process_time()
            run.merge()
            return time.process_time() - started

    return seconds


def comparing(runs: int) -> Side:
    """A leaderboard of finished runs on the same labels, each a little worse than the one before."""

    def seconds() -> float:
        with TemporaryDirectory() as folder:
            for number in range(runs):
                made = make(
                    Path(folder), 500, 21, dense=False, name=f"method {number}", quality=1 - 0.5 * number / runs
                )
                made.merge()
            started = time.process_time()
            leaderboard(Path(folder))
            return time.process_time() - started

    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for found in curves(Sizes(given.images, given.runs)):
        sys.stdout.write(f"{found.markdown}\n\n")


if __name__ == "__main__":
    main()
