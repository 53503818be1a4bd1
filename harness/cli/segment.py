"""``bench segment``: one photo, any words."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...datasets.loader import read_image
from ...methods import create_method
from ...methods.core.files import clean_cache
from ..protocol.protocol import lint_setting
from ..report.overlay import class_colours, photo_sheet, save_png
from ..runs.photo import Photo
from ..runs.pipeline import Clock, Pipeline
from ..runs.provenance import code_version, environment, source_hash
from ..show.tables import print_json, print_line, print_table, print_warnings
from .segment_request import SegmentRequest

_STRIP_ROWS = 256


def segment_command(
    request: SegmentRequest,
    *,
    backbone: str | None,
    weights: Path | None,
    device: str,
    allow_download: bool,
    as_json: bool,
) -> None:
    """Write the overlay and say which class takes which share of the photo."""
    clean_cache()
    pipeline = _pipeline(request, backbone, weights, device, allow_download)
    print_warnings([*lint_setting(request.setting, request.record), *pipeline.findings])
    image, clock = read_image(request.photo), Clock()
    labels: NDArray[Any] = pipeline.predict(Photo(image, request.photo.stem), clock).cpu().numpy()
    names = request.record.classes
    areas = _areas(labels, len(names))
    shares = [area / labels.size for area in areas]
    save_png(photo_sheet(image, labels, names, class_colours(len(names)), shares), request.output)
    value = {
        "picture": str(request.output),
        "photo": {
            "name": request.photo.name,
            "sha256": request.file.sha256,
            "width_px": labels.shape[1],
            "height_px": labels.shape[0],
        },
        "shares": dict(zip(names, shares, strict=True)),
        "areas_px": dict(zip(names, areas, strict=True)),
        **_provenance(request, pipeline, device),
        "seconds": sum(clock.seconds.values()),
        "note": pipeline.note,
    }
    if as_json:
        print_json(value)
    else:
        _print_report(value)


def _pipeline(
    request: SegmentRequest, backbone: str | None, weights: Path | None, device: str, allow_download: bool
) -> Pipeline:
    setting = request.setting
    segmenter = create_method(
        request.method,
        backbone=backbone,
        device=device,
        dtype=getattr(torch, setting.precision),
        weights=weights,
        allow_download=allow_download,
        **(setting.options_for(request.method) | request.options),
    )
    return Pipeline(segmenter, setting, request.record)


def _areas(labels: NDArray[Any], classes: int) -> list[int]:
    """Pixels of every class, counted a few rows at a time: ``bincount`` needs 8 bytes for each."""
    strips = range(0, len(labels), _STRIP_ROWS)
    counts = sum(np.bincount(labels[top : top + _STRIP_ROWS].reshape(-1), minlength=classes) for top in strips)
    return [int(n) for n in np.asarray(counts)]


def _provenance(request: SegmentRequest, pipeline: Pipeline, device: str) -> dict[str, Any]:
    """Everything that decides which pixel gets which class."""
    method = pipeline.method
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
        "precision": request.setting.precision,
        "environment": environment(device),
        "device": environment(device)["device"],
        "code_version": code_version(),
        "source_hash": source_hash(),
    }


def _print_report(value: dict[str, Any]) -> None:
    print_table("", ("class", "percent of pixels"), [(n, f"{100 * s:.1f}") for n, s in value["shares"].items()])
    print_line(
        f"{value['method']}, protocol {value['protocol']} {value['protocol_hash'][:8]}, {value['precision']}, "
        f"{value['device']}, code {value['code_version']}"
    )
    print_line(f"wrote {value['picture']}")
    if value["note"]:
        print_line(f"note: {value['note']}")
