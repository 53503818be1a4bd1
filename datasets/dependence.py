"""Which images depend on each other: the units of the bootstrap."""

from collections.abc import Sequence

import numpy as np
import regex
from numpy.typing import NDArray

from .errors import DataError
from .record import DatasetRecord

PATTERN_SECONDS = 1.0
"""Longest time that a ``cluster_pattern`` may take for one id."""


def clusters_of(record: DatasetRecord, ids: Sequence[str]) -> NDArray[np.int64]:
    """Unit of each of ``ids`` (sorted), ``(N,)`` with values 0 to K - 1 (see ``DatasetRecord``, dependence).

    Raises ``DataError`` when ``cluster_pattern`` takes longer than ``PATTERN_SECONDS`` for an id.
    """
    if record.cluster_pattern:
        sources = [_source(record.key, record.cluster_pattern, i) for i in ids]
        return np.unique(sources, return_inverse=True)[1].astype(np.int64)
    return _blocks(ids, record.block_frames) if record.block_frames else np.arange(len(ids))


def _source(key: str, pattern: str, image_id: str) -> str:
    """What ``cluster_pattern`` finds in an id; an id that it does not match is a source of its own."""
    try:
        found = regex.match(pattern, image_id, timeout=PATTERN_SECONDS)
    except TimeoutError:
        raise DataError(
            f"data set {key!r}: cluster_pattern {pattern!r} takes longer than {PATTERN_SECONDS:g} s to match "
            f"{image_id!r}: repetitions inside repetitions try every split.  Write it without, for example "
            "'^(.*)_[0-9]+$'"
        ) from None
    return (found.group(1) if found else None) or image_id


def _blocks(ids: Sequence[str], length: int) -> NDArray[np.int64]:
    """Runs of ``length`` neighbours with the same prefix."""
    out, unit, seen, prefix = [], -1, length, ""
    for image_id in ids:
        start, joint, _ = image_id.partition("_")
        if not joint:  # no prefix: a sequence is a folder
            start = image_id.rpartition("/")[0]
        if start != prefix or seen == length:
            unit, seen, prefix = unit + 1, 0, start
        seen += 1
        out.append(unit)
    return np.array(out, np.int64)
