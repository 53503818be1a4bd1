"""``segment_photo`` and ``segment_photos``: photos of your own, any words."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ...datasets.loader import Pixels, read_image
from ...methods import create_method
from ...methods.core.picture import Memo
from ..protocol.protocol import Protocol, lint_setting
from ..report.overlay import heat_overlay, overlay
from ..report.sheets import Panel, panel_sheet, photo_sheet, save_png
from ..runs.photo import Photo
from ..runs.pipeline import Clock, Pipeline
from ..runs.provenance import code_version, environment, source_hash
from ..runs.storing import clean_cache
from ..show.colours import class_colours
from ..show.telling import Progress, Say, each_once, unsaid, unseen
from .photo_request import Classes, PhotoRequest, photo_request

_STRIP_ROWS = 256


@dataclass(frozen=True)
class SegmentedPhoto:
    """``image`` (H, W, 3) uint8 RGB and ``labels`` (H, W), an index into ``classes`` for each pixel.

    ``heat`` (H, W) float32 is how sure the method is of the class that the request names, before any threshold; None
    where it names none.

    ``provenance`` is everything that decides which pixel gets which class, as JSON values; ``seconds`` are without
    loading; ``note`` is to be said beside the result.
    """

    request: PhotoRequest
    image: Pixels
    labels: NDArray[np.integer]
    provenance: dict[str, Any]
    seconds: float
    note: str
    heat: NDArray[np.float32] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.request.record.classes

    @cached_property
    def areas_px(self) -> dict[str, int]:
        """Pixels of every class, counted a few rows at a time: ``bincount`` needs 8 bytes for each."""
        strips = (self.labels[top : top + _STRIP_ROWS] for top in range(0, len(self.labels), _STRIP_ROWS))
        counts = sum(np.bincount(strip.reshape(-1), minlength=len(self.classes)) for strip in strips)
        return {name: int(n) for name, n in zip(self.classes, np.asarray(counts), strict=True)}

    @property
    def shares(self) -> dict[str, float]:
        """Share of the photo that every class takes, 0 to 1."""
        return {name: area / self.labels.size for name, area in self.areas_px.items()}

    def save(self, path: Path) -> None:
        """Write a PNG of the photo with the classes over it and a legend.  Raises ``UserError`` if it cannot be."""
        save_png(photos_sheet([self]), path)


def photos_sheet(found: Sequence[SegmentedPhoto]) -> Image.Image:
    """What methods say of one photo, over it: of one with the shares of its classes, of several side by side."""
    first = found[0]
    colours = class_colours(len(first.classes))
    if len(found) == 1 and first.heat is None:
        return photo_sheet(first.image, first.labels, first.classes, colours, list(first.shares.values()))
    panels = [Panel(first.request.photo.name, first.image)]
    for one in found:
        panels.append(Panel(one.request.method, overlay(one.image, one.labels, colours)))
        if one.heat is not None:
            panels.append(Panel(_heat_title(one, one.heat), heat_overlay(one.image, one.heat)))
    return panel_sheet([panels], first.classes, colours)


def _heat_title(one: SegmentedPhoto, heat: NDArray[np.float32]) -> str:
    form = ".2f" if heat.max() >= 0.1 else ".2g"
    return f"{one.request.method}: {one.request.heat} {heat.min():{form}} (dark) to {heat.max():{form}}"


def segment_photo(
    photo: Path,
    classes: Classes,
    *,
    method: str = "sclip",
    protocol: str | Protocol = "unified",
    changes: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    backbone: str | None = None,
    weights: Path | None = None,
    device: str = "cpu",
    allow_download: bool = False,
    heat: str = "",
    say: Say = unsaid,
) -> SegmentedPhoto:
    """Segment one image file into classes of your own: ``["cat", ["sofa", "couch"]]``, or a file with one per line.

    ``protocol`` gives geometry and scoring, ``changes`` change fields of it, ``options`` are the method's.  ``heat``
    names a class whose map is wanted too.  ``say`` is told what looks wrong with the words.

    Raises ``UserError`` and ``DataError`` for what a user can mend, before a model is loaded where that can be seen.
    """
    request = photo_request(
        photo,
        classes,
        method=method,
        protocol=protocol,
        changes=changes or {},
        options=options or {},
        backbone=backbone,
        weights=weights,
        device=device,
        allow_download=allow_download,
        heat=heat,
    )
    (found,) = segment_requests([request], say)
    return found


def segment_requests(
    requests: Sequence[PhotoRequest], say: Say = unsaid, progress: Progress = unseen
) -> Generator[SegmentedPhoto, None, None]:
    """What each request asks for, in their order.

    A method with its parts is loaded once; requests for one photo that follow each other share what they can.
    """
    clean_cache()
    pipelines: dict[str, Pipeline] = {}
    say = each_once(say)
    progress("loading PyTorch", 0, 0)
    for photo, group in groupby(requests, key=lambda request: request.photo):
        image = read_image(photo)
        with Memo() as memo:
            for request in group:
                key = request.method_key
                if key not in pipelines:
                    progress(f"loading {request.method}", 0, 0)
                    pipelines[key] = _pipeline(request, say)
                progress(f"segmenting {photo.name} with {request.method}", 0, 0)
                yield _segmented(request, pipelines[key], Photo(image, photo.stem, memo))


def _segmented(request: PhotoRequest, pipeline: Pipeline, photo: Photo) -> SegmentedPhoto:
    clock = Clock()
    labels: NDArray[Any] = pipeline.predict(photo, clock).cpu().numpy()
    seconds = sum(clock.seconds.values())
    heat = None
    if request.heat:
        heat = pipeline.heat(photo, request.record.classes.index(request.heat)).cpu().numpy()
    return SegmentedPhoto(request, photo.image, labels, _provenance(request, pipeline), seconds, pipeline.note, heat)


def _pipeline(request: PhotoRequest, say: Say) -> Pipeline:
    setting = request.setting
    method = create_method(
        request.method,
        backbone=request.backbone,
        device=request.device,
        dtype=getattr(torch, setting.precision),
        weights=request.weights,
        allow_download=request.allow_download,
        **request.options_under_setting,
    )
    pipeline = Pipeline(method, setting, request.record)
    for level, text in [*lint_setting(setting, request.record), *pipeline.findings]:
        if level == "warning":
            say(text)
    return pipeline


def _provenance(request: PhotoRequest, pipeline: Pipeline) -> dict[str, Any]:
    method, machine = pipeline.method, environment(request.device)
    return {
        "method": request.method,
        "method_provenance": method.provenance,
        "weights": method.provenance.get("weights"),
        "options": request.options,
        "protocol": request.protocol.name,
        "protocol_hash": request.setting.hash,
        "setting": request.setting.model_dump(),
        "words": dict(zip(request.record.classes, request.record.words, strict=True)),
        "vocabulary_hash": pipeline.words.vocabulary.hash,
        "refine": request.setting.refine,
        "guide": pipeline.guide.provenance if pipeline.guide else None,
        "regions": pipeline.voter.provenance if pipeline.voter else None,
        "precision": request.setting.precision,
        "environment": machine,
        "device": machine["device"],
        "code_version": code_version(),
        "source_hash": source_hash(),
    }
