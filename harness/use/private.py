"""What of a run would tell whose machine it was made on: taken out where it decides nothing, else refused."""

import getpass
import platform
import re
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from ...datasets import dataset_keys
from ...methods import UserError, list_methods
from ..protocol.protocol import list_protocols
from ..runs.parts import Stamp
from ..runs.plan import Plan, RunSpec
from ..runs.sources import PREFIX

ENVIRONMENT = ("packages", "python", "machine", "cpu", "cpu_capability", "device", "decoder", "threads")
"""What a bundle says of the machine; `provenance.environment` gives these, and anything else is left out."""
_OF_DATA = ("record.", "ids", "digests", "title")
_ABSOLUTE = re.compile(r"(?<![\w.:/~-])(?:~?/\w[\w.@+-]*/|~/|[A-Za-z]:\\)")
"""The beginning of a path from the root, the home folder or a drive; not what follows the host of an address."""


def without_places(plan: Plan) -> Plan:
    """The plan with the names of files instead of their places; its identity, hence its name, is the same.

    Raises ``UserError`` when what decides the numbers holds a place or a name of this machine.
    """
    cleaned = plan.model_copy(update={"spec": _spec(plan.spec)})
    refuse_private(cleaned.model_dump(mode="json"), plan.name)
    return cleaned


def without_host(stamp: dict[str, Any]) -> dict[str, Any]:
    """The stamp of a part with known fields only, and of its environment those that ``ENVIRONMENT`` names."""
    known = {key: value for key, value in stamp.items() if key in Stamp.model_fields}
    return known | {"environment": {k: v for k, v in known["environment"].items() if k in ENVIRONMENT}}


def refuse_private(value: Any, run: str) -> None:
    """Raise ``UserError`` that names the first field with a path from the root, or a name of user or machine.

    Words of the data set may be anybody's name.
    """
    names = _names()
    for field, text in _texts(value, ""):
        words = set() if field.startswith(_OF_DATA) else {word.casefold() for word in re.split(r"[^\w-]+", text)}
        found = next((name for name in names if name.casefold() in words), None) or (
            match[0] if (match := _ABSOLUTE.search(text)) else None
        )
        if found:
            raise UserError(
                f"run {run} cannot be exported: its {field} holds {found!r}, which tells whose machine it was made on, "
                "and what decides the numbers is not changed.  Run it again with files of other names"
            )


def _spec(spec: RunSpec) -> RunSpec:
    options = {key: _file_name(value) for key, value in spec.options.items()}
    place = spec.dataset.removeprefix(PREFIX)
    dataset = spec.dataset.removesuffix(place) + str(_file_name(place))
    return spec.model_copy(update={"weights": None, "data_root": None, "dataset": dataset, "options": options})


def _file_name(value: Any) -> Any:
    """The name alone of a path from the root or a home folder; other values as they are."""
    placed = isinstance(value, str) and (value.startswith("~") or PurePath(value).is_absolute())
    return PurePath(value).name if placed else value


def _names() -> list[str]:
    """Names of the user and the machine, unless they are words of ours."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container without a name for its user
        user = ""
    host = platform.node()
    common = {"", "root", "user", "localhost", *list_methods(), *dataset_keys(), *list_protocols()}
    return [name for name in (user, host, host.partition(".")[0], Path.home().name) if name.casefold() not in common]


def _texts(value: Any, field: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, f"{field}.{key}".removeprefix("."))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner, field)
