"""The images of a run that it did worst, as a list and as a picture; and what it took for what."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...methods import UserError
from ..metrics.of_confusion import dense
from ..report.sheets import results_sheet, save_png
from ..runs.run import Finished
from .label_maps import label_maps


@dataclass(frozen=True)
class ScoredImage:
    """An image and its mIoU in percent, over the classes labelled in it."""

    image: str
    miou: float


@dataclass(frozen=True)
class Confusion:
    """Pixels of the class ``label`` that were said to be ``prediction``, and their share of all pixels of ``label``."""

    label: str
    prediction: str
    pixels: int
    share: float


def worst_images(run: Finished, count: int) -> tuple[ScoredImage, ...]:
    """The images with the lowest mIoU, lowest first; among equals in the order of the run."""
    values = run.result.per_image
    order = [k for k in np.argsort(values, kind="stable") if not np.isnan(values[k])]
    return tuple(ScoredImage(run.result.ids[k], float(values[k])) for k in order[:count])


def draw_images(run: Finished, ids: Sequence[str], output: Path, saved: Path | None = None) -> bool:
    """Write a PNG of these images with their labels and what the run said; whether that is what it had counted.

    Label maps are read below ``saved``, or predicted again.  Raises what ``label_maps`` raises.
    """
    found = list(label_maps(run, ids, saved))
    method = run.plan.spec.method
    save_png(results_sheet(run.plan.record, [(one.sample, [(method, one.labels)]) for one in found]), output)
    return all(one.same for one in found)


def confusions(run: Finished) -> tuple[Confusion, ...]:
    """What was taken for what, most pixels first; equal labels and predictions are left out.

    Raises ``UserError`` when the run has not stored it.
    """
    if run.result.confusion is None:
        spec = run.plan.spec
        raise UserError(
            f"{run.name} has not stored which class was taken for which: "
            f"`bench run --method {spec.method} --dataset {spec.dataset} --confusion` does"
        )
    classes = run.plan.record.classes
    size = max(len(classes), int(run.result.confusion.prediction.max(initial=0)) + 1)
    table = dense(run.result.confusion, size)
    names = [*classes, *["none of the classes"] * (size - len(classes))]
    totals = table.sum(axis=1)
    np.fill_diagonal(table, 0)
    order = np.argsort(-table, axis=None, kind="stable")[: np.count_nonzero(table)]
    cells = (divmod(int(k), size) for k in order)
    return tuple(Confusion(names[a], names[b], int(table[a, b]), float(table[a, b] / totals[a])) for a, b in cells)
