"""The tiny world: procedural scenes with pixel-exact labels and captions.  NumPy only, deterministic everywhere."""

from .captions import CaptionStyle, caption_words, make_caption
from .scene import (
    CLASS_NAMES,
    SIZE_PX,
    SPLITS,
    STUFF_NAMES,
    TEST_SHA256,
    THING_NAMES,
    PlacedThing,
    Scene,
    SceneStyle,
    checksum,
    make_scene,
)
from .stream import Stream

__all__ = [
    "CLASS_NAMES",
    "SIZE_PX",
    "SPLITS",
    "STUFF_NAMES",
    "TEST_SHA256",
    "THING_NAMES",
    "CaptionStyle",
    "PlacedThing",
    "Scene",
    "SceneStyle",
    "Stream",
    "caption_words",
    "checksum",
    "make_caption",
    "make_scene",
]
