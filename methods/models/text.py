"""Text side: prompts to query embeddings, encoded once and cached.

The text transformer is causal and the feature is read at the end-of-text token, so cutting the padding away changes
nothing; prompts are sorted by length and each batch is as long as its longest prompt (``docs/design/text.md``).
Computed in float32 whatever the method's precision is.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.files import cache_folder, write_to_cache
from ..core.vocabulary import Vocabulary
from . import vit
from .backbone import Backbone

_BATCH = 256
_SEAL = "key and sha256"
_UNIT_TOLERANCE = 1e-4
"""How far from 1 the length of a stored feature may be: float32 rounding stays below 1e-6."""


def encode_queries(
    backbone: Backbone,
    vocabulary: Vocabulary,
    device: torch.device,
    cache: Path | None = None,
    unit_prompts: bool = True,
) -> Tensor:
    """Query embeddings ``(Q, dim)`` float32, unit length.

    Each template is filled with the query and encoded, embeddings are normalised (unless ``unit_prompts`` is False),
    averaged over templates, and normalised again.  The result is kept in ``cache`` (default: the user's cache folder),
    keyed by weights, tokenizer, templates, queries, ``unit_prompts`` and kind of device.
    """
    path = (cache or cache_folder() / "text") / f"{_cache_key(backbone, vocabulary, device, unit_prompts)}.safetensors"
    kept = _read_bank(path, len(vocabulary.queries))
    if kept is not None:
        return kept.to(device)
    prompts = [template.format(query) for query in vocabulary.queries for template in vocabulary.templates]
    features = (encode_prompts if unit_prompts else prompt_features)(backbone, prompts, device)
    mean = features.view(len(vocabulary.queries), len(vocabulary.templates), -1).mean(dim=1)
    queries = F.normalize(mean, dim=-1)
    try:
        write_to_cache(path, _bank_bytes(path, queries.cpu().contiguous()))
    except OSError as error:
        logging.getLogger(__name__).warning("text features could not be cached in %s: %s", path.parent, error)
    return queries


def _bank_bytes(path: Path, queries: Tensor) -> bytes:
    """A file of text features that says which they are and what their bytes are."""
    return safetensors.torch.save({"queries": queries}, {_SEAL: _seal(path, queries)})


def _read_bank(path: Path, count: int) -> Tensor | None:
    """Text features ``(count, dim)`` from the cache; None when they are not there, or damaged, which is said."""
    try:
        content = path.read_bytes()
    except OSError:  # absent, or the folder cannot be used at all
        return None
    try:
        queries = safetensors.torch.load(content)["queries"]
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    except (safetensors.SafetensorError, KeyError, ValueError):
        queries, metadata = torch.empty(0), {}
    if (
        queries.dtype == torch.float32
        and metadata == {_SEAL: _seal(path, queries)}
        and queries.ndim == 2
        and len(queries) == count
        and bool(queries.isfinite().all())
        and bool((queries.norm(dim=-1) - 1).abs().max() < _UNIT_TOLERANCE)
    ):
        return queries
    logging.getLogger(__name__).warning("%s is damaged and will be made again", path)
    return None


def _seal(path: Path, queries: Tensor) -> str:
    """Whose features they are and the SHA-256 of their bytes; one entry: safetensors keeps no order of several."""
    return f"{path.stem} {hashlib.sha256(queries.contiguous().numpy().tobytes()).hexdigest()}"


def encode_prompts(backbone: Backbone, prompts: list[str], device: torch.device) -> Tensor:
    """Normalised text features of prompts, ``(N, dim)`` float32, in the given order."""
    return F.normalize(prompt_features(backbone, prompts, device), dim=-1)


@torch.inference_mode()
def prompt_features(backbone: Backbone, prompts: list[str], device: torch.device) -> Tensor:
    """Text features of prompts as the tower gives them, ``(N, dim)`` float32, in the given order."""
    tokens = backbone.tokenizer(prompts)
    tower = _CausalTower(backbone.model, device) if _is_causal(backbone.model) else _PaddedTower(backbone.model, device)
    lengths = tokens.argmax(dim=1) + 1  # the end-of-text token has the largest id
    order = lengths.argsort(stable=True)
    features = [tower(tokens[rows], int(lengths[rows].max())) for rows in order.split(_BATCH)]
    out = torch.empty(len(prompts), features[0].shape[1], device=device)
    out[order.to(device)] = torch.cat(features).float()
    return out


def _is_causal(model: Any) -> bool:
    wanted = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")
    return (
        all(hasattr(model, name) for name in wanted)
        and getattr(model, "text_pool_type", None) == "argmax"
        and model.attn_mask is not None
        and isinstance(model.text_projection, Tensor)
    )


class _CausalTower:
    """CLIP's text transformer, run on the tokens up to the longest prompt of a batch."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self.device = device
        self.tokens = model.token_embedding.weight.detach().to(device).float()
        self.position = model.positional_embedding.detach().to(device).float()
        self.blocks = vit.read_blocks(model, device, torch.float32)
        self.ln_final = vit.read_norm(model.ln_final, device)
        self.projection = model.text_projection.detach().to(device).float()

    def __call__(self, tokens: Tensor, length: int) -> Tensor:
        tokens = tokens[:, :length].to(self.device)
        x = F.embedding(tokens, self.tokens) + self.position[:length]
        for block in self.blocks:
            x = vit.run_block(block, x, causal=True)
        last = vit.norm(x[torch.arange(len(x)), tokens.argmax(dim=1)], self.ln_final)
        return last @ self.projection


class _PaddedTower:
    """Any other text tower: the model's own ``encode_text`` at full length."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self.model, self.device = model, device

    def __call__(self, tokens: Tensor, length: int) -> Tensor:  # noqa: ARG002
        home = next(self.model.parameters()).device
        features: Tensor = self.model.encode_text(tokens.to(home))
        return features.to(self.device)


def _cache_key(backbone: Backbone, vocabulary: Vocabulary, device: torch.device, unit_prompts: bool) -> str:
    tokenizer = backbone.tokenizer
    probe = tokenizer(["A photo of 3 zebra-crossings, naïve!"])
    fields = [
        "v2",  # of the file: with its key and checksum
        backbone.sha256,
        repr(backbone.model),  # weights alone do not say which activation is used
        type(tokenizer).__name__,
        probe.tolist(),
        vocabulary.templates,
        vocabulary.queries,
        device.type,
        *([] if unit_prompts else ["prompts not normalised"]),
    ]
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()
