"""Methods: from an image and a vocabulary to a score field.  Nothing here knows data sets, metrics or files of runs.

Names are imported on first use, so that ``import ovss.methods`` is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backbone import Backbone, load_backbone
    from .dense_clip import DenseClip, LastBlock
    from .errors import UserError
    from .names import list_methods
    from .registry import create_method, find_method
    from .score_field import ScoreField
    from .segmenter import MethodInfo, Segmenter
    from .vocabulary import Vocabulary
    from .windows import Box, WindowGeometry

_HOMES = {
    "Backbone": "backbone",
    "Box": "windows",
    "DenseClip": "dense_clip",
    "LastBlock": "dense_clip",
    "MethodInfo": "segmenter",
    "ScoreField": "score_field",
    "Segmenter": "segmenter",
    "UserError": "errors",
    "Vocabulary": "vocabulary",
    "WindowGeometry": "windows",
    "create_method": "registry",
    "find_method": "registry",
    "list_methods": "names",
    "load_backbone": "backbone",
}

__all__ = [
    "Backbone",
    "Box",
    "DenseClip",
    "LastBlock",
    "MethodInfo",
    "ScoreField",
    "Segmenter",
    "UserError",
    "Vocabulary",
    "WindowGeometry",
    "create_method",
    "find_method",
    "list_methods",
    "load_backbone",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
