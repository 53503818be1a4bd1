"""Backbones: an open_clip model, its tokenizer, and proof of what they are."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core.errors import UserError, did_you_mean
from ..core.loaded import OWN_FILE
from ..core.tokenizer import Tokenizer
from .backbone_names import TINY_CLIP as TINY_CLIP
from .backbone_names import check_backbone_parts, is_dense, resolve_backbone
from .checkpoints import state_sha256
from .clip_checkpoint import ClipWeights, read_clip
from .vit import VisionTransformer, activation_name, read_vision
from .weight_checks import check_stored
from .weights import check_entry, find_entry, list_weights, locate

TINY_CLIP_FOLDER = Path(__file__).parent / "tiny_clip"
TINY_CLIP_NOTE = "tiny in-house model on synthetic scenes: ranks do not transfer"


@dataclass(frozen=True, eq=False)
class Backbone:
    """An ``open_clip`` model in float32 on the CPU, with its tokenizer.

    ``name`` is open_clip's model name (or the class name of a module made by the caller), ``source`` says where the
    weights came from and ``file`` is what they were read from, ``mean`` and ``std`` normalise RGB in [0, 1].
    ``activation_evidence`` says how it is known that the weights were trained with the model's activation; "" if
    nothing tells but the name that the user gave.  ``licences`` has the name of the weights and their licence.
    """

    model: Any
    tokenizer: Tokenizer
    name: str
    source: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    file_sha256: str | None = None
    file: Path | None = None
    activation_evidence: str = ""
    licences: Mapping[str, str] = field(default_factory=dict)
    _towers: dict[tuple[torch.device, torch.dtype], VisionTransformer] = field(default_factory=dict, repr=False)

    def tower(self, device: torch.device, dtype: torch.dtype) -> VisionTransformer:
        """The image tower, one for all who ask: what was computed with it can be shared.

        Raises ``UserError`` when it is not a ViT that ``vit.read_vision`` knows.
        """
        if (device, dtype) not in self._towers:
            self._towers[device, dtype] = read_vision(self.model.visual, device, dtype)
        return self._towers[device, dtype]

    @classmethod
    def from_module(cls, model: nn.Module, tokenizer: Tokenizer) -> "Backbone":
        """Wrap a module that the caller built.  It is only read, never changed."""
        visual: Any = getattr(model, "visual", None)
        if visual is None:
            raise UserError(f"{type(model).__name__} is not an open_clip model: it has no attribute 'visual'")
        mean, std = _statistics()
        return cls(
            model=model,
            tokenizer=tokenizer,
            name=type(model).__name__,
            source="module given by the caller",
            mean=getattr(visual, "image_mean", None) or mean,
            std=getattr(visual, "image_std", None) or std,
        )

    @cached_property
    def sha256(self) -> str:
        """``file:...`` for weights read from a file, ``state:...`` (over the state dict) for a module."""
        if self.file_sha256 is not None:
            return f"file:{self.file_sha256}"
        return f"state:{state_sha256(self.model.state_dict())}"

    @property
    def note(self) -> str:
        """What has to be said beside every number from these weights; empty for real ones."""
        return TINY_CLIP_NOTE if self.name == TINY_CLIP else ""

    @property
    def provenance(self) -> dict[str, Any]:
        """Name, source, hash, activation and how it is known, as JSON values."""
        activation = activation_name(self.model.visual)
        shown = {"quick_gelu": "QuickGELU", "gelu": "GELU"}[activation]
        unchecked = f"activation {shown}, by name, not checked"
        return {
            "name": self.name,
            "source": self.source,
            "sha256": self.sha256,
            "activation": activation,
            "activation_checked": bool(self.activation_evidence),
            "activation_note": self.activation_evidence or unchecked,
        }


def list_backbones() -> dict[str, list[str]]:
    """Model names that the dense-CLIP methods accept, each with open_clip's pretrained tags."""
    from .clip_library import open_clip

    names = [n for n in open_clip.list_models() if is_dense(n)]
    return {TINY_CLIP: ["embedded"], **{n: open_clip.list_pretrained_tags_by_model(n) for n in names}}


