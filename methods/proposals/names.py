"""Names of proposers; protocols use them without torch."""

from typing import Literal

ProposerName = Literal[
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
    "files",
]
