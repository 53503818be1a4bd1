"""Loading ahead of the model and in line, and decoded images that are kept: the sides of lines.

The stand-ins for a model and a loader sleep 20 ms each; their time, and that of runs, is wall time.  Reading pictures
is told in CPU time of the process.  They are four files, made up and as large as those of Cityscapes, 1024 x 2048: soft
shapes of every size with the noise of a sensor, as PNG of about the size there.  Labels are PNG of 19 classes.  Files
are in the memory of the system on both sides.
"""

import shutil
import time
from functools import partial
from pathlib import Path

import numpy as np
from benchmarks.table import Side
from PIL import Image

from ovss.datasets import DatasetRecord
from ovss.datasets.dataset import Once
from ovss.datasets.loader import FileKey, read_image_file, read_label_file
from ovss.harness import every_pair, run
from ovss.harness.runs.loading import Loading
from ovss.harness.runs.prefetch import loaded

STREETS = 4
IDS = [f"{k:03d}" for k in range(100)]
RECORD = DatasetRecord(
    key="streets", title="Streets", images="i", labels="l", classes=tuple(f"class {k}" for k in range(19))
)


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


def same_pixels(folder: Path, kept: Once) -> None:
    """What is kept, now of every file, has the pixels of the file."""
    for path in sorted(folder.glob("image*.png")):
        for _ in range(2):  # written, and read
            again = kept(FileKey("image", path), partial(read_image_file, path))
            assert np.array_equal(again.pixels, read_image_file(path).pixels)


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
