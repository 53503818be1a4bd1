"""SegCLIP's released checkpoint, ``segclip.bin``: a CLIP ViT-B/16 whose blocks have other names, and a group module.

Names and shapes follow the public code (ArrowLuo/SegCLIP, modules/module_clip_vtransformer.py and module_clip.py).  The
official loader (modules/modeling.py) fills what a file lacks from OpenAI's CLIP, so that a truncated file would load
without a word; here every tensor must be there.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.tokenizer import Tokenizer
from .backbone import Backbone
from .checkpoints import check_keys, file_sha256, read_tensors

MODEL = "ViT-B-16-quickgelu"
AFTER = 2  # blocks behind the group module
_CENTRES, _CROSS_BLOCKS, _HEAD_SIZE = 8, 2, 64
_BLOCKS, _GROUPING = "visual.transformer.resblocks.", "visual.transformer.semantic_layer2."
_TRAINING_ONLY = ("vis_mae_decoder.", "visual.transformer.layers_mae", "visual.transformer.reconstruct_layer")


@dataclass(frozen=True)
class SegCLIPParts:
    """Both parts: CLIP as an open_clip model, and the tensors of the group module by their names in the file."""

    backbone: Backbone
    grouping: Mapping[str, Tensor]


def load_segclip(path: Path, model: Any = None, tokenizer: Tokenizer | None = None) -> SegCLIPParts:
    """Load the released file, or one of another size into ``model`` (an open_clip CLIP, which is filled).

    What only training uses may be there or not.  Raises ``UserError`` that names the file and the tensors when any is
    missing, unknown or of another shape.
    """
    from .clip_library import open_clip

    state = read_tensors(path, nests=("state_dict",), prefixes=("module.", "clip."))
    state = {name: value for name, value in state.items() if not name.startswith(_TRAINING_ONLY)}
    if model is None:
        model = open_clip.CLIP(**(open_clip.get_model_config(MODEL) or {}))
    clip = {file_name(name, len(model.visual.transformer.resblocks)): name for name in model.state_dict()}
    shapes = {name: tuple(model.state_dict()[ours].shape) for name, ours in clip.items()}
    grouping = {_GROUPING + name: shape for name, shape in grouping_shapes(model.visual.conv1.out_channels).items()}
    check_keys(path, state, {**shapes, **grouping})
    model.load_state_dict({ours: state[name] for name, ours in clip.items()})
    model.eval()
    backbone = Backbone(
        model,
        tokenizer or open_clip.get_tokenizer(MODEL),
        MODEL,
        f"file {path.name}",
        open_clip.OPENAI_DATASET_MEAN,
        open_clip.OPENAI_DATASET_STD,
        file_sha256=file_sha256(path),
    )
    return SegCLIPParts(backbone, {name.removeprefix(_GROUPING): state[name].float() for name in grouping})


def file_name(name: str, depth: int) -> str:
    """Name in the file (without ``clip.``) of a tensor of an open_clip ViT with ``depth`` blocks.

    >>> file_name("visual.transformer.resblocks.11.ln_1.weight", 12)
    'visual.transformer.layers2.1.ln_1.weight'
    """
    found = re.match(rf"{re.escape(_BLOCKS)}(\d+)\.", name)
    if not found:
        return name
    index, before = int(found[1]), depth - AFTER
    place = f"layers0.{index}" if index < before else f"layers2.{index - before}"
    return f"visual.transformer.{place}.{name[found.end() :]}"


def grouping_shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Tensors of the group module of a ViT of that width."""
    shapes: dict[str, tuple[int, ...]] = {"semantic_center": (_CENTRES, width)}
    norms = ["norm", "cross_ln", "k_ln", "proj_o.ln"]
    linears = {"proj_o.mlp.fc1": (4 * width, width), "proj_o.mlp.fc2": (width, 4 * width)}
    for i in range(_CROSS_BLOCKS):
        block = f"cross_att.{i}"
        norms += [f"{block}.{name}" for name in ("ln_x", "ln_k", "ln_2")]
        linears |= {f"{block}.mlp.c_fc": (4 * width, width), f"{block}.mlp.c_proj": (width, 4 * width)}
        linears[f"{block}.attn.out_proj"] = (width, width)
        shapes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
    for name in ("k_conv.weight", "v_conv.weight"):
        shapes[name] = (width, _HEAD_SIZE, 1)
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes | {f"{name}.{part}": (width,) for name in norms for part in ("weight", "bias")}
