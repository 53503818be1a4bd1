"""OVSeg's released checkpoints: which files are accepted, and which of their tensors goes where.

A file holds ``{"model": tensors}``: a MaskFormer in detectron2's names, CLIP in OpenAI's, the mask prompts, and an
embedding for what is no object (files: README of facebookresearch/ov-seg; names: its code).  All sizes are read off the
tensors.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import UserError
from .checkpoints import check_keys, file_sha256, read_tensors
from .mask_former import MaskNet, count

CLIP_PREFIX = "clip_adapter.clip_model."
PROMPTS = f"{CLIP_PREFIX}visual.mask_embedding"
NON_OBJECT = "clip_adapter.non_object_embedding"
_UNUSED = re.compile(r"criterion\.|(clip_adapter\.)?pixel_(mean|std)$")
_VOCABULARY = 49408
_CLIP_HEAD = 64
_NO_SIZES = (ValueError, RuntimeError, IndexError, AssertionError, ArithmeticError)  # what modules raise on odd sizes
_CLIP_NAMES = {(1024, 14): "ViT-L-14-quickgelu", (768, 16): "ViT-B-16-quickgelu"}

_RENAMED = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^model\.pixel_level_module\.encoder\.(model\.)?(encoder\.)?", "backbone."),
        (r"^backbone\.embeddings\.(patch_embeddings\.)?", "backbone.patch_embed."),
        (r"\.patch_embed\.projection\.", ".patch_embed.proj."),
        (r"^backbone\.hidden_states_norms\.", "backbone.norm"),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.attention\.self\.(query|key|value)\.", r".attn.qkv.\1."),
        (r"\.attention\.self\.", ".attn."),
        (r"\.attention\.output\.dense\.", ".attn.proj."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"^(backbone\..*)\.output\.dense\.", r"\1.mlp.fc2."),
        (r"^model\.pixel_level_module\.decoder\.", "sem_seg_head.pixel_decoder."),
        (r"\.mask_projection\.", ".mask_features."),
        (r"\.fpn\.stem\.0\.", ".layer_4."),
        (r"\.fpn\.stem\.1\.", ".layer_4.norm."),
        *((rf"\.fpn\.layers\.{3 - n}\.proj\.0\.", f".adapter_{n}.") for n in (1, 2, 3)),
        *((rf"\.fpn\.layers\.{3 - n}\.proj\.1\.", f".adapter_{n}.norm.") for n in (1, 2, 3)),
        *((rf"\.fpn\.layers\.{3 - n}\.block\.0\.", f".layer_{n}.") for n in (1, 2, 3)),
        *((rf"\.fpn\.layers\.{3 - n}\.block\.1\.", f".layer_{n}.norm.") for n in (1, 2, 3)),
        (r"^model\.transformer_module\.decoder\.", "sem_seg_head.predictor.transformer.decoder."),
        (r"^model\.transformer_module\.", "sem_seg_head.predictor."),
        (r"\.queries_embedder\.", ".query_embed."),
        (r"\.input_projection\.", ".input_proj."),
        (r"\.self_attn_layer_norm\.", ".norm1."),
        (r"\.encoder_attn_layer_norm\.", ".norm2."),
        (r"\.final_layer_norm\.", ".norm3."),
        (r"\.encoder_attn\.", ".multihead_attn."),
        (r"\.([qkv])_proj\.", r".in_proj_.\1."),
        (r"\.o_proj\.", ".out_proj."),
        (r"(\.decoder\.layers\.\d+)\.(mlp\.)?fc([12])\.", r"\1.linear\3."),
        (r"\.decoder\.layernorm\.", ".decoder.norm."),
        (r"^(mask_embed|class_embed)\.", r"sem_seg_head.predictor.\1."),
    )
)
"""Rewritten one after the other, names of ``MaskNet`` become released ones; both generations of transformers' do."""

_PART = re.compile(r"(\.qkv\.|\.in_proj_\.)(query|key|value|[qkv])\.(weight|bias)$")
_LAYERNORM = "model.pixel_level_module.encoder.model.layernorm."
"""A norm that transformers' Swin has and its feature maps never pass through."""


@dataclass(frozen=True)
class OVSegParts:
    """What a checkpoint holds, on the CPU in float32.

    ``clip`` is an open_clip model called ``clip_name``, ``prompts`` ``(depth, N or 1, C)`` or None when the file has
    none, ``non_object`` ``(1, D)``.  ``sha256`` is that of the file.
    """

    mask_net: MaskNet
    clip: Any
    clip_name: str
    prompts: Tensor | None
    non_object: Tensor
    source: str
    sha256: str


