"""``bench segment``: one photo, any words."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...datasets.loader import read_image
from ...datasets.record import DatasetRecord
from ...methods import UserError, create_method
from ..mmseg_config import load_any
from ..overlay import add_legend, class_colours, overlay
from ..pipeline import Clock, Pipeline
from ..tables import print_json, print_line, print_table, print_warnings
from ..word_lint import lint_words
from .options import parse_options


def segment_command(
    *,
    photo: Path,
    classes: str,
    method: str,
    output: Path,
    protocol: str,
    backbone: str | None,
    weights: Path | None,
    device: str,
    refine: str | None,
    options: list[str],
    allow_download: bool,
    as_json: bool,
) -> None:
    """Write the overlay and say which class takes which share of the photo."""
    names = _class_names(classes)
    chosen = load_any(protocol).changed(**({"refine": refine} if refine else {}))
    setting = chosen.setting(None)
    image = read_image(photo)
    segmenter = create_method(
        method,
        backbone=backbone,
        device=device,
        dtype=getattr(torch, setting.precision),
        weights=weights,
        allow_download=allow_download,
        **(setting.options_for(method) | parse_options(options, "--option")),
    )
    record = DatasetRecord(key="photo", title=photo.name, images="", labels="", classes=tuple(names))
    clock = Clock()
    pipeline = Pipeline(segmenter, setting, record)
    print_warnings([*lint_words(setting, record), *pipeline.findings])
    labels = pipeline.predict(image, clock, photo.stem).cpu().numpy()
    shares = np.bincount(labels.reshape(-1), minlength=len(names)) / labels.size
    colours = class_colours(len(names))
    try:
        add_legend(overlay(image, labels, colours), names, colours, shares.tolist()).save(output)
    except (OSError, ValueError) as error:
        raise UserError(f"picture {output} cannot be written: {error}") from error
    value: dict[str, Any] = {
        "picture": str(output),
        "method": method,
        "protocol": chosen.name,
        "protocol_hash": setting.hash,
        "shares": dict(zip(names, shares.tolist(), strict=True)),
        "seconds": sum(clock.seconds.values()),
        "note": pipeline.note,
    }
    if as_json:
        print_json(value)
    else:
        _print_report(value)


def _print_report(value: dict[str, Any]) -> None:
    print_table("", ("class", "percent of pixels"), [(n, f"{100 * s:.1f}") for n, s in value["shares"].items()])
    print_line(f"wrote {value['picture']}")
    if value["note"]:
        print_line(f"note: {value['note']}")


def _class_names(classes: str) -> list[str]:
    names = [n.strip() for n in classes.split(",") if n.strip()]
    if not names or len(set(names)) != len(names):
        raise UserError(f"--classes takes different names separated by commas, not {classes!r}")
    return names
