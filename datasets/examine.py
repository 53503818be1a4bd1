"""What an image and its label hold: their digests, and the facts that the census is made of."""

from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from .dataset import size_problem
from .errors import DataError, Problem
from .loader import Labels, label_digest, read_image_file, read_label
from .record import DatasetRecord

_ROWS = 256
_SHA256 = r"^[0-9a-f]{64}$"


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ImageFacts(_Facts):
    """An image file; ``whole`` says that it was decoded to its end."""

    sha256: str = Field(pattern=_SHA256)
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    orientation: int
    whole: bool


class LabelFacts(_Facts):
    """A label as scored: digest, size, and how many pixels have each value (ignored ones included)."""

    sha256: str = Field(pattern=_SHA256)
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    pixels: dict[int, int]


def image_facts(path: Path, decode: bool) -> ImageFacts:
    """Read an image file.  Raises ``DataError``."""
    file = read_image_file(path, decode)
    return ImageFacts(
        sha256=file.sha256, height=file.height, width=file.width, orientation=file.orientation, whole=decode
    )


def label_facts(path: Path, record: DatasetRecord) -> LabelFacts:
    """Read a label.  Raises ``DataError``."""
    label = read_label(path, record)
    height, width = label.shape
    return LabelFacts(sha256=label_digest(label), height=height, width=width, pixels=_pixels(label))


def fits(label_path: Path, image: ImageFacts, label: LabelFacts) -> Problem | None:
    """Finding if the sizes differ."""
    return size_problem(label_path, (label.height, label.width), (image.height, image.width))


def problems_of(error: DataError, path: Path) -> list[Problem]:
    """The findings of an error; one that names ``path`` if it has none."""
    return list(error.problems) or [Problem(path, str(error), "")]


def _pixels(label: Labels) -> dict[int, int]:
    total = np.zeros(65536, np.int64)
    for start in range(0, label.shape[0], _ROWS):  # bincount needs eight bytes for each pixel
        total += np.bincount(label[start : start + _ROWS].ravel(), minlength=65536)
    return {int(v): int(total[v]) for v in np.flatnonzero(total)}
