"""Backbones: an open_clip model, its tokenizer, and proof of what they are."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .checkpoints import check_keys, file_sha256, read_tensors, state_sha256
from .errors import UserError, did_you_mean
from .vit import activation_name

TINY_CLIP = "tiny-clip"
TINY_CLIP_FOLDER = Path(__file__).parent / "tiny_clip"
TINY_CLIP_NOTE = "tiny in-house model on synthetic scenes: ranks do not transfer"
Tokenizer = Callable[[list[str]], Tensor]


@dataclass(frozen=True)
class Backbone:
    """An ``open_clip`` model in float32 on the CPU, with its tokenizer.

    ``name`` is open_clip's model name (or the class name of a module made by the caller), ``source`` says where the
    weights came from, ``mean`` and ``std`` normalise RGB in [0, 1].
    """

    model: Any
    tokenizer: Tokenizer
    name: str
    source: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    file_sha256: str | None = None

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
        """Name, source, hash and activation, as JSON values."""
        activation = activation_name(self.model.visual)
        return {"name": self.name, "source": self.source, "sha256": self.sha256, "activation": activation}


def list_backbones() -> dict[str, list[str]]:
    """Model names that the dense-CLIP methods accept, each with open_clip's pretrained tags."""
    import open_clip

    names = [n for n in open_clip.list_models() if n.startswith("ViT-") and "SigLIP" not in n and "CLIPA" not in n]
    return {TINY_CLIP: ["embedded"], **{n: open_clip.list_pretrained_tags_by_model(n) for n in names}}


def load_backbone(name: str, weights: Path | None = None, allow_download: bool = False) -> Backbone:
    """Load a backbone by name.

    ``name`` is ``tiny-clip``, or an open_clip model name with a pretrained tag (``ViT-B-16-quickgelu/openai``), or a
    model name alone together with ``weights``, a local checkpoint (safetensors, or a pickle of tensors only).

    Nothing is downloaded unless ``allow_download``.  The activation is asserted: OpenAI, MetaCLIP and DFN weights need
    QuickGELU, and open_clip from 2.29 on builds plain GELU for ``ViT-B-16/openai`` with no more than a warning.

    Raises ``UserError`` when the name is unknown, weights are absent or damaged, or the activation is the wrong one.
    """
    import open_clip

    if name == TINY_CLIP:
        if weights is not None:
            raise UserError("tiny-clip has its weights embedded: leave out --weights, or name an open_clip model")
        return _load_tiny_clip()
    model_name, _, tag = name.partition("/")
    if model_name not in open_clip.list_models():
        raise UserError(f"unknown backbone {model_name!r}{_known_backbones(model_name)}")
    if (weights is None) == (not tag):
        raise UserError(
            f"backbone {name!r} needs either a pretrained tag ({model_name}/TAG) or --weights FILE, and not both"
        )
    if weights is None:
        weights, source = _cached_weights(model_name, tag, allow_download)
        statistics = _statistics(open_clip.get_pretrained_cfg(model_name, tag))
    else:
        source, statistics = f"file {weights.name}", _statistics()
    with _without_warning("No pretrained weights loaded"):  # they are, one line below
        model = open_clip.create_model(model_name, pretrained=None, precision="fp32", device="cpu")
    model.load_state_dict(read_state_dict(weights, model))
    model.eval()
    if tag:
        _assert_activation(model, model_name, tag)
    sha256 = file_sha256(weights)
    return Backbone(model, open_clip.get_tokenizer(model_name), model_name, source, *statistics, file_sha256=sha256)


def read_state_dict(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """Read a checkpoint and check its keys and shapes against ``model``.

    Safetensors, or a pickle of tensors opened with ``weights_only=True``; a nested ``state_dict`` and the prefix
    ``module.`` are unwrapped.  Raises ``UserError`` that names the file and the keys.
    """
    state = read_tensors(path, nests=("state_dict",), prefixes=("module.",))
    state.pop("attn_mask", None)  # a constant that older checkpoints contain
    check_keys(path, state, {key: tuple(value.shape) for key, value in model.state_dict().items()})
    return state


def _load_tiny_clip() -> Backbone:
    import json

    import open_clip
    from open_clip.tokenizer import SimpleTokenizer

    config = json.loads((TINY_CLIP_FOLDER / "open_clip_config.json").read_text())
    path = TINY_CLIP_FOLDER / "open_clip_model.safetensors"
    model = open_clip.CLIP(**config["model_cfg"])
    model.load_state_dict(read_state_dict(path, model))
    model.eval()
    context = config["model_cfg"]["text_cfg"]["context_length"]
    tokenizer = SimpleTokenizer(str(TINY_CLIP_FOLDER / "bpe.txt.gz"), context_length=context)
    statistics = _statistics(config["preprocess_cfg"])
    return Backbone(model, tokenizer, TINY_CLIP, "embedded", *statistics, file_sha256=file_sha256(path))


def _cached_weights(model_name: str, tag: str, allow_download: bool) -> tuple[Path, str]:
    """Path of a pretrained file in the Hugging Face cache, and where it is from."""
    import open_clip
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    config = open_clip.get_pretrained_cfg(model_name, tag)
    if not config:
        raise UserError(
            f"backbone {model_name!r} has no pretrained tag {tag!r}"
            f"{did_you_mean(tag, open_clip.list_pretrained_tags_by_model(model_name))}"
        )
    repository, _, file = config.get("hf_hub", "").rpartition("/")
    if not repository:
        raise UserError(f"{model_name}/{tag} is not on the Hugging Face hub: download it and pass --weights FILE")
    for candidate in [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]:
        found = try_to_load_from_cache(repository, candidate)
        if allow_download and not isinstance(found, str):
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
    raise UserError(
        f"weights of {model_name}/{tag} are not on this machine.  Fetch them once with\n"
        f"  hf download {repository} open_clip_model.safetensors\n"
        "or let this run do it with --allow-download, or pass a local file with --weights FILE"
    )


def _not_fetched(repository: str, file: str, error: Exception) -> str:
    return f"{repository}/{file} could not be fetched ({error}).  Try again, or pass a local file with --weights FILE"


def _assert_activation(model: Any, model_name: str, tag: str) -> None:
    import open_clip

    needed = "quick_gelu" if open_clip.get_pretrained_cfg(model_name, tag).get("quick_gelu") else "gelu"
    for tower in (model.visual, model):
        if hasattr(tower, "transformer") and activation_name(tower) != needed:
            other = f"{model_name.removesuffix('-quickgelu')}{'-quickgelu' if needed == 'quick_gelu' else ''}"
            raise UserError(
                f"weights {tag!r} were trained with {needed}, but {model_name} builds {activation_name(tower)}: "
                f"numbers would be wrong.  Use --backbone {other}/{tag}"
            )


def _statistics(config: dict[str, Any] | None = None) -> tuple[Any, Any]:
    from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    config = config or {}
    return tuple(config.get("mean", OPENAI_DATASET_MEAN)), tuple(config.get("std", OPENAI_DATASET_STD))


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


def _known_backbones(given: str) -> str:
    known = did_you_mean(given, list_backbones()).partition(" Known:")[0]
    return known + " See `bench list backbones`"