def read_ovseg(path: Path) -> OVSegParts:
    """Read a released checkpoint, with or without mask prompts.

    Raises ``UserError`` that names the file, and the tensors that are missing, too many or of another shape, in the
    names of the file.
    """
    state = read_tensors(path, nests=("model",))
    state = {
        name: value.float() if value.is_floating_point() else value
        for name, value in state.items()
        if not _UNUSED.match(name)
    }
    _check_kind(path, state)
    shapes = _shapes(state)
    clip_shapes = {name.removeprefix(CLIP_PREFIX): s for name, s in shapes.items() if name.startswith(CLIP_PREFIX)}
    try:
        with torch.device("meta"):  # no memory, no random numbers; transformers 4.50 cannot build its Swin there
            clip = _build_clip(clip_shapes)
        mask_net = MaskNet(shapes)
    except KeyError as error:
        raise UserError(f"weights file {path} does not fit the model: missing {error.args[0]}") from error
    except _NO_SIZES as error:
        raise UserError(f"weights file {path} does not fit the model: its sizes contradict: {error}") from error
    wanted = {**_released_shapes(mask_net), **{f"{CLIP_PREFIX}{k}": v for k, v in _shapes(clip.state_dict()).items()}}
    tower: Any = clip.visual
    patches, width = tower.positional_embedding.shape[0] - 1, tower.positional_embedding.shape[1]
    wanted[NON_OBJECT] = (1, clip.text_projection.shape[1])
    if PROMPTS in shapes:
        depth, tokens, *_ = (*shapes[PROMPTS], 0, 0)
        wanted[PROMPTS] = (depth, tokens if tokens == 1 else patches, width)
    check_keys(path, state, wanted)
    mask_net.load_state_dict(_mask_net_state(mask_net, state), assign=True)
    clip.load_state_dict({name: state[f"{CLIP_PREFIX}{name}"] for name in clip.state_dict()}, assign=True)
    clip.attn_mask = torch.full(clip.attn_mask.shape, -torch.inf).triu(1)  # a constant, in no file
    name = _CLIP_NAMES.get((width, tower.conv1.kernel_size[0]), "CLIP")
    sha256 = file_sha256(path)
    return OVSegParts(mask_net, clip, name, state.get(PROMPTS), state[NON_OBJECT], f"file {path.name}", sha256)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


def released_name(name: str) -> tuple[str, int | None]:
    """Name in the file of a tensor of ``MaskNet``, and which third of its rows it is (None: all of them)."""
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    part = _PART.search(name)
    if part is None:
        return name, None
    return f"{name[: part.start()]}{part[1] if part[1] == '.qkv.' else part[1][:-1]}{part[3]}", "qkv".index(part[2][0])


def _released_shapes(net: MaskNet) -> dict[str, tuple[int, ...]]:
    wanted = {}
    for key, value in net.state_dict().items():
        if not key.startswith(_LAYERNORM):
            name, part = released_name(key)
            rows, *rest = value.shape
            wanted[name] = (rows if part is None else 3 * rows, *rest)
    return wanted


def _mask_net_state(net: MaskNet, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file under the names of ``net``."""
    found = {}
    for key, value in net.state_dict().items():
        name, part = released_name(key)
        if key.startswith(_LAYERNORM):
            found[key] = value
        else:
            found[key] = state[name] if part is None else state[name].chunk(3)[part]
    return found


def _check_kind(path: Path, state: Mapping[str, Tensor]) -> None:
    """Raise ``UserError`` for a file that is something else."""
    mask_net = any(name.startswith("sem_seg_head.") for name in state)
    if mask_net and any(name.startswith(CLIP_PREFIX) for name in state):
        return
    if "visual.class_embedding" in state:
        raise UserError(
            f"weights file {path} is a CLIP alone, without the mask network that OVSeg needs: give a whole checkpoint, "
            "such as ovseg_swinbase_vitL14_ft_mpt.pth.  A method around CLIP takes this file as its backbone: "
            "--backbone ViT-L-14-quickgelu --weights FILE"
        )
    if mask_net:
        raise UserError(f"weights file {path} is a mask network alone: it has no {CLIP_PREFIX}*, OVSeg's CLIP")
    names = ", ".join(sorted(state)[:3]) or "none"
    raise UserError(
        f"weights file {path} is no checkpoint of OVSeg: it has neither sem_seg_head.* nor {CLIP_PREFIX}*; its tensors "
        f"are {names} ... See `bench weights fetch ovseg-swinb-vitl14`"
    )


def _build_clip(shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """An open_clip model with QuickGELU and the sizes of ``shapes``; heads have 64 channels, as in all of OpenAI's."""
    from .clip_library import open_clip

    tokens, width = shapes["visual.positional_embedding"]
    patch = shapes["visual.conv1.weight"][-1]
    context, text_width = shapes["positional_embedding"]
    vision = {
        "image_size": patch * round((tokens - 1) ** 0.5),
        "layers": count(shapes, "visual.transformer.resblocks."),
        "width": width,
        "patch_size": patch,
        "head_width": _CLIP_HEAD,
    }
    text = {
        "context_length": context,
        "vocab_size": _VOCABULARY,
        "width": text_width,
        "heads": text_width // _CLIP_HEAD,
        "layers": count(shapes, "transformer.resblocks."),
    }
    clip: Any = open_clip.CLIP(shapes["text_projection"][1], vision_cfg=vision, text_cfg=text, quick_gelu=True)
    return clip.eval().requires_grad_(False)
