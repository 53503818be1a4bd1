"""Pictures: label maps over photos, with a legend."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ...datasets import Sample
from ...datasets.loader import Pixels
from ..runs.photo import Photo
from ..runs.pipeline import Clock, Pipeline
from ..runs.storing import stored_file
from ..show.colours import class_colours
from ..show.escaping import plain_text

_GREY = (128, 128, 128)
_LINE_PX, _SWATCH_PX, _MARGIN_PX, _FONT_PX = 18, 12, 8, 10
_PLAIN_PX = 600
"""Short side up to which a legend has these sizes; it grows with larger pictures."""
_STRIP_ROWS = 256
_TEXT_MOST = 60
"""Characters of a name that a legend shows: a longer one would widen the picture."""


def paint(labels: NDArray[np.integer], colours: Sequence[tuple[int, int, int]]) -> Pixels:
    """Label map ``(H, W)`` -> colours ``(H, W, 3)`` uint8; values without a colour (ignored pixels) are grey."""
    table = np.array([*colours, _GREY], np.uint8)
    return table[np.minimum(labels.astype(np.int64), len(colours))]


def overlay(image: Pixels, labels: NDArray[np.integer], colours: Sequence[tuple[int, int, int]]) -> Pixels:
    """The photo with classes mixed in at 55 % and their borders drawn in white, ``(H, W, 3)`` uint8."""
    return np.concatenate([strip for _, strip in overlay_strips(image, labels, colours)])


def overlay_strips(
    image: Pixels, labels: NDArray[np.integer], colours: Sequence[tuple[int, int, int]]
) -> Iterator[tuple[int, Pixels]]:
    """``overlay`` a few rows at a time, each with its first row: a large photo needs no second and third copy."""
    for top in range(0, len(image), _STRIP_ROWS):
        above = max(0, top - 1)  # borders need the row before
        rows = labels[above : top + _STRIP_ROWS]
        mixed = (0.45 * image[above : top + _STRIP_ROWS] + 0.55 * paint(rows, colours)).astype(np.uint8)
        border = np.zeros(rows.shape, bool)
        border[:, 1:] |= rows[:, 1:] != rows[:, :-1]
        border[1:] |= rows[1:] != rows[:-1]
        mixed[border] = 255
        yield top, mixed[top - above :]


def add_legend(
    picture: Pixels,
    names: Sequence[str],
    colours: Sequence[tuple[int, int, int]],
    shares: Sequence[float] | None = None,
) -> Image.Image:
    """Put a legend below a picture, in as many columns as fit; ``shares`` (0 to 1) are shown in percent."""
    return _sheet((picture.shape[1], picture.shape[0]), [(0, picture)], names, colours, shares)


def photo_sheet(
    image: Pixels,
    labels: NDArray[np.integer],
    names: Sequence[str],
    colours: Sequence[tuple[int, int, int]],
    shares: Sequence[float],
) -> Image.Image:
    """``overlay`` with a legend.  Beside its arguments it holds the sheet alone (4 bytes per pixel)."""
    strips = overlay_strips(image, labels, colours)
    return _sheet((image.shape[1], image.shape[0]), strips, names, colours, shares)


def _sheet(
    size: tuple[int, int],
    strips: Iterable[tuple[int, Pixels]],
    names: Sequence[str],
    colours: Sequence[tuple[int, int, int]],
    shares: Sequence[float] | None,
) -> Image.Image:
    """A picture of this (width, height), given as strips with their first rows, above a legend that grows with it."""
    plain = [plain_text(name) for name in names]  # a new line inside could not be measured
    names = [n if len(n) <= _TEXT_MOST else f"{n[: _TEXT_MOST - 1]}…" for n in plain]
    texts = names if shares is None else [f"{n} {100 * s:.1f} %" for n, s in zip(names, shares, strict=True)]
    scale = max(1.0, min(size) / _PLAIN_PX)
    line, swatch, margin = (round(scale * px) for px in (_LINE_PX, _SWATCH_PX, _MARGIN_PX))
    font = ImageFont.load_default(_FONT_PX * scale)
    column = swatch + 2 * margin + int(max(font.getlength(t) for t in texts))
    width = max(size[0], column)
    columns = max(1, width // column)
    rows = -(-len(texts) // columns)
    sheet = Image.new("RGB", (width, size[1] + rows * line + 2 * margin), "white")
    for top, strip in strips:
        sheet.paste(Image.fromarray(strip), (0, top))
    draw = ImageDraw.Draw(sheet)
    for k, (text, colour) in enumerate(zip(texts, colours, strict=True)):
        x = margin + (k % columns) * column
        y = size[1] + margin + (k // columns) * line
        draw.rectangle((x, y, x + swatch, y + swatch), fill=colour, outline="black", width=round(scale))
        draw.text((x + swatch + round(5 * scale), y), text, fill="black", font=font)
    return sheet


def write_contact_sheet(path: Path, pipeline: Pipeline, samples: Sequence[Sample], height_px: int = 192) -> None:
    """Write a PNG with a row per sample: image, label, result; and a legend."""
    colours = pipeline.record.palette or class_colours(len(pipeline.record.classes))
    rows = []
    for sample in samples:
        labels = pipeline.predict(Photo(sample.image, sample.id), Clock()).cpu().numpy()
        smooth, sharp = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
        tiles = [
            _scaled(sample.image, height_px, smooth),
            _scaled(paint(sample.label, colours), height_px, sharp),
            _scaled(overlay(sample.image, labels, colours), height_px, smooth),
        ]
        rows.append(np.concatenate(tiles, axis=1))
    width = max(r.shape[1] for r in rows)
    padded = [np.pad(r, ((0, 0), (0, width - r.shape[1]), (0, 0)), constant_values=255) for r in rows]
    save_png(add_legend(np.concatenate(padded), pipeline.record.classes, colours), path)


def save_png(picture: Image.Image, path: Path) -> None:
    """Write a PNG whole or not at all.  Raises ``UserError`` when it cannot be written."""
    with stored_file(path) as file:
        picture.save(file, "PNG")


def _scaled(picture: Pixels, height_px: int, resample: Image.Resampling) -> Pixels:
    width_px = round(picture.shape[1] * height_px / picture.shape[0])
    return np.asarray(Image.fromarray(picture).resize((width_px, height_px), resample))
