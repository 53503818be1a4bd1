"""Score maps pushed through a chain of self-attention maps (CLIPer, arXiv:2411.13836).

In the form of the released code (linsun449/cliper.code, ovs/pipeline.py, ``refinement``).  For each head, on the N
tokens of the grid (token = row * columns + column):

    A    = softmax(q k^T / sqrt(dim))            N x N, rows are queries; float32 once A is rounded to the dtype of q, k
    B_ij = A_ij / (max_i A_ij + 1e-5)            the maximum of a column: over queries, not over keys
    T_ij = B_ij where B_ij >= threshold, else 0
    R_ij = T_ij / (sum_j T_ij + 1e-5)

    chain:      R_1 R_2 ... R_R S                heads 0, 1, ... of the first layer, then those of the second, ...
    mean:       (1 / R) sum_r R_r S
    selection:  R_2 S                            index 1

with S the maps as (N, k), float32.  What the released code decides and the numbers depend on: R acts as it is, not
transposed; the 1e-5 stays, since maxima of columns may be as small as 1e-3; R_1 acts last; a row of which nothing
reaches the threshold is a row of zeros and gives zero scores for every class.

The product of the R's is never made.  Each acts on S by itself, from the right: 2 N^2 k operations instead of 2 N^3,
and ``T @ [S | 1]`` brings the sums of the rows along.  No A exists as a whole either: one pass over blocks of rows
finds the maxima of the columns, a second one makes the blocks again and applies them.  Small blocks stay in the cache
of a CPU, so that making A twice costs no more than writing and reading it: 0.09 s against 0.10 s for a head of 4096
tokens and 21 maps on one core, and memory is that of a few blocks.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from .names import Fusion

EPSILON = 1e-5
_SELECTED = 1
_BLOCK_CPU, _BLOCK_GPU = 1 << 20, 1 << 23  # entries of A in one block of rows

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Heads:
    """Queries and keys of one self-attention layer, ``(heads, N, dim)`` each, in the working dtype."""

    q: Tensor
    k: Tensor


@dataclass(frozen=True)
class AttentionChain:
    """The attention of one image as an ``Affinity``; it holds q and k only.

    ``layers``: in the order of the product, so that the last one acts first.  All have N = rows * columns tokens.
    """

    layers: tuple[Heads, ...]
    grid: tuple[int, int]
    threshold: float
    fusion: Fusion = "chain"

    @torch.no_grad()
    def propagate(self, maps: Tensor) -> Tensor:
        """Refined maps: ``(k, rows, columns)`` float32 -> the same shape; linear, each map by itself up to rounding."""
        if maps.shape[1:] != self.grid or maps.dtype != torch.float32:
            raise ValueError(f"propagate takes (k, {self.grid}) float32, not {tuple(maps.shape)} {maps.dtype}")
        with _full_float32():
            scores = self._fuse(maps.flatten(1).T)
        return scores.T.reshape(maps.shape)

    def _fuse(self, scores: Tensor) -> Tensor:
        heads = [(q, k) for layer in self.layers for q, k in zip(layer.q, layer.k, strict=True)]
        if self.fusion == "chain":
            for q, k in reversed(heads):
                scores = self._apply(q, k, scores)
            return scores
        if self.fusion == "selection":
            return self._apply(*heads[_SELECTED], scores)
        total = torch.zeros_like(scores)
        for q, k in heads:
            total += self._apply(q, k, scores)
        return total / len(heads)

    def _apply(self, q: Tensor, k: Tensor, scores: Tensor) -> Tensor:
        """``R S`` of one head: ``(N, k)`` -> ``(N, k)``."""
        tokens = len(q)
        ceiling = scores.new_zeros(tokens)
        for _, block in _attention(q, k):
            torch.maximum(ceiling, block.amax(dim=0), out=ceiling)
        ceiling += EPSILON
        with_ones = torch.cat([scores, scores.new_ones(tokens, 1)], dim=1)
        out = torch.empty_like(with_ones)
        for rows, block in _attention(q, k):
            block /= ceiling
            block.masked_fill_(block < self.threshold, 0)
            torch.matmul(block, with_ones, out=out[rows])
        sums = out[:, -1:]
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("%.2f %% of the rows are zero", 100 * float((sums == 0).float().mean()))
        return out[:, :-1] / (sums + EPSILON)


def _attention(q: Tensor, k: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of rows of A, ``(rows, N)`` float32; whoever takes a block may write to it.

    Scores and softmax are computed in the dtype of ``q``, as the released code does: in half precision the values are
    rounded before the maximum is taken, which decides what passes the threshold.
    """
    size = max(1, (_BLOCK_CPU if q.device.type == "cpu" else _BLOCK_GPU) // len(k))
    for start in range(0, len(q), size):
        rows = slice(start, min(start + size, len(q)))
        products = torch.addmm(q.new_zeros(()), q[rows], k.T, beta=0, alpha=q.shape[1] ** -0.5)
        yield rows, products.softmax(dim=1).float()


@contextmanager
def _full_float32() -> Iterator[None]:
    """Products in float32 as float32, whatever the process allows elsewhere (TF32 on a GPU, bfloat16 on a CPU).

    The switch of the process and those of the backends are put back; the latter decide, and may be set by themselves.
    """
    # torch has no types for the second
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    each = [backend.fp32_precision for backend in backends]
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # torch will not tell while a backend allows more than the process does, which is the default
        before = "highest"
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        for backend, precision in zip(backends, each, strict=True):
            backend.fp32_precision = precision
