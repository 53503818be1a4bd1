"""CLIP's weights in the forms that people have: open_clip's, OpenAI's own archive, and those of transformers.

All three hold the same tensors.  OpenAI's file is a TorchScript archive with open_clip's names and a few constants.
transformers has other names, queries, keys and values apart, and both projections turned.  The conversion moves numbers
and computes none, so it is exact.
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

OPENAI_SHA256 = {
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af": "ViT-B-32",
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f": "ViT-B-16",
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836": "ViT-L-14",
    "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02": "ViT-L-14-336",
}
"""OpenAI's own files.  The SHA-256 of each stands in its public address (openai/CLIP, clip/clip.py)."""

_CONFIG, _TENSORS = "config.json", ("model.safetensors", "pytorch_model.bin")
_CONSTANTS = {"attn_mask", "input_resolution", "context_length", "vocab_size", "position_ids"}
"""Last parts of names that hold no weights: constants of OpenAI's archives and of older files."""
_ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu"}
_TOWERS = {"text_model.": "", "vision_model.": "visual."}
_RENAMED = (
    (r"^vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"^visual_projection\.weight$", "visual.proj"),
    (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_projection\.weight$", "text_projection"),
    (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.self_attn\.([qkv])_proj\.", r".attn.in_proj_"),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)
_QKV = re.compile(r"\.self_attn\.([qkv])_proj\.")
_TURNED = ("visual.proj", "text_projection")


@dataclass(frozen=True)
class ClipWeights:
    """Tensors by open_clip's names, the file that they are from, and its SHA-256.

    ``activation`` is what they were trained with ("quick_gelu" or "gelu") and ``evidence`` how that is known; both are
    "" when the file does not tell.  ``model`` is OpenAI's name of the model for OpenAI's own files.
    """

    state: Mapping[str, Tensor]
    file: Path
    sha256: str
    activation: str = ""
    evidence: str = ""
    model: str = ""


def read_clip(path: Path, model: Any) -> ClipWeights:
    """Read a checkpoint that fits the open_clip ``model``.

    Safetensors or a file of torch with open_clip's names (a nested ``state_dict`` and the prefix ``module.`` are
    unwrapped), OpenAI's TorchScript archive, or transformers' ``CLIPModel``: its folder, or the file in it.

    Raises ``UserError`` that names the file and the keys when any is missing, unknown or of another shape, or when
    transformers' configuration describes another model.
    """
    file = _file_of(path)
    state = read_tensors(file, nests=("state_dict",), prefixes=("module.",))
    state = {name: value for name, value in state.items() if name.rpartition(".")[2] not in _CONSTANTS}
    config: dict[str, Any] = {}
    if is_transformers(state):
        config = _config_of(file, model)
        state = from_transformers(file, state)
    check_keys(file, state, {key: tuple(value.shape) for key, value in model.state_dict().items()})
    sha256 = file_sha256(file)
    if sha256 in OPENAI_SHA256:
        known = OPENAI_SHA256[sha256]
        return ClipWeights(state, file, sha256, "quick_gelu", f"SHA-256 of OpenAI's {known}.pt", known)
    activation = config.get("vision_config", {}).get("hidden_act", "")
    return ClipWeights(state, file, sha256, activation, f"{_CONFIG} beside the file" if activation else "")


def _file_of(path: Path) -> Path:
    """The file of tensors of a folder of transformers', or the file itself."""
    if not path.is_dir():
        return path
    found = next((path / name for name in _TENSORS if (path / name).is_file()), None)
    if found is None:
        raise UserError(
            f"weights folder {path} holds neither {' nor '.join(_TENSORS)}: name the file itself with --weights FILE.  "
            "Weights in several files (model-00001-of-...) are one after transformers' save_pretrained(FOLDER, "
            'max_shard_size="100GB")'
        )
    return found


def is_transformers(state: Mapping[str, Tensor]) -> bool:
    """Whether tensors have the names of transformers' CLIPModel."""
    return any(name.startswith((f"{tower}encoder.", f"{tower}embeddings.")) for name in state for tower in _TOWERS)


def from_transformers(path: Path, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of transformers' ``CLIPModel`` by open_clip's names.  ``path`` is for messages.

    Raises ``UserError`` when of queries, keys and values some are missing.
    """
    found: dict[str, Tensor] = {}
    thirds: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        short, part = name, _QKV.search(name)
        for pattern, replacement in _RENAMED:
            short = re.sub(pattern, replacement, short)
        if part:
            thirds.setdefault(short, {})[part[1]] = value
        else:
            found[short] = value.T if short in _TURNED else value
    for name, parts in thirds.items():
        if parts.keys() != {"q", "k", "v"} or len({p.shape for p in parts.values()}) > 1:
            raise UserError(f"weights file {path} has not all of queries, keys and values of {name.rpartition('.')[0]}")
        found[name] = torch.cat([parts[k] for k in "qkv"])
    return found


def _config_of(file: Path, model: Any) -> dict[str, Any]:
    """transformers' configuration beside a file, {} if there is none; ``UserError`` if it is of another model."""
    path = file.parent / _CONFIG
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        towers = {"vision_config": model.visual, "text_config": model}
        found = {key: config[key] | (config.get(f"{key}_dict") or {}) for key in towers}  # older files have both
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} is no configuration of transformers' CLIP: {error}") from error
    defaults = {"vision_config": 12, "text_config": 8}  # transformers leaves out what is as usual
    for key, tower in towers.items():
        fields = {"hidden_act": "quick_gelu", "num_attention_heads": defaults[key], "layer_norm_eps": 1e-5} | found[key]
        heads = tower.transformer.resblocks[0].attn.num_heads
        if fields["num_attention_heads"] != heads:
            raise UserError(f"{path}: {key} has {fields['num_attention_heads']} heads, the backbone has {heads}")
        if fields["hidden_act"] not in _ACTIVATIONS or fields["layer_norm_eps"] != 1e-5:
            raise UserError(f"{path}: {key} has an activation or a layer_norm_eps that open_clip's CLIP has not")
        found[key] = fields
    if found["vision_config"]["hidden_act"] != found["text_config"]["hidden_act"]:
        raise UserError(f"{path}: the two towers have different activations, which no open_clip model has")
    return found
