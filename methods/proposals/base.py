"""What a proposer is, and regions of a label map as masks."""

import json
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.options import Options, options_type
from ..core.picture import Picture
from ..models.vit import VisionTransformer

SMALLEST_PART = 1e-3
"""Connected parts of a region below this share of the image are dropped."""


@dataclass(frozen=True)
class Proposals:
    """``masks`` ``(Q, h, w)`` float32 in [0, 1], at the size of ``Picture.pixels``; they may overlap and leave holes.

    ``objectness`` ``(Q, 1)`` float32 in [0, 1] says how sure the proposer is that a mask is something; None: no idea.
    """

    masks: Tensor
    objectness: Tensor | None = None


@dataclass(frozen=True)
class ProposerParts:
    """What a proposer may need of the method that it works for.

    ``vision`` is the image tower, None for a method without CLIP's; ``mean`` and ``std`` normalise RGB in [0, 1] for
    it.  ``weights`` is what the user named as the proposer's own weights or folder: a path, or for tests the loaded
    part itself.
    """

    vision: VisionTransformer | None
    mean: Sequence[float]
    std: Sequence[float]
    device: torch.device
    dtype: torch.dtype
    weights: Any = None


class Proposer(ABC):
    """Makes masks.  A class with options annotates ``options`` with the type of its record, as a method does.

    ``soft``: masks are probabilities, not 0 and 1.  ``supervision`` says what masks it was trained with, "" for none.
    """

    name: ClassVar[str]
    soft: ClassVar[bool] = False
    supervision: str = ""
    options: Options

    def __init__(self, parts: ProposerParts, options: Options | None = None) -> None:
        self.device = parts.device
        self.options = options or options_type(type(self))()

    @abstractmethod
    def propose(self, picture: Picture) -> Proposals:
        """Masks of a picture.  The same for the same picture, always."""

    @property
    def provenance(self) -> dict[str, Any]:
        """Everything that can move a mask, as JSON values: name, supervision, options; subclasses add weights."""
        return {"name": self.name, "supervision": self.supervision or "none", **self.options.provenance}

    @property
    def key(self) -> Hashable:
        """The same for proposers that make the same masks on the same device."""
        return "proposals", json.dumps(self.provenance, sort_keys=True), self.device

    def look(self, picture: Picture) -> Proposals:
        """``propose``, once for all who have the same proposer."""
        return picture.once(self.key, lambda: self.propose(picture))


def masks_of(labels: NDArray[Any], split: bool, device: torch.device) -> Tensor:
    """One mask per label: ``(h, w)`` integers from 0 -> ``(Q, h, w)`` float32, 0 or 1, on ``device``.

    ``split``: one mask per 4-connected part of a label, and none for parts that are too small.
    """
    if split:
        from skimage import measure

        find: Any = measure.label
        parts = np.asarray(find(labels, background=-1, connectivity=1)) - 1
        sizes = np.bincount(parts.ravel())
        kept = np.flatnonzero(sizes >= SMALLEST_PART * labels.size)
    else:
        parts, kept = labels, np.unique(labels)
    place = torch.from_numpy(np.ascontiguousarray(parts, np.int64)).to(device)
    return (place == torch.from_numpy(kept.astype(np.int64)).to(device)[:, None, None]).float()
