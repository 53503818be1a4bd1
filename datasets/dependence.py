"""Which images depend on each other: the units of the bootstrap."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .record import DatasetRecord


def clusters_of(record: DatasetRecord, ids: Sequence[str]) -> NDArray[np.int64]:
    """Unit of each of ``ids`` (sorted), ``(N,)`` with values 0 to K - 1 (see ``DatasetRecord``, dependence)."""
    if record.cluster_pattern:
        groups = [re.match(record.cluster_pattern, i) for i in ids]
        sources = [g.group(1) if g else i for g, i in zip(groups, ids, strict=True)]
        return np.unique(sources, return_inverse=True)[1].astype(np.int64)
    return _blocks(ids, record.block_frames) if record.block_frames else np.arange(len(ids))


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
