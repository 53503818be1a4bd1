"""One pass over the images for several data sets or methods, against a run of each, in one process.

    python tests/benchmarks/bench_sharing.py --rounds 5

Made-up images with labels of 21 and of 20 classes, as VOC21 and VOC20 have; ViT-B/16 with random weights, read from a
file, and the embedded model.  Both sides go through the engine, from reading files to writing parts; texts are encoded
before.  First both must give the same counts.  Then they take turns on one thread, the first place changing from round
to round; time is CPU time of the process.  Shown is the median over rounds of the ratio.  Where a goal is given, the
program ends with an error if the median is above it.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from rich.table import Table

from ovss.datasets import check_samples
from ovss.harness.protocol.protocol import Protocol
from ovss.harness.runs.engine import Lane, Watch, work_through
from ovss.harness.runs.plan import RunSpec, build_pipelines, make_plan
from ovss.harness.runs.run import Run

NAMES = [f"thing number {n}" for n in range(20)]
DENSE = ("clip", "maskclip", "sclip", "naclip", "clearclip")
MODEL = "ViT-B-16-quickgelu"


@dataclass(frozen=True)
class Case:
    """``methods`` on ``datasets`` in one pass, against ``against`` of those runs alone, one after the other."""

    title: str
    methods: tuple[str, ...]
    datasets: tuple[str, ...]
    backbone: str
    against: int
    goal: float | None
    size: tuple[int, int] = (375, 500)
    images: int = 2


CASES = (
    Case(
        "tiny-clip, SCLIP, 2 data sets / 2 runs", ("sclip",), ("with", "without"), "tiny-clip", 2, None, (96, 96), 100
    ),
    Case("ViT-B/16, SCLIP, 2 data sets / 2 runs", ("sclip",), ("with", "without"), MODEL, 2, 0.6),
    Case("ViT-B/16, 5 dense methods / 1 run", DENSE, ("with",), MODEL, 1, 1.3),
    Case("ViT-B/16, 5 dense methods / 5 runs", DENSE, ("with",), MODEL, 5, None),
)


def write_data(folder: Path, case: Case) -> None:
    """Blocky photos as JPEG, labels of 21 classes as PNG, and both records."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    coarse = tuple(-(-side // 20) for side in case.size)
    for number in range(case.images):
        blocks = rng.integers(0, 256, (*coarse, 3), np.uint8), rng.integers(0, 21, coarse, np.uint8)
        image, label = (b.repeat(20, 0).repeat(20, 1)[: case.size[0], : case.size[1]] for b in blocks)
        Image.fromarray(image).save(folder / "images" / f"{number}.jpg")
        Image.fromarray(label).save(folder / "labels" / f"{number}.png")
    shared = 'title = "made up"\nimages = "images"\nlabels = "labels"\n'
    for key, rest in {
        "with": f"classes = {['background', *NAMES]}\nbackground = 0\n",
        "without": f"classes = {NAMES}\nfirst_label = 1\n",
    }.items():
        (folder / f"{key}.toml").write_text(f'key = "{key}"\n{shared}{rest}')


def lanes_for(case: Case, folder: Path, weights: Path) -> list[Lane]:
    """Every pair, planned."""
    windows = {"short_side_px": 336, "window_px": 336, "stride_px": 112} if case.backbone == MODEL else {}
    base = {"templates": "simple", "logit_scale": 40.0, **windows}
    protocol = Protocol(name="made-up", summary="", source="", version=1, family="paper", base=base)
    specs = [
        RunSpec(
            method=method,
            dataset=str(folder / f"{key}.toml"),
            protocol=protocol,
            backbone=case.backbone,
            weights=str(weights) if case.backbone == MODEL else None,
        )
        for method in case.methods
        for key in case.datasets
    ]
    data = [spec.open_data() for spec in specs]
    lanes = []
    for spec, pipeline, d in zip(specs, build_pipelines(specs, data), data, strict=True):
        plan = make_plan(spec, pipeline, d, check_samples(d, d.ids).digests)
        # Random weights give almost equal texts; spread out, classes have winners as with trained ones.
        generator = torch.Generator().manual_seed(len(d.record.classes))
        text = torch.randn(pipeline.words.text.shape, generator=generator)  # type: ignore[attr-defined]
        pipeline.words = replace(pipeline.words, text=F.normalize(text, dim=-1))
        run = Run.at(folder / "results", plan)
        run.begin(plan)
        lanes.append(Lane(run, pipeline, d))
    return lanes


def seconds(groups: Sequence[Sequence[Lane]]) -> float:
    """CPU time to score every group of lanes from the start, one group after the other."""
    for lane in (lane for group in groups for lane in group):
        for part in lane.run.parts_folder.iterdir():
            part.unlink()
    started = time.process_time()
    for group in groups:
        work_through(group, group[0].data.ids, "cpu", Watch())
    return time.process_time() - started


def counts(lanes: Sequence[Lane]) -> list[dict[str, list[int]]]:
    """Counts of every lane, summed over images."""
    frames = [pd.concat(map(pd.read_parquet, lane.run.parts_folder.glob("part-*"))) for lane in lanes]
    return [{name: np.stack([*f[name]]).sum(0).tolist() for name in ("tp", "gt", "pred")} for f in frames]


def measure(case: Case, folder: Path, weights: Path, rounds: int) -> tuple[list[str], float]:
    """A row of the table, and the median ratio."""
    write_data(folder, case)
    lanes = lanes_for(case, folder, weights)
    together, apart = [lanes], [[lane] for lane in lanes]
    seconds(together)
    found = counts(lanes)
    seconds(apart)
    assert counts(lanes) == found, "a shared pass and separate runs give different counts"
    assert all(sum(value > 0 for value in c["pred"]) > 1 for c in found), "one class everywhere proves nothing"
    pairs = []
    for number in range(rounds):
        first = seconds(together) if number % 2 else 0.0
        alone = seconds(apart) * case.against / len(apart)
        pairs.append((first or seconds(together), alone))
    low, middle, high = np.percentile([shared / alone for shared, alone in pairs], [25, 50, 75])
    shared, alone = (1e3 * float(np.median(side)) / case.images for side in zip(*pairs, strict=True))
    goal = "" if case.goal is None else f"{case.goal:g} {'met' if middle <= case.goal else 'MISSED'}"
    return [case.title, f"{shared:.1f}", f"{alone:.1f}", f"{middle:.3f}", f"{low:.3f} - {high:.3f}", goal], float(
        middle
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="One pass over the images against a run of each.")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    missed = []
    table = Table(title=f"CPU time per image, one thread, {rounds} rounds, torch {torch.__version__}")
    for column in ("", "one pass ms", "alone ms", "ratio", "quartiles", "goal"):
        table.add_column(column)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["OVSS_CACHE"] = str(folder / "cache")
        torch.manual_seed(0)
        weights = folder / "random.pt"
        torch.save(open_clip.create_model(MODEL, pretrained=None).state_dict(), weights)
        for number, case in enumerate(CASES):
            row, ratio = measure(case, folder / f"case {number}", weights, rounds)
            table.add_row(*row)
            if case.goal is not None and ratio > case.goal:
                missed.append(f"{case.title}: {ratio:.3f} is above {case.goal:g}")
    Console(width=160).print(table)
    if missed:
        sys.exit("\n".join(missed))


if __name__ == "__main__":
    main()
