"""Loading ahead of the model against loading in line, and decoded images that are kept against decoding them.

    python tests/benchmarks/bench_loading.py --rounds 7

Both sides take turns in one process, the first place changing from round to round.  Shown are the best time of each,
their ratio, and the quartiles over rounds of the ratio of a round.  The goal is for the best: other programs only add
to a time.  The stand-ins for a model and a loader sleep 20 ms each; their time, and that of runs, is wall time.
Reading pictures is told in CPU time of the process.  They are four files, made up and as large as those of Cityscapes,
1024 x 2048: soft shapes of every size with the noise of a sensor, as PNG of about the size there.  Labels are PNG of 19
classes.  Files are in the memory of the system on both sides.  With ``--runs`` come runs of the embedded model on the
CPU, with and without threads that load.  A goal that is missed ends the program with an error.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from ovss.datasets import DatasetRecord
from ovss.datasets.dataset import Once, every_time
from ovss.datasets.decoded import Decoded
from ovss.datasets.loader import FileKey, read_image_file, read_label_file
from ovss.harness import every_pair, run
from ovss.harness.runs.loading import Loading
from ovss.harness.runs.prefetch import loaded

STREETS = 4
READINGS = 4
"""Rounds of reading pictures in a round of the others, which take longer."""
IDS = [f"{k:03d}" for k in range(100)]
RECORD = DatasetRecord(
    key="streets", title="Streets", images="i", labels="l", classes=tuple(f"class {k}" for k in range(19))
)
Side = Callable[[], float]


def pace(threads: int) -> float:
    """Seconds for 100 images."""
    started = time.perf_counter()
    with loaded(IDS, lambda image_id: time.sleep(0.02), threads, lambda value: 0) as images:
        for _ in images:
            time.sleep(0.02)
    return time.perf_counter() - started


def write_streets(folder: Path) -> None:
    """``image0.png``, ``label0.png`` and so on; the same picture in all."""
    rng, height, width = np.random.default_rng(1), 1024, 2048
    found = np.full((height, width, 3), 110.0, np.float32)
    for level in range(2, 10):
        coarse = rng.normal(size=(3, 2**level, 2 ** (level + 1))).astype(np.float32)
        planes = [np.asarray(Image.fromarray(c).resize((width, height), Image.Resampling.BICUBIC)) for c in coarse]
        found += np.stack(planes, -1) * np.float32(120 * 2.0**-level)
    noisy = np.clip(found + rng.normal(size=found.shape).astype(np.float32), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(folder / "image0.png")
    Image.fromarray((noisy[..., 0] // 14).astype(np.uint8)).save(folder / "label0.png")
    for number in range(1, STREETS):
        for kind in ("image", "label"):
            shutil.copy(folder / f"{kind}0.png", folder / f"{kind}{number}.png")


def reading(once: Once, folder: Path, kinds: tuple[str, ...]) -> Side:
    """Seconds to read an image, a label or both: the mean over the files."""

    def read(kind: str, path: Path) -> None:
        if kind == "image":
            once(FileKey("image", path), lambda: read_image_file(path))
        else:
            once(FileKey("label", path), lambda: read_label_file(path, RECORD))

    def seconds() -> float:
        started = time.process_time()
        for number in range(STREETS):
            for kind in kinds:
                read(kind, folder / f"{kind}{number}.png")
        return (time.process_time() - started) / STREETS

    return seconds


def running(folder: Path, threads: int) -> Side:
    """Seconds of a fresh run of the embedded model over the embedded scenes."""
    pairs = every_pair(["maskclip"], ["shapes"])

    def seconds() -> float:
        results = folder / f"results {threads}"
        shutil.rmtree(results, ignore_errors=True)
        started = time.perf_counter()
        run(pairs, results, limit=100, fresh=True, loading=Loading(threads))
        return time.perf_counter() - started

    return seconds


def row(title: str, slow: Side, fast: Side, rounds: int, goal: float | None) -> tuple[list[str], str]:
    """A row of the table, and what is missed."""
    slow(), fast()
    pairs = []
    for number in range(rounds):
        first = fast() if number % 2 else 0.0
        taken = slow()
        pairs.append((taken, first or fast()))
    low, high = np.percentile([a / b for a, b in pairs], [25, 75])
    best = [min(side) for side in zip(*pairs, strict=True)]
    ratio = best[0] / best[1]
    missed = goal is not None and ratio < goal
    said = "" if goal is None else f"{goal:g} {'MISSED' if missed else 'met'}"
    cells = [title, *(f"{1e3 * seconds:.2f}" for seconds in best), f"{ratio:.2f}", f"{low:.2f} - {high:.2f}", said]
    return cells, f"{title}: {ratio:.2f}" if missed else ""


def main() -> None:
    parser = argparse.ArgumentParser(description="Loading ahead, and images that are kept decoded.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--runs", action="store_true")
    asked = parser.parse_args()
    rounds = asked.rounds
    table = Table(title=f"{rounds} rounds, {os.cpu_count()} cores")
    for column in ("", "ms without", "ms with", "times as fast", "quartiles", "goal"):
        table.add_column(column)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["OVSS_CACHE"] = str(folder / "cache")
        write_streets(folder)
        kept = Decoded(folder / "kept").through(every_time, RECORD)
        found = [
            row("100 images, 20 ms each side, 1 thread", lambda: pace(0), lambda: pace(1), rounds, 1.9),
            row("100 images, 20 ms each side, 4 threads", lambda: pace(0), lambda: pace(4), rounds, 1.9),
        ]
        for kinds, goal in ((("image",), 50.0), (("label",), None), (("image", "label"), None)):
            sides = reading(every_time, folder, kinds), reading(kept, folder, kinds)
            found.append(row(f"PNG of 1024 x 2048, {' and '.join(kinds)}", *sides, READINGS * rounds, goal))
        for threads in (1, 2) if asked.runs else ():
            sides = running(folder, 0), running(folder, threads)
            found.append(row(f"run of 100 scenes on the CPU, --loaders {threads}", *sides, rounds, None))
    for cells, _ in found:
        table.add_row(*cells)
    Console(width=160).print(table)
    missed = [said for _, said in found if said]
    if missed:
        sys.exit("below the goal: " + "; ".join(missed))


if __name__ == "__main__":
    main()
