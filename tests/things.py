"""A data set with a background, for tests of thresholds: scenes of the tiny world whose stuff is one class."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from ovss.datasets.shapes import CLASS_NAMES, make_scene

STUFF = 8
"""Classes of the tiny world before the first thing."""
SIDE_PX = 64


def write_things(root: Path, images: int, **fields: object) -> Path:
    """Images, labels with an ignored column, and the record, whose path is returned; ``fields`` are added to it."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for number in range(images):
        scene = make_scene("val", number, size=SIDE_PX)
        label = np.where(scene.label < STUFF, 0, scene.label.astype(int) - STUFF + 1).astype(np.uint8)
        label[:, 0] = 255
        Image.fromarray(scene.image).save(root / "images" / f"{number:02d}.png")
        Image.fromarray(label).save(root / "labels" / f"{number:02d}.png")
    names = list(CLASS_NAMES[STUFF:])
    record = {
        "key": "things",
        "title": "Things",
        "images": "images",
        "image_suffix": ".png",
        "labels": "labels",
        "classes": ["background", *names],
        "words": ["grass, sky, sand, water", *names],
        "background": 0,
        "protocol": "tiny",
        **fields,
    }
    path = root / "things.toml"
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in record.items()))
    return path
