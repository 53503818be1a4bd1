"""Code of others: what a method from elsewhere raises becomes one paragraph about its own lines."""

import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError

_OURS = __name__.partition(".")[0]
_SHOWN = 3
"""Lines of the foreign code that are shown: where it called what failed, and how it came there."""


@contextmanager
def foreign_code(name: str, home: str, doing: str = "") -> Iterator[None]:
    """Turn what the code of module ``home`` raises into a ``UserError`` with its last lines; our own passes as it is.

    ``name`` is the method's, ``doing`` says at what it failed.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        root = home.partition(".")[0]
        if root == _OURS or isinstance(error, OSError):  # a full disk is nobody's code
            raise
        lines = "".join(f"\n  {line}" for line in _own_lines(error, _places(root)))
        raise UserError(
            f"method {name!r} failed{doing and f' {doing}'}: {_said(error)}{lines}\nThis is the method's own code, not "
            "ours: `bench --debug` with the same command shows the whole traceback, `bench test` checks its contract"
        ) from error


def _said(error: Exception) -> str:
    return " ".join(traceback.format_exception_only(type(error), error)[-1].split())


def _own_lines(error: Exception, places: list[Path]) -> list[str]:
    """The last lines of a traceback that lie in these files or folders; of a syntax error where it stands."""
    if isinstance(error, SyntaxError):
        return [f"{error.filename}, line {error.lineno}: {(error.text or '').strip()}"]
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if any(Path(frame.filename).is_relative_to(place) for place in places)
    ]
    return [f"{f.filename}, line {f.lineno}, in {f.name}: {f.line or ''}" for f in frames[-_SHOWN:]]


def _places(root: str) -> list[Path]:
    """Folders of a top-level package, or the file of a module."""
    module = sys.modules.get(root)
    try:
        spec = getattr(module, "__spec__", None) or importlib.util.find_spec(root)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    return [Path(p) for p in spec.submodule_search_locations or ()] or [Path(spec.origin or "")]
