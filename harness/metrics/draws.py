"""Replicates of the bootstrap: which units are drawn, and what the counts of the drawn ones add up to."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from .counts import Counts, ImageCounts
from .of_counts import Averaging, Float, iou, miou

REPLICATES = 2000
SEED = 20240229
_WEIGHT_BYTES = 1 << 27
_SUM_BYTES = 1 << 25
_MOST_AT_ONCE = 256
"""Weights, one byte each, that are held at once; sums of replicates; replicates that are multiplied at once."""


def cluster_counts(counts: Counts, clusters: NDArray[np.int64] | None) -> Counts:
    """Add up images of one cluster: ``(N, C)`` -> ``(K, C)``.  ``clusters`` is ``(N,)`` with values 0 to K - 1."""
    if clusters is None:
        return counts
    groups = int(clusters.max()) + 1
    summed = []
    for array in (counts.tp, counts.gt, counts.pred):
        out = np.zeros((groups, array.shape[1]), np.int64)
        np.add.at(out, clusters, array)
        summed.append(out)
    return Counts(*summed)


def draw_weights(units: int, replicates: int = REPLICATES, seed: int = SEED) -> NDArray[np.int64]:
    """How often each unit is drawn, ``(replicates, units)``.  Use the same weights for everything compared."""
    return np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=replicates)


def replicate_miou(counts: Counts, weights: NDArray[np.integer], averaging: Averaging = "mmseg") -> Float:
    """mIoU of every replicate: ``(N, C)`` counts and ``(B, N)`` weights -> ``(B,)``.

    Products run in float64, which is exact below 2^53 pixels.
    """
    return miou(_drawn(counts, weights), averaging)


def _drawn(counts: Counts, weights: NDArray[np.integer]) -> Counts:
    """Summed counts of every replicate, ``(B, C)``."""
    parts, as_float = (counts.tp, counts.gt, counts.pred), weights.astype(np.float64)
    return Counts(*((as_float @ a.astype(np.float64)).astype(np.int64) for a in parts))


def drawn_miou(
    counts: Sequence[ImageCounts],
    clusters: NDArray[np.int64] | None,
    averaging: Averaging = "mmseg",
    replicates: int = REPLICATES,
    seed: int = SEED,
) -> Float:
    """mIoU of every replicate, ``(M, B)``, for M methods on the same images: the numbers of ``replicate_miou``.

    Images are read in blocks, and all replicates of a block are made where memory allows, so that runs on disk are read
    once: memory does not grow with ``N x C`` or ``B x N``.
    """
    return np.stack(_drawn_in_turn(counts, clusters, partial(miou, averaging=averaging), replicates, seed))


def drawn_iou(
    counts: Sequence[ImageCounts],
    clusters: NDArray[np.int64] | None,
    replicates: int = REPLICATES,
    seed: int = SEED,
) -> list[Float]:
    """IoU of every class in every replicate, ``(B, C)``, for each of the methods."""
    return _drawn_in_turn(counts, clusters, iou, replicates, seed)


def _drawn_in_turn(
    counts: Sequence[ImageCounts],
    clusters: NDArray[np.int64] | None,
    metric: Callable[[Counts], Float],
    replicates: int,
    seed: int,
) -> list[Float]:
    """The metric of every replicate, ``(B, ...)``, for each of the methods."""
    found: list[list[Float]] = [[] for _ in counts]
    for weights in _weights_in_turn(units_of(counts[0], clusters), replicates, seed):
        for mine, one in zip(found, counts, strict=True):
            mine += [metric(summed) for summed in _drawn_in_blocks(one, weights, clusters)]
    return [np.concatenate(mine) for mine in found]


def units_of(counts: ImageCounts, clusters: NDArray[np.int64] | None) -> int:
    """How many units are drawn: images, or clusters of them."""
    return len(counts) if clusters is None else int(clusters.max(initial=-1)) + 1


def _weights_in_turn(units: int, replicates: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """The rows of ``draw_weights``, all at once if they are few, for the next who asks too, else some at a time."""
    if replicates * units <= _WEIGHT_BYTES:
        yield _all_weights(units, replicates, seed)
        return
    rng, step = np.random.default_rng(seed), max(1, min(_MOST_AT_ONCE, _WEIGHT_BYTES // units))
    room = np.empty((step, units), np.uint8)  # one for all: the next draws take the place of the last
    for start in range(0, replicates, step):
        yield _draw(rng, room[: replicates - start])


@lru_cache(maxsize=1)
def _all_weights(units: int, replicates: int, seed: int) -> NDArray[np.uint8]:
    weights = _draw(np.random.default_rng(seed), np.empty((replicates, units), np.uint8))
    weights.flags.writeable = False
    return weights


def _draw(rng: np.random.Generator, room: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Fill ``room``.  That a unit is drawn 256 times has p < 1e-500."""
    shares = np.full(room.shape[1], 1 / room.shape[1])
    for row in room:
        row[:] = rng.multinomial(len(row), shares)
    return room


def _drawn_in_blocks(
    counts: ImageCounts, weights: NDArray[np.uint8], clusters: NDArray[np.int64] | None
) -> Iterator[Counts]:
    """Summed counts of every replicate, ``(b, C)`` for some of them at a time."""
    rows = max(_MOST_AT_ONCE, _SUM_BYTES // (3 * 8 * counts.classes))
    for first in range(0, len(weights), rows):
        yield _summed(counts, weights[first : first + rows], clusters)


def _summed(counts: ImageCounts, weights: NDArray[np.uint8], clusters: NDArray[np.int64] | None) -> Counts:
    """Summed counts of some replicates, ``(b, C)``; products as in ``_drawn``."""
    found, start = np.zeros((3, len(weights), counts.classes), np.int64), 0
    for block in counts.blocks():
        images = slice(start, start + len(block))
        columns, start = images if clusters is None else clusters[images], images.stop
        parts = [a.astype(np.float64) for a in (block.tp, block.gt, block.pred)]
        for first in range(0, len(weights), _MOST_AT_ONCE):
            few = slice(first, first + _MOST_AT_ONCE)
            drawn = weights[few, columns].astype(np.float64)
            for summed, part in zip(found, parts, strict=True):
                summed[few] += (drawn @ part).astype(np.int64)
    return Counts(*found)
