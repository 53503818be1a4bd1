"""Label maps as files: ``FOLDER/<image id>.png`` for each image, and ``FOLDER/labels.json``, which says what they are.

A pixel's value is the index of its class; one more than the last class means none of them.  Up to 256 values are an
indexed PNG with a palette, more a grey one of 16 bits.
"""

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...datasets import DatasetRecord
from ...methods import UserError
from ..show.colours import GREY, Colour, class_colours
from .plan import Plan
from .storing import store, stored_file

ABOUT = "labels.json"


def colours_of(record: DatasetRecord) -> tuple[Colour, ...]:
    """Those of the data set, or made ones."""
    return tuple(record.palette) if record.palette else class_colours(len(record.classes))


def label_path(folder: Path, name: str) -> Path:
    """Where the label map of the image called ``name`` lies.  Raises ``UserError`` if that is outside of ``folder``."""
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or PurePosixPath(name).is_absolute():
        raise UserError(
            f"an image called {name!r} has no place in a folder of label maps: {folder}/<image id>.png is the file"
        )
    return folder / f"{name}.png"


def write_label_map(path: Path, labels: NDArray[np.integer], colours: Sequence[Colour]) -> None:
    """Write ``(H, W)`` class indices, whole or not at all.  Raises ``UserError``."""
    if len(colours) < 256:
        picture = Image.fromarray(labels.astype(np.uint8))
        picture.putpalette(np.array([*colours, GREY], np.uint8).tobytes())
    else:
        picture = Image.fromarray(labels.astype(np.uint16))
    with stored_file(path, sync=False) as file:
        picture.save(file, "PNG")


def read_label_map(path: Path, size: tuple[int, int]) -> NDArray[np.integer]:
    """``(H, W)`` class indices.  Raises ``UserError`` for another size, or when it cannot be read."""
    fix = "Delete it and save it again with `bench run --save-labels`"
    try:
        with Image.open(path) as picture:
            labels = np.array(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"label map {path} cannot be read: {error}.  {fix}") from error
    if labels.shape != size:
        raise UserError(f"label map {path} is {labels.shape}, its image is {size}.  {fix}")
    return labels


def describe_labels(folder: Path, plan: Plan) -> None:
    """Write what the values of a folder mean, and of which run they are.

    Raises ``UserError`` if the folder has label maps of another run.
    """
    if (folder / ABOUT).exists() and not belongs(folder, plan):
        raise UserError(f"{folder} holds label maps of another run: move them away, or name another folder")
    record = plan.record
    classes = [
        {"value": k, "class": name, "colour": list(colour)}
        for k, (name, colour) in enumerate(zip(record.classes, colours_of(record), strict=True))
    ]
    value = {
        "run": plan.name,
        "plan": plan.digest,
        "protocol_hash": plan.identity["protocol"]["hash"],
        "dataset": record.key,
        "classes": classes,
    }
    store(folder / ABOUT, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def belongs(folder: Path, plan: Plan) -> bool:
    """Whether the label maps of a folder are of this run."""
    try:
        value = json.loads((folder / ABOUT).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(value, dict) and value.get("plan") == plan.digest
