"""TLP: scores flow between neighbouring cells that look alike and mean the same, but stay where they are sure.

    (C + L) x = C s,   C_i = max(max_c p_i, 0.05)^2 (1 + clip(sum_c a_c p_ic^2)),   p = softmax of s over the queries
    w_ij = min(1, exp(-5 g_ij) (1 + clip(sum_c a_c p_ic p_jc))),   a_c = (softmax(T T^T / 0.5)_cc + 10) / 11

``s`` are the scores as the method gives them, pooled to a coarse grid; L is the Laplacian of the four neighbours with
weights w; g is the difference of their grey levels, divided by its mean over the pairs that lie in the same direction;
T are the unit embeddings of the texts; clip is to [0, 1].  The system is solved by 25 steps of conjugate gradients from
s, whose step sizes are those of all queries together, so that queries do not refine each by itself.

PEARL's propagation (CVPR 2026), in the form of the public code (PGSmall/PEARL, commit c26062b): it contracts the
matrix of the texts with itself, which leaves its diagonal.  Scores that are probabilities are p as they are; this is
ours, for other methods.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

FLOOR, EDGE, STEPS = 0.05, 5.0, 25
TEXT_TEMPERATURE, OWN = 0.5, 10.0
EPSILON = 1e-6
_GREY = (0.299, 0.587, 0.114)
_MEAN, _STD = (122.771, 116.746, 104.094), (68.501, 66.632, 70.323)
"""Of 8-bit RGB, as the public code normalises images for CLIP."""


@dataclass(frozen=True)
class Weights:
    """What joins cells and holds them: ``hold`` ``(rows, columns)``, ``right`` ``(rows, columns - 1)`` to the next
    column, ``below`` ``(rows - 1, columns)`` to the next row."""

    hold: Tensor
    right: Tensor
    below: Tensor


def pool_factors(size: tuple[int, int], grid: int) -> tuple[int, int]:
    """Rows and columns of pixels that become one cell, for an image of ``size`` and about ``grid`` cells a side.

    >>> pool_factors((163, 201), 80)
    (2, 3)
    """
    height, width = (max(1, round(side / grid)) for side in size)
    return height, width


def grey_level(pixels: Tensor) -> Tensor:
    """Grey levels ``(H, W)`` float32 of an image ``(3, H, W)`` uint8 RGB, normalised for CLIP."""
    mean, std, share = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (_MEAN, _STD, _GREY))
    return (share * (pixels.float() - mean) / std).sum(dim=0)


def own_affinity(texts: Tensor) -> Tensor:
    """a ``(Q,)`` of unit texts ``(Q, dim)``: near 1, a little less where a text has others like it."""
    softmax = (texts @ texts.T / TEXT_TEMPERATURE).softmax(dim=1)
    return (softmax.diagonal() + OWN) / (1 + OWN + EPSILON)


def weights_of(scores: Tensor, grey: Tensor, texts: Tensor, probable: bool) -> Weights:
    """Weights of a grid, from its ``scores`` ``(Q, rows, columns)`` and ``grey`` levels ``(rows, columns)``.

    ``probable``: the scores are probabilities.
    """
    p = scores if probable else scores.softmax(dim=0)
    own = own_affinity(texts)[:, None, None]
    hold = p.amax(dim=0).clamp(min=FLOOR) ** 2 * (1 + _same(p, p, own))
    right = _joined(grey.diff(dim=1), _same(p[:, :, 1:], p[:, :, :-1], own))
    below = _joined(grey.diff(dim=0), _same(p[:, 1:], p[:, :-1], own))
    return Weights(hold, right, below)


def _same(p: Tensor, q: Tensor, own: Tensor) -> Tensor:
    return (own * p * q).sum(dim=0).clamp(0, 1)


def _joined(step: Tensor, same: Tensor) -> Tensor:
    if not step.numel():  # a single row or column
        return step
    step = step.abs()
    return ((-EDGE * step / (step.mean() + EPSILON)).exp() * (1 + same)).clamp(max=1)


def propagate(scores: Tensor, weights: Weights) -> Tensor:
    """x: ``(Q, rows, columns)`` float32 -> the same shape."""

    def times(x: Tensor) -> Tensor:
        out = weights.hold * x
        right, below = weights.right * x.diff(dim=2), weights.below * x.diff(dim=1)
        out[:, :, 1:] += right
        out[:, :, :-1] -= right
        out[:, 1:] += below
        out[:, :-1] -= below
        return out

    x = scores.clone()
    residual = weights.hold * scores - times(x)
    direction, length = residual.clone(), (residual * residual).sum()
    for _ in range(STEPS):
        image = times(direction)
        step = length / ((direction * image).sum() + 1e-12)
        x += step * direction
        residual -= step * image
        before, length = length, (residual * residual).sum()
        direction = residual + length / (before + 1e-12) * direction
    return x
