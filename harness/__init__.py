"""Harness: protocol, decoding, counting, runs, reports and the command line.

Names are imported on first use, so that ``bench --help`` does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .count import Counts, count
    from .decode import DecodeRule, decode
    from .evaluate import evaluate
    from .protocol import Protocol, Setting, load_protocol
    from .result import EvalResult

_HOMES = {
    "Counts": "count",
    "DecodeRule": "decode",
    "EvalResult": "result",
    "Protocol": "protocol",
    "Setting": "protocol",
    "count": "count",
    "decode": "decode",
    "evaluate": "evaluate",
    "load_protocol": "protocol",
}

__all__ = [
    "Counts",
    "DecodeRule",
    "EvalResult",
    "Protocol",
    "Setting",
    "count",
    "decode",
    "evaluate",
    "load_protocol",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value  # a function may have the name of its module: importing the module must not win
    return value
