"""What one image costs with each method: CPU time, arithmetic, memory; written as a table to results/costs.md.

    python tests/benchmarks/cost_per_image.py --rounds 7

Every listed method that takes a backbone, in its default options, on one ViT-B/16 with random weights and one made-up
image, from pixels to labels; texts are encoded before, nothing is refined.  Second models are random too, of the
released size where this file has it, otherwise small, and called so in the table.

Methods take turns, round by round.  CPU time is that of the process, the lower quartile over rounds.  GFLOP are those
of ``torch.utils.flop_counter``: two for a multiplication and an addition, of matrix products, attention and
convolutions.  Memory is the most bytes of tensors made on the way that are alive at one time.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import SamConfig, SamModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.table import MEBIBYTE, peak_bytes
from methods.models.test_dino import random_state
from methods.random_parts import random_parts

from ovss.harness.decoding.decode import decode
from ovss.harness.decoding.rule import DecodeRule
from ovss.harness.runs.provenance import code_version, device_name
from ovss.harness.runs.storing import store
from ovss.harness.use.machine import Moment, now, share_of_others
from ovss.methods import Backbone, Method, Picture, Vocabulary, WindowGeometry, create_method, find_method, list_methods
from ovss.methods.models.dino import Dino
from ovss.methods.models.found import Found
from ovss.methods.models.sam import Sam

OUTPUT = Path(__file__).resolve().parents[2] / "results" / "costs.md"
MODEL = "ViT-B-16-quickgelu"
CLASSES = 21
RELEASED: dict[str, Callable[[Backbone], dict[str, Any]]] = {
    "proxyclip": lambda _: {"dino": Dino(random_state(768, 12, 8, 28))},
    "dino-pool": lambda _: {"dino": Dino(random_state(768, 12, 16, 14))},
    "corrclip": lambda _: {"dino": Dino(random_state(768, 12, 8, 28)), "proposer": "felzenszwalb", "min_size": 1000},
    "trident": lambda _: {"dino": Dino(random_state(768, 12, 16, 14)), "sam": Sam(SamModel(SamConfig()).eval())},
    "cass": lambda _: {"dino": Dino(random_state(768, 12, 8, 28))},
    "lposs": lambda _: {"dino": Dino(random_state(768, 12, 16, 14))},
    "lposs-plus": lambda _: {"dino": Dino(random_state(768, 12, 16, 14))},
    "clip-diy": lambda _: {
        "found": Found(Dino(random_state(384, 12, 8, 28)), torch.ones(1, 384, 1, 1) / 20, torch.zeros(1))
    },
    "clip-dinoiser": partial(random_parts, "clip-dinoiser"),
    "rf-clip": lambda _: {},
    "ovseg-tf": lambda _: {},
}
"""Parts of the released size, and methods that need none; of the others, the small ones of the tests are taken."""


@dataclass(frozen=True)
class Cost:
    """What one image costs with one method."""

    method: str
    cpu_seconds: float
    gflop: float
    extra_bytes: int
    second_models: str


def with_backbone() -> list[str]:
    """Built-in methods that take a backbone."""
    return [name for name in list_methods(plugins=False) if find_method(name).info.backbone]


def make(name: str, backbone: Backbone) -> Method:
    """A method with random parts."""
    parts = RELEASED[name](backbone) if name in RELEASED else random_parts(name, backbone)
    return create_method(name, backbone, **parts)


def labels_of(method: Method, words: Any, image: Tensor, geometry: WindowGeometry) -> Tensor:
    """From pixels to labels, as if nothing had been computed of the image before."""
    with torch.inference_mode():
        field = method.score(method.encode_image(Picture.of(image), geometry), words)
        return decode(field, (image.shape[1], image.shape[2]), DecodeRule(logit_scale=40.0))


def cpu_seconds(run: Callable[[], Any]) -> float:
    """CPU time of one call."""
    started = time.process_time()
    run()
    return time.process_time() - started


def gflop(run: Callable[[], Any]) -> float:
    """1e9 floating-point operations of one call."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


def second_models(method: Method) -> str:
    """Names of the models beside CLIP."""
    found = [model for name in method.models if (model := getattr(method, name)) is not None]
    size = "" if method.info.name in RELEASED else " (small)"
    return ", ".join(str(getattr(model, "name", type(model).__name__)) + size for model in found)


