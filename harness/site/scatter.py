"""Accuracy against speed: one plot for each data set, protocol and device, as points of an SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..report.rows import Row
from .render import file_name

WIDTH_PX, HEIGHT_PX = 720, 420
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 56, 24, 16, 48
_LETTER_PX, _LINE_PX = 6.6, 14
"""Of the labels: how wide a letter is at most, and how high a line."""
_LABEL_MOST = 28
_DECADE = (1, 2, 5)


@dataclass(frozen=True)
class Tick:
    """A line of the grid and what it says."""

    at_px: float
    text: str


@dataclass(frozen=True)
class Label:
    """Where a text starts or ends, by ``anchor``."""

    x_px: float
    y_px: float
    anchor: str
    text: str


@dataclass(frozen=True)
class Point:
    """A run in a plot; ``number`` is that of its row in the table below."""

    number: int
    row: Row
    x_px: float
    y_px: float
    low_px: float | None
    high_px: float | None
    label: Label

    @property
    def run(self) -> str:
        """Name of its page."""
        return file_name(self.row.run)


@dataclass(frozen=True)
class Plot:
    """All runs of one column on one device, best first."""

    device: str
    points: tuple[Point, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def plots(rows: Sequence[Row]) -> tuple[Plot, ...]:
    """A plot for each device that the runs of one column were measured on; runs without a value are left out."""
    rows = [row for row in rows if row.miou is not None]
    return tuple(_plot(device, [r for r in rows if r.device == device]) for device in sorted({r.device for r in rows}))


def _plot(device: str, rows: list[Row]) -> Plot:
    rows = sorted(rows, key=lambda r: (-(r.miou or 0), r.line))
    speeds = [r.images_per_second for r in rows]
    low, high = math.log10(min(speeds)) - 0.1, math.log10(max(speeds)) + 0.1
    values = [v for r in rows for v in (r.miou, *(r.bounds or ())) if v is not None]
    step = _step(max(values) - min(values))
    bottom, top = math.floor(min(values) / step) * step, math.ceil(max(values) / step + 1e-9) * step
    inner = (WIDTH_PX - LEFT_PX - RIGHT_PX, HEIGHT_PX - TOP_PX - BOTTOM_PX)

    def x_px(speed: float) -> float:
        return LEFT_PX + inner[0] * (math.log10(speed) - low) / (high - low)

    def y_px(value: float) -> float:
        return TOP_PX + inner[1] * (top - value) / max(top - bottom, step)

    spots = [(x_px(r.images_per_second), y_px(r.miou or 0)) for r in rows]
    labels = _labels([r.method for r in rows], spots)
    points = tuple(
        Point(k + 1, r, x, y, y_px(r.bounds[0]) if r.bounds else None, y_px(r.bounds[1]) if r.bounds else None, label)
        for k, (r, (x, y), label) in enumerate(zip(rows, spots, labels, strict=True))
    )
    x_ticks = tuple(Tick(x_px(v), f"{v:g}") for v in _speeds(low, high))
    y_ticks = tuple(
        Tick(y_px(bottom + k * step), f"{bottom + k * step:g}") for k in range(round((top - bottom) / step) + 1)
    )
    return Plot(device, points, x_ticks, y_ticks)


def _step(span: float, least: float = 0.1) -> float:
    """About five steps of 1, 2 or 5 times a power of ten, none below ``least``."""
    rough = max(span / 5, least)
    power = 10 ** math.floor(math.log10(rough) + 1e-9)
    return next(f * power for f in (1, 2, 5, 10) if f * power >= rough * (1 - 1e-9))


def _speeds(low: float, high: float) -> list[float]:
    """1, 2 and 5 of every decade between two logarithms, of many decades 1 alone; within one of them even steps."""
    if high - low < 1:
        step = _step(10**high - 10**low, least=0.0)
        return [k * step for k in range(math.ceil(10**low / step), math.floor(10**high / step) + 1)]
    factors = _DECADE if high - low < 2.5 else _DECADE[:1]
    powers = range(math.floor(low), math.ceil(high) + 1)
    return [f * 10.0**p for p in powers for f in factors if low <= math.log10(f * 10.0**p) <= high]


def _labels(names: Sequence[str], spots: Sequence[tuple[float, float]]) -> list[Label]:
    """Beside each point its number and name where there is room, else its number above it."""
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in spots]
    found = []
    for number, (name, (x, y)) in enumerate(zip(names, spots, strict=True), start=1):
        text = f"{number} {name if len(name) <= _LABEL_MOST else name[: _LABEL_MOST - 1] + '…'}"
        width = _LETTER_PX * len(text)
        places = [(x + 9, y + 4, "start"), (x - 9, y + 4, "end"), (x + 9, y - 9, "start"), (x + 9, y + 18, "start")]
        places += [(x - 9, y - 9, "end"), (x - 9, y + 18, "end")]
        boxes = [(p, _box(p, width)) for p in places]
        free = [(p, box) for p, box in boxes if _inside(box) and not any(_meet(box, other) for other in taken)]
        if free:
            place, box = free[0]
        else:
            text, place = str(number), (x, y - 8, "middle")
            box = (x - 8, y - 8 - _LINE_PX, x + 8, y - 8)
        taken.append(box)
        found.append(Label(*place, text))
    return found


Box = tuple[float, float, float, float]


def _box(place: tuple[float, float, str], width_px: float) -> Box:
    x, y, anchor = place
    left = x if anchor == "start" else x - width_px
    return (left, y - _LINE_PX + 3, left + width_px, y + 3)


def _inside(box: Box) -> bool:
    return box[0] >= LEFT_PX and box[2] <= WIDTH_PX and box[1] >= 0 and box[3] <= HEIGHT_PX - BOTTOM_PX


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
