"""The images of a run that it did worst, as a list and as a picture; and what it took for what."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...methods import UserError
from ..report.confused import Confused, confusion_table
from ..report.sheets import results_sheet, save_png
from ..runs.run import Finished
from .label_maps import label_maps


@dataclass(frozen=True)
class ScoredImage:
    """An image and its mIoU in percent, over the classes labelled in it."""

    image: str
    miou: float


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


def confusions(run: Finished) -> tuple[Confused, ...]:
    """What was taken for what, most pixels first.  Raises ``UserError`` when the run has not stored it."""
    table = confusion_table(run)
    if table is None:
        spec = run.plan.spec
        raise UserError(
            f"{run.name} has not stored which class was taken for which: "
            f"`bench run --method {spec.method} --dataset {spec.dataset} --confusion` does"
        )
    return table.most_confused()
