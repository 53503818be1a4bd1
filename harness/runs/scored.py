"""What is kept of a scored image, and the stages of its way; nothing here needs torch."""

from dataclasses import dataclass

from ..metrics.counts import Counts
from ..metrics.of_confusion import SparseConfusion

STAGES = ("load", "resize", "segment", "refine", "decode", "count")


@dataclass(frozen=True)
class Scored:
    """Counts of one image, ``(C,)``; those of boundary bands and the confusion matrix if they were asked for.

    ``pixels``: how many pixels were scored, that is, are not ignored.
    """

    counts: Counts
    pixels: int
    boundary: Counts | None = None
    confusion: SparseConfusion | None = None
