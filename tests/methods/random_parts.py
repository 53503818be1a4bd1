"""Random weights for the parts that some methods have beside CLIP."""

from typing import Any

import torch

from ovss.methods.backbone import Backbone
from ovss.methods.dino import Dino
from ovss.methods.dinoiser_heads import heads_of
from ovss.methods.found import Found

from .test_dino import random_state


def random_parts(name: str, backbone: Backbone) -> dict[str, Any]:
    """Options with which ``create_method(name, backbone)`` needs no checkpoint."""
    visual = backbone.model.visual
    width, patch = visual.conv1.out_channels, visual.conv1.kernel_size[0]
    if name == "clip-dinoiser":
        generator = torch.Generator().manual_seed(0)
        shapes = {
            "obj_proj.weight": (256, width, 3, 3),
            "obj_proj.bias": (256,),
            "bkg_decoder.weight": (1, width, 1, 1),
            "bkg_decoder.bias": (1,),
        }
        return {"heads": heads_of({k: torch.randn(*s, generator=generator) for k, s in shapes.items()}, "random")}
    if name == "dino-pool":
        return {"dino": Dino(random_state(64, 2, patch, 4))}
    if name == "clip-diy":
        small = Dino(random_state(384, 1, 8, 4))
        return {"found": Found(small, torch.ones(1, 384, 1, 1) / 20, torch.zeros(1))}
    return {}
