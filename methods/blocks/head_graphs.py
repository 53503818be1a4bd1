"""Attention heads as graphs of patches: spectra, pairs of heads of two models, and the rough form of a graph.

A head's graph is ``s K K^T``, its keys against each other, ``(N, N)``.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

EIGENVALUES, RANK, POWER_STEPS = 20, 10, 2
TIE = 1e-6
"""What a pair (i, j) costs beside, for each unit of ``(i - j)^2``: more than rounding, less than a difference."""


def spectra(keys: Tensor) -> Tensor:
    """Largest eigenvalues of each head's graph, ascending, divided by their length and then by their sum.

    ``(B, M, N, d)`` -> ``(B, M, E)`` float64, E = 20 or N.  Those of ``K^T K`` are the same, and fewer.
    """
    k = keys.double()
    gram = k.mT @ k if k.shape[-1] < k.shape[-2] else k @ k.mT
    values = torch.linalg.eigvalsh(gram)[..., -EIGENVALUES:].clamp(min=0)
    short = min(EIGENVALUES, keys.shape[-2]) - values.shape[-1]
    return F.normalize(F.normalize(F.pad(values, (max(short, 0), 0)), dim=-1), p=1, dim=-1)


def distances(a: Tensor, b: Tensor) -> Tensor:
    """``W_ij``, the sum of absolute differences of spectra i of ``a`` and j of ``b``: ``(B, M, M)`` float32."""
    return (a[:, :, None] - b[:, None]).abs().sum(dim=-1).float()


def partners(w: Tensor) -> Tensor:
    """For each row its column, ``(B, M)`` int64, so that the sum of ``1 - W`` is least, one to one.

    That pairs the most different.  Where spectra of one side are all steeper than those of the other, many pairings
    cost the same up to rounding: of those the one in order is taken (``TIE``), so that hardware does not choose.
    """
    number = torch.arange(w.shape[-1], dtype=torch.float64)
    costs = (1 - w).double().cpu() + TIE * (number[:, None] - number) ** 2
    return torch.stack([torch.from_numpy(_assignment()(one.numpy())[1]) for one in costs]).to(w.device)


def _assignment() -> Any:
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment


def rough(graph: Tensor, start: Tensor, scaled: bool) -> Tensor:
    """A graph's ten largest components, by randomised SVD: ``(..., N, N)`` symmetric -> the same shape, float64.

    ``start`` ``(..., N, R)`` float64 is the matrix that the search starts from.  ``scaled`` stretches the singular
    values linearly, from their range [s, t] to [s / 2, 3 t / 2].
    """
    graph = graph.double()
    q = torch.linalg.qr(graph @ start).Q
    for _ in range(POWER_STEPS):
        q = torch.linalg.qr(graph.mT @ q).Q
        q = torch.linalg.qr(graph @ q).Q
    u, s, vh = torch.linalg.svd(q.mT @ graph, full_matrices=False)
    if scaled:
        low, high = s.amin(dim=-1, keepdim=True), s.amax(dim=-1, keepdim=True)
        s = into(s, low, high, 0.5 * low, 1.5 * high)
    return (q @ u) * s[..., None, :] @ vh


def into(x: Tensor, low: Tensor, high: Tensor, new_low: Tensor, new_high: Tensor) -> Tensor:
    """``x`` of [low, high] moved linearly to [new_low, new_high]; where low = high, to new_low."""
    span = torch.where(high > low, high - low, 1)
    return (x - low) / span * (new_high - new_low) + new_low


def start_matrix(patches: int, seed: int) -> Tensor:
    """Normal numbers ``(N, R)`` float64 for ``rough``, of the seed and the number of patches alone."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(patches, min(RANK, patches), dtype=torch.float64, generator=generator)
