"""Pictures: colours, borders, legend."""

import numpy as np

from ovss.harness.report.overlay import overlay, paint
from ovss.harness.report.sheets import add_legend
from ovss.harness.show.colours import class_colours


def test_colours_differ() -> None:
    colours = class_colours(150)
    assert len(set(colours)) == 150


def test_paint_shows_ignored_pixels_grey() -> None:
    labels = np.array([[0, 1], [255, 0]], np.uint8)
    assert paint(labels, [(1, 2, 3), (4, 5, 6)]).tolist() == [[[1, 2, 3], [4, 5, 6]], [[128, 128, 128], [1, 2, 3]]]


def test_overlay_mixes_and_draws_borders() -> None:
    image = np.full((2, 3, 3), 100, np.uint8)
    labels = np.array([[0, 0, 1], [0, 0, 1]], np.uint8)
    mixed = overlay(image, labels, [(200, 0, 0), (0, 0, 200)])
    assert mixed[0, 0].tolist() == [155, 45, 45]
    assert mixed[0, 2].tolist() == [255, 255, 255]


def test_legend_lies_below_the_picture() -> None:
    picture = np.full((40, 300, 3), 7, np.uint8)
    names = [f"class number {k}" for k in range(9)]
    sheet = np.asarray(add_legend(picture, names, class_colours(9), [1 / 9] * 9))
    assert (sheet[:40, :300] == 7).all()
    assert sheet.shape[0] > 60
    for colour in class_colours(9):
        assert (sheet[40:] == colour).all(axis=-1).sum() > 50
