"""What a run took for what."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..metrics.of_confusion import dense
from ..runs.run import Finished

OUTSIDE = "none of the classes"


@dataclass(frozen=True)
class Confused:
    """Pixels of the class ``label`` that were said to be ``prediction``, and their share of ``label``, 0 to 1."""

    label: str
    prediction: str
    pixels: int
    share: float


@dataclass(frozen=True)
class ConfusionTable:
    """``names`` of rows and columns, the answer "none of the classes" last where it occurs, and ``pixels`` (K, K).

    Rows are labels, columns predictions.
    """

    names: tuple[str, ...]
    pixels: NDArray[np.int64]

    @property
    def shares(self) -> NDArray[np.float64]:
        """Shares of the pixels of each label, 0 to 1; rows of labels that do not occur are 0."""
        return self.pixels / np.maximum(self.pixels.sum(axis=1), 1)[:, None]

    def most_confused(self) -> tuple[Confused, ...]:
        """Most pixels first; equal labels and predictions are left out."""
        shares, wrong = self.shares, self.pixels * (1 - np.eye(len(self.names), dtype=np.int64))
        order = np.argsort(-wrong, axis=None, kind="stable")[: np.count_nonzero(wrong)]
        cells = (divmod(int(k), len(self.names)) for k in order)
        return tuple(Confused(self.names[a], self.names[b], int(wrong[a, b]), float(shares[a, b])) for a, b in cells)


def confusion_table(run: Finished) -> ConfusionTable | None:
    """None when the run has not stored it."""
    if run.result.confusion is None:
        return None
    classes = run.plan.record.classes
    size = max(len(classes), int(run.result.confusion.prediction.max(initial=0)) + 1)
    return ConfusionTable((*classes, *[OUTSIDE] * (size - len(classes))), dense(run.result.confusion, size))
