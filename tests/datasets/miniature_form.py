"""What a miniature of a data set is, and how it is written.

A label is drawn in symbols 0, 1, 2 ...; a column of the miniature says which value a symbol has in a kind of file.  The
column ``loaded`` is what the loader must give.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
HEIGHT, WIDTH = 40, 48


@dataclass(frozen=True)
class Form:
    """One layout.  ``place`` is the data set's own folder below the data root, ``column`` that of the label files."""

    place: str
    images: str
    image_suffix: str
    labels: str
    label_suffix: str
    column: str = "loaded"
    mode: str = "L"
    """Of the label file: grey ("L"), palette PNG ("P"), 1 bit ("1"), 16-bit TIFF ("I;16") or colours ("RGB")."""
    source: str = ""
    """Name of the ground truth to ask for, where it is not the usual one."""
    lists: dict[str, str] = field(default_factory=dict)
    """List files, and their line for an image; ``{}`` is the id."""
    prefix: str = ""
    """Stands before the id where a layout has folders per class."""
    strangers: tuple[str, ...] = ()
    """Images that lie there, but do not belong to the split."""


@dataclass(frozen=True)
class Miniature:
    """``name`` makes the id of an image from its number; symbols of ``first_only`` are in the first label only."""

    name: Callable[[int], str]
    columns: dict[str, list[Any]]
    forms: dict[str, Form]
    first_only: tuple[int, ...] = ()
    grey: bool = False
    """Whether some images are grey."""

    def ids(self, images: int = 3) -> list[str]:
        return [self.name(i) for i in range(images)]

    def symbols(self, number: int) -> Array:
        """Label of an image in symbols, (H, W): rectangles, and every symbol in at least one pixel."""
        rng = np.random.default_rng(zlib.crc32(self.name(number).encode()))
        allowed = [s for s in range(len(self.columns["loaded"])) if number == 0 or s not in self.first_only]
        label = np.full((HEIGHT, WIDTH), allowed[0])
        for _ in range(12):
            top, left = rng.integers(0, HEIGHT - 8), rng.integers(0, WIDTH - 8)
            label[top : top + rng.integers(4, 20), left : left + rng.integers(4, 20)] = rng.choice(allowed)
        label.ravel()[: len(allowed)] = allowed
        return label

    def values(self, number: int, column: str = "loaded") -> Array:
        """Label of an image in the values of a column, (H, W), or (H, W, 3) for colours."""
        return np.array(self.columns[column])[self.symbols(number)]

    def image(self, number: int) -> Array:
        rng = np.random.default_rng(number)
        return rng.integers(0, 256, (HEIGHT, WIDTH) if self.grey and number == 1 else (HEIGHT, WIDTH, 3), np.uint8)

    def write(self, form: Form, root: Path, images: int = 3) -> Path:
        """Write images, labels and lists of a form below the data root, which is returned."""
        home = root / form.place
        for number, name in enumerate(self.ids(images)):
            save_image(home / form.images / f"{form.prefix}{name}{form.image_suffix}", self.image(number))
            path = home / form.labels / f"{form.prefix}{name}{form.label_suffix}"
            save_label(path, self.values(number, form.column), form.mode)
        for stranger in form.strangers:
            save_image(home / form.images / f"{stranger}{form.image_suffix}", self.image(0))
        for path, line in form.lists.items():
            save_lines(home / path, [line.format(name) for name in self.ids(images)])
        return root


def voc_colours() -> list[int]:
    """The colour map of PASCAL VOC, 256 times R, G, B: the bits of the index, three by three, from the highest down."""
    out = []
    for index in range(256):
        colour = [0, 0, 0]
        for bit in range(8):
            colour[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
        out += colour
    return out


def save_label(path: Path, values: Array, mode: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = values.astype({"1": bool, "I;16": np.uint16}.get(mode, np.uint8))
    picture = Image.fromarray(stored)
    if mode == "P":
        picture.putpalette(voc_colours())
    assert picture.mode == mode, (picture.mode, mode)
    picture.save(path)


def save_image(path: Path, pixels: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_lines(path: Path, lines: list[str]) -> None:
    """A list file with a blank last line, as many have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in [*lines, ""]))
