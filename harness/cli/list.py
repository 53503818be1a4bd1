"""``bench list``: the catalogues."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ...datasets import list_datasets
from ...methods import MethodInfo, UserError, list_methods
from ...methods.core.errors import did_you_mean
from ...methods.models.weights import licences
from ..protocol.protocol import list_protocols, load_protocol
from ..show.tables import print_json, print_line, print_table
from ..use.pairs import method_info

_LONG = ("trained on", "further weights", "paper")
"""What is told of one method, and not in the table of all."""

_ELSEWHERE = ("runs",)
"""Lists that are no catalogues (``list_runs``)."""


def list_command(what: str, name: str | None, as_json: bool) -> None:
    """Print one catalogue, or one entry of it with its options."""
    tables: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "methods": _methods,
        "proposers": _proposers,
        "datasets": _datasets,
        "protocols": _protocols,
        "backbones": _backbones,
        "suites": _suites,
    }
    if what not in tables and not (name and what in _ELSEWHERE):
        raise UserError(f"cannot list {what!r}{did_you_mean(what, [*tables, *_ELSEWHERE])}")
    if name is not None:
        _list_one(what, name, as_json)
        return
    rows = tables[what]()
    if as_json:
        print_json(rows)
        return
    shown = [name for name in rows[0] if name not in _LONG]
    print_table("", shown, [[row[name] for name in shown] for row in rows])
    if len(shown) < len(rows[0]):
        print_line(f"{', '.join(k for k in rows[0] if k in _LONG)} and options: bench list {what} NAME")


def _list_one(what: str, name: str, as_json: bool) -> None:
    """A method or a proposer: what it is, and a table of its options."""
    from ...methods import find_method
    from ...methods.core.options import describe_options, options_type
    from ...methods.proposals.loading import find_proposer

    if what not in ("methods", "proposers"):
        raise UserError(f"bench list {what} takes no name: methods and proposers do")
    found: type = find_method(name) if what == "methods" else find_proposer(name)
    about = _method_row(name) if what == "methods" else {"proposer": name, "what": (found.__doc__ or "").split("\n")[0]}
    options = [asdict(row) for row in describe_options(options_type(found))]
    if as_json:
        print_json({**about, "options": options})
        return
    for key, value in about.items():
        print_line(f"{key}: {value}")
    if options:
        print_table("options", ("option", "allowed", "default", "meaning"), [list(row.values()) for row in options])
    else:
        print_line("no options")


def _proposers() -> list[dict[str, Any]]:
    from ...methods.proposals.loading import find_proposer, list_proposers

    return [{"proposer": n, "what": (find_proposer(n).__doc__ or "").split("\n")[0]} for n in list_proposers()]


def _methods() -> list[dict[str, Any]]:
    return [_method_row(name) for name in list_methods()]


def _method_row(name: str) -> dict[str, Any]:
    try:
        info = method_info(name)
    except UserError as error:  # one broken plug-in must not hide the other methods
        info = MethodInfo(name, title=f"broken: {error}", paper="", trained_on="", backbone="")
    return {
        "method": name,
        "title": info.title,
        "training-free": "yes" if info.training_free else "no",
        "trained on": info.trained_on,
        "default backbone": info.backbone or "its own weights",
        "further weights": "; ".join(f"{weights}: {text}" for weights, text in licences(name).items()) or "none",
        "paper": info.paper,
    }


def _datasets() -> list[dict[str, Any]]:
    return [
        {
            "data set": key,
            "title": r.title,
            "split": r.split,
            "images": r.expected_images,
            "classes": len(r.classes),
            "background": "none" if r.background is None else r.classes[r.background],
            "protocol": r.protocol,
        }
        for key, r in list_datasets().items()
    ]


def _protocols() -> list[dict[str, Any]]:
    loaded = [load_protocol(name) for name in list_protocols()]
    return [
        {
            "protocol": p.name,
            "family": p.family,
            "version": p.version,
            "hash": p.setting(None).hash[:8],
            "summary": p.summary,
        }
        for p in loaded
    ]


def _suites() -> list[dict[str, Any]]:
    from ..use.suite_file import list_suites, read_suite

    read = {name: read_suite(name) for name in list_suites()}
    return [
        {
            "suite": name,
            "title": suite.title,
            "methods": len({method for block in suite.runs for method in block.methods}),
            "data sets": len({dataset for block in suite.runs for dataset in block.datasets}),
            "file": str(list_suites()[name]),
        }
        for name, suite in read.items()
    ]


def _backbones() -> list[dict[str, Any]]:
    from ...methods.models.backbone import list_backbones

    return [{"backbone": name, "tags": " ".join(tags)} for name, tags in list_backbones().items()]
