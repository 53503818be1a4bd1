"""Names of CLIP backbones, and what can be said about a request for one before anything heavy is imported."""

import difflib
import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from ..core.errors import UserError

TINY_CLIP = "tiny-clip"
_ALIKE = 0.6  # as in difflib.get_close_matches


def model_names() -> list[str]:
    """Every model that open_clip has a configuration of, from the names of its files: importing it takes seconds."""
    spec = find_spec("open_clip")
    folders = spec.submodule_search_locations if spec else None
    return sorted(path.stem for folder in folders or () for path in Path(folder, "model_configs").glob("*.json"))


def is_dense(model: str) -> bool:
    """Whether the dense-CLIP methods accept a model, as far as its name says."""
    return model.startswith("ViT-") and "SigLIP" not in model and "CLIPA" not in model


def resolve_backbone(name: str, known: Iterable[str]) -> tuple[str, str]:
    """Model and pretrained tag ("" if there is none) of a name, for ``known`` models.

    OpenAI's spelling and any case will do: the slash of ``ViT-B/16`` is part of the model, that of
    ``ViT-B-16/openai`` is not.

    >>> resolve_backbone("vit-b/16/openai", ["ViT-B-16", "ViT-B-32"])
    ('ViT-B-16', 'openai')
    >>> resolve_backbone("ViT-L/14@336px", ["ViT-L-14-336"])
    ('ViT-L-14-336', '')

    Raises ``UserError`` for an unknown model, with the closest known one.
    """
    models = [*known]
    if name.partition("/")[0] in (TINY_CLIP, *models):
        model, _, tag = name.partition("/")
        return model, tag
    plain = {_plain(model): model for model in reversed(models)}
    before, _, after = name.rpartition("/")
    for model, tag in ((name, ""), (before, after)):
        if _plain(model) in plain:
            return plain[_plain(model)], tag
    pairs = [(given, model) for given in (name, before) if given for model in models if is_dense(model)]
    likeness = {pair: difflib.SequenceMatcher(None, _plain(pair[0]), _plain(pair[1])).ratio() for pair in pairs}
    given, close = max(likeness, key=lambda pair: likeness[pair], default=(name, ""))
    hint = f"; did you mean {close}?" if likeness.get((given, close), 0) > _ALIKE else "."
    raise UserError(f"unknown backbone {given!r}{hint} See `bench list backbones`")


def _plain(name: str) -> str:
    return re.sub(r"[-/@_ ]+", "-", name.lower()).removesuffix("px")


def check_backbone_request(backbone: str | None, weights: Path | None) -> None:
    """Raise ``UserError`` for what cannot work whatever the method and the data are.

    That is a file or folder of weights which is not there, an unknown backbone, and a backbone with a tag and a file,
    or with neither.  Imports nothing heavy and reads no weights, so it is the first thing that a command does.
    """
    if weights is not None and not weights.exists():
        raise UserError(f"weights file {weights} does not exist{_neighbour(weights)}")
    if backbone is not None:
        check_backbone_parts(backbone, *resolve_backbone(backbone, model_names()), weights)


def check_backbone_parts(name: str, model: str, tag: str, weights: Path | None) -> None:
    """Raise ``UserError`` unless a resolved name goes together with ``weights``."""
    if model == TINY_CLIP:
        if weights is not None:
            raise UserError("tiny-clip has its weights embedded: leave out --weights, or name an open_clip model")
        if tag:
            raise UserError(f"tiny-clip has no pretrained tags: leave out /{tag}")
    elif (weights is None) == (not tag):
        raise UserError(
            f"backbone {name!r} needs either a pretrained tag ({model}/TAG) or --weights FILE, and not both"
        )


def _neighbour(path: Path) -> str:
    """The file beside it that is probably meant."""
    there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, there, n=1)
    return f"; did you mean {path.with_name(close[0])}?" if close else ""
