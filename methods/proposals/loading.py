"""Finding a proposer by its name."""

import importlib
import inspect
from typing import Any

from ..core.errors import UserError, did_you_mean
from .base import Proposer, ProposerParts

_BUILT_IN = {
    "felzenszwalb": ".superpixels:Felzenszwalb",
    "slic": ".superpixels:Slic",
    "clip-clusters": ".clusters:ClipClusters",
    "dino-clusters": ".clusters:DinoClusters",
    "ncut": ".clusters:NormalisedCuts",
    "maskformer": ".transformers_masks:MaskFormer",
    "mask2former": ".transformers_masks:Mask2Former",
    "sam": ".sam:Sam",
    "files": ".mask_files:MaskFiles",
}


def list_proposers() -> list[str]:
    """Names of the proposers."""
    return list(_BUILT_IN)


def load_proposer(name: str, parts: ProposerParts, **options: Any) -> Proposer:
    """The proposer of that name with its own ``options``.

    Raises ``UserError`` for an unknown name, an option that this proposer does not have, and absent weights.
    """
    if name not in _BUILT_IN:
        raise UserError(f"unknown proposer {name!r}{did_you_mean(name, _BUILT_IN)}")
    module, _, attribute = _BUILT_IN[name].partition(":")
    kind: Any = getattr(importlib.import_module(module, __package__), attribute)
    known = list(inspect.signature(kind).parameters)[1:]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise UserError(
            f"neither the method nor its proposer {name!r} has an option {', '.join(unknown)}; the proposer's own are "
            f"{', '.join(known) or 'none'}"
        )
    found: Proposer = kind(parts, **options)
    return found


def require(right: bool, name: str, value: object, wanted: str) -> None:
    """Raise ``UserError`` about an option that is not as it has to be."""
    if not right:
        raise UserError(f"{name} is {value!r}: {wanted}")
