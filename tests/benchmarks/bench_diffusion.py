"""Diffusion attention against its plain form: the chain of attention maps, and the UNet that it comes from.

    python tests/benchmarks/bench_diffusion.py --rounds 3

The chain: 10 heads of 64 at 4096 tokens and 21 maps, as Stable Diffusion 2.1-base and VOC21 have them, random queries
and keys, float32.  The plain form keeps all maps, normalises them and multiplies them from the left, starting from the
identity.  First both must agree.  Multiply-adds are counted by formula and by torch's counter, time is CPU time of the
process, and memory is how much the resident peak of a process of its own grows.

The UNet: multiply-adds of Stable Diffusion 2.1-base on tensors without content, whole and broken off; time on one of
half its width on latents of 32 x 32, random weights.

The threads are those of ``OMP_NUM_THREADS``.  The program ends with an error when a goal is missed.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ovss.methods.models.stable_diffusion import StableDiffusion
from ovss.methods.refine.attention_chain import EPSILON, AttentionChain, Heads
from ovss.methods.refine.diffusion_attention import DiffusionAttention

SIDE, LAYERS, HEADS, DIM, CLASSES, THRESHOLD = 64, 2, 5, 64, 21, 0.1
TOKENS, MAPS = SIDE * SIDE, LAYERS * HEADS
GIGA, MEBIBYTE = 1e9, 1 << 20
GOAL_OPERATIONS, GOAL_SECONDS, GOAL_UNET = 20.0, 5.0, 0.1
GOAL_MIB = 150.0


def chain() -> AttentionChain:
    """Random queries and keys; attention is peaked, as with trained ones."""
    generator = torch.Generator().manual_seed(0)
    layers = [Heads(*1.5 * torch.randn(2, HEADS, TOKENS, DIM, generator=generator)) for _ in range(LAYERS)]
    return AttentionChain(tuple(layers), (SIDE, SIDE), THRESHOLD)


def scores() -> Tensor:
    return torch.rand(CLASSES, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def plain(seen: AttentionChain, maps: Tensor) -> Tensor:
    """All maps at once, and their product from the left."""
    a = torch.cat([(h.q @ h.k.mT * DIM**-0.5).softmax(-1) for h in seen.layers])
    b = a / (a.amax(1, keepdim=True) + EPSILON)
    b[b < THRESHOLD] = 0
    normalised = b / (b.sum(2, keepdim=True) + EPSILON)
    product = torch.eye(TOKENS)
    for r in normalised:
        product = product @ r
    return (product @ maps.flatten(1).T).T.reshape(maps.shape)


SIDES: dict[str, Callable[[AttentionChain, Tensor], Tensor]] = {"plain": plain, "ours": AttentionChain.propagate}


def formulas() -> dict[str, float]:
    """Multiply-adds of the chain: of the maps, and of their application.  Ours makes the maps twice."""
    maps = MAPS * TOKENS**2 * DIM
    return {
        "plain": maps + MAPS * TOKENS**3 + TOKENS**2 * CLASSES,
        "ours": 2 * maps + MAPS * TOKENS**2 * (CLASSES + 1),
    }


def counted(run: Callable[[], Any]) -> float:
    """Multiply-adds by torch's counter, which counts each as two operations."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2


