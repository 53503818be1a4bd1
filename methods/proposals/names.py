"""Names of proposers; protocols use them without torch."""

from typing import Literal

MakerName = Literal[
    "felzenszwalb",
    "slic",
    "clip-clusters",
    "dino-clusters",
    "ncut",
    "maskformer",
    "mask2former",
    "eomt",
    "sam",
    "sam2",
]
"""Those that look at the image."""
ProposerName = Literal[MakerName, "files"]
