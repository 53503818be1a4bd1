"""What a record of pydantic's says about wrong values, in a user's words."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

_SHOWN = 20


def message_of(entry: Mapping[str, Any]) -> str:
    """The sentence of one entry of ``ValidationError.errors()``: ours as we wrote it."""
    return str(entry["msg"]).removeprefix("Value error, ")


def explain(error: Exception, whole: str, joint: str = "\n", indent: str = "  ") -> str:
    """Where and what, an entry each; ``whole`` is the place of rules over several fields.  Other errors as they are."""
    if not isinstance(error, ValidationError):
        return str(error)
    entries = error.errors()
    lines = [f"{indent}{'.'.join(map(str, e['loc'])) or whole}: {message_of(e)}" for e in entries[:_SHOWN]]
    more = [f"{indent}... and {len(entries) - _SHOWN} more"] if len(entries) > _SHOWN else []
    return joint.join([*lines, *more])
