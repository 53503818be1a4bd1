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
    from .report.claims import list_claims
    from .report.leaderboard import leaderboard
    from .runs.evaluation import evaluate
    from .runs.plan import RunSpec
    from .runs.run import find_run
    from .use.bring_in import import_runs
    from .use.compare import compare
    from .use.export import export_runs
    from .use.fetch import fetch_weights
    from .use.pairs import every_pair
    from .use.photo import segment_photo
    from .use.reproduce import reproduce
    from .use.run import run
    from .use.site import report_site
    from .use.suite import run_suite
    from .use.suite_file import read_suite
    from .use.suite_plan import plan_suite

_HOMES = {
    "Counts": "metrics.counts",
    "DecodeRule": "decoding.rule",
    "EvalResult": "metrics.result",
    "Protocol": "protocol.protocol",
    "RunSpec": "runs.plan",
    "Setting": "protocol.protocol",
    "compare": "use.compare",
    "count": "metrics.counting",
    "decode": "decoding.decode",
    "evaluate": "runs.evaluation",
    "every_pair": "use.pairs",
    "fetch_weights": "use.fetch",
    "export_runs": "use.export",
    "find_run": "runs.run",
    "import_runs": "use.bring_in",
    "leaderboard": "report.leaderboard",
    "list_claims": "report.claims",
    "load_protocol": "protocol.protocol",
    "plan_suite": "use.suite_plan",
    "read_suite": "use.suite_file",
    "report_site": "use.site",
    "reproduce": "use.reproduce",
    "run": "use.run",
    "run_suite": "use.suite",
    "segment_photo": "use.photo",
}

__all__ = [
    "Counts",
    "DecodeRule",
    "EvalResult",
    "Protocol",
    "RunSpec",
    "Setting",
    "compare",
    "count",
    "decode",
    "evaluate",
    "every_pair",
    "export_runs",
    "fetch_weights",
    "find_run",
    "import_runs",
    "leaderboard",
    "list_claims",
    "load_protocol",
    "plan_suite",
    "read_suite",
    "report_site",
    "reproduce",
    "run",
    "run_suite",
    "segment_photo",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
