"""Things of the tiny world: fourteen objects as signed distance fields.

An object is a list of ``(distance, colour)`` parts in paint order; its mask is the union of the parts.  Coordinates are
local, x to the right and y down, and the object fits about [-1, 1] squared.  As in ``textures`` only exactly rounded
operations are used.
"""

from collections.abc import Callable, Sequence

import numpy as np

from .stream import Array, Stream
from .textures import COLOURS, random_colour, shade

Part = tuple[Array, Array]
Point = tuple[float, float]

_WHITE, _BLACK = np.full(3, 0.95), np.full(3, 0.1)
_TRUNK, _GLASS = np.array([0.4, 0.25, 0.12]), np.array([0.75, 0.88, 0.95])
# (sin, -cos) of k * 36 degrees, outer radius 1 and inner radius 0.42 in turn
_STAR: tuple[Point, ...] = (
    (0.0, -1.0),
    (0.24687, -0.339787),
    (0.951057, -0.309017),
    (0.399444, 0.129787),
    (0.587785, 0.809017),
    (0.0, 0.42),
    (-0.587785, 0.809017),
    (-0.399444, 0.129787),
    (-0.951057, -0.309017),
    (-0.24687, -0.339787),
)
# unit vectors of the petals of a flower with 5, 6 and 7 petals
_PETALS: dict[int, tuple[Point, ...]] = {
    5: ((1, 0), (0.309017, 0.951057), (-0.809017, 0.587785), (-0.809017, -0.587785), (0.309017, -0.951057)),
    6: ((1, 0), (0.5, 0.866025), (-0.5, 0.866025), (-1, 0), (-0.5, -0.866025), (0.5, -0.866025)),
    7: (
        (1, 0),
        (0.62349, 0.781831),
        (-0.222521, 0.974928),
        (-0.900969, 0.433884),
        (-0.900969, -0.433884),
        (-0.222521, -0.974928),
        (0.62349, -0.781831),
    ),
}


def _length(x: Array, y: Array) -> Array:
    return np.sqrt(x * x + y * y)


def _circle(x: Array, y: Array, cx: float, cy: float, radius: float) -> Array:
    return _length(x - cx, y - cy) - radius


def _ring(x: Array, y: Array, cx: float, cy: float, radius: float, width: float) -> Array:
    return np.abs(_circle(x, y, cx, cy, radius)) - width


def _box(x: Array, y: Array, cx: float, cy: float, hx: float, hy: float, rounding: float = 0.0) -> Array:
    qx, qy = np.abs(x - cx) - hx + rounding, np.abs(y - cy) - hy + rounding
    outside = _length(np.maximum(qx, 0), np.maximum(qy, 0))
    return outside + np.minimum(np.maximum(qx, qy), 0) - rounding


def _ellipse(x: Array, y: Array, cx: float, cy: float, a: float, b: float) -> Array:
    return (_length((x - cx) / a, (y - cy) / b) - 1) * min(a, b)


def _polygon(x: Array, y: Array, corners: Sequence[Point]) -> Array:
    distance = np.full(x.shape, 1e9)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, (corners[-1], *corners[:-1]), strict=True):
        ex, ey, wx, wy = bx - ax, by - ay, x - ax, y - ay
        t = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey + 1e-9), 0, 1)
        dx, dy = wx - ex * t, wy - ey * t
        distance = np.minimum(distance, dx * dx + dy * dy)
        above, below, left = y >= ay, y < by, ex * wy > ey * wx
        inside ^= (above & below & left) | (~above & ~below & ~left)
    return np.where(inside, -1, 1) * np.sqrt(distance)


def _union(*fields: Array) -> Array:
    out = fields[0]
    for field in fields[1:]:
        out = np.minimum(out, field)
    return out


def _star(x: Array, y: Array, c: Array, _: Stream) -> list[Part]:
    inner = tuple((a * 0.5, b * 0.5) for a, b in _STAR)
    return [(_polygon(x, y, _STAR), c), (_polygon(x, y, inner), c * 0.5 + 0.5)]


