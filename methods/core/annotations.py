"""Whether a value may be meant for an annotated parameter."""

import types
from typing import Any, Literal, Union, get_args, get_origin


def may_be(value: Any, annotation: Any) -> bool:
    """False where the annotation clearly excludes the value; what is not understood (or not annotated) is let pass.

    An int may be meant for a float and a text for anything that is read from a file; True and False are no numbers.

    >>> may_be(3, float), may_be("3", float), may_be(True, int), may_be("end", bool | Literal["end"])
    (True, False, False, True)
    """
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return any(may_be(value, one) for one in get_args(annotation))
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in get_args(annotation))
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation in (bool, str):
        return isinstance(value, annotation)
    if annotation in (None, type(None)):
        return value is None
    return True
