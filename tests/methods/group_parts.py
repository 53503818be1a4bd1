"""Random weights of SegCLIP and GroupViT in their released formats, in the released size and in a small one."""

import math
from collections.abc import Mapping
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from ovss.methods.models.backbone import Backbone
from ovss.methods.models.groupvit_checkpoint import GroupViTParts, original_name, tensor_shapes
from ovss.methods.models.segclip_checkpoint import SegCLIPParts, file_name, grouping_shapes

SMALL_GROUPVIT: dict[str, Any] = {
    "text_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    "vision_config": {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "depths": [1, 1, 1],
        "num_group_tokens": [6, 3, 0],
        "num_output_groups": [6, 3, 3],
        "num_attention_heads": 3,
        "image_size": 64,
    },
    "projection_dim": 24,
    "projection_intermediate_dim": 40,
}


def randomise(state: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Numbers for every tensor: a zero or one anywhere would hide an error."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _random(name, value, generator) for name, value in state.items()}


def _random(name: str, value: Tensor, generator: torch.Generator) -> Tensor:
    if not value.is_floating_point():
        return value.clone()
    if value.ndim == 0:
        return torch.tensor(math.log(14.0))
    noise = torch.randn(value.shape, generator=generator)
    if "running_var" in name:
        return 1 + 0.5 * noise.sigmoid()
    if value.ndim == 1:
        gain = name.endswith("weight")  # of a LayerNorm or BatchNorm: linear layers have matrices
        return gain + 0.2 * noise
    if "pos" in name or "embedding" in name or "token" in name or "center" in name:
        return 0.7 * noise
    sharp = 10 if ".assign." in name else 1.3  # else one group has all patches
    return noise * sharp / math.sqrt(value[0].numel())


# ---- SegCLIP


def segclip_model(full: bool) -> Any:
    """The CLIP of it; the small one has 4 blocks, 2 before the group module.  The text side is small in both."""
    vision = {"image_size": 224, "layers": 12, "width": 768, "head_width": 64, "patch_size": 16}
    small = {"image_size": 64, "layers": 4, "width": 128, "head_width": 64, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    return open_clip.CLIP(512 if full else 32, vision if full else small, text, quick_gelu=True).eval()


def segclip_state(model: Any, seed: int = 0) -> dict[str, Tensor]:
    """What the file holds for that CLIP, with names as there and with tensors that only training uses."""
    shapes = grouping_shapes(model.visual.conv1.out_channels)
    prefix = "visual.transformer.semantic_layer2."
    depth = len(model.visual.transformer.resblocks)
    state = {file_name(name, depth): value for name, value in model.state_dict().items()}
    state |= {prefix + name: torch.empty(shape) for name, shape in shapes.items()}
    state |= {"visual.transformer.layers_mae2.0.ln_1.weight": torch.empty(3)}
    state |= {"visual.transformer.reconstruct_layer2.rec_proj_a.a_fc.weight": torch.empty(8, 8)}
    values = randomise(state, seed)
    return {f"clip.{name}": value for name, value in values.items()} | {"vis_mae_decoder.mask_token": torch.zeros(1)}


def segclip_parts(full: bool = False, seed: int = 0) -> SegCLIPParts:
    """Random weights without a file."""
    model = segclip_model(full)
    state = {name.removeprefix("clip."): value for name, value in segclip_state(model, seed).items()}
    depth = len(model.visual.transformer.resblocks)
    model.load_state_dict({name: state[file_name(name, depth)] for name in model.state_dict()})
    prefix = "visual.transformer.semantic_layer2."
    grouping = {name: state[prefix + name] for name in grouping_shapes(model.visual.conv1.out_channels)}
    return SegCLIPParts(Backbone.from_module(model, SimpleTokenizer()), grouping)


# ---- GroupViT


def groupvit_parts(full: bool = False, seed: int = 4) -> GroupViTParts:
    """Random weights without a file; the full size is the library's default.  The seed: patches differ in group."""
    config = {} if full else SMALL_GROUPVIT
    state = {name: torch.empty(shape) for name, shape in tensor_shapes(config).items()}
    counters = {name: torch.tensor(0) for name in state if name.endswith("num_batches_tracked")}
    return GroupViTParts(config, randomise({**state, **counters}, seed))


def to_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights by the names of the original: thirds joined, projectors as convolutions over one position."""
    joined: dict[str, Any] = {}
    for name, value in state.items():
        theirs, part = original_name(name)
        if part is None:
            joined[theirs] = value
        else:
            joined.setdefault(theirs, [None] * 3)[part] = value
    out = {name: torch.cat(value) if isinstance(value, list) else value for name, value in joined.items()}
    out |= {n: v[..., None] for n, v in out.items() if "_projector.linear_" in n and v.ndim == 2}
    return out | {"multi_label_logit_scale": torch.zeros(())}
