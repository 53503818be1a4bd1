"""The layers of a tower: inputs of its blocks, in order."""

import torch

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