def measure(names: Sequence[str], image: Tensor, geometry: WindowGeometry, rounds: int) -> list[Cost]:
    """The cost of each method; they take turns."""
    torch.manual_seed(0)
    module = open_clip.create_model(MODEL, pretrained=None).eval()
    backbone = Backbone.from_module(module, SimpleTokenizer())
    vocabulary = Vocabulary.from_names([f"thing number {n}" for n in range(CLASSES)], templates="simple")
    methods = {name: make(name, backbone) for name in names}
    runs = {
        name: partial(labels_of, method, method.encode_text(vocabulary), image, geometry)
        for name, method in methods.items()
    }
    flops = [gflop(run) for run in runs.values()]  # these passes also warm up what is kept between calls
    extra = [peak_bytes(run) for run in runs.values()]
    seconds = [[cpu_seconds(run) for run in runs.values()] for _ in range(rounds)]
    quartiles = np.percentile(np.array(seconds), 25, axis=0)
    return [
        Cost(name, float(quartile), flop, memory, second_models(method))
        for (name, method), quartile, flop, memory in zip(methods.items(), quartiles, flops, extra, strict=True)
    ]


def row_of(cost: Cost) -> str:
    """A line of the table."""
    memory = cost.extra_bytes / MEBIBYTE
    return f"| `{cost.method}` | {cost.cpu_seconds:.2f} | {cost.gflop:.0f} | {memory:.0f} | {cost.second_models} |"


def page(
    costs: Sequence[Cost], image: Tensor, geometry: WindowGeometry, rounds: int, when: tuple[Moment, Moment]
) -> str:
    """The document."""
    others = share_of_others(*when)
    said = "unknown" if others is None else f"{100 * others:.0f} %"
    load = ", ".join("unknown" if moment.load is None else f"{moment.load:.2f}" for moment in when)
    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    count = len(geometry.boxes(image.shape[1], image.shape[2]))
    windows = f"{count} windows of {geometry.window_px} px every {geometry.stride_px} px" if count > 1 else "one window"
    lines = [
        "# Cost per image",
        "",
        f"Written by `tests/benchmarks/cost_per_image.py`: {MODEL} with random weights, an image of {image.shape[1]} x "
        f"{image.shape[2]} px in {windows}, {CLASSES} texts, float32, from pixels to labels without encoding "
        "texts and without refinement. Second models are random too, those called small smaller than the released.",
        "",
        f"* Machine: {device_name('cpu')}, {threads}; load {load} before and after, share of all cores used by others "
        f"{said}.",
        f"* Code: {code_version()}; torch {torch.__version__}.",
        f"* CPU time: lower quartile of {rounds} rounds in which methods take turns; it moves with the load.",
        "* GFLOP: matrix products, attention and convolutions; a multiplication and an addition are two.",
        "* Extra memory: most bytes of tensors alive at one time beyond weights, image and texts.",
        "",
        "| method | CPU time, s | GFLOP | extra memory, MiB | second model |",
        "|---|---|---|---|---|",
        *map(row_of, costs),
    ]
    return "\n".join(lines) + "\n"


def made_up_image(height: int, width: int) -> Tensor:
    """Blocks and noise, ``(3, height, width)`` uint8."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 200, (3, -(-height // 32), -(-width // 32)))
    pixels = blocks.repeat(32, axis=1).repeat(32, axis=2)[:, :height, :width]
    return torch.from_numpy((pixels + rng.integers(0, 56, pixels.shape)).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description="What one image costs with each method.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", type=int, nargs=2, default=(336, 448), metavar=("HEIGHT", "WIDTH"), help="px")
    parser.add_argument("--window", type=int, default=224, help="px; 0: whole image")
    parser.add_argument("--stride", type=int, default=112, help="px")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="methods, joined by commas")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    image = made_up_image(*given.size)
    geometry = WindowGeometry(given.window, given.stride if given.window else 0)
    names = given.only.split(",") if given.only else with_backbone()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["OVSS_CACHE"] = cache
        before = now()
        costs = measure(names, image, geometry, given.rounds)
    text = page(costs, image, geometry, given.rounds, (before, now()))
    store(given.output, text.encode())
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
