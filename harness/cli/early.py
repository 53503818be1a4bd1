"""What is known at once is said at once: checks of a command line before torch, models or data take their time.

The checks import neither torch nor open_clip, but for ``check_method``: it imports torch, for the records of options.
"""

import os
import re
from pathlib import Path
from typing import Any

from ...methods import UserError
from ...methods.models.backbone_names import check_backbone_request
from ...methods.names import method_home
from ..runs.sources import PREFIX, load_any, open_any
from .name_value import Value, names_of, parse_changes, parse_options

_GPU_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/dev/nvhost-gpu", "/dev/nvgpu")
"""A Linux machine without all of these has no driver of NVIDIA's or AMD's that torch could use."""


def check_run(
    *,
    methods: str,
    datasets: str,
    protocol: str | None,
    backbone: str | None,
    weights: Path | None,
    data_root: Path | None,
    device: str,
    changes: list[str],
    options: list[str],
    picture: Path | None,
    folders: dict[str, Path | None],
) -> None:
    """Raise ``UserError`` or ``DataError`` for whatever is wrong with ``bench run`` and can be seen now.

    ``folders`` are to be written to, by the flags that name them.
    """
    names = names_of(methods)
    parse_options(options, "--option")
    for method in names:
        check_request(method, backbone, weights, device)
    if picture is not None:
        check_png(picture, "--picture", make_folder=True)
    for flag, folder in folders.items():
        if folder is not None:
            check_folder(folder, flag)
    for name in names_of(datasets):
        check_data(name, protocol, data_root, parse_changes(changes))


def check_request(method: str, backbone: str | None, weights: Path | None, device: str) -> None:
    """Names of a method, a backbone, a weights file and a device."""
    method_home(method)
    check_device(device)
    check_backbone_request(backbone, weights)


def check_device(name: str) -> None:
    """Refuse what is no device's name, and a GPU where there is no driver of one."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"unknown device {name!r}: use cpu, cuda or cuda:N")
    if name != "cpu" and os.name == "posix" and not any(Path(driver).exists() for driver in _GPU_DRIVERS):
        raise UserError(f"device {name} was asked for, but this machine has no GPU driver: use --device cpu")


def check_data(name: str, protocol: str | None, data_root: Path | None, changes: dict[str, Any]) -> None:
    """The data set is there, and its protocol takes the changes.  Reading a config of mmseg imports it: that waits."""
    if name.startswith(PREFIX):
        if not Path(name.removeprefix(PREFIX)).is_file():
            raise UserError(f"mmseg config {name.removeprefix(PREFIX)} does not exist")
        return
    if protocol is not None and not protocol.startswith(PREFIX):
        load_any(protocol).changed(**changes)
    record = open_any(name, data_root).record
    if protocol is None:
        load_any(record.protocol).changed(**changes)


def check_method(method: str, device: str, options: dict[str, Value]) -> None:
    """What needs torch, but no model: the options that a method takes, and that the device is there."""
    from ...methods.registry import check_options, find_device, find_method

    find_device(device)
    check_options(find_method(method), options)


def check_png(path: Path, flag: str, make_folder: bool = False) -> None:
    """Refuse a picture that cannot be written: no PNG, a folder, or in a folder that is absent or closed.

    With ``make_folder`` folders that are absent will be made.
    """
    if path.suffix.lower() != ".png":
        raise UserError(f"{flag} writes a PNG, so it must end in .png, not {path.name!r}")
    if path.exists() and not path.is_file():
        raise UserError(f"{flag} {path}: what has this name is no plain file.  Choose another name")
    folder = _nearest(path.parent) if make_folder else path.parent
    if not folder.is_dir():
        there = "is not there" if not folder.exists() else "is no folder"
        raise UserError(f"{flag} {path}: {folder} {there}.  Make it first, or choose another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{flag} {path}: the folder {folder} cannot be written.  Choose another place")


def check_folder(folder: Path, flag: str = "--results") -> None:
    """Refuse a folder that cannot be made.  One that is there may hold the answer, also read-only."""
    place = _nearest(folder)
    if not place.is_dir():
        raise UserError(f"{flag} {folder}: {place} is no folder.  Choose another place")
    if place != folder and not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{flag} {folder} cannot be made: {place} cannot be written.  Choose another place")


def _nearest(path: Path) -> Path:
    """The path, or the nearest of its parents that is there."""
    return next(p for p in (path, *path.absolute().parents) if p.exists())