def _heart(x: Array, y: Array, c: Array, _: Stream) -> list[Part]:
    lobes = _union(_circle(x, y, -0.45, -0.3, 0.5), _circle(x, y, 0.45, -0.3, 0.5))
    tip = _polygon(x, y, ((-0.86, -0.05), (0, 0.95), (0.86, -0.05), (0, -0.3)))
    return [(_union(lobes, tip), c), (_circle(x, y, -0.45, -0.38, 0.14), c * 0.5 + 0.5)]


def _moon(x: Array, y: Array, c: Array, _: Stream) -> list[Part]:
    crescent = np.maximum(_circle(x, y, 0, 0, 0.95), -_circle(x, y, 0.42, -0.1, 0.72))
    craters = _union(
        _circle(x, y, -0.62, -0.12, 0.13), _circle(x, y, -0.3, 0.62, 0.12), _circle(x, y, -0.38, -0.62, 0.1)
    )
    return [(crescent, c), (craters, c * 0.6)]


def _ring_thing(x: Array, y: Array, c: Array, _: Stream) -> list[Part]:
    return [(_ring(x, y, 0, 0, 0.72, 0.2), c * 0.55), (_ring(x, y, 0, 0, 0.72, 0.13), c)]


def _cross(x: Array, y: Array, c: Array, s: Stream) -> list[Part]:
    width = s.uniform(0.26, 0.34)
    bars = _union(_box(x, y, 0, 0, 0.92, width), _box(x, y, 0, 0, width, 0.92))
    core = _union(_box(x, y, 0, 0, 0.74, width - 0.16), _box(x, y, 0, 0, width - 0.16, 0.74))
    return [(bars, c), (core, c * 0.5 + 0.5)]


def _house(x: Array, y: Array, c: Array, s: Stream) -> list[Part]:
    roof = shade(s, COLOURS[random_colour(s)], 0.05)
    return [
        (_box(x, y, 0.5, -0.6, 0.13, 0.3), c * 0.55),
        (_box(x, y, 0, 0.35, 0.7, 0.55), c),
        (_polygon(x, y, ((-0.95, -0.15), (0, -0.95), (0.95, -0.15))), roof),
        (_box(x, y, 0, 0.55, 0.17, 0.35), c * 0.55),
        (_union(_box(x, y, -0.42, 0.2, 0.14, 0.14), _box(x, y, 0.42, 0.2, 0.14, 0.14)), _WHITE),
    ]


def _mug(x: Array, y: Array, c: Array, _: Stream) -> list[Part]:
    return [
        (_ring(x, y, 0.5, 0.05, 0.36, 0.11), c * 0.55),
        (_box(x, y, -0.15, 0.05, 0.6, 0.8, 0.12), c),
        (_ellipse(x, y, -0.15, -0.65, 0.55, 0.14), c * 0.55),
        (_box(x, y, -0.15, 0.15, 0.6, 0.1), c * 0.5 + 0.5),
    ]


def _fish(x: Array, y: Array, c: Array, _: Stream) -> list[Part]:
    body = _ellipse(x, y, -0.15, 0, 0.8, 0.45)
    return [
        (_polygon(x, y, ((0.4, 0), (0.98, -0.5), (0.85, 0), (0.98, 0.5))), c * 0.55),
        (_polygon(x, y, ((-0.2, -0.3), (0.1, -0.75), (0.35, -0.2))), c * 0.55),
        (body, c),
        (_circle(x, y, -0.6, -0.1, 0.13), _WHITE),
        (_circle(x, y, -0.62, -0.1, 0.07), _BLACK),
        (np.maximum(_ring(x, y, -0.75, 0, 0.5, 0.03), body), c * 0.55),
    ]


