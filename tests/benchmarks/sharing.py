"""One pass over the images for several data sets or methods, and runs of each: the sides of lines.

Made-up images with labels of as many classes as the data sets have; ViT-B/16 with random weights, read from a file, or
the embedded model.  Both sides go through the engine, from reading files to writing parts; texts are encoded before.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image

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
    """``methods`` on ``datasets``: ``with`` a background and 20 classes, ``without`` it, or 150 classes (``ade``)."""

    methods: tuple[str, ...]
    datasets: tuple[str, ...]
    backbone: str = MODEL
    size: tuple[int, int] = (375, 500)
    images: int = 2
    precision: str = "float32"


def write_data(folder: Path, case: Case) -> None:
    """Blocky photos as JPEG, labels as PNG, and the records."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    coarse = tuple(-(-side // 20) for side in case.size)
    for number in range(case.images):
        labels = 150 if "ade" in case.datasets else 21
        blocks = rng.integers(0, 256, (*coarse, 3), np.uint8), rng.integers(0, labels, coarse, np.uint8)
        image, label = (b.repeat(20, 0).repeat(20, 1)[: case.size[0], : case.size[1]] for b in blocks)
        Image.fromarray(image).save(folder / "images" / f"{number}.jpg")
        Image.fromarray(label).save(folder / "labels" / f"{number}.png")
    shared = 'title = "made up"\nimages = "images"\nlabels = "labels"\n'
    for key, rest in {
        "with": f"classes = {['background', *NAMES]}\nbackground = 0\n",
        "without": f"classes = {NAMES}\nfirst_label = 1\n",
        "ade": f"classes = {[f'thing number {n}' for n in range(150)]}\n",
    }.items():
        (folder / f"{key}.toml").write_text(f'key = "{key}"\n{shared}{rest}')


def lanes_for(case: Case, folder: Path, weights: Path) -> list[Lane]:
    """Every pair, planned."""
    windows = {"short_side_px": 336, "window_px": 336, "stride_px": 112} if case.backbone == MODEL else {}
    base = {"templates": "simple", "logit_scale": 40.0, "precision": case.precision, **windows}
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
        text = torch.randn(pipeline.words.text.shape, generator=generator)  # type: ignore[attr-defined]  # a method of CLIP
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
