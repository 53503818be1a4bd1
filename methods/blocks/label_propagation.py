"""Scores spread along a graph, ``(I - alpha W) z = y`` by conjugate gradients, and a graph between patches.

What comes out is what a fixed number of steps gives, not the solution: methods were published with few.
"""

from collections.abc import Callable

import torch
from torch import Tensor

TOLERANCE = 1e-6
_CHUNK_BYTES = 2**26  # of cosines that exist at a time


def propagate(product: Callable[[Tensor], Tensor], y: Tensor, alpha: float, steps: int) -> Tensor:
    """``z`` after ``steps`` steps from 0: ``(Q, ...)`` -> the same shape, float64.

    ``product`` is W times each of Q, float64 to float64.  Each of Q is a system by itself; it stops earlier where its
    residual, as the recurrence has it, is below ``TOLERANCE`` of y.
    """
    residual = y.double()
    z, direction = torch.zeros_like(residual), residual.clone()
    square = _squares(residual, residual)
    enough = TOLERANCE**2 * square
    for _ in range(steps):
        goes_on = square > enough
        image = direction - alpha * product(direction)
        length = torch.where(goes_on, square / _squares(direction, image), 0)
        z += length * direction
        residual = residual - length * image
        before, square = square, _squares(residual, residual)
        direction = residual + torch.where(goes_on, square / before, 0) * direction
    return z


def along(graph: Tensor) -> Callable[[Tensor], Tensor]:
    """The ``product`` of a sparse symmetric ``(N, N)`` with ``(Q, N)``."""
    return lambda maps: (graph @ maps.T.contiguous()).T.contiguous()


def _squares(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each of Q, ``(Q, 1, ...)``."""
    return (a * b).flatten(1).sum(dim=1).view(-1, *[1] * (a.ndim - 1))


def patch_graph(unit: Tensor, places_px: Tensor, neighbours: int, sharpness: float, reach: float) -> Tensor:
    """W between patches of unit ``(N, D)`` that lie at ``places_px`` ``(N, 2)``: sparse ``(N, N)`` float64.

        W = S^-1/2 (A + A^T) S^-1/2,    A_ij = max(cos_ij, 0)^sharpness * exp(-reach * distance_ij)

    for the ``neighbours`` j nearest to i by cosine, i itself among them; the diagonal is then 0, S are the row sums.
    Weights are rounded to float32, as in LPOSS (vladan-stojnic/LPOSS).  A patch takes at most 48 bytes for each of its
    neighbours, and cosines exist for some rows at a time: memory grows with N, not with its square.
    """
    count, k = len(unit), min(neighbours, len(unit))
    columns, weights = [], []
    for rows in torch.arange(count, device=unit.device).split(max(1, _CHUNK_BYTES // (4 * count))):
        cosines, near = (unit[rows] @ unit.T).topk(k, dim=1)
        away = (places_px[rows, None] - places_px[near]).norm(dim=-1)
        columns.append(near)
        weights.append(cosines.clamp(min=0) ** sharpness * torch.exp(-reach * away))
    from_, to = torch.arange(count, device=unit.device).repeat_interleave(k), torch.cat(columns).flatten()
    weight = torch.cat(weights).flatten().masked_fill(from_ == to, 0)
    one_way = torch.sparse_coo_tensor(torch.stack([from_, to]), weight, (count, count), check_invariants=False)
    both = (one_way + one_way.T).coalesce()
    (i, j), values = both.indices(), both.values()
    sums = torch.zeros(count, dtype=torch.float64, device=unit.device).index_add_(0, i, values.double()).float()
    root = torch.where(sums > 0, sums, 1).rsqrt()
    return torch.sparse_coo_tensor(
        both.indices(), (root[i] * values * root[j]).double(), both.shape, check_invariants=False
    ).coalesce()