def load_backbone(name: str, weights: Path | None = None, allow_download: bool = False) -> Backbone:
    """Load a backbone by name.

    ``name`` is ``tiny-clip``, or an open_clip model name with a pretrained tag (``ViT-B-16-quickgelu/openai``), or a
    model name alone together with ``weights``, a local checkpoint in one of the forms of ``read_clip``.  OpenAI's
    spelling (``ViT-B/16``) and any case will do.

    Nothing is downloaded unless ``allow_download``.  The activation is asserted where it is known what the weights were
    trained with, by the tag, the file's SHA-256 or its configuration: OpenAI, MetaCLIP and DFN weights need QuickGELU,
    and open_clip from 2.29 on builds plain GELU for ``ViT-B-16/openai`` with no more than a warning.

    Raises ``UserError`` when the name is unknown, weights are absent, damaged or not what their name says, or the
    activation is the wrong one.
    """
    from .clip_library import open_clip

    model_name, tag = resolve_backbone(name, open_clip.list_models())
    check_backbone_parts(name, model_name, tag, weights)
    if model_name == TINY_CLIP:
        return _load_tiny_clip()
    if weights is None:
        path, source = _cached_weights(model_name, tag, allow_download)
        statistics = _statistics(open_clip.get_pretrained_cfg(model_name, tag))
    else:
        path, source, statistics = weights, f"file {weights.name}", _statistics()
    with _without_warning("No pretrained weights loaded"):  # they are, one line below
        model: Any = open_clip.create_model(model_name, pretrained=None, precision="fp32", device="cpu")
    read = read_clip(path, model)
    if tag:
        check_stored(read.file, read.sha256)
    model.load_state_dict(read.state)
    model.eval()
    return Backbone(
        model,
        open_clip.get_tokenizer(model_name),
        model_name,
        source if weights is None or not read.model else f"{source}, OpenAI's {read.model}.pt",
        *statistics,
        file_sha256=read.sha256,
        file=read.file,
        activation_evidence=_check_activation(model, model_name, tag, read),
        licences=_licence(model_name, tag, read),
    )


def locate_backbone(name: str) -> None:
    """Raise the ``UserError`` of ``load_backbone`` when no weights file of a name with a tag is on this machine.

    Takes the import of open_clip, but reads and builds nothing.
    """
    from .clip_library import open_clip

    model, tag = resolve_backbone(name, open_clip.list_models())
    if tag:
        _cached_weights(model, tag, allow_download=False)


def _load_tiny_clip() -> Backbone:
    import json

    from .clip_library import SimpleTokenizer, open_clip

    config = json.loads((TINY_CLIP_FOLDER / "open_clip_config.json").read_text())
    model = open_clip.CLIP(**config["model_cfg"])
    read = read_clip(TINY_CLIP_FOLDER / "open_clip_model.safetensors", model)
    model.load_state_dict(read.state)
    model.eval()
    context = config["model_cfg"]["text_cfg"]["context_length"]
    tokenizer = SimpleTokenizer(str(TINY_CLIP_FOLDER / "bpe.txt.gz"), context_length=context)
    statistics = _statistics(config["preprocess_cfg"])
    evidence = "configuration beside the weights"
    return Backbone(model, tokenizer, TINY_CLIP, "embedded", *statistics, read.sha256, read.file, evidence)


