"""Options: one record for each method, proposer and guide, from which everything about its options follows."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from .errors import UserError, did_you_mean


class Options(BaseModel):
    """Options without a field: a frozen record whose fields have a type, bounds, a default and a description.

    A field with ``exclude=True`` moves no number by itself (a batch size), or names a file whose checksum does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)

    @property
    def provenance(self) -> dict[str, Any]:
        """What can move a number, as JSON values."""
        return self.model_dump(mode="json")


@dataclass(frozen=True)
class OptionRow:
    """One option in words."""

    name: str
    allowed: str
    default: str
    meaning: str


Record = TypeVar("Record", bound=Options)
_NUMBERS = ("a whole number", "a number")
_KINDS = {int: _NUMBERS[0], float: _NUMBERS[1], bool: "true or false", str: "text", NoneType: "nothing"}
_BOUNDS = {"ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "below {}"}


def options_type(owner: type) -> type[Options]:
    """The record of a class: what it, or the nearest class above it, annotates ``options`` with."""
    for base in owner.__mro__:
        found = inspect.get_annotations(base, eval_str=True).get("options")
        if found is not None:
            assert issubclass(found, Options)
            return found
    return Options


def read_options(kind: type[Record], given: Mapping[str, Any], owner: str) -> Record:
    """The record of the ``given`` values.

    Raises ``UserError`` for a name that it does not have and a value that is not allowed; ``owner`` says whose options
    they are ("method 'cliper'").
    """
    try:
        return kind(**given)
    except ValidationError as error:
        raise UserError(f"{owner}: " + "; ".join(_explain(kind, dict(e)) for e in error.errors())) from error


def _explain(kind: type[Options], error: dict[str, Any]) -> str:
    if not error["loc"]:  # a rule over several fields
        return str(error.get("ctx", {}).get("error", error["msg"]))
    name = str(error["loc"][0])
    if error["type"] == "extra_forbidden":
        known = list(kind.model_fields)
        return f"there is no option {name!r}" + (did_you_mean(name, known) if known else ".  It takes none")
    told = error["msg"] if error["type"] == "value_error" else f"allowed is {_allowed(kind.model_fields[name])}"
    meaning = kind.model_fields[name].description
    return f"option {name} is {error['input']!r}: {told.removeprefix('Value error, ')}" + (
        f" ({meaning})" if meaning else ""
    )


def describe_options(kind: type[Options]) -> Iterator[OptionRow]:
    """Every option with its bounds and its meaning."""
    for name, one in kind.model_fields.items():
        yield OptionRow(name, _allowed(one), _shown(one.default), one.description or "")


def _allowed(one: FieldInfo) -> str:
    """The field's values in words: ``Literal["a", "b"] | None`` is "a, b or nothing"."""
    bounds = [
        words.format(getattr(rule, name))
        for rule in one.metadata
        for name, words in _BOUNDS.items()
        if getattr(rule, name, None) is not None
    ]
    *kinds, last = (" ".join([kind, *bounds]) if kind in _NUMBERS else kind for kind in _kinds(one.annotation))
    return f"{', '.join(kinds)} or {last}" if kinds else last


def _kinds(annotation: Any) -> list[str]:
    if annotation in _KINDS:
        return [_KINDS[annotation]]
    if get_origin(annotation) is Literal:
        return [_shown(value) for value in get_args(annotation)]
    return [kind for part in get_args(annotation) for kind in _kinds(part)] or [str(annotation)]


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    return str(value).lower() if isinstance(value, bool) else str(value) or '""'
