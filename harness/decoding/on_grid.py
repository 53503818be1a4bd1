"""Classes decided on a method's own grid, and their labels resized: CLIP-DIY's order, the opposite of ``decode``'s."""

import torch
from torch import Tensor

from ...methods import ScoreField
from ...methods.core.windows import Box
from .decode import decode
from .refinement import stretched
from .rule import DecodeRule


def decode_on_grid(field: ScoreField, size: tuple[int, int], rule: DecodeRule) -> Tensor:
    """Label map ``(height, width)`` of ``size``, dtype and errors as of ``decode``.

    Where one grid covers the whole frame, classes are decided on it, cell by cell; scores of several windows are
    averaged in the frame, and classes decided there.  ``size`` takes the labels of the nearest cells.
    """
    whole = field.boxes == field.covers == (Box(0, 0, *field.frame),)
    own = (field.scores.shape[2], field.scores.shape[3]) if whole else field.frame
    return nearest(decode(stretched(field, own), own, rule), size)


def nearest(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Label map resized as OpenCV's nearest does, ``(h, w)`` -> ``size``: row y takes cell ``floor(y / (height / h))``.

    Divided as OpenCV divides, in float64, so that rounding picks the same cell.
    """
    rows, columns = (_cells(old, new).to(labels.device) for old, new in zip(labels.shape, size, strict=True))
    return labels[rows[:, None], columns]


def _cells(old: int, new: int) -> Tensor:
    return (torch.arange(new, dtype=torch.float64) * (1 / (new / old))).long().clamp_(max=old - 1)
