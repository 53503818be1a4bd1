"""Harness: protocol, decoding, counting, runs, reports and the command line.

Names are imported on first use, so that ``bench --help`` does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .counting import Counts, count
    from .decode_rule import DecodeRule
    from .decoding import decode
    from .evaluation import evaluate
    from .protocol import Protocol, Setting, load_protocol
    from .result import EvalResult

_HOMES = {
    "Counts": "counting",
    "DecodeRule": "decode_rule",
    "EvalResult": "result",
    "Protocol": "protocol",
    "Setting": "protocol",
    "count": "counting",
    "decode": "decoding",
    "evaluate": "evaluation",
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
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
