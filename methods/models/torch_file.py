"""Files of ``torch.save`` and ``torch.jit.save``: their tensors, read without running anything of the file.

The pickle inside is read as data (``safe_unpickle``).  Of it only what torch itself writes for a dense tensor is
understood: which bytes, dtype, offset, sizes and strides.  Bounds are checked here, bytes are read only for tensors
that are asked for.  Everything else (configurations, optimisers, modules) stays an inert value.
"""

import mmap
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from .safe_unpickle import Made, Named, Persistent, read_pickle

_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_UTILS = "torch._utils"
_PLAIN = {(_UTILS, "_rebuild_tensor"), (_UTILS, "_rebuild_tensor_v2")}
_WRAPPED = {(_UTILS, "_rebuild_parameter"), (_UTILS, "_rebuild_parameter_with_state")}
_SUBCLASS = ("torch._tensor", "_rebuild_from_type_v2")
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_MOST_PARTS, _DEEPEST = 100_000, 64
Storages = Callable[[str, torch.dtype, int], Tensor]
"""Key, dtype and number of elements of a storage -> its elements, ``(N,)``."""


@dataclass(frozen=True)
class TorchFile:
    """An open checkpoint.

    ``value`` is what was saved, with ``Made`` for whatever is not a plain value; ``is_script`` says that it is a
    TorchScript archive.
    """

    value: Any
    is_script: bool
    storage: Storages

    def is_tensor(self, value: Any) -> bool:
        """Whether ``value``, something from inside ``self.value``, is a tensor: also one of a kind that is not read."""
        made = isinstance(value, Made) and isinstance(value.callee, Named)
        return made and value.callee.module in (_UTILS, _SUBCLASS[0]) and value.callee.name.startswith("_rebuild")

    def tensor(self, value: Any) -> Tensor:
        """The tensor that ``value`` describes.  Raises ``pickle.UnpicklingError`` when it does not fit its storage."""
        return _tensor(value, self.storage)

    def state(self) -> Any:
        """The saved value, or of a TorchScript archive the tensors of its modules, under their dotted names."""
        return dict(_walk(self, self.value)) if self.is_script else self.value


