"""GroupViT's checkpoints: a folder as on the Hugging Face hub, or a file of the original repository.

Either becomes the state dict of ``transformers``' GroupViTModel, and every tensor must be there: ``from_pretrained``
would fill what is missing with random numbers and no more than a warning.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import UserError
from .checkpoints import check_keys, file_sha256, read_tensors

CONFIG, TENSORS = "config.json", "pytorch_model.bin"
_CONSTANTS = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")  # in older files
_UNUSED = "multi_label_logit_scale"  # of the original's training
_QKV = re.compile(r"\.self_attn\.([qkv])_proj\.")
# from the names of transformers to those of the original, in this order
_RENAMED = (
    (r"^vision_model\.embeddings\.position_embeddings$", "img_encoder.pos_embed"),
    (r"^vision_model\.embeddings\.patch_embeddings\.projection\.", "img_encoder.patch_embed.proj."),
    (r"^vision_model\.embeddings\.layernorm\.", "img_encoder.patch_embed.norm."),
    (r"^vision_model\.layernorm\.", "img_encoder.norm."),
    (r"^vision_model\.encoder\.stages\.(\d+)\.layers\.", r"img_encoder.layers.\1.blocks."),
    (r"^vision_model\.encoder\.stages\.", "img_encoder.layers."),
    (r"pre_assign_attn\.attn\.out_proj\.", "pre_assign_attn.attn.proj."),
    (r"^(img_encoder.*)\.self_attn\.[qkv]_proj\.", r"\1.attn.qkv."),
    (r"^(img_encoder.*)\.self_attn\.out_proj\.", r"\1.attn.proj."),
    (r"^(img_encoder.*)\.layer_norm([12])\.", r"\1.norm\2."),
    (r"^text_model\.embeddings\.token_embedding\.", "text_encoder.token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "text_encoder.positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "text_encoder.ln_final."),
    (r"^text_model\.encoder\.layers\.", "text_encoder.transformer.resblocks."),
    (r"^(text_encoder.*)\.self_attn\.[qkv]_proj\.", r"\1.attn.in_proj_"),
    (r"^(text_encoder.*)\.self_attn\.out_proj\.", r"\1.attn.out_proj."),
    (r"^(text_encoder.*)\.layer_norm([12])\.", r"\1.ln_\2."),
    (r"^(text_encoder.*)\.mlp\.fc1\.", r"\1.mlp.c_fc."),
    (r"^(text_encoder.*)\.mlp\.fc2\.", r"\1.mlp.c_proj."),
    (r"^visual_projection\.", "img_projector."),
    (r"^text_projection\.", "text_projector."),
    (r"^(img|text)_projector\.([01])\.", r"\1_projector.linear_hidden.\2."),
    (r"^(img|text)_projector\.3\.", r"\1_projector.linear_out."),
)


@dataclass(frozen=True)
class GroupViTParts:
    """Everything that makes a GroupViT: the fields of its ``GroupViTConfig``, and a state dict that fits exactly."""

    config: Mapping[str, Any]
    state: Mapping[str, Tensor]
    source: str = "tensors given by the caller"
    file_sha256: str | None = None


def load_groupvit(path: Path) -> GroupViTParts:
    """Load a folder with ``config.json`` and ``pytorch_model.bin``, or an original ``.pth`` file.

    An original file has no configuration: it must have the released sizes, which are those that ``transformers`` has by
    default.  Its names are those of the public code.

    Raises ``UserError`` that names the file and the tensors when any is missing, unknown or of another shape.
    """
    if path.is_dir():
        return _load_folder(path)
    original = read_tensors(path, nests=("model",), prefixes=("module.",))
    state = from_original(path, original, tensor_shapes({}))
    return GroupViTParts({}, state, f"file {path.name}", file_sha256(path))


def _load_folder(folder: Path) -> GroupViTParts:
    path = folder / TENSORS
    try:
        config = dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")).items())
        shapes = tensor_shapes(config)
    except Exception as error:
        raise UserError(
            f"{folder / CONFIG} is no configuration of a GroupViT: {error}.  Fetch the folder again"
        ) from error
    state = {name: value for name, value in read_tensors(path).items() if name not in _CONSTANTS}
    check_keys(path, state, shapes)
    return GroupViTParts(config, state, f"folder {_named(folder)}, {TENSORS}", file_sha256(path))


def _named(folder: Path) -> str:
    """Name of a folder; in the hub's cache, ``models--OWNER--NAME/snapshots/COMMIT``, that of the repository."""
    return folder.parent.parent.name.rpartition("--")[2] if folder.parent.name == "snapshots" else folder.name


def build_model(config: Mapping[str, Any]) -> Any:
    """A ``transformers`` GroupViTModel of these fields, with random weights, for evaluation.

    The feature of a text is read at the tokenizer's end-of-text token, the last of its words, whatever the file says:
    files of before 2023 have the number 2 there.
    """
    from transformers import GroupViTConfig, GroupViTModel

    found: Any = GroupViTConfig.from_dict(dict(config))
    found.text_config.eos_token_id = found.text_config.vocab_size - 1
    model: Any = GroupViTModel(found)
    return model.eval()


def tensor_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of the model of these fields, by the names of ``transformers``."""
    with torch.device("meta"):  # no memory, no numbers
        return {name: tuple(value.shape) for name, value in build_model(config).state_dict().items()}


def original_name(name: str) -> tuple[str, int | None]:
    """Name in an original file of a tensor of ``transformers``, and which third of the rows it is (None: all).

    >>> original_name("vision_model.encoder.stages.0.layers.2.self_attn.k_proj.weight")
    ('img_encoder.layers.0.blocks.2.attn.qkv.weight', 1)
    """
    found = _QKV.search(name)
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name, "qkv".index(found[1]) if found else None


def from_original(
    path: Path, original: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """Tensors of an original file by the names of ``transformers``, with these shapes.

    Layers of the projectors may be convolutions over one position: their last axis is dropped.
    Raises ``UserError`` in the file's own names.
    """
    given = {name: _as_linear(name, value) for name, value in original.items() if name != _UNUSED}
    places = {name: original_name(name) for name in shapes}
    wanted = {
        theirs: shapes[name] if part is None else (3 * shapes[name][0], *shapes[name][1:])
        for name, (theirs, part) in places.items()
    }
    check_keys(path, given, wanted)
    return {
        name: given[theirs] if part is None else given[theirs].chunk(3)[part] for name, (theirs, part) in places.items()
    }


def _as_linear(name: str, value: Tensor) -> Tensor:
    return value.squeeze(2) if "_projector.linear_" in name and value.ndim == 3 and value.shape[2] == 1 else value
