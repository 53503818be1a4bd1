"""Which methods there are, and making one from its parts."""

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .core.errors import UserError
from .core.foreign import foreign_code
from .core.loaded import recorded
from .core.method import Method
from .core.options import Options, options_type, read_options
from .core.tokenizer import Tokenizer
from .models.backbone import Backbone, load_backbone, locate_backbone
from .models.open_model import file_key, shared
from .names import method_home

_PARTS = {"backbone", "weights", "device", "dtype", "tokenizer", "allow_download"}
"""What no option sets: the command line has flags of their own for these, and says so when it builds a method."""


def find_method(name: str) -> type[Method]:
    """The class of a method: a listed name, or ``package.module:Class``.

    Raises ``UserError`` when there is no such method or the class is no ``Method``.
    """
    found = _import(method_home(name))
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UserError(f"method {name!r} is {found!r}, not a subclass of ovss.methods.Method")
    return found


def create_method(
    name: str,
    backbone: str | Backbone | nn.Module | None = None,
    tokenizer: Tokenizer | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    weights: Path | None = None,
    allow_download: bool = False,
    **options: Any,
) -> Method:
    """Make a method from its parts.

    ``backbone`` is a name (see ``load_backbone``), an open_clip module with its ``tokenizer``, a ``Backbone``, or None
    for the method's default.  ``options`` are fields of the method's record of options, or parts of it that are loaded
    already, by the name that its constructor gives them.

    Raises ``UserError`` for unknown names and options, absent weights and a device that is not there.
    """
    method = find_method(name)
    own = {n: v for n, v in options.items() if n in inspect.signature(method).parameters and not _is_plain(v)}
    record = _options(method, {n: v for n, v in options.items() if n not in own})
    parts: dict[str, Any] = {"device": find_device(device), "dtype": dtype, **own}
    if options_type(method).model_fields:
        parts["options"] = record
    if method.info.backbone:
        parts["backbone"] = _backbone_of(method, backbone, tokenizer, weights, allow_download)
    else:
        _refuse_backbone(method, backbone)
        parts |= {} if weights is None else {"weights": weights}
    with recorded() as loaded, foreign_code(method.info.name, method.__module__, "when it was made"):
        made = method(**parts)
    made.loaded = tuple(loaded)
    return made


def _is_plain(value: Any) -> bool:
    """Whether a value is an option, and not a part that the caller has made (a loaded model, say)."""
    return value is None or isinstance(value, str | int | float | list | Path)


def _options(method: type[Method], given: Mapping[str, Any]) -> Options:
    plain = {n: str(v) if isinstance(v, Path) else v for n, v in given.items()}
    return read_options(options_type(method), plain, f"method {method.info.name!r}")


def _backbone_of(
    method: type[Method],
    given: str | Backbone | nn.Module | None,
    tokenizer: Tokenizer | None,
    weights: Path | None,
    allow_download: bool,
) -> Backbone:
    if weights is not None:
        _need_model(method, given)
    if isinstance(given, nn.Module):
        if tokenizer is None:
            raise UserError("a backbone module needs its tokenizer: create_method(..., tokenizer=...)")
        return Backbone.from_module(given, tokenizer)
    if tokenizer is not None:
        raise UserError("a tokenizer goes with a backbone module; this backbone has its own")
    if isinstance(given, Backbone):
        return given
    name, files = given or method.info.backbone, file_key(weights) if weights and weights.exists() else ()
    return shared((name, *files), lambda: load_backbone(name, weights, allow_download))


def check_parts(name: str, backbone: str | None, weights: Path | None, allow_download: bool = False) -> None:
    """Raise the ``UserError`` of ``create_method`` about backbone and weights, as far as it needs no reading.

    An unknown method, a backbone for a method that has none, a file without the name of its model, and a backbone whose
    weights are not on this machine (unless they may be fetched).
    """
    method = find_method(name)
    if not method.info.backbone:
        _refuse_backbone(method, backbone)
    elif weights is not None:
        _need_model(method, backbone)
    elif not allow_download:
        locate_backbone(backbone or method.info.backbone)


def _need_model(method: type[Method], backbone: object) -> None:
    if not isinstance(backbone, str):
        model = method.info.backbone.partition("/")[0]
        raise UserError(f"a weights file needs the name of its model, for example --backbone {model}")


def _refuse_backbone(method: type[Method], backbone: object) -> None:
    if backbone is not None:
        raise UserError(f"method {method.info.name!r} has weights of its own: leave out --backbone")


def check_options(method: type[Method], given: Mapping[str, Any]) -> None:
    """Raise ``UserError`` for options that the method does not take, by name, type or bounds.  Nothing is loaded."""
    _options(method, {name: value for name, value in given.items() if name not in _PARTS})


def find_device(name: str | torch.device) -> torch.device:
    """The device of that name.  Raises ``UserError`` when there is none: nothing falls back to the CPU."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device {str(name)!r}: use cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name} is not supported: use cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name} was asked for, but torch sees {torch.cuda.device_count()} CUDA devices")
    return device


def _import(target: str) -> Any:
    name, _, attribute = target.partition(":")
    home = __package__ if name.startswith(".") else name
    with foreign_code(target, home, "when it was imported"):
        module = _module(name, target)
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        raise UserError(f"method {target!r} cannot be imported: {error}") from error


def _module(name: str, target: str) -> Any:
    """A module; ``UserError`` when it is not there, while what is wrong inside it is raised as it is."""
    try:
        return importlib.import_module(name, __package__)
    except (ModuleNotFoundError, ValueError, TypeError) as error:
        absent = getattr(error, "name", name) or name
        if not f"{name}.".startswith(f"{absent}."):
            raise
        raise UserError(
            f"method {target!r} cannot be imported: {error}.  Is it installed?  For a module in this folder put "
            "PYTHONPATH=. before the command"
        ) from error
