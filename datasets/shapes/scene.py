"""Scenes of the tiny world: one to three stuff regions, one to five things, a label for every pixel."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .stream import Array, Stream
from .textures import COLOURS, TEXTURES, grid, noise, random_colour, shade
from .things import THINGS

STUFF_NAMES = tuple(TEXTURES)
THING_NAMES = tuple(THINGS)
CLASS_NAMES = STUFF_NAMES + THING_NAMES
SIZE_PX = 96
SPLITS = {"train": 1, "val": 2, "test": 3}
"""Stream key of each split: no scene belongs to two splits."""
TEST_SHA256 = "3fcb8bacd60176f5f0d61e508f7ef535a6538696c3dfc1190568a04ab191df6f"
"""``checksum`` of the first 300 scenes of the test split: the frozen benchmark."""


@dataclass(frozen=True)
class SceneStyle:
    """What a scene may contain.  The default is the benchmark's; tests and training may draw easier ones."""

    things: tuple[int, int] = (1, 5)
    radius: tuple[float, float] = (0.15, 0.34)
    stuff_probability: tuple[float, ...] = (0.35, 0.45, 0.2)


@dataclass(frozen=True)
class PlacedThing:
    """One thing of a scene: index into ``THING_NAMES``, colour name, bounding box (top, left, bottom, right) in px."""

    kind: int
    colour: str
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Scene:
    """``image`` (size, size, 3) uint8 RGB, ``label`` (size, size) uint8 index into ``CLASS_NAMES``."""

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    stuff: tuple[int, ...]
    things: tuple[PlacedThing, ...]


def make_scene(split: str, index: int, size: int = SIZE_PX, style: SceneStyle = SceneStyle()) -> Scene:
    """Draw scene ``index`` of ``split``; the same arguments give the same bytes on every machine."""
    stream = Stream(SPLITS[split], index)
    image, label, stuff = _ground(stream, size, style)
    things = _place_things(stream, image, label, style)
    image *= stream.uniform(0.8, 1.15)
    image += (noise(stream, size, 3) * stream.uniform(0, 0.25))[..., None]
    # Sensor noise: a sum of three uniforms has the bell shape that matters here, without a logarithm or a cosine.
    image += (stream.uniforms(3, size, size, 3).sum(axis=0) - 1.5) * 0.05
    pixels = np.floor(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return Scene(pixels, label, stuff, things)


def checksum(scenes: Iterable[Scene]) -> str:
    """SHA-256 over pixels and labels, in order."""
    digest = hashlib.sha256()
    for scene in scenes:
        digest.update(scene.image.tobytes())
        digest.update(scene.label.tobytes())
    return digest.hexdigest()


def _ground(s: Stream, size: int, style: SceneStyle) -> tuple[Array, NDArray[np.uint8], tuple[int, ...]]:
    y, x = grid(size)
    draw, count, reached = s.uniform(), 1, style.stuff_probability[0]
    while count < len(style.stuff_probability) and draw >= reached:
        reached += style.stuff_probability[count]
        count += 1
    kinds = s.distinct(len(STUFF_NAMES), count)
    sky = STUFF_NAMES.index("sky")
    if sky in kinds:  # the first region lies on top
        kinds = [sky, *(k for k in kinds if k != sky)]
    image = TEXTURES[STUFF_NAMES[kinds[0]]](s, size)
    label = np.full((size, size), kinds[0], np.uint8)
    for number, kind in enumerate(kinds[1:]):
        if number == 0:
            border = s.uniform(0.3, 0.65) + noise(s, size, 2, 5) * s.uniform(0, 0.3)
            slope = s.uniform(-0.25, 0.25)
            below = s.coin(0.7) or kinds[0] == sky
            mask = y > border + (x - 0.5) * slope if below else x > border.T + (y - 0.5) * slope
        else:
            cx, cy = s.uniform(), s.uniform()
            dx, dy = (x - cx) * s.uniform(0.7, 1.4), (y - cy) * s.uniform(0.7, 1.4)
            mask = np.sqrt(dx * dx + dy * dy) + noise(s, size, 5) * 0.2 < s.uniform(0.25, 0.4)
        image = np.where(mask[..., None], TEXTURES[STUFF_NAMES[kind]](s, size), image)
        label[mask] = kind
    return np.ascontiguousarray(image), label, tuple(kinds)


def _place_things(s: Stream, image: Array, label: NDArray[np.uint8], style: SceneStyle) -> tuple[PlacedThing, ...]:
    placed: list[PlacedThing] = []
    circles: list[tuple[float, float, float]] = []
    for _ in range(s.integer(style.things[0], style.things[1] + 1)):
        kind, radius = s.integer(0, len(THING_NAMES)), s.uniform(*style.radius)
        for _attempt in range(6):
            cx, cy = s.uniform(0.08, 0.92), s.uniform(0.08, 0.92)
            if all(_square(cx - a) + _square(cy - b) > _square(0.62 * (radius + r)) for a, b, r in circles):
                break
        circles.append((cx, cy, radius))
        placed.append(_paint(s, image, label, kind, (cx, cy), radius))
    return tuple(placed)


def _square(x: float) -> float:
    return x * x  # exactly rounded, which ``x ** 2`` of a Python float need not be


def _paint(
    s: Stream, image: Array, label: NDArray[np.uint8], kind: int, centre: tuple[float, float], radius: float
) -> PlacedThing:
    size = label.shape[0]
    y, x = grid(size)
    cx, cy = centre
    reach = radius * 1.45
    left, right = (int(min(max(v * size, 0), size)) for v in (cx - reach, cx + reach))
    top, bottom = (int(min(max(v * size, 0), size)) for v in (cy - reach, cy + reach))
    tilt = s.uniform(-0.31, 0.31)  # tangent of half the angle: about 35 degrees either way
    cosine, sine = (1 - tilt * tilt) / (1 + tilt * tilt), 2 * tilt / (1 + tilt * tilt)
    mirror = -1 if s.coin(0.5) else 1
    dx, dy = (x[top:bottom, left:right] - cx) / radius, (y[top:bottom, left:right] - cy) / radius
    local_x = (dx * cosine + dy * sine) * mirror * s.uniform(0.85, 1.15)
    local_y = dy * cosine - dx * sine
    name = random_colour(s)
    colour = np.clip(shade(s, COLOURS[name], 0.07), 0, 1)
    light = 1 + local_y * s.uniform(-0.2, 0.2) + noise(s, size, 3)[top:bottom, left:right] * 0.3
    region = image[top:bottom, left:right]
    outline = np.full(local_x.shape, 1e9)
    for distance, paint in THINGS[THING_NAMES[kind]](local_x, local_y, colour, s):
        cover = np.clip(0.5 - distance * (radius * size), 0, 1)[..., None]
        region *= 1 - cover
        region += paint * light[..., None] * cover
        outline = np.minimum(outline, distance)
    label[top:bottom, left:right][outline < 0] = len(STUFF_NAMES) + kind
    return PlacedThing(kind, name, (top, left, bottom, right))
