"""Harness: protocol, decoding, counting, runs, reports and the command line.

Names are imported on first use, so that ``bench --help`` does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .decoding.decode import decode
    from .decoding.rule import DecodeRule
    from .metrics.counting import count
    from .metrics.counts import Counts
    from .metrics.result import EvalResult
    from .protocol.protocol import Protocol, Setting, load_protocol
    from .runs.evaluation import evaluate

_HOMES = {
    "Counts": "metrics.counts",
    "DecodeRule": "decoding.rule",
    "EvalResult": "metrics.result",
    "Protocol": "protocol.protocol",
    "Setting": "protocol.protocol",
    "count": "metrics.counting",
    "decode": "decoding.decode",
    "evaluate": "runs.evaluation",
    "load_protocol": "protocol.protocol",
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
