"""Suites as data: which methods run on which data sets, under which protocols, with which options.

A file has a ``title`` and tables ``[[runs]]``; each stands for every method on every data set under every protocol.
Shipped ones lie in ``harness/suites`` and go by their name, since a wheel has no folder beside the package.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, field_validator, model_validator

from ...datasets import DataError, DatasetRecord, find_record
from ...datasets.invalid import message_of
from ...datasets.read_record import read_record
from ...datasets.toml import read_toml
from ...methods import UserError
from ...methods.core.errors import did_you_mean
from ...methods.models.backbone_names import check_backbone_request
from ...methods.names import method_home
from ..protocol.protocol import Protocol, list_protocols
from ..runs.sources import PREFIX, load_any, open_any

FOLDER = Path(__file__).resolve().parents[1] / "suites"
OWN = "own"
"""As a protocol: the preset that has the method's name."""
Names = Annotated[tuple[str, ...], Strict(False)]
Values = dict[str, bool | int | float | str]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Block(_Part):
    """A table ``[[runs]]``: every one of ``methods`` on every one of ``datasets`` under every one of ``protocols``.

    Without ``protocols`` each data set has its own.  ``set`` changes fields of the protocols.  ``options``: ``name`` is
    for every method that takes it, ``METHOD.name`` for one.  ``backbone`` and ``weights`` go to every method that takes
    a backbone.  ``limit``: the first images only.
    """

    methods: Annotated[Names, Field(min_length=1)]
    datasets: Annotated[Names, Field(min_length=1)]
    protocols: Names = ()
    backbone: str | None = None
    weights: Annotated[Path, Strict(False)] | None = None
    set: Values = Field(default_factory=dict)
    options: Values = Field(default_factory=dict)
    limit: int | None = Field(default=None, ge=1)
    boundary: bool = False
    confusion: bool = False

    @field_validator("methods")
    @classmethod
    def _known_methods(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _each(names, method_home)

    @field_validator("datasets")
    @classmethod
    def _known_datasets(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _each(names, record_of)

    @field_validator("protocols")
    @classmethod
    def _known_protocols(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _each(names, lambda name: name == OWN or load_any(name))

    @model_validator(mode="after")
    def _together(self) -> "Block":
        try:
            check_backbone_request(self.backbone, self.weights)
            for method in self.methods:
                for dataset in self.datasets:
                    for protocol in self.protocols or (None,):
                        protocol_of(method, dataset, protocol).changed(**self.set)
        except (UserError, DataError) as error:
            raise ValueError(str(error)) from error
        strange = [key for key in self.options if "." in key and not self._takes(key.rpartition(".")[0])]
        if strange:
            raise ValueError(f"option {strange[0]!r} is for none of the methods {', '.join(self.methods)}")
        return self

    def _takes(self, address: str) -> bool:
        return address.replace("-", "_") in {method.replace("-", "_") for method in self.methods}


class Suite(_Part):
    """A suite; ``name`` is that of its file."""

    name: str
    title: str = ""
    runs: Annotated[tuple[Block, ...], Strict(False), Field(min_length=1)]


def list_suites() -> dict[str, Path]:
    """The shipped suites by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def read_suite(name: str) -> Suite:
    """A shipped suite by its name, or one by the path of its file; paths in a file are relative to it.

    Raises ``UserError`` that names the file and the key of every mistake.
    """
    path = list_suites().get(name)
    if path is None and not name.endswith(".toml"):
        raise UserError(f"unknown suite {name!r}{did_you_mean(name, list_suites())}, or the path of a .toml file")
    path = path or Path(name)
    fields = read_toml(path, f"suite {path}")
    if "name" in fields:
        raise UserError(f"suite {path} has a key 'name': its name is that of its file")
    try:
        return Suite.model_validate({"name": path.stem, **_resolved(fields, path.resolve().parent)})
    except ValidationError as error:
        raise UserError(f"suite {path} cannot be run:\n{_lines(error)}") from error


def record_of(dataset: str) -> DatasetRecord:
    """The record of a data set, whose images need not be here."""
    if dataset.startswith(PREFIX):
        return open_any(dataset).record
    return read_record(Path(dataset)) if dataset.endswith(".toml") else find_record(re.split("[@:]", dataset)[0])


def protocol_of(method: str, dataset: str, protocol: str | None) -> Protocol:
    """A protocol by name or file; that of the data set for None, the method's preset for ``own``."""
    if protocol == OWN and method not in list_protocols():
        raise UserError(f"there is no preset of the name {method!r}, which `own` asks for: name a protocol")
    return load_any(method if protocol == OWN else protocol or record_of(dataset).protocol)


def _each(names: tuple[str, ...], find: Callable[[str], Any]) -> tuple[str, ...]:
    """The names.  Raises ``ValueError`` for what is unknown or stands there twice."""
    said = [f"{name!r} stands there twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    for name in names:
        try:
            find(name)
        except (UserError, DataError) as error:
            said.append(str(error))
    if said:
        raise ValueError("; ".join(said))
    return names


def _lines(error: ValidationError) -> str:
    """A line for each mistake; that a whole list lacks what was wrong in it is none."""
    entries = error.errors()
    inside = {entry["loc"][:length] for entry in entries for length in range(len(entry["loc"]))}
    return "\n".join(_line(entry) for entry in entries if entry["loc"] not in inside)


def _line(entry: Any) -> str:
    """Where and what of one mistake."""
    place, kind = entry["loc"], entry["type"]
    if kind == "extra_forbidden":
        known = Block.model_fields if len(place) > 1 else ("title", "runs")
        said = f"there is no such key{did_you_mean(str(place[-1]), known)}"
    elif kind == "missing":
        said = "is missing"
    else:
        said = message_of(entry)
    return f"  {_key(place)}: {said}"


def _key(place: tuple[int | str, ...]) -> str:
    """``runs[2].datasets``: tables are counted from 1, as a reader does."""
    text = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".") or "suite"


def _resolved(fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Files by their full path; what has not the form of a suite stays, to be refused."""
    blocks = fields.get("runs")
    if not isinstance(blocks, list):
        return fields
    return {**fields, "runs": [_with_files(b, folder) if isinstance(b, dict) else b for b in blocks]}


def _with_files(block: dict[str, Any], folder: Path) -> dict[str, Any]:
    lists = {
        key: [_file(name, folder) for name in block[key]] for key in ("datasets", "protocols") if _is_list(block, key)
    }
    weights = block.get("weights")
    return {**block, **lists, **({"weights": str(folder / weights)} if isinstance(weights, str) else {})}


def _is_list(block: dict[str, Any], key: str) -> bool:
    return isinstance(block.get(key), list)


def _file(name: Any, folder: Path) -> Any:
    if not isinstance(name, str) or not name.endswith((".toml", ".py")):
        return name
    prefix = PREFIX if name.startswith(PREFIX) else ""
    return f"{prefix}{folder / name.removeprefix(prefix)}"
