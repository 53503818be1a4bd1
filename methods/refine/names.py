"""Names of guides and of their options; protocols use them without torch."""

from typing import Literal

DiffusionName = Literal["sd21", "sd15", "sd14", "tiny-sd"]
SimilarityName = Literal["dino-b16", "dino-b8", "dinov2-b14-reg"]
GuideName = Literal[DiffusionName, SimilarityName]
LabelGuideName = Literal["sam"]
"""Guides that correct labels, where the others push maps of scores."""
Fusion = Literal["chain", "mean", "selection"]
Noise = Literal["per-image", "fixed", "zero"]
"""Where the noise of a diffusion guide comes from: seed and image name, the seed alone, or there is none."""
