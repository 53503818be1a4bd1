"""The layers of a tower: inputs of its blocks, in order; the rules of its position embedding."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ovss.methods.blocks.dense_clip import gaussian_window
from ovss.methods.models import vit
from ovss.methods.models.backbone import load_backbone


def test_layers_are_the_inputs_of_the_blocks() -> None:
    tower = load_backbone("tiny-clip").tower(torch.device("cpu"), torch.float32)
    pixels = torch.randn(2, 3, 3 * tower.patch_px, 5 * tower.patch_px, generator=torch.Generator().manual_seed(0))
    layers, grid = vit.run_layers(tower, pixels)
    last, same_grid = vit.run_trunk(tower, pixels)
    assert len(layers) == len(tower.blocks) and grid == same_grid == (3, 5)
    assert torch.equal(layers[0], vit.embed(tower, pixels)[0]) and torch.equal(layers[-1], last)
    for block, before, after in zip(tower.blocks, layers, layers[1:], strict=False):
        assert torch.equal(vit.run_block(block, before), after)


@dataclass(frozen=True)
class Table:
    """A position table; the rules need no more of a tower."""

    position: Tensor
    stored_side: int


COLUMNS = Table(torch.tensor([[9.0], *([0.0], [1.0]) * 2]), 2)
"""The class token has 9, the left column 0 and the right one 1."""


def test_bilinear_positions_by_hand() -> None:
    found = vit.position_for(COLUMNS, 1, 4, "bilinear")
    assert found.flatten().tolist() == [9, 0, 0.25, 0.75, 1]
    assert torch.equal(vit.position_for(COLUMNS, 1, 4, "half"), found)


def test_half_is_bilinear_rounded() -> None:
    table = Table(torch.randn(1 + 25, 8, generator=torch.Generator().manual_seed(0)), 5)
    for grid in ((5, 5), (3, 7), (9, 6)):
        by_size = vit.position_for(table, *grid, "bilinear")
        assert torch.equal(vit.position_for(table, *grid, "half"), by_size.half().float())


def cubic(x: float, a: float) -> float:
    """Keys' kernel."""
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def resampled(values: list[float], count: int) -> list[float]:
    """Cubic with antialias: a kernel with a = -0.5, as wide as the step, cut at the ends and brought to a sum of 1."""
    step = len(values) / count
    width = max(step, 1.0)
    found = []
    for place in range(count):
        centre = (place + 0.5) * step
        weights = [cubic((k + 0.5 - centre) / width, -0.5) for k in range(len(values))]
        found.append(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
    return found


@pytest.mark.parametrize("count", [3, 9])
def test_antialiased_positions_by_hand(count: int) -> None:
    """Shrinking and growing; without antialias both differ."""
    row = [0.0, 3.0, 1.0, 2.0, 5.0]
    table = Table(torch.tensor([9.0, *row * 5])[:, None], 5)
    found = vit.position_for(table, 5, count, "antialias").flatten()
    assert found[0] == 9
    assert torch.allclose(found[1:].view(5, count), torch.tensor(resampled(row, count)), atol=1e-5)
    assert not torch.allclose(vit.position_for(table, 5, count, "size").flatten(), found, atol=1e-2)


@pytest.mark.parametrize("rule", ["factor", "size", "antialias", "bilinear"])
def test_positions_of_the_stored_grid_stay(rule: vit.Positions) -> None:
    assert vit.position_for(COLUMNS, 2, 2, rule) is COLUMNS.position


def test_a_second_image_of_a_size_computes_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor the distances of its patches; a table that was trained meanwhile is another."""
    calls: list[str] = []
    interpolate, meshgrid = torch.nn.functional.interpolate, torch.meshgrid
    monkeypatch.setattr(vit.F, "interpolate", lambda *a, **k: calls.append("table") or interpolate(*a, **k))
    monkeypatch.setattr(torch, "meshgrid", lambda *a, **k: calls.append("window") or meshgrid(*a, **k))
    table = Table(torch.randn(1 + 9, 4, generator=torch.Generator().manual_seed(0)), 3)
    gaussian_window.cache_clear()
    with torch.inference_mode():
        first = vit.position_for(table, 5, 4), gaussian_window(5, 4, 2.0)
        assert calls == ["table", "window"]
        second = vit.position_for(table, 5, 4), gaussian_window(5, 4, 2.0)
    assert calls == ["table", "window"] and all(map(torch.equal, first, second))
    vit.position_for(table, 5, 4, "size")
    assert calls == ["table", "window", "table"]
    table.position.mul_(2)
    assert torch.allclose(vit.position_for(table, 5, 4), 2 * first[0], atol=1e-6)
    assert not vit.position_for(table, 5, 4).is_inference()
