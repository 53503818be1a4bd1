"""Random checkpoints of OVSeg in the released layout, small and of the released sizes.

Names and shapes are written down from the released code (facebookresearch/ov-seg); nothing of ``ovss`` is used.
"""

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ovss.methods.models.ovseg_checkpoint import OVSegParts, read_ovseg

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Sizes:
    """Sizes of a checkpoint.  ``resnet`` are the blocks of the four stages, or None for a Swin."""

    embed: int = 16
    depths: tuple[int, ...] = (1, 2, 3, 2)
    heads: tuple[int, ...] = (1, 2, 4, 8)
    window: int = 4
    resnet: tuple[int, ...] | None = None
    stem: int = 8
    features: int = 64
    width: int = 64
    layers: int = 2
    ffn: int = 96
    queries: int = 12
    hidden: int = 80
    clip_width: int = 64
    clip_layers: int = 3
    patch: int = 16
    grid: int = 3
    text_width: int = 64
    text_layers: int = 2
    dim: int = 32
    depth: int = 3
    """Of the prompts; 0: none."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Of res2 to res5."""
        if self.resnet:
            return tuple(self.stem * 2 * 2**i * 2 for i in range(4))
        return tuple(self.embed * 2**i for i in range(4))


SMALL = Sizes()
SMALL_RESNET = Sizes(resnet=(1, 2, 2, 3))
SWIN_B_VIT_L_14 = Sizes(
    *(128, (2, 2, 18, 2), (4, 8, 16, 32), 12, None, 0),
    *(256, 256, 6, 2048, 100, 1024),
    *(1024, 24, 14, 16, 768, 12, 768, 3),
)
R101C_VIT_B_16 = Sizes(
    *(0, (), (), 0, (3, 4, 23, 3), 64),
    *(256, 256, 6, 2048, 100, 1024),
    *(768, 12, 16, 14, 512, 12, 512, 3),
)


def released_shapes(s: Sizes) -> Shapes:
    """Name and shape of every tensor of a checkpoint."""
    clip = {f"clip_adapter.clip_model.{name}": shape for name, shape in clip_shapes(s).items()}
    prompts = {"clip_adapter.clip_model.visual.mask_embedding": (s.depth, s.grid**2, s.clip_width)} if s.depth else {}
    return {
        **(_resnet(s) if s.resnet else _swin(s)),
        **_pixel_decoder(s),
        **_predictor(s),
        **clip,
        **prompts,
        "clip_adapter.non_object_embedding": (1, s.dim),
        "clip_adapter.pixel_mean": (1, 3, 1, 1),
        "clip_adapter.pixel_std": (1, 3, 1, 1),
        "criterion.empty_weight": (172,),
    }


def random_state(s: Sizes, seed: int = 0) -> dict[str, Tensor]:
    """Random tensors of a checkpoint, none of which is trivial."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _random(name, shape, s, generator) for name, shape in released_shapes(s).items()}


@cache
def random_ovseg(s: Sizes = SMALL) -> OVSegParts:
    """The parts of a random checkpoint, written and read as a real one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.pth"
        torch.save({"model": random_state(s)}, path)
        return read_ovseg(path)


def _random(name: str, shape: tuple[int, ...], s: Sizes, generator: torch.Generator) -> Tensor:
    if name.endswith("relative_position_index"):
        return _relative_index(s.window)
    noise = torch.randn(shape, generator=generator)
    if name.endswith("running_var"):
        return noise.abs() + 0.5
    if name.endswith("query_embed.weight"):
        return 2 * noise
    if ".mask_embed.layers.2." in name:
        return 0.03 * noise  # masks that are not all saturated
    if name.endswith("weight") and len(shape) == 1:
        return 1 + 0.2 * noise
    if name.endswith(("weight", "proj", "projection")) and len(shape) > 1 and "embedding" not in name:
        return noise / (noise[0].numel() if name.endswith("weight") else len(noise)) ** 0.5 * 1.4
    return 0.3 * noise


def _relative_index(window: int) -> Tensor:
    """Row of the table for each pair of the places of a window: rows' offset first, both counted from 0."""
    places = [(y, x) for y in range(window) for x in range(window)]
    rows = [[(a[0] - b[0] + window - 1) * (2 * window - 1) + a[1] - b[1] + window - 1 for b in places] for a in places]
    return torch.tensor(rows)


def _pair(name: str, *weight: int) -> Shapes:
    """A weight and a bias."""
    return {f"{name}.weight": weight, f"{name}.bias": (weight[0],)}


