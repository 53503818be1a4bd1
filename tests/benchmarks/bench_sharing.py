"""One pass over the images of two data sets against two runs, in one process.

    python tests/benchmarks/bench_sharing.py --rounds 5

Data sets of 21 and 20 classes over the same made-up images, as VOC21 and VOC20 are.  Both sides go through the engine,
from reading files to writing parts; texts are encoded before.  First both must give the same counts.  Then they take
turns on one thread, the first place changing from round to round; time is CPU time of the process.  Shown is the median
over rounds of shared / separate.  Where a goal is given, the program ends with an error if the median is above it.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from rich.table import Table

from ovss.datasets import DatasetRecord
from ovss.datasets.dataset import FolderDataset
from ovss.harness.protocol.protocol import Setting
from ovss.harness.runs import parts
from ovss.harness.runs.engine import Lane, work_through
from ovss.harness.runs.pipeline import STAGES, Pipeline
from ovss.harness.runs.run import Run
from ovss.methods import Backbone, DenseClip, load_backbone
from ovss.methods.sclip import SCLIP

NAMES = [f"thing number {n}" for n in range(20)]


@dataclass(frozen=True)
class Case:
    """What is compared: images of ``size`` (height, width) and a backbone; no goal means that it is only told."""

    title: str
    size: tuple[int, int]
    images: int
    setting: Setting
    backbone: Backbone
    goal: float | None


def vit_b_16() -> Backbone:
    """Random weights."""
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-16-quickgelu", pretrained=None)
    model.eval()
    return Backbone.from_module(model, open_clip.get_tokenizer("ViT-B-16-quickgelu"))


def write_images(folder: Path, size: tuple[int, int], count: int) -> None:
    """Blocky photos as JPEG and labels of 21 classes as PNG."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    coarse = tuple(-(-side // 20) for side in size)
    for number in range(count):
        blocks = rng.integers(0, 256, (*coarse, 3), np.uint8), rng.integers(0, 21, coarse, np.uint8)
        image, label = (b.repeat(20, 0).repeat(20, 1)[: size[0], : size[1]] for b in blocks)
        Image.fromarray(image).save(folder / "images" / f"{number}.jpg")
        Image.fromarray(label).save(folder / "labels" / f"{number}.png")


def lanes_for(case: Case, folder: Path) -> list[Lane]:
    """Both data sets, around one method."""
    shared = {"title": "made up", "images": "images", "labels": "labels"}
    records = [
        DatasetRecord(key="with_background", classes=("background", *NAMES), background=0, **shared),
        DatasetRecord(key="without", classes=tuple(NAMES), first_label=1, **shared),
    ]
    method = SCLIP(case.backbone)
    lanes = []
    for record, one in zip(records, (method, method.twin()), strict=True):
        pipeline = Pipeline(one, case.setting, record)
        assert isinstance(one, DenseClip) and one._text is not None
        # Random weights give almost equal texts; spread out, classes have winners as with trained ones.
        generator = torch.Generator().manual_seed(len(record.classes))
        one._text = F.normalize(torch.randn(one._text.shape, generator=generator), dim=-1)
        lanes.append(Lane(Run(folder / record.key), pipeline, FolderDataset(record, folder)))
    return lanes


def seconds(groups: Sequence[Sequence[Lane]]) -> float:
    """CPU time to score every group of lanes from the start, one group after the other."""
    for lane in (lane for group in groups for lane in group):
        lane.run.parts_folder.mkdir(parents=True, exist_ok=True)
        for part in lane.run.parts_folder.iterdir():
            part.unlink()
    started = time.process_time()
    for group in groups:
        work_through(group, group[0].data.ids, "cpu", lambda count: None)
    return time.process_time() - started


def counts(lanes: Sequence[Lane]) -> list[dict[str, list[int]]]:
    """Counts of every lane, summed over images."""
    frames = [parts.counts_frame(lane.run.parts().frame) for lane in lanes]
    return [{name: np.stack([*f[name]]).sum(0).tolist() for name in ("tp", "gt", "pred")} for f in frames]


def stage_shares(lanes: Sequence[Lane]) -> str:
    """Where the wall time of the last separate runs went, in percent."""
    frames = [lane.run.parts().frame for lane in lanes]
    spent = {stage: sum(float(f[f"{stage}_seconds"].sum()) for f in frames) for stage in STAGES}
    total = sum(spent.values())
    return ", ".join(f"{stage} {100 * s / total:.1f}" for stage, s in spent.items() if s)


def measure(case: Case, folder: Path, rounds: int) -> tuple[list[str], float]:
    """A row of the table, and the median ratio."""
    write_images(folder, case.size, case.images)
    lanes = lanes_for(case, folder)
    together, apart = [lanes], [[lane] for lane in lanes]
    seconds(together)
    found = counts(lanes)
    seconds(apart)
    assert counts(lanes) == found, "a shared pass and separate runs give different counts"
    assert all(sum(value > 0 for value in c["pred"]) > 1 for c in found), "one class everywhere proves nothing"
    pairs = []
    for number in range(rounds):
        order = [together, apart] if number % 2 else [apart, together]
        took = [seconds(side) for side in order]
        pairs.append(took if number % 2 else took[::-1])
    seconds(apart)  # its parts are what the shares speak of
    low, middle, high = np.percentile([shared / separate for shared, separate in pairs], [25, 50, 75])
    shared, separate = (1e3 * float(np.median(side)) / case.images for side in zip(*pairs, strict=True))
    goal = "" if case.goal is None else f"{case.goal:g} {'met' if middle <= case.goal else 'MISSED'}"
    row = [case.title, f"{shared:.1f}", f"{separate:.1f}", f"{middle:.3f}", f"{low:.3f} - {high:.3f}", goal]
    return [*row, stage_shares(lanes)], float(middle)


def cases() -> list[Case]:
    """The embedded model on its scenes, and the size of papers on images of VOC's size."""
    windows = Setting(short_side_px=336, window_px=336, stride_px=112, templates="simple", logit_scale=40.0)
    tiny = Setting(templates="simple")
    return [
        Case("tiny-clip, 96 x 96", (96, 96), 100, tiny, load_backbone("tiny-clip"), None),
        Case("ViT-B/16, 336 px, two windows", (375, 500), 2, windows, vit_b_16(), 0.6),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="One pass over the images of two data sets against two runs.")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    missed = []
    table = Table(title=f"CPU time per image, SCLIP, one thread, {rounds} rounds, torch {torch.__version__}")
    for column in ("", "shared ms", "separate ms", "ratio", "quartiles", "goal", "stages of separate runs, %"):
        table.add_column(column)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["OVSS_CACHE"] = folder
        for number, case in enumerate(cases()):
            row, ratio = measure(case, Path(folder) / f"case {number}", rounds)
            table.add_row(*row)
            if case.goal is not None and ratio > case.goal:
                missed.append(f"{case.title}: {ratio:.3f} is above {case.goal:g}")
    Console(width=160).print(table)
    if missed:
        sys.exit("\n".join(missed))


if __name__ == "__main__":
    main()
