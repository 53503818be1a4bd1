"""A protocol's values in words: each with why it matters and where it comes from."""

from collections.abc import Iterator
from typing import Any

from ..protocol.protocol import Protocol, Setting


def value_rows(setting: Setting, field: str, *source: str) -> list[tuple[str, ...]]:
    """Rows of a table for one field: one, and for a dictionary one more per entry, indented."""
    value = getattr(setting, field)
    own = "" if isinstance(value, dict) and value else value_text(value)
    blank = ("", *("" for _ in source))
    return [(field, own, _why(field), *source), *((*cells, *blank) for cells in _inside(value, "  "))]


def source_of(protocol: Protocol, setting: Setting, field: str) -> str:
    """Where the protocol's file says that a value comes from."""
    if field not in setting.model_fields_set:
        return "default of every protocol"
    return protocol.sources.get(field, "the file does not say")


def changes(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """``name = value`` for each value of ``new`` that is not in ``old``; tables within tables by their full names."""
    for name, value in new.items():
        if isinstance(value, dict):
            inner = old.get(name)
            yield from changes(inner if isinstance(inner, dict) else {}, value, f"{prefix}{name}.")
        elif name not in old or old[name] != value:
            yield f"{prefix}{name} = {value_text(value)}"


def value_text(value: object) -> str:
    """A value as `--set` takes it; quoted where blanks or nothing would be overlooked."""
    if value is None or value == {}:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return text if text.strip() == text != "" else f'"{text}"'


def _inside(value: object, indent: str) -> Iterator[tuple[str, str]]:
    for name, inner in value.items() if isinstance(value, dict) else ():
        yield (indent + name, "" if isinstance(inner, dict) else value_text(inner))
        yield from _inside(inner, indent + "  ")


def _why(field: str) -> str:
    return Setting.model_fields[field].description or ""
