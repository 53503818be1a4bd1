"""Make ``tests/data/mini``: six scenes of the tiny world as files, with the traps of real folders.

Run once as ``python tests/data/make_mini.py``; the files are committed.  Sizes are odd and differ, one image is grey,
one label is a palette PNG, and the borders between regions of things are marked 255 (ignored) in some labels.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from ovss.datasets.shapes import CLASS_NAMES, make_scene

FOLDER = Path(__file__).parent / "mini"
SIZES = ((144, 96), (97, 131), (120, 120), (160, 101), (96, 96), (110, 150))

for number, (width, height) in enumerate(SIZES):
    scene = make_scene("val", 900 + number, size=192)
    box = (7, 11, 7 + width, 11 + height)
    image, label = (Image.fromarray(a).crop(box) for a in (scene.image, scene.label))
    if number == 2:
        image = image.convert("L")
    values = np.array(label)
    if number % 2:
        edge = np.zeros(values.shape, bool)
        edge[:, 1:] |= values[:, 1:] != values[:, :-1]
        edge[1:] |= values[1:] != values[:-1]
        values[edge] = 255
    stored = Image.fromarray(values)
    if number == 3:
        stored = stored.convert("P")
        stored.putpalette([v for i in range(256) for v in (i, 255 - i, i * 7 % 256)])
    image.save(FOLDER / "images" / f"scene_{number}.png")
    stored.save(FOLDER / "labels" / f"scene_{number}.png")

lines = "\n".join(f'  "{name}",' for name in CLASS_NAMES)
(FOLDER / "mini.toml").write_text(
    f"""key = "mini"
title = "Six scenes of the tiny world as files"
split = "all"
images = "images"
labels = "labels"
image_suffix = ".png"
protocol = "tiny"
expected_images = {len(SIZES)}
classes = [
{lines}
]
"""
)
