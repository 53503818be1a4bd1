"""What must hold in the rows of a part, whoever wrote it."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ...methods import UserError
from .plan import Plan

Int64 = NDArray[np.int64]
COUNTS = ("tp", "gt", "pred")
CELLS = ("label", "prediction", "pixels")
"""What is stored of a class, and of a cell of a confusion matrix."""


def check_rows(table: pa.Table, plan: Plan, path: Path) -> None:
    """Raise ``UserError`` that names ``path`` for rows that no run of the plan can have written.

    Only planned images, with the content that was planned; for every class ``0 <= tp <= min(gt, pred)``; labelled
    pixels sum to the scored ones, predicted ones to no more; boundary counts lie within those of the whole masks;
    confusion matrices have the counts as their sums.
    """
    wrong = _first_fault(table, plan)
    if wrong:
        raise UserError(f"{path} holds what no run can give: {wrong}.  Move it out of the folder, or use --fresh")


def kept_columns(plan: Plan) -> tuple[str, ...]:
    """Columns that are the same in every run of the plan."""
    boundary = tuple(f"boundary_{n}" for n in COUNTS) if plan.spec.boundary else ()
    confusion = tuple(f"confusion_{n}" for n in CELLS) if plan.spec.confusion else ()
    return ("image", "content", "pixels", *COUNTS, *boundary, *confusion)


def _first_fault(table: pa.Table, plan: Plan) -> str:
    missing = {*kept_columns(plan), "peak_bytes", "warm"} - set(table.column_names)
    if missing:
        return f"there is no column {sorted(missing)[0]}"
    images = table["image"].to_pylist()
    strangers = [i for i in images if i not in plan.content]
    if strangers:
        return f"image {strangers[0]!r} is not in the plan"
    changed = [i for i, c in zip(images, table["content"].to_pylist(), strict=True) if plan.content[i] != c]
    if changed:
        return f"image {changed[0]!r} had another content than the plan says"
    try:
        counts = {name: stacked(table, name, len(plan.record.classes)) for name in COUNTS}
        return (
            _fault_of_counts(counts, table["pixels"].to_numpy())
            or (_fault_of_boundary(table, counts, len(plan.record.classes)) if plan.spec.boundary else "")
            or (_fault_of_confusion(table, counts) if plan.spec.confusion else "")
        )
    except ValueError as error:
        return str(error)


def stacked(table: pa.Table | pa.RecordBatch, name: str, classes: int) -> Int64:
    """A column as ``(N, C)``.  Raises ``ValueError`` for another number of classes or values that are not whole."""
    lengths, values = lists(table, name)
    if values.dtype.kind not in "iu" or (lengths != classes).any():
        raise ValueError(f"{name} is not one whole number for each of {classes} classes")
    return values.astype(np.int64, copy=False).reshape(len(table), classes)


def lists(table: pa.Table | pa.RecordBatch, name: str) -> tuple[Int64, NDArray[Any]]:
    """A column of lists: how long each is, and all values one after the other."""
    column = table[name]
    if not pa.types.is_list(column.type):
        raise ValueError(f"{name} is no column of lists")
    values = pc.list_flatten(column)
    return pc.fill_null(pc.list_value_length(column), -1).to_numpy(), values.to_numpy()


def _fault_of_counts(counts: dict[str, Int64], pixels: Int64) -> str:
    tp, gt, pred = (counts[n] for n in ("tp", "gt", "pred"))
    if (tp < 0).any() or (tp > np.minimum(gt, pred)).any():
        return "more pixels are right than are labelled or predicted"
    if (gt.sum(axis=1) != pixels).any():
        return "labelled pixels do not sum to the scored ones"
    return "more pixels are predicted than scored" if (pred.sum(axis=1) > pixels).any() else ""


def _fault_of_boundary(table: pa.Table, counts: dict[str, Int64], classes: int) -> str:
    tp, gt, pred = (stacked(table, f"boundary_{n}", classes) for n in COUNTS)
    if (tp < 0).any() or (tp > np.minimum(gt, pred)).any():
        return "boundary bands overlap in more pixels than they have"
    outside = (gt > counts["gt"]).any() or (pred > counts["pred"]).any()
    return "boundary bands have more pixels than their masks" if outside else ""


def _fault_of_confusion(table: pa.Table, counts: dict[str, Int64]) -> str:
    images, classes = counts["tp"].shape
    found = [lists(table, f"confusion_{n}") for n in CELLS]
    label, prediction, pixels = (values.astype(np.int64) for _, values in found)
    if any((lengths != found[0][0]).any() for lengths, _ in found) or (label < 0).any() or (label >= classes).any():
        return "a cell of a confusion matrix has no class"
    row = np.repeat(np.arange(images), found[0][0]) * classes
    known = (prediction >= 0) & (prediction < classes)  # a prediction of none of the classes counts nowhere else
    right = label == prediction
    sums = {
        "tp": np.bincount((row + label)[right], pixels[right], images * classes),
        "gt": np.bincount(row + label, pixels, images * classes),
        "pred": np.bincount((row + prediction)[known], pixels[known], images * classes),
    }
    wrong = np.any([(sums[n].reshape(images, classes) != counts[n]).any(axis=1) for n in sums], axis=0)
    if not wrong.any():
        return ""
    image = table["image"][int(wrong.argmax())].as_py()
    return f"the confusion matrix of image {image!r} has other sums than its counts"