@contextmanager
def open_torch_file(path: Path) -> Iterator[TorchFile]:
    """Open a file of ``torch.save``, of any age since 2017, or of ``torch.jit.save``.

    Raises ``pickle.UnpicklingError``, ``zipfile.BadZipFile``, ``ValueError`` or ``OSError`` when it is damaged or none.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield _of_zip(archive)
    else:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield _of_legacy(content)


def _walk(file: TorchFile, module: Any) -> Iterator[tuple[str, Any]]:
    """Tensors of a module and of those in it.  A module that is in itself, or in too many others, is damage."""
    pending, visited = [("", module, 0)], 0
    while pending:
        prefix, made, depth = pending.pop()
        for name, value in made.state.items() if isinstance(made, Made) and isinstance(made.state, dict) else ():
            visited += 1
            if depth > _DEEPEST or visited > _MOST_PARTS:
                raise pickle.UnpicklingError("its modules have no end")
            if file.is_tensor(value):
                yield f"{prefix}{name}", value
            elif isinstance(value, Made):
                pending.append((f"{prefix}{name}.", value, depth + 1))


def _tensor(value: Any, storage: Storages) -> Tensor:
    callee, arguments = _plain_call(value)
    if callee not in _PLAIN or not isinstance(arguments, tuple) or len(arguments) < 4:
        raise pickle.UnpicklingError(f"a tensor is stored as {'.'.join(callee)}, which is not read here")
    where, offset, size, stride = arguments[:4]
    key, dtype, count = _storage_of(where)
    if not (_counts((offset,)) and _counts(size) and _counts(stride) and len(size) == len(stride)):
        raise pickle.UnpicklingError("a tensor has no sizes")
    elements, last = 1, offset
    for n, step in zip(size, stride, strict=True):
        elements, last = elements * n, last + (n - 1) * step
    # more elements than are stored would be copies of the same: a small file could ask for all memory
    if elements and (last >= count or elements > count):
        raise pickle.UnpicklingError(f"a tensor of shape {tuple(size)} does not lie in its {count} stored elements")
    if not elements:
        return torch.empty(tuple(size), dtype=dtype)
    return storage(key, dtype, count).as_strided(tuple(size), tuple(stride), offset)


def _plain_call(value: Any) -> tuple[tuple[str, str], Any]:
    """Name and arguments of what would have made a tensor, without what wraps it into a parameter or a subclass."""
    for _ in range(3):
        if not (isinstance(value, Made) and isinstance(value.callee, Named)):
            break
        callee, arguments = value.callee.path, value.arguments
        if callee in _WRAPPED and isinstance(arguments, tuple) and arguments:
            value = arguments[0]
        elif callee == _SUBCLASS and isinstance(arguments, tuple) and len(arguments) > 2:
            value = Made(arguments[0], arguments[2])
        else:
            return callee, arguments
    raise pickle.UnpicklingError("a tensor is wrapped in what is not read here")


def _counts(values: Any) -> bool:
    """Whether these are numbers of something."""
    return isinstance(values, tuple | list) and all(type(v) is int and 0 <= v < 1 << 48 for v in values)


def _storage_of(where: Any) -> tuple[str, torch.dtype, int]:
    """Key, dtype and number of elements of a reference ``("storage", type, key, device, count, ...)``."""
    key = where.key if isinstance(where, Persistent) else None
    if not (isinstance(key, tuple) and len(key) >= 5 and key[0] == "storage" and isinstance(key[1], Named)):
        raise pickle.UnpicklingError("a tensor refers to no storage")
    if len(key) > 5 and key[5] is not None:
        raise pickle.UnpicklingError("a tensor refers to a part of a storage, as files of before 2017 do")
    dtype = _DTYPES.get(key[1].name) if key[1].module == "torch" else None
    if dtype is None or not isinstance(key[2], str) or not _counts((key[4],)):
        raise pickle.UnpicklingError(f"a tensor has the type {key[1].name}, which is not read here")
    return key[2], dtype, key[4]


# ---- zip files: torch.save since 1.6, and torch.jit.save


def _of_zip(archive: zipfile.ZipFile) -> TorchFile:
    names = set(archive.namelist())
    pickles = [n for n in names if n.endswith("/data.pkl") and n.count("/") == 1]
    if len(pickles) != 1:
        raise pickle.UnpicklingError("a zip file without a data.pkl")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in names and _entry(archive, f"{root}byteorder").strip() != b"little":
        raise pickle.UnpicklingError("its bytes are in big-endian order")

    @cache
    def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
        return _elements(_entry(archive, f"{root}data/{key}"), dtype, count)

    return TorchFile(read_pickle(_entry(archive, pickles[0])), f"{root}constants.pkl" in names, storage)


def _entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """Bytes of an entry.  Torch compresses none that is read here, so a small file cannot become a large one."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise pickle.UnpicklingError(f"{name} is missing in it") from None
    if info.compress_type != zipfile.ZIP_STORED:
        raise pickle.UnpicklingError(f"{name} is compressed in it")
    return archive.read(info)


def _elements(content: bytes, dtype: torch.dtype, count: int) -> Tensor:
    if len(content) < count * dtype.itemsize:
        raise pickle.UnpicklingError(f"a storage has {len(content)} bytes, {count} elements of {dtype} were expected")
    return torch.frombuffer(bytearray(content), dtype=dtype, count=count)  # a copy, which may be written to


# ---- torch.save before 1.6: five pickles, then the storages one after the other


def _of_legacy(content: mmap.mmap) -> TorchFile:
    magic, protocol, _ = (read_pickle(cast(IO[bytes], content)) for _ in range(3))
    if (magic, protocol) != (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
        raise pickle.UnpicklingError("not written by torch.save")
    value, keys = (read_pickle(cast(IO[bytes], content)) for _ in range(2))
    types = {key: dtype for key, dtype, _ in _storages_in(value)}
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        if key not in types:
            raise pickle.UnpicklingError(f"nothing refers to its storage {key!r}")
        size = int.from_bytes(content.read(8), "little") * types[key].itemsize
        if size > len(content) - content.tell():
            raise pickle.UnpicklingError("its end is missing")
        places[key] = (content.tell(), size)
        content.seek(size, 1)

    @cache
    def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
        if key not in places:
            raise pickle.UnpicklingError(f"its storage {key!r} is missing")
        start, size = places[key]
        return _elements(content[start : start + size], dtype, count)

    return TorchFile(value, False, storage)


def _storages_in(value: Any) -> Iterator[tuple[str, torch.dtype, int]]:
    """Every storage that is referred to, wherever it stands."""
    pending, seen = [value], set()
    while pending:
        here = pending.pop()
        if id(here) in seen:
            continue
        seen.add(id(here))
        if isinstance(here, Persistent):
            yield _storage_of(here)
        elif isinstance(here, Made):
            pending += [here.callee, here.arguments, here.state, here.items, here.elements]
        elif isinstance(here, Mapping):
            pending += [*here.keys(), *here.values()]
        elif isinstance(here, list | tuple):
            pending += here
