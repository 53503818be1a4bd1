"""Grid ceiling by hand."""

from pathlib import Path

import pytest
import torch

from ovss.harness.report.ceiling import cell_shares, grid_ceiling, label_field
from ovss.methods import UserError

MINI = str(Path(__file__).parents[2] / "data" / "mini" / "mini.toml")


def test_shares_of_a_side() -> None:
    assert torch.allclose(cell_shares(4, 2), torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]))
    assert torch.allclose(cell_shares(3, 2), torch.tensor([[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]]))


def test_ignored_pixels_are_of_no_class() -> None:
    label = torch.tensor([[0, 0, 1, 1], [0, 255, 1, 255]])
    field = label_field(label, 2, (1, 2))
    assert torch.allclose(field.scores[0, :, 0], torch.tensor([[0.75, 0.0], [0.0, 0.75]]))


def test_pixels_as_patches_are_perfect() -> None:
    assert grid_ceiling(MINI, patch_px=1, limit=2).miou == 100


def test_coarser_grids_have_lower_ceilings() -> None:
    values = [grid_ceiling(MINI, patch_px=p).miou for p in (2, 8, 24)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 90 > values[2]


def test_an_image_below_one_patch_is_named() -> None:
    with pytest.raises(UserError, match="scene_0"):
        grid_ceiling(MINI, patch_px=500)