def _tree(x: Array, y: Array, c: Array, s: Stream) -> list[Part]:
    if s.coin(0.5):
        return [
            (_box(x, y, 0, 0.65, 0.13, 0.33), _TRUNK),
            (_polygon(x, y, ((-0.75, 0.45), (0, -0.3), (0.75, 0.45))), c),
            (_polygon(x, y, ((-0.6, 0), (0, -0.65), (0.6, 0))), c * 0.88),
            (_polygon(x, y, ((-0.42, -0.42), (0, -0.98), (0.42, -0.42))), c * 0.76),
        ]
    crown = _union(_circle(x, y, -0.4, -0.1, 0.45), _circle(x, y, 0.4, -0.1, 0.45), _circle(x, y, 0, -0.45, 0.5))
    return [
        (_box(x, y, 0, 0.5, 0.14, 0.48), _TRUNK),
        (crown, c),
        (_circle(x, y, -0.2, -0.45, 0.15), c * 0.5 + 0.5),
    ]


def _mushroom(x: Array, y: Array, c: Array, _: Stream) -> list[Part]:
    spots = _union(_circle(x, y, -0.4, -0.3, 0.16), _circle(x, y, 0.25, -0.5, 0.15), _circle(x, y, 0.55, -0.12, 0.12))
    return [
        (_box(x, y, 0, 0.45, 0.26, 0.5, 0.12), np.array([0.9, 0.86, 0.75])),
        (np.maximum(_ellipse(x, y, 0, 0.05, 0.95, 0.95), y - 0.1), c),
        (spots, _WHITE),
    ]


def _flower(x: Array, y: Array, c: Array, s: Stream) -> list[Part]:
    centre = shade(s, COLOURS[random_colour(s)], 0.05)
    petals = _PETALS[s.integer(5, 8)]
    field = _union(*(_circle(x, y, 0.58 * a, 0.58 * b, 0.38) for a, b in petals))
    return [(field, c), (_circle(x, y, 0, 0, 0.32), centre)]


def _key(x: Array, y: Array, c: Array, _: Stream) -> list[Part]:
    bit = _union(_box(x, y, 0.78, 0.2, 0.1, 0.24), _box(x, y, 0.48, 0.17, 0.09, 0.2))
    return [(_union(_ring(x, y, -0.6, 0, 0.27, 0.12), _box(x, y, 0.3, 0, 0.62, 0.11), bit), c)]


def _boat(x: Array, y: Array, c: Array, s: Stream) -> list[Part]:
    sail = shade(s, COLOURS[random_colour(s)], 0.05)
    return [
        (_box(x, y, 0.02, -0.15, 0.05, 0.8), _TRUNK),
        (_polygon(x, y, ((0.1, -0.92), (0.1, 0.3), (0.85, 0.3))), sail),
        (_polygon(x, y, ((-0.05, -0.75), (-0.05, 0.3), (-0.65, 0.3))), sail * 0.85),
        (_polygon(x, y, ((-0.95, 0.4), (0.95, 0.4), (0.6, 0.9), (-0.6, 0.9))), c),
    ]


def _car(x: Array, y: Array, c: Array, _: Stream) -> list[Part]:
    panes = _union(
        _polygon(x, y, ((-0.47, -0.08), (-0.3, -0.4), (-0.05, -0.4), (-0.05, -0.08))),
        _polygon(x, y, ((0.03, -0.08), (0.03, -0.4), (0.25, -0.4), (0.45, -0.08))),
    )
    return [
        (_polygon(x, y, ((-0.6, -0.05), (-0.38, -0.5), (0.3, -0.5), (0.62, -0.05))), c * 0.55),
        (panes, _GLASS),
        (_box(x, y, 0, 0.15, 0.97, 0.25, 0.12), c),
        (_union(_circle(x, y, -0.52, 0.38, 0.24), _circle(x, y, 0.52, 0.38, 0.24)), _BLACK),
        (_union(_circle(x, y, -0.52, 0.38, 0.1), _circle(x, y, 0.52, 0.38, 0.1)), _WHITE),
    ]


THINGS: dict[str, Callable[[Array, Array, Array, Stream], list[Part]]] = {
    "star": _star,
    "heart": _heart,
    "moon": _moon,
    "ring": _ring_thing,
    "cross": _cross,
    "house": _house,
    "mug": _mug,
    "fish": _fish,
    "tree": _tree,
    "mushroom": _mushroom,
    "flower": _flower,
    "key": _key,
    "boat": _boat,
    "car": _car,
}
