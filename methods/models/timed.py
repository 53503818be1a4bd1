"""Timed: which program computes large layers faster on this CPU, found out with one layer of a ViT-B/16."""

import os
import time
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.arithmetic import LINEARS, PLAIN, Arithmetic
from ..core.errors import UserError
from .linear import attention_in_chunks, multiply, pack

WORTH = 1.25
"""A program that is faster by less is not taken: its time depends on what else the machine does."""
_ROUNDS = 5
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Largest difference in units of the largest value; two roundings of bfloat16 and one more."""


def choose_arithmetic(device: str, dtype: torch.dtype, large: bool) -> Arithmetic:
    """What a run that begins now is to use, by ``$OVSS_LINEARS``; nothing is timed for models without ``large`` layers.

    Raises ``UserError`` for another value, and where it insists on packed layers that this machine does not have.
    """
    asked = os.environ.get(LINEARS, "auto")
    if asked not in ("auto", "plain", "packed"):
        raise UserError(
            f"${LINEARS} is {asked!r}: plain takes torch's linear layers, packed those that are reordered once, auto "
            "the faster of them"
        )
    if asked == "plain" or not large or torch.device(device).type != "cpu" or dtype not in _TOLERANCE:
        return PLAIN
    if asked == "packed":
        pack(torch.zeros(8, 8, dtype=dtype))
        return Arithmetic(linears="packed")
    return _timed(dtype)


@lru_cache
def _timed(dtype: torch.dtype) -> Arithmetic:
    with torch.inference_mode():
        linears, attention = _linears_ratio(dtype), _attention_ratio(dtype) if dtype == torch.bfloat16 else 0.0
    return Arithmetic(
        linears="packed" if linears >= WORTH else "plain",
        attention="chunks" if attention >= WORTH else "whole",
        linears_ratio=round(linears, 3),
        attention_ratio=round(attention, 3),
    )


def _linears_ratio(dtype: torch.dtype) -> float:
    """How many times as fast as ``F.linear`` packed layers are; 0 where they do not work or differ by too much."""
    random = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(s, generator=random).to(dtype) for s in ((2, 197, 768), (3072, 768), (3072,)))
    try:
        packed = pack(weight)
    except UserError:
        return 0.0
    return ratio(lambda: F.linear(x, weight, bias), lambda: multiply(x, packed, bias), _TOLERANCE[dtype])


def _attention_ratio(dtype: torch.dtype) -> float:
    """The same for attention in chunks."""
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 12, 589, 64, generator=random).to(dtype) for _ in "qkv")
    whole = lambda: F.scaled_dot_product_attention(q, k, v)  # noqa: E731
    return ratio(whole, lambda: attention_in_chunks(q, k, v), _TOLERANCE[dtype])


def ratio(usual: Callable[[], Tensor], other: Callable[[], Tensor], tolerance: float) -> float:
    """Seconds of ``usual`` by those of ``other``, the lower quartile of rounds in which they take turns.

    0 where their values differ by more than ``tolerance`` times the largest.
    """
    expected, found = usual().float(), other().float()
    if not (found - expected).abs().max() <= tolerance * expected.abs().max():
        return 0.0
    sides = (usual, other)
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(_ROUNDS):
        for side in (0, 1) if number % 2 else (1, 0):
            started = time.perf_counter()
            sides[side]()
            seconds[side].append(time.perf_counter() - started)
    slow, fast = (sorted(s)[len(s) // 4] for s in seconds)
    return slow / fast
