"""Which values of which field a sweep goes through."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from typing import Any

from ...methods import UserError
from ..protocol.protocol import Protocol, list_protocols, load_protocol

FIELDS = ("probability_threshold", "area_threshold", "logit_scale", "class_gate")
"""What a sweep may change: it moves the decision and nothing before it."""
MOST = 1000
"""Most values of a sweep."""
_LIST = re.compile(r"[^:,]+(:[^:,]+:[^:,]+|(,[^:,]+)+)")


@dataclass(frozen=True)
class Asked:
    """A field with its ascending values, and what else changes the protocol."""

    field: str
    values: tuple[float, ...]
    changes: dict[str, Any]


def asked_of(changes: Mapping[str, Any]) -> Asked:
    """The one of ``changes`` that names several values, ``START:STOP:STEP`` or ``A,B,C``, and the others.

    Raises ``UserError`` when none does, several do, or the field cannot be swept.
    """
    listed = [name for name, text in changes.items() if _names_several(name, text)]
    if len(listed) != 1:
        what = f"{' and '.join(listed)} have several values each" if listed else "no --set names several values"
        raise UserError(
            f"{what}: one of {', '.join(FIELDS)} is swept at a time, for example --set {FIELDS[0]}=0:1:0.05"
        )
    (field,) = listed
    check_field(field)
    others = {name: value for name, value in changes.items() if name != field}
    return Asked(field, parse_values(field, str(changes[field])), others)


def check_field(field: str) -> None:
    """Raise ``UserError`` for what moves more than the decision."""
    if field not in FIELDS:
        raise UserError(
            f"{field} cannot be swept: a sweep repeats the decision alone, so only "
            f"{', '.join(FIELDS)} can be.  For other fields run `bench run --set {field}=VALUE` once for each value"
        )


def parse_values(field: str, text: str) -> tuple[float, ...]:
    """``"0:1:0.25"`` -> ``(0.0, 0.25, 0.5, 0.75)``: the end is not in it; ``"0.1,0.3"`` as it says.

    >>> parse_values("probability_threshold", "0:0.3:0.1")
    (0.0, 0.1, 0.2)
    """
    try:
        if ":" not in text:
            values = [Decimal(part.strip()) for part in text.split(",")]
        else:
            values = _range(*(Decimal(part.strip()) for part in text.split(":")))
    except (InvalidOperation, TypeError, ValueError) as error:
        raise UserError(
            f"--set {field}={text} is no list of values: write START:STOP:STEP with a positive step and at most {MOST} "
            "values (STOP is not among them), or A,B,C"
        ) from error
    return ascending(field, [float(v) for v in values])


def ascending(field: str, values: Sequence[float]) -> tuple[float, ...]:
    """The values in order, each once.  Raises ``UserError`` unless they are some finite numbers."""
    if not values or not all(map(math.isfinite, values)):
        raise UserError(f"{field} is swept over finite numbers, at least one, not over {list(values)}")
    return tuple(sorted({float(v) for v in values}))


def paper_value(method: str, field: str, dataset: str) -> tuple[str, float] | None:
    """The preset of a method's paper and its value, if there is one with a table for the data set."""
    key = dataset.partition("@")[0]
    presets = [p for p in map(load_protocol, list_protocols()) if p.family == "paper" and method in _names(p)]
    for preset in presets:
        value = getattr(preset.setting(key), field)
        if value is not None and any(fnmatchcase(key, pattern) for pattern in preset.dataset):
            return f"paper:{preset.name}", float(value)
    return None


def own_value(protocol: Protocol, field: str, dataset: str) -> float:
    """The protocol's value for a data set.  Raises ``UserError`` where it has none."""
    value = getattr(protocol.setting(dataset), field)
    if value is None:
        raise UserError(
            f"protocol {protocol.name} has no {field} on {dataset}, so there is nothing to compare other values with: "
            "choose one that has, for example --protocol paper:cliper-v2"
        )
    return float(value)


def _names(protocol: Protocol) -> tuple[str, ...]:
    return protocol.name, *protocol.aliases


def _names_several(name: str, text: object) -> bool:
    return isinstance(text, str) and bool(_LIST.fullmatch(text)) and (name in FIELDS or _numbers(text))


def _numbers(text: str) -> bool:
    return all(re.fullmatch(r"\s*[-+.\deE]+\s*", part) for part in re.split("[:,]", text))


def _range(start: Decimal, stop: Decimal, step: Decimal) -> list[Decimal]:
    if not (step > 0 and 0 < (stop - start) / step <= MOST):
        raise ValueError(step)
    return [start + k * step for k in range(math.ceil((stop - start) / step))]
