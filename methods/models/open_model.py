"""The one door to models: found by the catalogue's name or in a file, read once, shared by all who ask for the same."""

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from ..core.errors import UserError
from .weights import find_weights, list_weights

P = ParamSpec("P")
Model = TypeVar("Model")
_open: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()


def open_model(
    read: Callable[Concatenate[Path, P], Model],
    name: str,
    given: str | Path | None = None,
    *args: P.args,
    **kwargs: P.kwargs,
) -> Model:
    """What ``read(path, ...)`` returns for the checkpoint that the catalogue calls ``name``.

    ``given`` is a file or folder of it, or another name of the catalogue.  As long as somebody holds the model, whoever
    asks for the same unchanged file in the same way gets the same object, so that what was computed with it is shared.

    Raises ``UserError`` when it is not on this machine or does not fit, with the command that fetches the right one.
    """
    listed = str(given) if given is not None and str(given) in list_weights() else None
    path = find_weights(listed or name, Path(given) if given is not None and listed is None else None)

    def load() -> Model:
        try:
            return read(path, *args, **kwargs)
        except UserError as error:
            raise UserError(f"{error}.\nThe released file: bench weights fetch {name}") from error

    return shared((read, *file_key(path), args, *sorted(kwargs.items())), load)


def shared(key: Hashable, load: Callable[[], Model]) -> Model:
    """The living model of a key; ``load`` makes it if there is none."""
    found: Model | None = _open.get(key)
    if found is None:
        found = load()
        _open[key] = found
    return found


def file_key(path: Path) -> tuple[Hashable, ...]:
    """What tells a file, or the files of a folder, from itself after a change."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    stats = [(str(p), p.stat()) for p in files]
    return tuple((p, s.st_ino, s.st_mtime_ns, s.st_size) for p, s in stats)
