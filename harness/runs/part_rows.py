"""What must hold in the rows of a part, whoever wrote it."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...methods import UserError
from .plan import Plan

Int64 = NDArray[np.int64]


def check_rows(frame: pd.DataFrame, plan: Plan, path: Path) -> None:
    """Raise ``UserError`` that names ``path`` for rows that no run of the plan can have written.

    Only planned images, with the content that was planned; for every class ``0 <= tp <= min(gt, pred)``; labelled
    pixels sum to the scored ones, predicted ones to no more; boundary counts lie within those of the whole masks;
    confusion matrices have the counts as their sums.
    """
    wrong = _first_fault(frame, plan)
    if wrong:
        raise UserError(f"{path} holds what no run can give: {wrong}.  Move it out of the folder, or use --fresh")


def _first_fault(frame: pd.DataFrame, plan: Plan) -> str:
    missing = _columns(plan) - set(frame.columns)
    if missing:
        return f"there is no column {sorted(missing)[0]}"
    strangers = [i for i in frame["image"] if i not in plan.content]
    if strangers:
        return f"image {strangers[0]!r} is not in the plan"
    changed = [i for i, c in zip(frame["image"], frame["content"], strict=True) if plan.content[i] != c]
    if changed:
        return f"image {changed[0]!r} had another content than the plan says"
    try:
        counts = {name: _stacked(frame, name, len(plan.record.classes)) for name in ("tp", "gt", "pred")}
        return (
            _fault_of_counts(counts, frame["pixels"].to_numpy())
            or (_fault_of_boundary(frame, counts, len(plan.record.classes)) if plan.spec.boundary else "")
            or (_fault_of_confusion(frame, counts) if plan.spec.confusion else "")
        )
    except ValueError as error:
        return str(error)


def _columns(plan: Plan) -> set[str]:
    wanted = {"image", "content", "pixels", "tp", "gt", "pred", "peak_bytes", "warm"}
    boundary = {f"boundary_{n}" for n in ("tp", "gt", "pred")} if plan.spec.boundary else set()
    confusion = {f"confusion_{n}" for n in ("label", "prediction", "pixels")} if plan.spec.confusion else set()
    return wanted | boundary | confusion


def _stacked(frame: pd.DataFrame, name: str, classes: int) -> Int64:
    """A column as ``(N, C)``.  Raises ``ValueError`` for another number of classes or values that are not whole."""
    for row in frame[name]:
        if np.shape(row) != (classes,) or np.asarray(row).dtype.kind not in "iu":
            raise ValueError(f"{name} is not one whole number for each of {classes} classes")
    return np.array([*frame[name]], np.int64).reshape(len(frame), classes)


def _fault_of_counts(counts: dict[str, Int64], pixels: Int64) -> str:
    tp, gt, pred = (counts[n] for n in ("tp", "gt", "pred"))
    if (tp < 0).any() or (tp > np.minimum(gt, pred)).any():
        return "more pixels are right than are labelled or predicted"
    if (gt.sum(axis=1) != pixels).any():
        return "labelled pixels do not sum to the scored ones"
    return "more pixels are predicted than scored" if (pred.sum(axis=1) > pixels).any() else ""


def _fault_of_boundary(frame: pd.DataFrame, counts: dict[str, Int64], classes: int) -> str:
    tp, gt, pred = (_stacked(frame, f"boundary_{n}", classes) for n in ("tp", "gt", "pred"))
    if (tp < 0).any() or (tp > np.minimum(gt, pred)).any():
        return "boundary bands overlap in more pixels than they have"
    outside = (gt > counts["gt"]).any() or (pred > counts["pred"]).any()
    return "boundary bands have more pixels than their masks" if outside else ""


def _fault_of_confusion(frame: pd.DataFrame, counts: dict[str, Int64]) -> str:
    classes = counts["tp"].shape[1]
    for number, cells in enumerate(
        zip(*(frame[f"confusion_{n}"] for n in ("label", "prediction", "pixels")), strict=True)
    ):
        label, prediction, pixels = (np.asarray(c, np.int64) for c in cells)
        if not len(label) == len(prediction) == len(pixels) or (label < 0).any() or (label >= classes).any():
            return "a cell of a confusion matrix has no class"
        known = (prediction >= 0) & (prediction < classes)  # a prediction of none of the classes counts nowhere else
        right = label == prediction
        found = {
            "tp": np.bincount(label[right], pixels[right], classes),
            "gt": np.bincount(label, pixels, classes),
            "pred": np.bincount(prediction[known], pixels[known], classes),
        }
        if any((found[n] != counts[n][number]).any() for n in found):
            return f"the confusion matrix of image {frame['image'].iloc[number]!r} has other sums than its counts"
    return ""