def cpu_seconds(run: Callable[[], Any]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def peak_mib(side: str) -> float:
    """Growth of the resident peak in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", side]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def tell_memory(side: str) -> None:
    """What ``peak_mib`` reads.  A product of the same form comes first: libraries keep buffers of their own."""
    seen, maps = chain(), scores()
    _ = torch.rand(512, 512) @ torch.rand(512, 512)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    SIDES[side](seen, maps)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def chain_rows(rounds: int) -> tuple[Table, list[str]]:
    """The table of the chain and the goals it missed."""
    memory = {side: peak_mib(side) for side in SIDES}  # first: a process inherits the peak of the one that starts it
    seen, maps = chain(), scores()
    found, wanted = (SIDES[side](seen, maps) for side in ("ours", "plain"))
    error = float((found - wanted).norm() / wanted.norm())
    assert error <= 1e-5, f"the two forms differ by {error:.1e}"
    by_formula, by_counter = formulas(), {side: counted(lambda run=run: run(seen, maps)) for side, run in SIDES.items()}
    assert by_formula == by_counter, f"counted {by_counter}, by formula {by_formula}"
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(rounds):
        for side in list(SIDES)[:: 1 if number % 2 else -1]:
            seconds[side].append(cpu_seconds(lambda run=SIDES[side]: run(seen, maps)))  # type: ignore[misc]
    low, middle, high = np.percentile(np.divide(seconds["plain"], seconds["ours"]), [25, 50, 75])
    times = {side: float(np.median(taken)) for side, taken in seconds.items()}
    operations = by_counter["plain"] / by_counter["ours"]
    table = Table(title=f"chain of {MAPS} maps at {TOKENS} tokens, {CLASSES} classes; the forms differ by {error:.1e}")
    for column in ("", "plain", "ours", "ratio", "goal"):
        table.add_column(column)
    counts = {side: number / GIGA for side, number in by_counter.items()}
    rows = (
        ("giga multiply-adds", counts, f"{operations:.1f}", f"{GOAL_OPERATIONS:g}"),
        ("CPU s", times, f"{middle:.1f} ({low:.1f} to {high:.1f})", f"{GOAL_SECONDS:g}"),
        ("peak MiB", memory, f"{memory['plain'] / memory['ours']:.1f}", f"ours below {GOAL_MIB:g}"),
    )
    for title, values, ratio, goal in rows:
        table.add_row(title, f"{values['plain']:.2f}", f"{values['ours']:.2f}", ratio, goal)
    missed = {
        f"multiply-adds: a ratio of {operations:.1f}": operations < GOAL_OPERATIONS,
        f"time: a ratio of {low:.1f}": low < GOAL_SECONDS,
        f"memory: {memory['ours']:.0f} MiB": memory["ours"] > GOAL_MIB,
    }
    return table, [what for what, bad in missed.items() if bad]


def unet(width: int, heads: tuple[int, ...], cross_attention_dim: int, device: str) -> Any:
    """Random UNet in the form of Stable Diffusion 2, ``width`` channels at the highest of four resolutions."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    with torch.device(device):
        return UNet2DConditionModel(
            block_out_channels=(width, 2 * width, 4 * width, 4 * width),
            attention_head_dim=heads,
            cross_attention_dim=cross_attention_dim,
            use_linear_projection=True,
        ).eval()


class Vae:
    """Stand-in whose latent is an average of pixels: only the UNet is measured."""

    class config:  # noqa: N801 - diffusers' name
        scaling_factor = 1.0

    def encode(self, pixels: Tensor) -> Any:
        mean = torch.nn.functional.avg_pool2d(pixels, 8)
        return type("Output", (), {"latent_dist": type("Posterior", (), {"mean": torch.cat([mean, mean[:, :1]], 1)})})


def passes(model: Any, latent_side: int, width: int, device: str) -> dict[str, Callable[[], Any]]:
    """A whole pass, and the one that ``observe`` makes."""
    prompt = torch.zeros(1, 77, width, device=device)
    parts = StableDiffusion(model, Vae(), prompt, 0.892980, 101, 8 * latent_side, "random", "random", "none")
    guide = DiffusionAttention(parts)
    image = torch.zeros(3, 375, 500, dtype=torch.uint8)
    latent = torch.zeros(1, 4, latent_side, latent_side, device=device)

    def whole() -> None:
        with torch.no_grad():
            model(latent, 101, encoder_hidden_states=prompt)

    return {"whole": whole, "ours": lambda: guide.observe(image, "a")}


def unet_rows(rounds: int) -> tuple[Table, list[str]]:
    """The table of the UNet and the goal it missed."""
    full = passes(unet(320, (5, 10, 20, 20), 1024, "meta"), 64, 1024, "meta")
    real = passes(unet(160, (5, 10, 20, 20), 512, "cpu"), 32, 512, "cpu")
    operations, smaller = ({side: counted(run) / GIGA for side, run in pair.items()} for pair in (full, real))
    seconds: dict[str, list[float]] = {side: [] for side in real}
    for number in range(rounds + 1):
        for side in list(real)[:: 1 if number % 2 else -1]:
            taken = cpu_seconds(real[side])
            if number:  # the first round warms up
                seconds[side].append(taken)
    saved = 1 - operations["ours"] / operations["whole"]
    low, middle, high = np.percentile(1 - np.divide(seconds["ours"], seconds["whole"]), [25, 50, 75])
    table = Table(title="one pass of the UNet")
    for column in ("", "whole", "ours", "saved", "goal"):
        table.add_column(column)
    for title, count, goal in (("SD 2.1-base", operations, f"{GOAL_UNET:.0%}"), ("half as wide, 32 x 32", smaller, "")):
        share = 1 - count["ours"] / count["whole"]
        name = f"{title}, giga multiply-adds"
        table.add_row(name, f"{count['whole']:.1f}", f"{count['ours']:.1f}", f"{share:.1%}", goal)
    whole, ours = (float(np.median(seconds[side])) for side in ("whole", "ours"))
    quartiles = f"{middle:.1%} ({low:.1%} to {high:.1%})"
    table.add_row("the same, CPU s", f"{whole:.2f}", f"{ours:.2f}", quartiles, "")
    return table, [f"UNet: {saved:.1%} saved"] if saved < GOAL_UNET else []


def main() -> None:
    """Print both tables; exit code 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--memory-of", choices=sorted(SIDES), help="only tell the memory that one form of the chain takes"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if arguments.memory_of:
        tell_memory(arguments.memory_of)
        return
    console, missed = Console(width=140), []
    for make in (chain_rows, unet_rows):
        table, short = make(arguments.rounds)
        console.print(table)
        missed += short
    console.print(f"{torch.get_num_threads()} threads, {arguments.rounds} rounds, torch {torch.__version__}")
    if missed:
        sys.exit("below a goal: " + "; ".join(missed))


if __name__ == "__main__":
    main()
