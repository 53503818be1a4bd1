"""In what settings differ, and what of a protocol was changed by hand."""

from typing import Any

from ...methods import UserError
from .protocol import Protocol, Setting, load_protocol


def diff_settings(a: Setting, b: Setting) -> list[tuple[str, Any, Any, str]]:
    """Fields that differ: ``(field, value in a, value in b, why it matters)``."""
    return [
        (name, getattr(a, name), getattr(b, name), field.description or "")
        for name, field in Setting.model_fields.items()
        if getattr(a, name) != getattr(b, name)
    ]


def changes_of(protocol: Protocol, dataset: str) -> str:
    """What was changed by hand in a protocol called ``NAME*``, as ``--set`` takes it; empty for any other."""
    try:
        original = load_protocol(protocol.name.removesuffix("*")) if protocol.name.endswith("*") else protocol
    except UserError:
        return ""  # a file of the user's, which is not here
    rows = diff_settings(original.setting(dataset), protocol.setting(dataset))
    return ", ".join(said for field, _, value, _ in rows for said in _as_set(field, value))


def _as_set(field: str, value: Any) -> list[str]:
    if not isinstance(value, dict):
        return [f"{field}={value}"]
    return [said for name, one in value.items() for said in _as_set(f"{field}.{name}", one)]
