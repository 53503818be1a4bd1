"""Methods: from an image and a vocabulary to a score field.  Nothing here knows data sets, metrics or files of runs.

Names are imported on first use, so that ``import ovss.methods`` is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .blocks.dense_clip import DenseClip, LastBlock
    from .core.errors import UserError
    from .core.info import MethodInfo
    from .core.method import Method, Words
    from .core.options import Options
    from .core.picture import Picture, Windows
    from .core.score_field import ScoreField
    from .core.vocabulary import Vocabulary
    from .core.window_method import WindowMethod
    from .core.windows import Box, WindowGeometry
    from .models.backbone import Backbone, load_backbone
    from .names import list_methods
    from .registry import create_method, find_method

_HOMES = {
    "Backbone": "models.backbone",
    "Box": "core.windows",
    "DenseClip": "blocks.dense_clip",
    "LastBlock": "blocks.dense_clip",
    "MethodInfo": "core.info",
    "ScoreField": "core.score_field",
    "Method": "core.method",
    "Options": "core.options",
    "Picture": "core.picture",
    "UserError": "core.errors",
    "Vocabulary": "core.vocabulary",
    "WindowGeometry": "core.windows",
    "WindowMethod": "core.window_method",
    "Windows": "core.picture",
    "Words": "core.method",
    "create_method": "registry",
    "find_method": "registry",
    "list_methods": "names",
    "load_backbone": "models.backbone",
}

__all__ = [
    "Backbone",
    "Box",
    "DenseClip",
    "LastBlock",
    "Method",
    "MethodInfo",
    "Options",
    "Picture",
    "ScoreField",
    "UserError",
    "Vocabulary",
    "WindowGeometry",
    "WindowMethod",
    "Windows",
    "Words",
    "create_method",
    "find_method",
    "list_methods",
    "load_backbone",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