def _swin(s: Sizes) -> Shapes:
    found = _pair("backbone.patch_embed.proj", s.embed, 3, 4, 4) | _pair("backbone.patch_embed.norm", s.embed)
    for i, (width, depth, heads) in enumerate(zip(s.channels, s.depths, s.heads, strict=True)):
        for j in range(depth):
            block = f"backbone.layers.{i}.blocks.{j}."
            found |= _pair(f"{block}norm1", width) | _pair(f"{block}norm2", width)
            found |= _pair(f"{block}attn.qkv", 3 * width, width) | _pair(f"{block}attn.proj", width, width)
            found |= _pair(f"{block}mlp.fc1", 4 * width, width) | _pair(f"{block}mlp.fc2", width, 4 * width)
            found[f"{block}attn.relative_position_bias_table"] = ((2 * s.window - 1) ** 2, heads)
            found[f"{block}attn.relative_position_index"] = (s.window**2, s.window**2)
        if i < 3:
            found[f"backbone.layers.{i}.downsample.reduction.weight"] = (2 * width, 4 * width)
            found |= _pair(f"backbone.layers.{i}.downsample.norm", 4 * width)
        found |= _pair(f"backbone.norm{i}", width)
    return found


def _resnet(s: Sizes) -> Shapes:
    def conv(name: str, *shape: int) -> Shapes:
        statistics = {f"{name}.norm.{k}": (shape[0],) for k in ("weight", "bias", "running_mean", "running_var")}
        return {f"{name}.weight": shape, **statistics}

    found = conv("backbone.stem.conv1", s.stem, 3, 3, 3) | conv("backbone.stem.conv2", s.stem, s.stem, 3, 3)
    found |= conv("backbone.stem.conv3", 2 * s.stem, s.stem, 3, 3)
    before = 2 * s.stem
    for stage, (depth, width) in enumerate(zip(s.resnet or (), s.channels, strict=True), start=2):
        for b in range(depth):
            block, inner = f"backbone.res{stage}.{b}.", width // 4
            found |= conv(f"{block}conv1", inner, before, 1, 1) | conv(f"{block}conv2", inner, inner, 3, 3)
            found |= conv(f"{block}conv3", width, inner, 1, 1)
            found |= conv(f"{block}shortcut", width, before, 1, 1) if b == 0 else {}
            before = width
    return found


def _pixel_decoder(s: Sizes) -> Shapes:
    head = "sem_seg_head.pixel_decoder."
    found = _pair(f"{head}mask_features", s.features, s.features, 3, 3)
    for n in (1, 2, 3, 4):
        found[f"{head}layer_{n}.weight"] = (s.features, s.channels[3] if n == 4 else s.features, 3, 3)
        found |= _pair(f"{head}layer_{n}.norm", s.features)
    for n in (1, 2, 3):
        found[f"{head}adapter_{n}.weight"] = (s.features, s.channels[n - 1], 1, 1)
        found |= _pair(f"{head}adapter_{n}.norm", s.features)
    return found


def _predictor(s: Sizes) -> Shapes:
    head = "sem_seg_head.predictor."
    found = {f"{head}query_embed.weight": (s.queries, s.width)}
    found |= _pair(f"{head}input_proj", s.width, s.channels[3], 1, 1)
    for i in range(s.layers):
        layer = f"{head}transformer.decoder.layers.{i}."
        for attention in ("self_attn", "multihead_attn"):
            found[f"{layer}{attention}.in_proj_weight"] = (3 * s.width, s.width)
            found[f"{layer}{attention}.in_proj_bias"] = (3 * s.width,)
            found |= _pair(f"{layer}{attention}.out_proj", s.width, s.width)
        found |= _pair(f"{layer}linear1", s.ffn, s.width) | _pair(f"{layer}linear2", s.width, s.ffn)
        for n in (1, 2, 3):
            found |= _pair(f"{layer}norm{n}", s.width)
    found |= _pair(f"{head}transformer.decoder.norm", s.width)
    for i in range(3):
        found |= _pair(f"{head}mask_embed.layers.{i}", s.features if i == 2 else s.width, s.width)
    return (
        found
        | _pair(f"{head}class_embed.layers.0", s.hidden, s.width)
        | _pair(f"{head}class_embed.layers.1", s.dim, s.hidden)
    )


def clip_shapes(s: Sizes) -> Shapes:
    """CLIP in OpenAI's names."""
    found: Shapes = {
        "logit_scale": (),
        "positional_embedding": (77, s.text_width),
        "text_projection": (s.text_width, s.dim),
        "token_embedding.weight": (49408, s.text_width),
        "visual.class_embedding": (s.clip_width,),
        "visual.positional_embedding": (s.grid**2 + 1, s.clip_width),
        "visual.proj": (s.clip_width, s.dim),
        "visual.conv1.weight": (s.clip_width, 3, s.patch, s.patch),
        **_pair("ln_final", s.text_width),
        **_pair("visual.ln_pre", s.clip_width),
        **_pair("visual.ln_post", s.clip_width),
    }
    for tower, width, layers in (("", s.text_width, s.text_layers), ("visual.", s.clip_width, s.clip_layers)):
        for i in range(layers):
            block = f"{tower}transformer.resblocks.{i}."
            found |= _pair(f"{block}ln_1", width) | _pair(f"{block}ln_2", width)
            found[f"{block}attn.in_proj_weight"] = (3 * width, width)
            found[f"{block}attn.in_proj_bias"] = (3 * width,)
            found |= _pair(f"{block}attn.out_proj", width, width)
            found |= _pair(f"{block}mlp.c_fc", 4 * width, width) | _pair(f"{block}mlp.c_proj", width, 4 * width)
    return found
