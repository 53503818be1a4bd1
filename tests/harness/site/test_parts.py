"""Plots, shades, choices of images and names of files, by hand."""

import re
from pathlib import Path

import numpy as np
import pytest

from ovss.harness.site.gallery import Gallery, Shown, choose
from ovss.harness.site.heat import SHADES, Shaded
from ovss.harness.site.render import file_name
from ovss.harness.site.scatter import LEFT_PX, TOP_PX, WIDTH_PX, plots

from .made_up import row

ROOT = Path(__file__).resolve().parents[3]


def test_a_plot_for_each_device() -> None:
    rows = [
        row("a", "one", 40.0, low=30.0, high=50.0, images_per_second=10.0, device="cpu"),
        row("b", "one", 20.0, images_per_second=100.0, device="cpu"),
        row("c", "one", 99.0, images_per_second=5.0, device="gpu"),
        row("d", "one", 1.0, device="cpu").model_copy(update={"miou": None}),
    ]
    cpu, gpu = plots(rows)
    assert (cpu.device, gpu.device) == ("cpu", "gpu") and [p.row.method for p in cpu.points] == ["a", "b"]
    a, b = cpu.points
    # one decade and a tenth on either side over the inner width; values from 20 to 50 in steps of 10
    inner = WIDTH_PX - LEFT_PX - 24
    assert a.x_px == pytest.approx(LEFT_PX + inner * 0.1 / 1.2) and b.x_px == pytest.approx(LEFT_PX + inner * 1.1 / 1.2)
    assert [t.text for t in cpu.x_ticks] == ["10", "20", "50", "100"]
    assert [t.text for t in cpu.y_ticks][:2] == ["20", "30"]
    assert a.low_px is not None and a.high_px is not None and a.low_px > a.y_px > a.high_px >= TOP_PX
    assert a.low_px - a.y_px == pytest.approx(a.y_px - a.high_px) and b.low_px is None
    assert a.label.text == "1 a" and b.label.text == "2 b"


def test_ticks_within_a_decade() -> None:
    (plot,) = plots([row("a", "one", 40.0, images_per_second=10.0), row("b", "one", 40.05, images_per_second=12.0)])
    assert [t.text for t in plot.x_ticks] == ["8", "10", "12", "14"]
    assert len({t.text for t in plot.y_ticks}) == len(plot.y_ticks)


def test_labels_do_not_cover_each_other() -> None:
    """Forty points in one place: names where there is room, then numbers alone."""
    rows = [row(f"method {k:02d}", "one", 40 + k / 100, images_per_second=10.0) for k in range(40)]
    (plot,) = plots([*rows, row("far", "one", 60.0, images_per_second=1000.0)])
    texts = [p.label.text for p in plot.points]
    assert texts[0] == "1 far" and len(set(texts)) == 41 and any(t.isdigit() for t in texts)
    assert all(t.split()[0] == str(k) for k, t in enumerate(texts, 1))


@pytest.mark.parametrize(("value", "shade"), [(None, 0), (0.0, 0), (9.99, 0), (10.0, 1), (99.9, 9), (100.0, 9)])
def test_shades(value: float | None, shade: int) -> None:
    assert Shaded(value).shade == shade


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    digits = colour.lstrip("#") if len(colour) == 7 else "".join(2 * c for c in colour.lstrip("#"))
    parts = [int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_numbers_can_be_read_on_every_shade() -> None:
    """Contrast of at least 4.5, and each shade is darker than the one before."""
    style = (ROOT / "harness/site/static/report.css").read_text()
    found = re.findall(r"\.h(\d) \{ background: (#\w{6}); color: (#\w{3}); \}", style)
    assert [int(k) for k, _, _ in found] == list(range(SHADES))
    pairs = [(luminance(paper), luminance(ink)) for _, paper, ink in found]
    assert all((max(p) + 0.05) / (min(p) + 0.05) >= 4.5 for p in pairs)
    assert [paper for paper, _ in pairs] == sorted((paper for paper, _ in pairs), reverse=True)


def test_images_of_a_gallery() -> None:
    """Ten images of two runs: means 0, 10, ... 80 and NaN, and image 3 is where the runs differ."""
    ids = [f"i{k}" for k in range(10)]
    mean = np.array([0, 10, 20, 30, 40, 50, 60, 70, 80, np.nan])
    off = np.where(np.arange(10) == 3, 25.0, 0.0)
    sample, worst, best, apart = choose(ids, np.stack([mean - off, mean + off]))
    assert worst.ids == ("i0", "i1", "i2", "i3", "i4", "i5") and best.ids == ("i8", "i7", "i6", "i5", "i4", "i3")
    assert apart.ids[0] == "i3" and "i9" not in worst.ids + best.ids + apart.ids
    assert sample.ids == choose(ids[::-1], np.stack([mean[::-1]]))[0].ids and len(sample.ids) == 6
    assert len(choose(ids, mean[None])) == 3  # one run does not disagree with itself


def test_a_group_shows_what_was_drawn() -> None:
    one = Shown("i0", "p", "t", 8, 6, ())
    (sample, *_) = choose(["i0", "i1"], np.zeros((1, 2)))
    assert Gallery("l", (sample,), (one,)).shown(sample) == (one,)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a b", "<img src=x>", "", ".hidden", "-o", "\u00e9", "a?b#c%20", "x" * 300]
)
def test_names_of_files(name: str) -> None:
    found = file_name(name)
    assert found and found[0].isalnum() and len(found) < 101 and found != file_name(f"{name}.")
    assert set(found) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
