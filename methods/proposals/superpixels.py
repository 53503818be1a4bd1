"""Superpixels of scikit-image: partitions of the image by colour, without anything learned.

Felzenszwalb's constants are those that SegCLIP trains with, for images of 224 px (ArrowLuo/SegCLIP,
preprocess/COCO/felzenszwalb_extraction_coco.py); SLIC's are ours.
"""

from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .base import Proposals, Proposer, ProposerParts, masks_of
from .loading import require

REFERENCE_AREA_PX = 224 * 224
"""Area of the images that the constants of Felzenszwalb's method are meant for."""


class Felzenszwalb(Proposer):
    """Efficient graph-based segmentation (Felzenszwalb and Huttenlocher, IJCV 2004).

    ``scale`` and ``min_size`` (px) are for an image of 224 x 224 px and grow with the area, since the method compares
    them with numbers of pixels; ``sigma`` is the blur in px, against noise of single pixels, and does not grow.
    """

    name = "felzenszwalb"

    def __init__(self, parts: ProposerParts, scale: float = 224.0, sigma: float = 0.9, min_size: float = 224.0) -> None:
        require(scale > 0, "scale", scale, "it must be larger than 0; smaller values give smaller segments")
        require(sigma >= 0, "sigma", sigma, "it must be 0 (no blur) or more")
        require(min_size >= 1, "min_size", min_size, "it must be 1 px or more")
        self.device, self.scale, self.sigma, self.min_size = parts.device, scale, sigma, min_size

    @property
    def options(self) -> dict[str, Any]:
        """See ``Proposer.options``."""
        return {"scale": self.scale, "sigma": self.sigma, "min_size": self.min_size, **_library()}

    def propose(self, image: Tensor) -> Proposals:
        """See ``Proposer.propose``; a partition."""
        from skimage.segmentation import felzenszwalb

        growth = image[0].numel() / REFERENCE_AREA_PX
        least = max(1, round(self.min_size * growth))
        labels = felzenszwalb(_rows(image), scale=self.scale * growth, sigma=self.sigma, min_size=least)
        return Proposals(masks_of(labels, False, self.device))


class Slic(Proposer):
    """SLIC superpixels (Achanta et al., PAMI 2012): about ``segments`` of similar size, whatever the image's size."""

    name = "slic"

    def __init__(self, parts: ProposerParts, segments: int = 200, compactness: float = 10.0) -> None:
        require(segments >= 1, "segments", segments, "it must be 1 or more")
        require(compactness > 0, "compactness", compactness, "it must be larger than 0")
        self.device, self.segments, self.compactness = parts.device, segments, compactness

    @property
    def options(self) -> dict[str, Any]:
        """See ``Proposer.options``."""
        return {"segments": self.segments, "compactness": self.compactness, **_library()}

    def propose(self, image: Tensor) -> Proposals:
        """See ``Proposer.propose``; a partition."""
        from skimage.segmentation import slic

        labels = slic(_rows(image), n_segments=self.segments, compactness=self.compactness, start_label=0)
        return Proposals(masks_of(labels, False, self.device))


def _rows(image: Tensor) -> NDArray[np.uint8]:
    """``(h, w, 3)`` uint8."""
    return np.ascontiguousarray(image.permute(1, 2, 0).to(torch.uint8).cpu().numpy())


def _library() -> dict[str, str]:
    return {"scikit-image": version("scikit-image")}
