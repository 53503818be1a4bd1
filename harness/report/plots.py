"""Plots of the leaderboard as SVG or PDF, by matplotlib: the same bytes for the same runs."""

import io
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ...methods import UserError
from ..runs.storing import store
from ..show.escaping import plain_text
from .grid import Grid
from .rows import Row, best_first, line_names, newest_runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Kind = Literal["svg", "pdf"]
_COLOURS = {True: "#0072B2", False: "#E69F00"}
"""Training-free and trained: two of Okabe and Ito's colours, the second much lighter in grey."""
_HATCHES = {True: "", False: "///"}
_MARKERS = {True: "o", False: "s"}
_NAMES = {True: "training-free", False: "trained"}
_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "ovss-bench",  # else ids are random
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a name may hold dollars
}
_UNDATED: dict[Kind, dict[str, None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
_WIDTH = 6.5


def kind_of(path: Path) -> Kind:
    """What a plot is written as.  Raises ``UserError`` for another suffix, and where matplotlib is not installed."""
    kinds: dict[str, Kind] = {".svg": "svg", ".pdf": "pdf"}
    if path.suffix not in kinds:
        raise UserError(f"--plot {str(path)!r} must end with .svg or .pdf")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError("plots need matplotlib: `pip install ovss-bench[plots]`") from error
    return kinds[path.suffix]


def write_plots(rows: Sequence[Row], grids: Sequence[Grid], path: Path) -> tuple[Path, Path]:
    """``NAME-miou`` and ``NAME-speed`` for the path ``NAME``; of one protocol and, for speed, of one device.

    Raises ``UserError`` when the runs are of several protocols.
    """
    kind, newest = kind_of(path), newest_runs(rows)
    protocols = sorted({f"{r.protocol} {r.protocol_hash[:8]}" for r in newest})
    if len(protocols) > 1:
        raise UserError(f"--plot is of one protocol, and there are {', '.join(protocols)}: choose one with --protocol")
    found = {
        path.with_name(f"{path.stem}-miou{path.suffix}"): miou_plot(newest, kind),
        path.with_name(f"{path.stem}-speed{path.suffix}"): speed_plot(newest, grids[0].device, kind),
    }
    for name, content in found.items():
        store(name, content)
    first, second = found
    return first, second


def miou_plot(rows: Sequence[Row], kind: Kind) -> bytes:
    """mIoU of every method with its interval, a panel for each data set."""
    panels = _panels(rows)
    with _figure(sum(0.6 + 0.22 * len(panel) for panel in panels) + 0.5) as figure:
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[2 + len(panel) for panel in panels])[:, 0]
        for ax, panel in zip(axes, panels, strict=True):
            _bars(ax, panel)
        axes[-1].set_xlabel("mIoU in percent, 95 % bootstrap interval over images")
        _legend(figure, rows, bars=True)
        return _written(figure, kind, rows)


def speed_plot(rows: Sequence[Row], device: str, kind: Kind) -> bytes:
    """mIoU with its interval against images per second, a panel for each data set, of runs on ``device`` alone."""
    here = [r for r in rows if r.device == device]
    panels = _panels(here)
    with _figure(3.4 * len(panels) + 0.5) as figure:
        axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        for ax, panel in zip(axes, panels, strict=True):
            _points(ax, panel)
        left_out = len(rows) - len(here)
        others = f"; not shown: {left_out} on other devices" if left_out else ""
        axes[-1].set_xlabel(plain_text(f"images per second on {device}{others}"))
        _legend(figure, here, bars=False)
        return _written(figure, kind, here)


def sweep_plot(
    values: Sequence[float],
    miou: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    marks: Mapping[str, float],
    name: str,
    kind: Kind,
) -> bytes:
    """mIoU in percent with its interval over the values of one setting, called ``name``; ``marks`` are named values."""
    with _figure(3.2) as figure:
        ax = figure.subplots()
        ax.fill_between(values, low, high, color=_COLOURS[True], alpha=0.25, linewidth=0, label="95 % interval")
        ax.plot(values, miou, color=_COLOURS[True], marker="o", markersize=3, label="mIoU")
        for style, (mark, value) in zip(_styles(), marks.items(), strict=False):
            ax.axvline(value, color="black", linestyle=style, linewidth=1, label=plain_text(f"{mark}: {value:g}"))
        ax.set_xlabel(plain_text(name))
        ax.set_ylabel("mIoU in percent")
        ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
        return _written(figure, kind, ())


def _styles() -> Iterator[tuple[float, tuple[float, ...]]]:
    """Patterns of lines, each unlike the others, without an end."""
    k = 0
    while True:
        yield (0, (4, 2, *(1, 2) * k))
        k += 1


@contextmanager
def _figure(height: float) -> "Iterator[Figure]":
    """A figure in our style, whatever the user's is."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", _STYLE], after_reset=True):
        yield Figure(figsize=(_WIDTH, height))


def _panels(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that have a value, of each data set, best first."""
    scored = [r for r in rows if r.miou is not None]
    columns = sorted({r.column for r in scored})
    if not columns:
        raise UserError("--plot has nothing to show: no run has a mIoU")
    return [sorted((r for r in scored if r.column == c), key=best_first) for c in columns]


def _bars(ax: "Axes", panel: Sequence[Row]) -> None:
    for at, row in enumerate(panel):
        free = row.training_free
        ax.barh(at, row.miou or 0, 0.7, color=_COLOURS[free], hatch=_HATCHES[free], edgecolor="white", linewidth=0)
        if row.bounds:
            low, high = row.bounds  # around its own middle: an interval need not hold the value
            ax.errorbar((low + high) / 2, at, xerr=(high - low) / 2, fmt="none", ecolor="black", capsize=2, lw=0.8)
    names = line_names(panel)
    ax.set_yticks(range(len(panel)), [plain_text(names[r.line]) for r in panel])
    ax.set_ylim(len(panel) - 0.4, -0.6)
    ax.set_title(_title(panel[0]), loc="left", fontsize=9)


def _points(ax: "Axes", panel: Sequence[Row]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

    for row in panel:
        free = row.training_free
        face = _COLOURS[free] if free else "white"
        style = {"marker": _MARKERS[free], "markersize": 5, "markerfacecolor": face, "markeredgecolor": _COLOURS[free]}
        ax.plot(row.images_per_second, row.miou or 0, linestyle="", **style)  # type: ignore[arg-type]
        if row.bounds:
            low, high = row.bounds
            middle, half = (low + high) / 2, (high - low) / 2
            ax.errorbar(row.images_per_second, middle, yerr=half, fmt="none", ecolor="grey", lw=0.8)
    speeds = [r.images_per_second for r in panel]
    if max(speeds) > 3 * min(speeds):
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.margins(x=0.08, y=0.08)
    ax.set_ylabel("mIoU in percent")
    ax.set_title(_title(panel[0]), loc="left", fontsize=9)
    (low, high), names = ax.get_ylim(), line_names(panel)
    for row, place in zip(panel, _spread([((r.miou or 0) - low) / (high - low) for r in panel], 0.055), strict=True):
        ax.annotate(
            plain_text(names[row.line]),
            (row.images_per_second, row.miou or 0),
            (1.03, place),
            textcoords="axes fraction",
            va="center",
            fontsize=7,
            arrowprops={"arrowstyle": "-", "color": "grey", "linewidth": 0.4, "relpos": (0, 0.5), "shrinkB": 3},
        )


def _spread(places: Sequence[float], gap: float) -> list[float]:
    """Places from high to low, moved as little as it takes for ``gap`` between them, the highest at 1 at most."""
    moved: list[float] = []
    for place in places:
        moved.append(min([place, *(m - gap for m in moved[-1:]), 1.0]))
    below = max(0.0, -moved[-1])  # back up as far as they went below the axis, as far as there is room
    for k in range(len(moved) - 1, -1, -1):
        lowest = moved[k + 1] + gap if k + 1 < len(moved) else moved[k] + below
        moved[k] = max(moved[k], lowest)
    return moved


def _title(row: Row) -> str:
    partial = "" if row.complete else f" (partial: {row.images} images)"
    return plain_text(f"{row.dataset} {row.split}{partial}")


def _legend(figure: "Figure", rows: Sequence[Row], bars: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Line2D | Patch] = []
    for free in sorted({r.training_free for r in rows}, reverse=True):
        if bars:
            handles.append(Patch(facecolor=_COLOURS[free], hatch=_HATCHES[free], edgecolor="white", label=_NAMES[free]))
        else:
            face = _COLOURS[free] if free else "white"
            line = {"marker": _MARKERS[free], "markerfacecolor": face, "markeredgecolor": _COLOURS[free]}
            handles.append(Line2D([], [], linestyle="", label=_NAMES[free], **line))  # type: ignore[arg-type]
    figure.legend(handles=handles, loc="lower right", ncols=2, frameon=False, bbox_to_anchor=(0.9, 1.0))


def _written(figure: "Figure", kind: Kind, rows: Sequence[Row]) -> bytes:
    """The figure as a file, below it what the numbers rest on."""
    if rows:
        figure.subplots_adjust(hspace=0.35, top=0.98, bottom=min(0.4, 0.55 / figure.get_figheight()))
        figure.text(0.0, -0.02, _provenance(rows), fontsize=6, color="0.3", va="top")
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a viewer has other fonts than the one that measures
        figure.savefig(content, format=kind, bbox_inches="tight", metadata=_UNDATED[kind])
    return content.getvalue()


def _provenance(rows: Sequence[Row]) -> str:
    weights = sorted({f"{r.backbone} {r.weights.rpartition(':')[2][:8]} {r.precision}" for r in rows})
    parts = {
        "protocol": sorted({f"{r.protocol} {r.protocol_hash[:8]}" for r in rows}),
        "weights": weights,
        "device": sorted({r.device for r in rows}),
        "code": sorted({r.code for r in rows}),
    }
    told = "; ".join(f"{name} {', '.join(values)}" for name, values in parts.items())
    return "\n".join(textwrap.wrap(plain_text(told), 130))
