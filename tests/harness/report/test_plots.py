"""Plots: what is drawn is what the rows say, the bytes do not change, and names are text."""

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from ovss.harness.report import plots
from ovss.harness.report.rows import Row
from ovss.methods import UserError

from .test_grid import build, row

HOSTILE = "<script>alert(1)</script>&amp; $x_{2}$ $\\frac{1}{0} a\x1b[2J\u202e\n--> 猫"
ROWS = [
    row("clip", "voc21", 50, low=48.5, high=51.0, images_per_second=2.0, device="cpu"),
    row("sclip", "voc21", 60, low=59.0, high=61.0, images_per_second=20.0, device="cpu"),
    row("tcl", "voc21", 55, training_free=False, images_per_second=5.0, device="cpu"),
    row("clip", "camvid", 40, images_per_second=3.0, device="gpu"),
]


@pytest.fixture
def figure(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The figure that a plot draws."""

    def drawn(plot: Callable[..., bytes], *arguments: Any) -> Any:
        found: list[Any] = []
        with monkeypatch.context() as patch:
            patch.setattr(plots, "_written", lambda figure, *_: found.append(figure) or b"")
            plot(*arguments, "svg")
        return found[0]

    return drawn


def intervals(ax: Any) -> list[list[list[float]]]:
    return [c.get_segments()[0].tolist() for c in ax.collections]


def texts_of(content: bytes) -> str:
    return "\n".join(t for e in ElementTree.fromstring(content).iter() for t in (e.text, e.tail) if t)


def test_bars(figure: Callable[..., Any]) -> None:
    camvid, voc = figure(plots.miou_plot, ROWS).axes
    assert [t.get_text() for t in voc.get_yticklabels()] == ["sclip", "tcl", "clip"]
    assert [p.get_width() for p in voc.patches] == [60, 55, 50] and [p.get_width() for p in camvid.patches] == [40]
    assert [p.get_hatch() for p in voc.patches] == ["", "///", ""]
    assert intervals(voc) == [[[59.0, 0.0], [61.0, 0.0]], [[48.5, 2.0], [51.0, 2.0]]]
    assert voc.get_title("left") == "voc21 test"


def test_points_of_one_device(figure: Callable[..., Any]) -> None:
    (voc,) = figure(plots.speed_plot, ROWS, "cpu").axes
    points = [line.get_xydata().tolist() for line in voc.lines if line.get_marker() in ("o", "s")]
    assert points == [[[20.0, 60.0]], [[5.0, 55.0]], [[2.0, 50.0]]]
    assert intervals(voc) == [[[20.0, 59.0], [20.0, 61.0]], [[2.0, 48.5], [2.0, 51.0]]]
    assert [t.get_text() for t in voc.texts] == ["sclip", "tcl", "clip"]
    assert voc.get_xlabel() == "images per second on cpu; not shown: 1 on other devices"
    assert voc.get_xscale() == "log" and figure(plots.speed_plot, ROWS, "gpu").axes[0].get_xscale() == "linear"


def test_two_backbones_have_two_names(figure: Callable[..., Any]) -> None:
    other = ROWS[0].model_copy(update={"backbone": "ViT-L", "miou": 70.0, "guide": "", "unchecked": ""})
    ax = figure(plots.miou_plot, [*ROWS[:2], other]).axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["clip, ViT-L x x", "sclip", "clip, x x x (x), refined by x"]


def test_a_sweep(figure: Callable[..., Any]) -> None:
    values, miou = [0.0, 0.5, 1.0], [10.0, 30.0, 20.0]
    marks = {"published": 0.5, "tuned": 0.75}
    (ax,) = figure(plots.sweep_plot, values, miou, [9.0, 28.0, 19.0], [11.0, 31.0, 22.0], marks, "threshold").axes
    assert ax.lines[0].get_xydata().tolist() == [[0.0, 10.0], [0.5, 30.0], [1.0, 20.0]]
    assert [line.get_xdata()[0] for line in ax.lines[1:]] == [0.5, 0.75] and ax.get_xlabel() == "threshold"
    assert [t.get_text() for t in ax.get_legend().texts] == ["95 % interval", "mIoU", "published: 0.5", "tuned: 0.75"]
    assert len({line.get_linestyle() + str(line._dash_pattern) for line in ax.lines[1:]}) == 2


@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_the_same_bytes_without_a_date(kind: plots.Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib as mpl

    first = plots.miou_plot(ROWS, kind), plots.speed_plot(ROWS, "cpu", kind)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": None}):  # what a user has set is not asked
        assert (plots.miou_plot(ROWS, kind), plots.speed_plot(ROWS, "cpu", kind)) == first
    assert all(content.startswith((b"<?xml", b"%PDF")) for content in first)
    assert not any(b"CreationDate" in content or b"<dc:date>" in content for content in first)


def test_names_are_text() -> None:
    foreign = dict.fromkeys(("split", "protocol", "backbone", "code", "device", "weights", "guide"), HOSTILE)
    bad = row(HOSTILE, HOSTILE, 40, **foreign)
    for content in (plots.miou_plot([bad], "svg"), plots.speed_plot([bad], HOSTILE, "svg")):
        shown = texts_of(content)
        assert "<script>alert(1)</script>&amp; $x_{2}$" in shown and "\\x1b[2J\\u202e\\n" in shown and "猫" in shown
        assert b"<script" not in content
    assert plots.miou_plot([bad], "pdf")


def test_what_numbers_rest_on_is_said() -> None:
    shown = texts_of(plots.miou_plot(ROWS, "svg"))
    assert "protocol p abcdef12; weights x x x; device cpu, gpu; code x" in shown


@pytest.mark.parametrize("count", [1, 5, 18, 40])
def test_names_do_not_lie_on_one_another(count: int) -> None:
    gap = 0.055
    for places in ([0.9] * count, [0.0] * count, [1 - k / count for k in range(count)]):
        moved = plots._spread(places, gap)
        assert all(a - b >= gap - 1e-9 for a, b in pairwise(moved))
        assert moved[-1] >= -1e-9 and (count * gap > 1 or moved[0] <= 1 + 1e-9)
    assert plots._spread([0.9, 0.5], gap) == [0.9, 0.5]


def test_files(tmp_path: Path) -> None:
    rows = ROWS[:3]
    written = plots.write_plots(rows, build(rows), tmp_path / "f.svg")
    assert [p.name for p in written] == ["f-miou.svg", "f-speed.svg"] == sorted(p.name for p in tmp_path.iterdir())


def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = [*ROWS, row("clip", "voc21", 1, protocol_hash="0" * 8)]
    with pytest.raises(UserError, match="there are p 00000000, p abcdef12: choose one with --protocol"):
        plots.write_plots(two, build(two), tmp_path / "f.svg")
    with pytest.raises(UserError, match=r"'f.png' must end with .svg or .pdf"):
        plots.kind_of(Path("f.png"))
    nothing: list[Row] = [r.model_copy(update={"miou": None}) for r in ROWS]
    with pytest.raises(UserError, match="nothing to show"):
        plots.miou_plot(nothing, "svg")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"pip install ovss-bench\[plots\]"):
        plots.kind_of(Path("f.svg"))
    assert list(tmp_path.iterdir()) == []
