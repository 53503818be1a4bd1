"""What benchmarks work on: made-up maps, score fields and images, the same in every run."""

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.methods import Box, ScoreField

ADE_PX = (512, 683)
ADE_GRID = (28, 37)
Kind = Literal["smooth", "CLIP-like", "white noise"]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blocky(shape: tuple[int, int], values: int, block: int, seed: int) -> Tensor:
    """Piecewise constant random map, int64."""
    coarse = torch.randint(0, values, tuple(-(-n // block) for n in shape), generator=generator(seed))
    return coarse.repeat_interleave(block, 0).repeat_interleave(block, 1)[: shape[0], : shape[1]].contiguous()


def scores(kind: Kind, queries: int, grid: tuple[int, int]) -> Tensor:
    """Cosines ``(1, queries, *grid)``.

    Smooth: waves of a few patches.  CLIP-like: regions of a few patches with a winner each, a little noise, and many
    queries that lose.  White noise: nothing that neighbours have in common.
    """
    noise = torch.randn(1, queries, *grid, generator=generator(0))
    if kind == "white noise":
        return 0.15 + 0.05 * noise
    if kind == "smooth":
        coarse = torch.randn(1, queries, 5, 6, generator=generator(1))
        return 0.15 + 0.05 * F.interpolate(coarse, grid, mode="bicubic", align_corners=True)
    found = 0.15 + 0.02 * noise
    return found.scatter_add_(1, blocky(grid, queries, 4, seed=1)[None, None], torch.full((1, 1, *grid), 0.08))


def field_of(kind: Kind, queries: int, frame: tuple[int, int] = ADE_PX, grid: tuple[int, int] = ADE_GRID) -> ScoreField:
    """Scores of one window that is the whole image; every query is a class."""
    box = (Box(0, 0, *frame),)
    return ScoreField(scores(kind, queries, grid), box, box, frame, tuple(range(queries)))


def with_classes(field: ScoreField, classes: int) -> ScoreField:
    """The same scores with the queries spread over fewer classes."""
    queries = field.scores.shape[1]
    return replace(field, query_to_class=tuple(n * classes // queries for n in range(queries)))


def photo(height: int, width: int) -> Tensor:
    """Blocks and noise, ``(3, height, width)`` uint8."""
    image = torch.stack([blocky((height, width), 256, 20, seed=s) for s in range(3)])
    noise = torch.randint(-20, 20, image.shape, generator=generator(6))
    return (image + noise).clamp(0, 255).byte()