def _cached_weights(model_name: str, tag: str, allow_download: bool) -> tuple[Path, str]:
    """Path of a pretrained file on this machine, and where it is from."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    from .clip_library import open_clip

    config = open_clip.get_pretrained_cfg(model_name, tag)
    if not config:
        raise UserError(
            f"backbone {model_name!r} has no pretrained tag {tag!r}"
            f"{did_you_mean(tag, open_clip.list_pretrained_tags_by_model(model_name))}"
        )
    repository, _, file = config.get("hf_hub", "").rpartition("/")
    if not repository:
        raise UserError(f"{model_name}/{tag} is not on the Hugging Face hub: download it and pass --weights FILE")
    own = _original(model_name, tag)
    for candidate in [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]:
        found = try_to_load_from_cache(repository, candidate)
        if allow_download and own is None and not isinstance(found, str):
            try:
                found = hf_hub_download(repository, candidate)
            except LocalEntryNotFoundError as error:  # also an EntryNotFoundError, so it comes first
                raise UserError(_not_fetched(repository, candidate, error)) from error
            except EntryNotFoundError:
                continue
            except (OSError, HfHubHTTPError) as error:
                raise UserError(_not_fetched(repository, candidate, error)) from error
        if isinstance(found, str):
            return Path(found), f"hub {repository}@{Path(found).parent.name[:12]}"
    if own is not None:
        return own, f"OpenAI's {own.name}"
    raise UserError(
        f"weights of {model_name}/{tag} are not on this machine.  Fetch them once with\n"
        f"  hf download {repository} open_clip_model.safetensors\n"
        "or let this run do it with --allow-download, or pass a local file with --weights FILE"
    )


def _original(model_name: str, tag: str) -> Path | None:
    """OpenAI's own file of a model, where ``bench weights fetch`` or a mirror put it; checked against its SHA-256."""
    name = f"{model_name.removesuffix('-quickgelu').lower().replace('vit', 'clip-vit')}-openai-original"
    if tag != "openai" or name not in list_weights():
        return None
    found = locate(find_entry(name))
    if found is None:
        return None
    check_entry(found)
    return found.path


def _not_fetched(repository: str, file: str, error: Exception) -> str:
    return f"{repository}/{file} could not be fetched ({error}).  Try again, or pass a local file with --weights FILE"


def _check_activation(model: Any, model_name: str, tag: str, read: ClipWeights) -> str:
    """How the activation is known, "" if it is not.  Raises ``UserError`` when the model has another."""
    from .clip_library import open_clip

    needed, evidence = read.activation, read.evidence
    if tag:
        quick = open_clip.get_pretrained_cfg(model_name, tag).get("quick_gelu")
        needed, evidence = "quick_gelu" if quick else "gelu", f"pretrained tag {tag!r}"
    for tower in (model.visual, model):
        if needed and hasattr(tower, "transformer") and activation_name(tower) != needed:
            other = f"{model_name.removesuffix('-quickgelu')}{'-quickgelu' if needed == 'quick_gelu' else ''}"
            raise UserError(
                f"these weights were trained with {needed} ({evidence}), but {model_name} builds "
                f"{activation_name(tower)}: numbers would be wrong.  Use --backbone {other}{f'/{tag}' if tag else ''}"
            )
    return evidence


def _licence(model_name: str, tag: str, read: ClipWeights) -> dict[str, str]:
    """Name of the weights and their licence."""
    from .clip_library import open_clip

    if read.model:
        return {f"OpenAI's {read.model}.pt": "unknown for the weights; OpenAI's code is MIT"}
    if not tag:
        return {f"file {read.file.name}": OWN_FILE}
    hub = open_clip.get_pretrained_cfg(model_name, tag).get("hf_hub", "").strip("/")
    entry = next((e for e in list_weights().values() if e.hub == hub), None)
    return {entry.name: entry.licence} if entry else {f"{model_name}/{tag}": "unknown (not in the catalogue)"}


def _statistics(config: dict[str, Any] | None = None) -> tuple[Any, Any]:
    from .clip_library import open_clip

    config = config or {}
    return tuple(config.get("mean", open_clip.OPENAI_DATASET_MEAN)), tuple(
        config.get("std", open_clip.OPENAI_DATASET_STD)
    )


@contextmanager
def _without_warning(beginning: str) -> Iterator[None]:
    """Keep log records that begin so from the root logger's handlers."""

    def other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(beginning)

    root = logging.getLogger()
    root.addFilter(other)
    try:
        yield
    finally:
        root.removeFilter(other)
