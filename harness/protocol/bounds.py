"""Bounds of what a protocol may say: sizes that fit a machine, finite numbers, names that are no paths.

A slip of the keyboard (``short_side_px = 44800``) would otherwise end hours later, or as a process killed for memory.
"""

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

MOST_PX = 16384
"""Longest side that anything is resized to or cut from; one float32 map of that size is 1 GB."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\*?")


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name[:80]!r} cannot be the name of a protocol, which names folders too: it has letters, digits, '.', "
            "'_' and '-', begins with a letter or a digit, and is 64 characters long at most"
        )
    return name


def _finite(options: dict[str, Any]) -> dict[str, Any]:
    for name, value in _leaves(options):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is {value}: numbers must be finite")
    return options


def _leaves(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values of tables within tables by their full names."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


Pixels = Annotated[int, Field(ge=0, le=MOST_PX)]
Steps = Annotated[int, Field(ge=1, le=1000)]
Side = Annotated[int, Field(ge=1, le=1000)]
"""Of a grid, in cells."""
Scale = Annotated[float, Field(le=10_000, allow_inf_nan=False)]
Closing = Literal[0, 3, 5, 7]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
ListName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""A word list or template list among ours: never a path."""
Name = Annotated[str, AfterValidator(_named)]
"""Of a protocol; ``*`` at the end marks one that was changed by hand."""
Key = Annotated[str, Field(max_length=128)]
"""Of a data set, or a pattern for keys."""
Options = Annotated[dict[str, Any], AfterValidator(_finite)]
OptionsOf = Annotated[dict[str, dict[str, Any]], AfterValidator(_finite)]


def check_refinement(refine: str, upsample: str, scaled: bool, gated: bool) -> None:
    """Raise ``ValueError`` for a refinement that does not fit how classes are decided."""
    if upsample == "labels" and refine != "none":
        raise ValueError(
            f"upsample = 'labels' decides classes on the grid, refine = {refine!r} works on scores at full "
            "size: set refine to none, or upsample to frame"
        )
    if scaled and refine == "pearl":
        raise ValueError("class_scaling needs scores from 0 on, which refine = 'pearl' may leave: set one to none")
    if gated and refine == "sam":
        raise ValueError(
            "refine = 'sam' weighs masks by probabilities of classes, which class_scaling, class_gate and complement "
            "take apart: set refine to another guide or to none, or drop these three"
        )
