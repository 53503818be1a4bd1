"""Options: one record for each method, proposer and guide, from which everything about its options follows."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

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
    bounds = [
        words.format(getattr(rule, name))
        for rule in one.metadata
        for name, words in _BOUNDS.items()
        if getattr(rule, name, None) is not None
    ]
    return " ".join([_kind(one.annotation), *bounds])


def _kind(annotation: Any) -> str:
    """``Literal["a", "b"] | None`` as "a, b or nothing"."""
    if annotation is type(None):
        return "nothing"
    if isinstance(annotation, type):
        return {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}.get(
            annotation.__name__, annotation.__name__
        )
    parts = [_kind(a) if isinstance(a, type) or get_args(a) else _shown(a) for a in get_args(annotation)]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value) if value != "" else '""'
