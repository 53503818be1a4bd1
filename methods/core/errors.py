"""The error that users can cause: one clear paragraph, no traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What is wrong with which value, what is allowed, and the command that fixes it."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: a close match if there is one, and all allowed names.

    >>> did_you_mean("sclp", ["sclip", "naclip"])
    '; did you mean sclip? Known: naclip, sclip'
    """
    names = sorted(known)
    close = difflib.get_close_matches(given, names, n=1)
    return (f"; did you mean {close[0]}?" if close else ".") + f" Known: {', '.join(names)}"
