"""Checkpoint files of tensors: what is accepted and unwrapped, and what is said about one that does not fit."""

import hashlib
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ..core.errors import UserError
from .safe_unpickle import Made, Named
from .torch_file import open_torch_file

# what safetensors, zipfile and torch_file raise on bytes that are no checkpoint
_DAMAGE = (
    *(OSError, ValueError, RuntimeError, EOFError, LookupError, TypeError, struct.error),
    *(pickle.UnpicklingError, zipfile.BadZipFile, safetensors.SafetensorError),
)


def read_tensors(path: Path, nests: tuple[str, ...] = (), prefixes: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU, in the file's dtypes.

    Safetensors, a file of ``torch.save``, or a TorchScript archive.  No code of the file ever runs: pickles are read as
    data (``torch_file``), so it does not matter what else lies beside the tensors.  Of ``nests``, the first key that
    the file has is unwrapped (training checkpoints keep the weights under one); each of ``prefixes`` is stripped once
    from every name, in order.  Values that are no tensors are left out.

    Raises ``UserError`` that names the file when it is absent, cannot be read or holds no dictionary, or when two of
    its names become the same one.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in _open(path, nests).items():
        short = name
        for prefix in prefixes:
            short = short.removeprefix(prefix)
        if short in tensors:
            raise UserError(f"weights file {path} holds {short} twice, with and without one of the prefixes {prefixes}")
        tensors[short] = value
    return tensors


def _open(path: Path, nests: tuple[str, ...]) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"weights file {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with open_torch_file(path) as file:
            state = file.state()
            if isinstance(state, dict):
                state = next((state[key] for key in nests if key in state), state)
            if not isinstance(state, dict):
                raise UserError(f"weights file {path} holds a {_kind(state)}, not a state dict")
            return {str(name): file.tensor(value) for name, value in state.items() if file.is_tensor(value)}
    except _DAMAGE as error:
        raise UserError(
            f"weights file {path} cannot be read (damaged, or not a checkpoint of torch): {error}"
        ) from error


def _kind(value: Any) -> str:
    made = isinstance(value, Made) and isinstance(value.callee, Named)
    return ".".join(value.callee.path) if made else type(value).__name__


def check_keys(path: Path, state: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raise one ``UserError`` that names the keys of ``state`` which are missing, unknown, or of another shape."""
    shapes = [
        f"{k} has shape {tuple(state[k].shape)}, the model {wanted[k]}"
        for k in sorted(set(state) & set(wanted))
        if tuple(state[k].shape) != wanted[k]
    ]
    missing, extra = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    if missing or extra or shapes:
        found = [f"missing {_few(missing)}"] * bool(missing) + [f"not in the model: {_few(extra)}"] * bool(extra)
        raise UserError(f"weights file {path} does not fit the model: {'; '.join(found + shapes[:5])}")


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Hash over names, shapes, dtypes and values, in the order of the names."""
    digest = hashlib.sha256()
    for key, value in sorted(state.items()):
        digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Hash of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:
    """``hashlib.file_digest`` for Python 3.10."""
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
