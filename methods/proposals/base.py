"""What a proposer is, and regions of a label map as masks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..models.vit import VisionTransformer

SMALLEST_PART = 1e-3
"""Connected parts of a region below this share of the image are dropped."""


@dataclass(frozen=True)
class Proposals:
    """``masks`` ``(Q, h, w)`` float32 in [0, 1], at the size of the image; they may overlap and leave holes.

    ``objectness`` ``(Q, 1)`` float32 in [0, 1] says how sure the proposer is that a mask is something; None: no idea.
    """

    masks: Tensor
    objectness: Tensor | None = None


@dataclass(frozen=True)
class ProposerParts:
    """What a proposer may need of the method that it works for.

    ``vision`` is the image tower, ``mean`` and ``std`` normalise RGB in [0, 1] for it.  ``weights`` is what the user
    named as the proposer's own weights or folder: a path, or for tests the loaded part itself.
    """

    vision: VisionTransformer
    mean: Sequence[float]
    std: Sequence[float]
    device: torch.device
    dtype: torch.dtype
    weights: Any = None


class Proposer(ABC):
    """Makes masks.  Its constructor takes ``ProposerParts`` and then options, all with defaults.

    ``soft``: masks are probabilities, not 0 and 1.  ``supervision`` says what masks it was trained with, "" for none.
    """

    name: ClassVar[str]
    soft: ClassVar[bool] = False
    supervision: str = ""

    @abstractmethod
    def propose(self, image: Tensor) -> Proposals:
        """Masks of an image, ``(3, h, w)`` uint8 RGB.  The same for the same image, always."""

    @property
    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Everything that can move a mask: options, weights (JSON values)."""

    @property
    def provenance(self) -> dict[str, Any]:
        """Name, supervision and options, as JSON values."""
        return {"name": self.name, "supervision": self.supervision or "none", **self.options}


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
