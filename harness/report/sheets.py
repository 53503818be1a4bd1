"""Sheets: pictures side by side with their titles, and a legend below."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ...datasets import DatasetRecord, Sample
from ...datasets.loader import Pixels
from ..metrics.counts import Counts
from ..metrics.result import EvalResult
from ..runs.label_files import colours_of
from ..runs.storing import stored_file
from ..show.colours import Colour
from ..show.escaping import plain_text
from .overlay import overlay, overlay_strips, paint

if TYPE_CHECKING:  # a legend needs no torch
    from ..runs.pipeline import Pipeline

_LINE_PX, _SWATCH_PX, _MARGIN_PX, _FONT_PX = 18, 12, 8, 10
_PLAIN_PX = 600
"""Short side up to which letters have these sizes; they grow with larger pictures."""
_TEXT_MOST = 60
"""Characters of a name that a legend shows: a longer one would widen the picture."""


@dataclass(frozen=True)
class Panel:
    """A picture ``(H, W, 3)`` uint8 with what stands above it; ``sharp`` ones are scaled without mixing pixels."""

    title: str
    picture: Pixels
    sharp: bool = False


def add_legend(
    picture: Pixels,
    names: Sequence[str],
    colours: Sequence[Colour],
    shares: Sequence[float] | None = None,
) -> Image.Image:
    """Put a legend below a picture, in as many columns as fit; ``shares`` (0 to 1) are shown in percent."""
    return _above_legend((picture.shape[1], picture.shape[0]), [(0, picture)], _texts(names, shares), colours)


def photo_sheet(
    image: Pixels,
    labels: NDArray[np.integer],
    names: Sequence[str],
    colours: Sequence[Colour],
    shares: Sequence[float],
) -> Image.Image:
    """``overlay`` with a legend.  Beside its arguments it holds the sheet alone (4 bytes per pixel)."""
    strips = overlay_strips(image, labels, colours)
    return _above_legend((image.shape[1], image.shape[0]), strips, _texts(names, shares), colours)


def panel_sheet(rows: Sequence[Sequence[Panel]], names: Sequence[str], colours: Sequence[Colour]) -> Image.Image:
    """Rows of panels with their titles, all as high as the first of a row, above a legend."""
    scale = max(1.0, max(min(row[0].picture.shape[:2]) for row in rows) / _PLAIN_PX)
    strips = [np.asarray(_titled(row, scale)) for row in rows]
    width = max(strip.shape[1] for strip in strips)
    tops = np.cumsum([0, *(len(strip) for strip in strips)])
    placed = zip((int(top) for top in tops), strips, strict=False)
    return _above_legend((width, int(tops[-1])), placed, _texts(names, None), colours, scale)


def result_panels(
    record: DatasetRecord, sample: Sample, results: Sequence[tuple[str, NDArray[np.integer]]], height_px: int
) -> list[Panel]:
    """An image, its labels, and what methods say of it, each with its IoU (mean over the classes of the image)."""
    colours = colours_of(record)
    panels = [Panel(sample.id, sample.image), Panel("labels", paint(sample.label, colours), sharp=True)]
    for name, labels in results:
        iou = image_iou(record, sample, labels)
        title = name if np.isnan(iou) else f"{name}  IoU {iou:.1f}"
        panels.append(Panel(title, overlay(sample.image, labels, colours)))
    return [replace(p, picture=_scaled(p, height_px)) for p in panels]


def image_iou(record: DatasetRecord, sample: Sample, labels: NDArray[np.integer]) -> float:
    """mIoU of one image in percent, as ``EvalResult.per_image`` has it."""
    scored, classes = sample.label != record.ignore_index, len(record.classes)
    truth, said = sample.label[scored].astype(np.int64), labels[scored].astype(np.int64)
    sums = (np.bincount(values, minlength=classes)[:classes] for values in (truth[truth == said], truth, said))
    counts = Counts(*(values[None] for values in sums))
    return float(EvalResult(record, (sample.id,), counts, np.zeros(1, np.int64), 1).per_image[0])


def results_sheet(
    record: DatasetRecord,
    shown: Sequence[tuple[Sample, Sequence[tuple[str, NDArray[np.integer]]]]],
    height_px: int = 192,
) -> Image.Image:
    """A row for each sample with what methods say of it; the legend has the classes that occur."""
    rows = [result_panels(record, sample, results, height_px) for sample, results in shown]
    maps = [labels for sample, results in shown for labels in (sample.label, *(found for _, found in results))]
    present = np.unique(np.concatenate([np.unique(labels) for labels in maps]))
    used = [int(k) for k in present if k < len(record.classes)]
    colours = colours_of(record)
    return panel_sheet(rows, [record.classes[k] for k in used], [colours[k] for k in used])


def write_contact_sheet(path: Path, pipeline: "Pipeline", samples: Sequence[Sample]) -> None:
    """Write a PNG with a row per sample: image, labels, result; and a legend."""
    from ..runs.photo import Photo
    from ..runs.pipeline import Clock

    maps = [pipeline.predict(Photo(sample.image, sample.id), Clock()).cpu().numpy() for sample in samples]
    name = pipeline.method.info.name
    shown = [(sample, [(name, labels)]) for sample, labels in zip(samples, maps, strict=True)]
    save_png(results_sheet(pipeline.record, shown), path)


def save_png(picture: Image.Image, path: Path) -> None:
    """Write a PNG whole or not at all.  Raises ``UserError`` when it cannot be written."""
    with stored_file(path) as file:
        picture.save(file, "PNG")


def _titled(row: Sequence[Panel], scale: float) -> Image.Image:
    """The panels of a row beside each other."""
    line, gap = round(scale * _LINE_PX), round(scale * 2)
    height = row[0].picture.shape[0]
    pictures = [_scaled(panel, height) for panel in row]
    strip = Image.new("RGB", (sum(p.shape[1] + gap for p in pictures) - gap, height + line), "white")
    draw, font, left = ImageDraw.Draw(strip), _font(scale), 0
    for panel, picture in zip(row, pictures, strict=True):
        strip.paste(Image.fromarray(picture), (left, line))
        text = _fitting(plain_text(panel.title), font, picture.shape[1] - 2 * gap)
        draw.text((left + gap, round(3 * scale)), text, fill="black", font=font)
        left += picture.shape[1] + gap
    return strip


def _fitting(text: str, font: "Font", width_px: int) -> str:
    """The text, or its end after dots where it is too wide: names differ at their ends."""
    while text and font.getlength(text) > width_px:
        text = f"…{text.lstrip('…')[1:]}" if len(text) > 2 else ""
    return text


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _font(scale: float) -> Font:
    return ImageFont.load_default(_FONT_PX * scale)


def _texts(names: Sequence[str], shares: Sequence[float] | None) -> list[str]:
    """Lines of a legend; a new line inside could not be measured."""
    plain = [plain_text(name) for name in names]
    short = [n if len(n) <= _TEXT_MOST else f"{n[: _TEXT_MOST - 1]}…" for n in plain]
    return short if shares is None else [f"{n} {100 * s:.1f} %" for n, s in zip(short, shares, strict=True)]


def _above_legend(
    size: tuple[int, int],
    strips: Iterable[tuple[int, Pixels]],
    texts: Sequence[str],
    colours: Sequence[Colour],
    scale: float | None = None,
) -> Image.Image:
    """A picture of this (width, height), given as strips with their first rows, above a legend that grows with it."""
    scale = max(1.0, min(size) / _PLAIN_PX) if scale is None else scale
    line, swatch, margin = (round(scale * px) for px in (_LINE_PX, _SWATCH_PX, _MARGIN_PX))
    font = _font(scale)
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


def _scaled(panel: Panel, height_px: int) -> Pixels:
    height, width = panel.picture.shape[:2]
    if height == height_px:
        return panel.picture
    resample = Image.Resampling.NEAREST if panel.sharp else Image.Resampling.BILINEAR
    size = (max(1, round(width * height_px / height)), height_px)
    return np.asarray(Image.fromarray(panel.picture).resize(size, resample))
