"""The graph of pixels against a plain matrix, colours against another library."""

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from ovss.methods.blocks import pixel_graph as pixels_module
from ovss.methods.blocks.pixel_graph import lab, pixel_graph


def plain_graph(colours: Tensor, box_px: int, tau: float) -> Tensor:
    _, height, width = colours.shape
    places = [(y, x) for y in range(height) for x in range(width)]
    w = torch.zeros(len(places), len(places), dtype=torch.float64)
    for i, (y, x) in enumerate(places):
        for j, (v, u) in enumerate(places):
            if i != j and max(abs(y - v), abs(x - u)) <= box_px // 2:
                w[i, j] = torch.exp(-(colours[:, y, x] - colours[:, v, u]).double().norm() / tau)
    root = torch.where(w.sum(1) > 0, w.sum(1), 1) ** -0.5
    return root[:, None] * w * root


@pytest.mark.parametrize(("size", "box_px"), [((5, 7), 3), ((5, 7), 5), ((2, 9), 13), ((6, 1), 5), ((1, 1), 3)])
@pytest.mark.parametrize("strip_px", [20_000, 1, 14])
def test_product(size: tuple[int, int], box_px: int, strip_px: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels_module, "_STRIP_PX", strip_px)
    generator = torch.Generator().manual_seed(sum(size))
    colours = torch.rand(3, *size, generator=generator)
    maps = torch.randn(4, *size, generator=generator, dtype=torch.float64)
    wanted = (maps.flatten(1) @ plain_graph(colours, box_px, 0.3)).view_as(maps)
    found = pixel_graph(colours, box_px, 0.3).product(maps)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_lab() -> None:
    rgb = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    rgb[:, 0, 0], rgb[:, 0, 1], rgb[:, 0, 2] = 0, 1, 0.02
    picture = np.ascontiguousarray(rgb.permute(1, 2, 0).numpy())
    wanted = torch.from_numpy(cv2.cvtColor(picture, cv2.COLOR_RGB2Lab)).permute(2, 0, 1)
    scale = torch.tensor([100.0, 128, 128]).view(3, 1, 1)
    torch.testing.assert_close(lab(rgb) * scale, wanted, rtol=0, atol=0.5)
    torch.testing.assert_close(lab(rgb)[:, 0, 1], torch.tensor([1.0, 0, 0]), rtol=0, atol=1e-4)
