"""Windows: mmseg's rule."""

import pytest
import torch

from ovss.methods import Box, WindowGeometry
from ovss.methods.core.windows import cut

GEOMETRIES = [(224, 112), (336, 112), (448, 224)]
# resized width, height; rows and columns of 224/112, 336/112, 448/224 (mmseg 1.2.2's rule)
COUNTS = [
    (448, 336, (2, 3), (1, 2), (1, 1)),
    (505, 336, (2, 4), (1, 3), (1, 2)),
    (336, 505, (4, 2), (3, 1), (2, 1)),
    (504, 336, (2, 4), (1, 3), (1, 2)),
    (597, 448, (3, 5), (2, 4), (1, 2)),
    (797, 448, (3, 7), (2, 6), (1, 3)),
    (896, 448, (3, 7), (2, 6), (1, 3)),
    (1120, 560, (4, 9), (3, 8), (2, 4)),
    (2048, 307, (2, 18), (1, 17), (1, 9)),
]


@pytest.mark.parametrize("row", COUNTS, ids=lambda row: f"{row[0]}x{row[1]}")
def test_counts_of_the_published_sizes(row: tuple) -> None:
    width, height, *counts = row
    for (window, stride), (rows, columns) in zip(GEOMETRIES, counts, strict=True):
        geometry = WindowGeometry(window, stride)
        assert (len(geometry.starts(height)), len(geometry.starts(width))) == (rows, columns)
        assert len(geometry.boxes(height, width)) == rows * columns


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (7, 1), (7, 5), (7, 7), (16, 5), (16, 8), (16, 16)])
def test_rule_and_cover(window: int, stride: int) -> None:
    geometry = WindowGeometry(window, stride)
    for height, width in [(1, 1), (7, 16), (16, 33), (17, 50), (48, 5)]:
        wanted = []
        for i in range(max(height - window + stride - 1, 0) // stride + 1):
            for j in range(max(width - window + stride - 1, 0) // stride + 1):
                bottom, right = min(i * stride + window, height), min(j * stride + window, width)
                wanted.append(Box(max(bottom - window, 0), max(right - window, 0), bottom, right))
        boxes = geometry.boxes(height, width)
        assert list(boxes) == wanted
        assert len(set(boxes)) == len(boxes)
        seen = torch.zeros(height, width, dtype=torch.int)
        for box in boxes:
            seen[box.top : box.bottom, box.left : box.right] += 1
        assert seen.min() >= 1


def test_whole_image() -> None:
    assert WindowGeometry().boxes(336, 500) == (Box(0, 0, 336, 500),)
    assert WindowGeometry(600, 300).boxes(336, 500) == (Box(0, 0, 336, 500),)


@pytest.mark.parametrize(("window", "stride"), [(-1, 1), (224, 0), (224, 225), (224, -1)])
def test_impossible_geometry_is_refused(window: int, stride: int) -> None:
    with pytest.raises(ValueError, match="stride"):
        WindowGeometry(window, stride)


def test_cut() -> None:
    image = torch.arange(3 * 20 * 30, dtype=torch.int32).view(3, 20, 30).to(torch.uint8)
    boxes = WindowGeometry(16, 8).boxes(20, 30)
    windows = cut(image, boxes)
    assert windows.dtype == torch.uint8
    assert windows.shape == (len(boxes), 3, 16, 16)
    for window, box in zip(windows, boxes, strict=True):
        assert torch.equal(window, image[:, box.top : box.bottom, box.left : box.right])
