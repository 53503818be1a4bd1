"""Superpixels of scikit-image: partitions of the image by colour, without anything learned.

Felzenszwalb's constants are those that SegCLIP trains with, for images of 224 px (ArrowLuo/SegCLIP,
preprocess/COCO/felzenszwalb_extraction_coco.py); SLIC's are ours.
"""

from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..core.options import Options
from ..core.picture import Picture
from .base import Proposals, Proposer, masks_of

REFERENCE_AREA_PX = 224 * 224
"""Area of the images that the constants of Felzenszwalb's method are meant for."""


class FelzenszwalbOptions(Options):
    """Sizes are those in an image of 224 x 224 px and grow with the area: they are compared with numbers of pixels."""

    scale: float = Field(224.0, gt=0, description="smaller values give smaller segments; for 224 x 224 px")
    sigma: float = Field(0.9, ge=0, description="blur in px, against noise of single pixels, whatever the image's size")
    min_size: float = Field(224.0, ge=1, description="smallest segment in px; for 224 x 224 px")


class _Superpixels(Proposer):
    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Proposer.provenance``."""
        return {**super().provenance, "scikit-image": version("scikit-image")}


class Felzenszwalb(_Superpixels):
    """Efficient graph-based segmentation (Felzenszwalb and Huttenlocher, IJCV 2004)."""

    name = "felzenszwalb"
    options: FelzenszwalbOptions

    def propose(self, picture: Picture) -> Proposals:
        """See ``Proposer.propose``; a partition."""
        from skimage.segmentation import felzenszwalb

        growth = picture.pixels[0].numel() / REFERENCE_AREA_PX
        scale, least = self.options.scale * growth, max(1, round(self.options.min_size * growth))
        labels = felzenszwalb(_rows(picture), scale=scale, sigma=self.options.sigma, min_size=least)
        return Proposals(masks_of(labels, False, self.device))


class SlicOptions(Options):
    """Options of ``Slic``."""

    segments: int = Field(200, ge=1, description="about how many segments, of similar size, whatever the image's size")
    compactness: float = Field(10.0, gt=0, description="larger values give squarer segments")


class Slic(_Superpixels):
    """SLIC superpixels (Achanta et al., PAMI 2012)."""

    name = "slic"
    options: SlicOptions

    def propose(self, picture: Picture) -> Proposals:
        """See ``Proposer.propose``; a partition."""
        from skimage.segmentation import slic

        asked = self.options
        labels = slic(_rows(picture), n_segments=asked.segments, compactness=asked.compactness, start_label=0)
        return Proposals(masks_of(labels, False, self.device))


def _rows(picture: Picture) -> NDArray[np.uint8]:
    """``(h, w, 3)`` uint8."""
    return np.ascontiguousarray(picture.pixels.permute(1, 2, 0).cpu().numpy())
