"""Seconds and memory of merging and reading a run of very many images: the table of docs/design/many-machines.md.

    python tests/benchmarks/bench_merge.py --images 1000000 --classes 171

The parts are made up in the form that workers write (packed ones: 2,500 rows each, images in any order), with a digest
for every image.  An image is labelled with 8 classes on average and predicted 8 more; ``--dense`` fills every class.
Each step runs in a process of its own, so that the peak of its memory is its own.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from ovss.datasets import DatasetRecord
from ovss.harness.protocol.protocol import load_protocol
from ovss.harness.runs import packing, parts
from ovss.harness.runs.plan import Plan, RunSpec
from ovss.harness.runs.run import Run
from ovss.harness.runs.scored import STAGES

ROWS = 2500
PIXELS = 512 * 683
STEPS = {
    "plan": lambda run: run.plan(),
    "done": lambda run: len(run.done()),
    "pack": lambda run: packing.pack(run.parts_folder, run.plan(), 1),
    "merge": lambda run: run.merge(),
    "is_merged": lambda run: run.is_merged(),
    "show": lambda run: run.finished().summary,
}


def make(results: Path, images: int, classes: int, dense: bool, name: str = "nothing", quality: float = 1.0) -> Run:
    """A run folder with a plan and all its parts; runs that differ in name and quality have the same labels."""
    rng = np.random.default_rng(0)
    names = tuple(f"class {k}" for k in range(classes))
    record = DatasetRecord(key="madeup", title="made up", images="", labels="", classes=names)
    ids = tuple(f"folder_{k % 1000:03d}/image_{k:08d}" for k in range(images))
    digests = tuple(rng.bytes(32).hex() for _ in ids)
    identity = {
        "method": {"method": name},
        "protocol": {"name": "tiny", "hash": "0" * 16},
        "setting": {"precision": "float32", "refine": "none"},
        "vocabulary_hash": "",
        "boundary": False,
        "dataset": {"key": record.key, "split": "all", "hash": ""},
        "confusion": False,
        "device_type": "cpu",
        "guide": None,
        "source_hash": "",
        "method_source_hash": None,
    }
    spec = RunSpec(method=name, dataset="madeup", protocol=load_protocol("tiny"))
    ids, digests = zip(*sorted(zip(ids, digests, strict=True)), strict=True)
    described = {"title": name, "training_free": True, "trained_on": "", "published": None}
    plan = Plan(
        spec=spec, identity=identity, record=record, ids=ids, planned=images, digests=digests, described=described
    )
    run = Run.at(results, plan)
    run.begin(plan)
    stamp, order = parts.Stamp.of(plan, "cpu"), rng.permutation(images)
    for start in range(0, images, ROWS):
        chosen = order[start : start + ROWS]
        part = made_up(rng, [ids[k] for k in chosen], [digests[k] for k in chosen], classes, dense, quality)
        parts.store_part(run.parts_folder, part, stamp.model_copy(update={"written": f"{start:09d}"}))
    return run


def made_up(
    rng: np.random.Generator, ids: list[str], digests: list[str], classes: int, dense: bool, quality: float
) -> pa.Table:
    """Rows of images."""
    shape = (len(ids), classes)
    share = 1.0 if dense else min(1.0, 8 / classes)
    gt = rng.integers(1, 2 * PIXELS // classes, shape) * (rng.random(shape) < share)
    tp = (gt * quality * rng.random(shape)).astype(np.int64)
    wrong = (gt - tp).sum(axis=1)
    pred = tp.copy()
    for k in rng.integers(0, classes, (8, len(ids))):  # what is not right goes to eight other classes
        pred[np.arange(len(ids)), k] += wrong // 8
    offsets = pa.array(np.arange(len(ids) + 1) * classes, pa.int32())
    return pa.table(
        {
            "image": ids,
            "content": digests,
            "pixels": gt.sum(axis=1),
            **{n: pa.ListArray.from_arrays(offsets, a.ravel()) for n, a in (("tp", tp), ("gt", gt), ("pred", pred))},
            **{f"{stage}_seconds": rng.random(len(ids)) for stage in STAGES},
            "wait_seconds": rng.random(len(ids)),
            "peak_bytes": rng.integers(10**9, 2 * 10**9, len(ids)),
            "warm": np.ones(len(ids), bool),
        }
    )


def main() -> None:
    """Make the parts and do every step, each in a process of its own, which prints what it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--dense", action="store_true")
    parser.add_argument("--steps", nargs="*", default=["plan", "done", "merge", "is_merged", "show"])
    parser.add_argument("--folder", type=Path, help="keep the run there, and use the one that is there")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.here:
        return _do(asked.steps[0], asked)
    with tempfile.TemporaryDirectory() as made:
        folder = asked.folder or Path(made)
        size = ["--images", str(asked.images), "--classes", str(asked.classes), *["--dense"] * asked.dense]
        for step in [*["make"] * (not any(folder.glob("runs/*"))), *asked.steps]:
            command = [sys.executable, __file__, "--here", "--folder", str(folder), "--steps", step, *size]
            subprocess.run(command, check=False)
    return None


def _do(step: str, asked: argparse.Namespace) -> None:
    start = time.perf_counter()
    if step == "make":
        make(asked.folder, asked.images, asked.classes, asked.dense)
    else:
        STEPS[step](Run(next(asked.folder.glob("runs/*"))))
    seconds, peak_bytes = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.stdout.write(
        f"{asked.images} images, {asked.classes} classes, {step}: {seconds:.1f} s, {time.process_time():.1f} s of CPU, "
        f"{peak_bytes / 1e9:.2f} GB\n"
    )


if __name__ == "__main__":
    main()
