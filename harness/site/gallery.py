"""Which images a gallery shows, and the data of its page."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..show.colours import Colour

EACH = 6
"""Images of each group."""


@dataclass(frozen=True)
class Group:
    """Images that are shown for one reason."""

    title: str
    why: str
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Said:
    """What a run said of an image: a file below the report's folder, and its mIoU in percent (None: no label).

    ``same``: whether its pixels are those that the run had counted.
    """

    method: str
    file: str
    miou: float | None
    same: bool


@dataclass(frozen=True)
class Shown:
    """An image with its label and what runs said of it; files below the report's folder."""

    image: str
    photo: str
    truth: str
    width_px: int
    height_px: int
    said: tuple[Said, ...]


@dataclass(frozen=True)
class LegendEntry:
    """A class that occurs, and its colour."""

    name: str
    colour: Colour


@dataclass(frozen=True)
class Gallery:
    """Images of one column: ``left_out`` says why runs, or all pictures, are not there."""

    licence: str
    groups: tuple[Group, ...] = ()
    images: tuple[Shown, ...] = ()
    legend: tuple[LegendEntry, ...] = ()
    left_out: tuple[str, ...] = ()

    def shown(self, group: Group) -> tuple[Shown, ...]:
        """The images of a group."""
        by_id = {one.image: one for one in self.images}
        return tuple(by_id[i] for i in group.ids if i in by_id)


def choose(ids: Sequence[str], values: NDArray[np.float64]) -> tuple[Group, ...]:
    """Groups of images by their mIoU ``(M, N)``, a row per run; an image without valid pixels (NaN) is in the sample
    alone.

    The sample is fixed: the images whose ids have the lowest hashes.
    """
    mean, spread = values.mean(axis=0), values.max(axis=0) - values.min(axis=0)
    by_hash = sorted(ids, key=lambda i: hashlib.sha256(i.encode("utf-8", "surrogatepass")).digest())
    over = "of the runs shown" if len(values) > 1 else "of the run"
    groups = [
        Group("Sample", "chosen by the hash of the image's name, the same in every report", tuple(by_hash[:EACH])),
        Group("Worst", f"lowest mean of the mIoU {over}", _first(ids, mean)),
        Group("Best", f"highest mean of the mIoU {over}", _first(ids, -mean)),
    ]
    if len(values) > 1:
        why = "largest difference between the highest and the lowest mIoU of the runs shown"
        groups.append(Group("Most disagreement", why, _first(ids, -spread)))
    return tuple(groups)


def _first(ids: Sequence[str], values: NDArray[np.float64]) -> tuple[str, ...]:
    order = [k for k in np.argsort(values, kind="stable") if not np.isnan(values[k])]
    return tuple(ids[k] for k in order[:EACH])
