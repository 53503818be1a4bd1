"""The pictures of a report: photos, labels, and what runs said, as small files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ...datasets import DataError
from ...datasets.loader import Pixels
from ...methods import UserError
from ..report.overlay import paint
from ..runs.label_files import colours_of
from ..runs.run import Finished
from ..show.telling import Progress, Say, counting
from ..site.gallery import Gallery, LegendEntry, Said, Shown, choose
from .label_maps import LabelMap, label_maps

RUNS_MOST = 8
"""Runs of a gallery, the best ones: every image is predicted again for each."""
_SIDE_PX = 320
"""Longer side of a picture at most."""


@dataclass
class _Wall:
    """A gallery while it is drawn: what is known of each image."""

    folder: Path
    name: str
    sizes_px: dict[str, tuple[int, int]] = field(default_factory=dict)
    said: dict[str, list[Said]] = field(default_factory=dict)
    occurring: set[int] = field(default_factory=set)


def draw_gallery(
    folder: Path,
    name: str,
    runs: Sequence[tuple[str, Finished]],
    labels: Path | None,
    left_out: Sequence[str],
    progress: Progress,
    say: Say,
) -> Gallery:
    """Write pictures to ``folder/images/name`` for runs over the same images, each with the name of its method.

    A run whose data or weights are not here is left out; ``say`` is told why, the pages name no places of this machine.
    """
    record, ids = runs[0][1].plan.record, runs[0][1].result.ids
    groups = choose(ids, np.stack([run.result.per_image for _, run in runs]))
    wanted = tuple(dict.fromkeys(i for group in groups for i in group.ids))
    wall = _Wall(folder, name)
    (folder / "images" / name).mkdir(parents=True)
    reasons = list(left_out)
    advance = counting(progress, f"pictures of {name}", len(runs) * len(wanted))
    for number, (method, run) in enumerate(runs):
        values = dict(zip(ids, run.result.per_image, strict=True))
        try:
            for found in label_maps(run, wanted, labels):
                _hang(wall, run, number, method, found, float(values[found.sample.id]))
                advance(1)
        except (DataError, UserError) as error:
            say(f"no pictures of {method} on {record.key}: {error}")
            reasons.append(f"No pictures of {method} on {record.key}: where this was written its data or weights lack.")
    images = tuple(_shown(wall, k, i) for k, i in enumerate(wall.sizes_px))
    colours = colours_of(record)
    legend = tuple(LegendEntry(record.classes[k], colours[k]) for k in sorted(wall.occurring) if k < len(colours))
    return Gallery(record.licence, groups, images, legend, tuple(reasons))


def _hang(wall: _Wall, run: Finished, number: int, method: str, found: LabelMap, miou: float) -> None:
    """Write what a run said of an image, and photo and label when it is the first to speak of it."""
    sample, colours = found.sample, colours_of(run.plan.record)
    if sample.id not in wall.sizes_px:
        wall.sizes_px[sample.id] = sample.label.shape
        wall.said[sample.id] = []
        place = len(wall.sizes_px) - 1
        _save(wall, f"{place}-photo.jpg", sample.image, Image.Resampling.BILINEAR)
        _save(wall, f"{place}-label.png", paint(sample.label, colours), Image.Resampling.NEAREST)
        wall.occurring |= set(np.unique(sample.label).tolist())
    place = list(wall.sizes_px).index(sample.id)
    file = _save(wall, f"{place}-{number}.png", paint(found.labels, colours), Image.Resampling.NEAREST)
    wall.said[sample.id].append(Said(method, file, None if np.isnan(miou) else miou, found.same))
    wall.occurring |= set(np.unique(found.labels).tolist())


def _shown(wall: _Wall, place: int, image_id: str) -> Shown:
    height_px, width_px = wall.sizes_px[image_id]
    base = f"images/{wall.name}/{place}"
    return Shown(image_id, f"{base}-photo.jpg", f"{base}-label.png", width_px, height_px, tuple(wall.said[image_id]))


def _save(wall: _Wall, file: str, pixels: Pixels, resample: Image.Resampling) -> str:
    """Write a picture, made smaller; its place below the report's folder."""
    picture = Image.fromarray(pixels)
    scale = min(1.0, _SIDE_PX / max(picture.size))
    if scale < 1:
        picture = picture.resize(
            (max(1, round(scale * picture.width)), max(1, round(scale * picture.height))), resample
        )
    path = f"images/{wall.name}/{file}"
    picture.save(wall.folder / path, quality=88)
    return path
