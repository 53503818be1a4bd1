"""Pictures: label maps over photos, with a legend."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..datasets import Sample
from ..datasets.loader import Pixels
from .escaping import plain_text
from .pipeline import Clock, Pipeline

_GREY = (128, 128, 128)
_LINE_PX, _SWATCH_PX, _MARGIN_PX = 18, 12, 8


def class_colours(count: int) -> list[tuple[int, int, int]]:
    """``count`` clearly different colours: hues by the golden ratio, three levels of brightness in turn."""
    import colorsys

    out = []
    for k in range(count):
        rgb = colorsys.hsv_to_rgb(k * 0.618034 % 1, 0.55 + 0.35 * (k % 2), (1.0, 0.8, 0.62)[k % 3])
        out.append((int(rgb[0] * 255), int(rgb[1] * 255), int(rgb[2] * 255)))
    return out


def paint(labels: NDArray[np.integer], colours: Sequence[tuple[int, int, int]]) -> Pixels:
    """Label map ``(H, W)`` -> colours ``(H, W, 3)`` uint8; values without a colour (ignored pixels) are grey."""
    table = np.array([*colours, _GREY], np.uint8)
    return table[np.minimum(labels.astype(np.int64), len(colours))]


def overlay(image: Pixels, labels: NDArray[np.integer], colours: Sequence[tuple[int, int, int]]) -> Pixels:
    """The photo with classes mixed in at 55 % and their borders drawn in white, ``(H, W, 3)`` uint8."""
    mixed = (0.45 * image + 0.55 * paint(labels, colours)).astype(np.uint8)
    border = np.zeros(labels.shape, bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    mixed[border] = 255
    return mixed


def add_legend(
    picture: Pixels,
    names: Sequence[str],
    colours: Sequence[tuple[int, int, int]],
    shares: Sequence[float] | None = None,
) -> Image.Image:
    """Put a legend below a picture, in as many columns as fit; ``shares`` (0 to 1) are shown in percent."""
    names = [plain_text(name) for name in names]  # a new line inside could not be measured
    texts = names if shares is None else [f"{n} {100 * s:.1f} %" for n, s in zip(names, shares, strict=True)]
    font = ImageFont.load_default()
    column = _SWATCH_PX + 2 * _MARGIN_PX + int(max(font.getlength(t) for t in texts))
    width = max(picture.shape[1], column)
    columns = max(1, width // column)
    rows = -(-len(texts) // columns)
    sheet = Image.new("RGB", (width, picture.shape[0] + rows * _LINE_PX + 2 * _MARGIN_PX), "white")
    sheet.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(sheet)
    for k, (text, colour) in enumerate(zip(texts, colours, strict=True)):
        x = _MARGIN_PX + (k % columns) * column
        y = picture.shape[0] + _MARGIN_PX + (k // columns) * _LINE_PX
        draw.rectangle((x, y, x + _SWATCH_PX, y + _SWATCH_PX), fill=colour, outline="black")
        draw.text((x + _SWATCH_PX + 5, y), text, fill="black", font=font)
    return sheet


def write_contact_sheet(path: Path, pipeline: Pipeline, samples: Sequence[Sample], height_px: int = 192) -> None:
    """Write a PNG with a row per sample: image, label, result; and a legend."""
    colours = pipeline.record.palette or class_colours(len(pipeline.record.classes))
    rows = []
    for sample in samples:
        labels = pipeline.predict(sample.image, Clock(), sample.id).cpu().numpy()
        smooth, sharp = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
        tiles = [
            _scaled(sample.image, height_px, smooth),
            _scaled(paint(sample.label, colours), height_px, sharp),
            _scaled(overlay(sample.image, labels, colours), height_px, smooth),
        ]
        rows.append(np.concatenate(tiles, axis=1))
    width = max(r.shape[1] for r in rows)
    padded = [np.pad(r, ((0, 0), (0, width - r.shape[1]), (0, 0)), constant_values=255) for r in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    add_legend(np.concatenate(padded), pipeline.record.classes, colours).save(path)


def _scaled(picture: Pixels, height_px: int, resample: Image.Resampling) -> Pixels:
    width_px = round(picture.shape[1] * height_px / picture.shape[0])
    return np.asarray(Image.fromarray(picture).resize((width_px, height_px), resample))
