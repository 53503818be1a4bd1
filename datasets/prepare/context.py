"""PASCAL Context from ``trainval_merged.json``, without the library it was published with.

The file is one object.  ``images`` holds objects with ``image_id``, ``file_name``, ``height``, ``width`` and ``phase``
("train" or "val"); ``annos_segmentation`` holds segments with ``image_id``, ``category_id`` (numbering of the 459
labels) and ``segmentation`` in the way of COCO: run lengths, or polygons in pixels.  (As public readers of the file use
it; not checked against the file itself.)
"""

import json
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, Problem
from .driver import Step, carry_out, text_step
from .files import encode_label, listed_stems, read_text
from .job import Job, Options, optional_module, read_options
from .tables import Table, relabel

_FIX = "Download the 59-class release of PASCAL Context again"
_WRONG = (KeyError, TypeError, ValueError, IndexError, AttributeError)


class ContextOptions(Options):
    """``table`` maps category ids to labels; every other id and unlabelled pixels become ``other``.

    Images are those of ``phase``, or those that ``list_file`` names.
    """

    annotations: str = "trainval_merged.json"
    table: Table
    other: int = 0
    phase: str = "val"
    list_file: str | None = None


def context_json(job: Job) -> None:
    """Write ``labels/<stem>.png`` and ``<phase>.txt``; later segments cover earlier ones."""
    options = read_options(job, ContextOptions)
    codec = optional_module("pycocotools.mask", "pycocotools")
    path = job.home / options.annotations
    content = _load(path)
    images = _chosen(job, options, path, content)
    segments: defaultdict[Any, list[dict[str, Any]]] = defaultdict(list)
    wanted = {image["image_id"] for image in images.values()}
    for segment in content["annos_segmentation"]:
        if segment["image_id"] in wanted:
            segments[segment["image_id"]].append(segment)
    mapping = options.table.mapping()

    def make(stem: str) -> dict[str, bytes]:
        image = images[stem]
        drawn = _draw(codec, path, image, segments[image["image_id"]])
        return {f"labels/{stem}.png": encode_label(path, relabel(path, drawn, mapping, options.other), ".png")}

    steps = [Step(f"labels/{stem}.png", (path,), partial(make, stem)) for stem in sorted(images)]
    steps.append(text_step(f"{options.phase}.txt", sorted(images)))
    carry_out(job, "context_json", options, steps, options.table.files())


def _load(path: Path) -> dict[str, Any]:
    """The annotation file; raises ``DataError`` unless it has images and segments."""
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise _unusable(path, f"the file is no valid JSON ({error})") from error
    lists = ("images", "annos_segmentation")
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in lists):
        raise _unusable(path, "the file has no lists 'images' and 'annos_segmentation'")
    for entry in (*content["images"], *content["annos_segmentation"]):
        if not isinstance(entry, dict) or "image_id" not in entry:
            raise _unusable(path, "an image or a segment has no 'image_id'")
    return content


def _chosen(job: Job, options: ContextOptions, path: Path, content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Stem -> entry of the images to convert."""
    try:
        entries = {Path(image["file_name"]).stem: image for image in content["images"]}
    except _WRONG as error:
        raise _unusable(path, "an image has no 'file_name'") from error
    if options.list_file is None:
        chosen = {stem: image for stem, image in entries.items() if image.get("phase") == options.phase}
        if not chosen:
            raise _unusable(path, f"no image has the phase {options.phase!r}; list_file can name the images instead")
        return chosen
    names = listed_stems(job.home / options.list_file)
    absent = [n for n in names if n not in entries]
    if absent or not names:
        shown = ", ".join(absent[:8]) + (" ..." if len(absent) > 8 else "")
        raise _unusable(path, f"images that {options.list_file} names are not in the file: {shown or 'it is empty'}")
    return {name: entries[name] for name in names}


def _draw(codec: Any, path: Path, image: dict[str, Any], segments: list[dict[str, Any]]) -> NDArray[np.uint16]:
    """Category ids (H, W), 0 where there is no segment."""
    try:
        out = np.zeros((int(image["height"]), int(image["width"])), np.uint16)
        for segment in segments:
            mask = _decode(codec, segment["segmentation"], *out.shape)
            if mask.shape != out.shape:
                raise ValueError(
                    f"a segment is {mask.shape[1]}x{mask.shape[0]}, the image {out.shape[1]}x{out.shape[0]}"
                )
            out[mask.astype(bool)] = segment["category_id"]
    except (*_WRONG, OverflowError) as error:
        raise _unusable(path, f"{image['file_name']} cannot be drawn ({type(error).__name__}: {error})") from error
    return out


def _decode(codec: Any, segmentation: Any, height: int, width: int) -> NDArray[np.uint8]:
    """Mask (H, W) of run lengths, compressed or as a list, or of polygons; raises ``ValueError`` for any other."""
    if isinstance(segmentation, list):
        if not segmentation or any(len(polygon) < 6 for polygon in segmentation):
            raise ValueError("a polygon has less than three corners")
        return codec.decode(codec.merge(codec.frPyObjects(segmentation, height, width)))
    runs = segmentation
    if isinstance(runs["counts"], list):
        runs = codec.frPyObjects(runs, *runs["size"])
    mask = codec.decode(runs)
    if mask.max(initial=0) > 1:  # what the runs do not cover is left uninitialised
        raise ValueError("the run lengths do not cover the image")
    return mask


def _unusable(path: Path, what: str) -> DataError:
    return DataError("a file of the data set is not usable:", [Problem(path, what, _FIX)])
