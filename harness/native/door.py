"""The door to the compiled kernels: a shared library beside this file, built when the package is, loaded by ctypes.

The library knows neither Python nor torch, and nothing is compiled at run time: where it was not built, callers use
torch.  ``OVSS_KERNELS=0`` switches it off, ``OVSS_KERNELS=1`` makes it an error when it cannot be used.
"""

import ctypes
import hashlib
import os
from functools import lru_cache
from pathlib import Path

from ...methods.core.errors import UserError

KERNELS = "OVSS_KERNELS"
"""Environment variable; worker processes inherit it."""
_HERE = Path(__file__).parent
_INT, _LONG, _FLOAT, _POINTER = ctypes.c_int, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
_ARGUMENTS = {
    "ovss_decode": (
        *(_POINTER, _INT, _INT, _INT, _INT),  # scores
        *(_POINTER, _POINTER, _INT, _INT),  # rows
        *(_POINTER, _POINTER, _INT, _INT),  # columns
        *(_POINTER, _INT, _POINTER, _POINTER, _POINTER),  # labels
        *(_FLOAT, _FLOAT, _INT, _INT),
    ),
    "ovss_count": (*(_POINTER, _INT, _POINTER, _INT), *(_LONG, _LONG, _LONG), _POINTER),
    "ovss_pamr": (
        *(_POINTER, _POINTER, _INT, _INT, _INT),  # planes
        *(_POINTER, _POINTER, _POINTER, _INT, _INT),  # weights
        _INT,
    ),
}


def kernels() -> ctypes.CDLL | None:
    """The library, or None where it is switched off or cannot be used; calls release the interpreter's lock.

    Raises ``UserError`` for another value of the variable, and where it asks for a library that cannot be used.
    """
    asked = os.environ.get(KERNELS, "")
    if asked not in ("", "0", "1"):
        raise UserError(f"${KERNELS} is {asked!r}: 0 switches the compiled kernels off, 1 insists on them")
    if asked == "0":
        return None
    opened = _open(_HERE)
    if asked == "1" and isinstance(opened, str):
        raise UserError(f"${KERNELS} insists on the compiled kernels, which cannot be used: {opened}")
    return None if isinstance(opened, str) else opened


def state() -> str:
    """Whether the kernels run, and if not, why: for people."""
    if os.environ.get(KERNELS) == "0":
        return f"off: ${KERNELS} is 0"
    opened = _open(_HERE)
    return f"none: {opened}" if isinstance(opened, str) else "compiled"


@lru_cache
def _open(folder: Path) -> ctypes.CDLL | str:
    """The library of a folder, or why there is none: it must have been built from the source that lies beside it."""
    again = "install the package again where there is a C++ compiler"
    place = folder / "libkernels.so"
    if not place.is_file():
        return f"they were not built; {again}"
    try:
        library = ctypes.CDLL(str(place))
        library.ovss_source.restype = ctypes.c_char_p
        built_from = library.ovss_source().decode()
    except (OSError, AttributeError) as error:
        return f"{place.name} does not load ({error}); {again}"
    if built_from != source_digest(folder):
        return f"{place.name} was built from another source; {again}"
    for name, types in _ARGUMENTS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = types, _INT
    return library


def source_digest(folder: Path) -> str:
    """What a library says that it was built from: SHA-256 of the sources, 16 hex digits."""
    sources = sorted(p for p in folder.iterdir() if p.suffix in (".cpp", ".h"))
    return hashlib.sha256(b"".join(p.read_bytes() for p in sources)).hexdigest()[:16]
