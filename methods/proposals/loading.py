"""Finding a proposer by its name."""

import importlib
from typing import Any, cast, get_args

from ..core.errors import UserError, did_you_mean
from ..core.options import options_type, read_options
from .base import Proposer, ProposerParts
from .names import ProposerName

_BUILT_IN: dict[ProposerName, str] = {
    "felzenszwalb": ".superpixels:Felzenszwalb",
    "slic": ".superpixels:Slic",
    "clip-clusters": ".clusters:ClipClusters",
    "dino-clusters": ".clusters:DinoClusters",
    "ncut": ".clusters:NormalisedCuts",
    "maskformer": ".transformers_masks:MaskFormer",
    "mask2former": ".transformers_masks:Mask2Former",
    "eomt": ".transformers_masks:Eomt",
    "sam": ".sam:Sam",
    "sam2": ".sam:Sam2",
    "files": ".mask_files:MaskFiles",
}


def list_proposers() -> list[str]:
    """Names of the proposers."""
    return list(get_args(ProposerName))


def find_proposer(name: str) -> type[Proposer]:
    """The class of a proposer.  Raises ``UserError`` for an unknown name."""
    if name not in get_args(ProposerName):
        raise UserError(f"unknown proposer {name!r}{did_you_mean(name, list_proposers())}")
    module, _, attribute = _BUILT_IN[cast(ProposerName, name)].partition(":")
    found: type[Proposer] = getattr(importlib.import_module(module, __package__), attribute)
    return found


def load_proposer(name: str, parts: ProposerParts, **options: Any) -> Proposer:
    """The proposer of that name with its own ``options``.

    Raises ``UserError`` for an unknown name, an option that is not allowed, and absent weights.
    """
    kind = find_proposer(name)
    return kind(parts, read_options(options_type(kind), options, f"proposer {name!r}"))
