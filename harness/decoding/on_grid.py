"""Classes decided on a method's own grid, and their labels resized: CLIP-DIY's order, the opposite of ``decode``'s."""

import torch
from torch import Tensor

from ...methods import ScoreField
from ...methods.core.windows import Box
from .decode import Winners, decode, winners_of
from .refinement import stretched
from .rule import DecodeRule


def decode_on_grid(field: ScoreField, size: tuple[int, int], rule: DecodeRule) -> Tensor:
    """Label map ``(height, width)`` of ``size``, dtype and errors as of ``decode``.

    Where one grid covers the whole frame, classes are decided on it, cell by cell; scores of several windows are
    averaged in the frame, and classes decided there.  ``size`` takes the labels of the nearest cells.
    """
    own = _own_size(field)
    return nearest(decode(stretched(field, own), own, rule), size)


def winners_on_grid(field: ScoreField, size: tuple[int, int], rule: DecodeRule) -> Winners:
    """What ``decode_on_grid`` compares with the threshold, resized as its labels are (``winners_of``)."""
    own = _own_size(field)
    winners = winners_of(stretched(field, own), own, rule)
    assert winners.probability is not None
    return Winners(nearest(winners.labels, size), nearest(winners.probability, size))


def _own_size(field: ScoreField) -> tuple[int, int]:
    whole = field.boxes == field.covers == (Box(0, 0, *field.frame),)
    return (field.scores.shape[2], field.scores.shape[3]) if whole else field.frame


def nearest(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Label map resized as OpenCV's nearest does, ``(h, w)`` -> ``size``: row y takes cell ``floor(y / (height / h))``.

    Divided as OpenCV divides, in float64, so that rounding picks the same cell.
    """
    rows, columns = (_cells(old, new).to(labels.device) for old, new in zip(labels.shape, size, strict=True))
    return labels[rows[:, None], columns]


def _cells(old: int, new: int) -> Tensor:
    return (torch.arange(new, dtype=torch.float64) * (1 / (new / old))).long().clamp_(max=old - 1)
