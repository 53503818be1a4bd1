"""Guide: a model that looks at an image and says which places belong together.

Refiners of this kind work on the score field of any method: its maps, brought to the guide's grid, are pushed along the
guide's affinities (``R S``, with R made from attention or similarity) before they become pixels.

A label guide works on what comes after: it is given the label map of any method, with the probabilities of the classes
that it asks for, and gives another label map.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ..core.picture import Picture

Probability = Callable[[int], Tensor]
"""How sure a method is of a class at each pixel: the number of a class -> ``(H, W)`` float32, made when it is asked."""


class Affinity(Protocol):
    """What a guide saw in one image."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the maps that ``propagate`` takes."""

    def propagate(self, maps: Tensor) -> Tensor:
        """Refined maps: ``(k, rows, columns)`` float32 -> the same shape; each map on its own, linear in the maps."""


class Guide(Protocol):
    """A loaded model with its options."""

    @property
    def provenance(self) -> dict[str, Any]:
        """Weights and options that can move a number, as JSON values."""

    @property
    def note(self) -> str:
        """What has to be said beside every number made with it; usually nothing."""

    def observe(self, image: Tensor, name: str) -> Affinity:
        """Look at ``image``, ``(3, H, W)`` uint8 RGB at its original size.

        ``name`` is the image's own name (its id in a data set): noise that the guide draws depends on it, the seed and
        nothing else.
        """


class Correction(Protocol):
    """What a label guide saw in one picture."""

    def corrected(self, labels: Tensor, num_classes: int, probability: Probability) -> Tensor:
        """Other labels: ``(H, W)`` at the picture's own size, as decoded -> the same shape and type."""


@runtime_checkable
class LabelGuide(Protocol):
    """A loaded model that corrects labels, with its options."""

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Guide.provenance``."""

    @property
    def note(self) -> str:
        """See ``Guide.note``."""

    def look(self, picture: Picture) -> Correction:
        """Look at the picture at its own size; what others have computed of it is asked of the picture."""
