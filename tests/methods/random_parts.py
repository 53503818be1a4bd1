"""Random weights for the parts that some methods have beside CLIP, made once: methods do not write to them."""

from functools import cache
from typing import Any

import torch

from ovss.methods import Method, Vocabulary, create_method, find_method
from ovss.methods.blocks.experts import Experts
from ovss.methods.models.backbone import Backbone
from ovss.methods.models.dino import Dino
from ovss.methods.models.dinoiser_heads import heads_of
from ovss.methods.models.found import Found

from .group_parts import groupvit_parts, segclip_parts
from .models.test_dino import random_state
from .ovseg_parts import random_ovseg
from .sam_parts import random_sam
from .tcl_parts import random_tcl
from .test_clip_s4 import random_weights as random_s4_weights

EXPERTS: dict[str, Any] = {
    "method": {"method": "naclip"},
    "dataset": {"key": "none", "split": "none"},
    "protocol": {"name": "none", "hash": "0" * 64},
    "images": 1,
    "image_names": ("none",),
}


class AnyExperts(Experts):
    """Experts for every vocabulary: each class has one of its first three templates."""

    def templates_for(self, vocabulary: Vocabulary) -> tuple[tuple[str, ...], ...]:
        some = vocabulary.templates[:3]
        return tuple((some[c % len(some)],) for c in range(len(vocabulary.classes)))


_OWN_WEIGHTS = {
    "ovseg": random_ovseg,
    "tcl": cache(random_tcl),
    "groupvit": cache(groupvit_parts),
    "segclip": cache(segclip_parts),
}
_s4_weights = cache(random_s4_weights)
_sam = cache(random_sam)


@cache
def _dino(width: int, depth: int, patch: int) -> Dino:
    return Dino(random_state(width, depth, patch, 4))


def make_with_random_parts(name: str, backbone: Backbone, **options: Any) -> Method:
    """A listed method without a checkpoint; ``backbone`` goes to those that take one."""
    taken = backbone if find_method(name).info.backbone else None
    return create_method(name, taken, **{**random_parts(name, backbone), **options})


def random_parts(name: str, backbone: Backbone) -> dict[str, Any]:
    """Options with which ``create_method(name, backbone)`` needs no checkpoint; for methods with weights of their own
    ``create_method(name)``.
    """
    visual = backbone.model.visual
    width, patch = visual.conv1.out_channels, visual.conv1.kernel_size[0]
    if name == "clip-s4-like":
        return {"encoder": _s4_weights(visual.proj.shape[1])}
    if name == "ovseg-tf":
        return {"scale": 2000.0, "min_size": 2000}  # few superpixels: fast
    if name == "rf-clip":
        return {"sink_channels": f"1,{width // 2},{width - 1}"}
    if name == "floss":
        return {"experts": AnyExperts.model_construct(**EXPERTS), "fusion": "patches"}  # 847 classes in time
    if name in _OWN_WEIGHTS:
        return {"weights": _OWN_WEIGHTS[name]()}
    if name == "clip-dinoiser":
        generator = torch.Generator().manual_seed(0)
        shapes = {
            "obj_proj.weight": (256, width, 3, 3),
            "obj_proj.bias": (256,),
            "bkg_decoder.weight": (1, width, 1, 1),
            "bkg_decoder.bias": (1,),
        }
        return {"heads": heads_of({k: torch.randn(*s, generator=generator) for k, s in shapes.items()}, "random")}
    if name in ("dino-pool", "proxyclip", "lposs", "lposs-plus"):
        return {"dino": _dino(64, 2, patch)}
    if name == "trident":
        return {"dino": _dino(64, 2, patch), "sam": _sam()}
    if name == "corrclip":
        return {"dino": _dino(64, 2, 8), "proposer": "felzenszwalb", "min_size": 1000}
    if name == "cass":
        return {"dino": _dino(64 * visual.transformer.resblocks[-1].attn.num_heads, 2, 8)}
    if name == "clip-diy":
        return {"found": Found(_dino(384, 1, 8), torch.ones(1, 384, 1, 1) / 20, torch.zeros(1))}
    return {}
