"""Masks that were made before, by whatever program: a folder with ``<name>.npz`` for each image, by the image's id.

Ids may have ``/`` in them: the file lies in folders below.  Masks have the size of the image *as the protocol resized
it*.  ``write_masks`` writes such a file.  It holds ``masks`` ``(Q, h, w)``, bool or floating in [0, 1], and may hold
``objectness`` ``(Q,)`` in [0, 1].
"""

import hashlib
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from ..core.errors import UserError
from ..core.options import Options
from ..core.picture import Picture
from .base import Proposals, Proposer, ProposerParts


class MaskFiles(Proposer):
    """Masks that were made before, one file per image, in the folder that is named as weights."""

    name = "files"
    soft = True  # they may be
    supervision = "unknown (masks from files)"

    def __init__(self, parts: ProposerParts, options: Options | None = None) -> None:
        super().__init__(parts, options)
        if not (isinstance(parts.weights, (str, Path)) and Path(parts.weights).is_dir()):
            raise UserError(
                f"proposer_weights is {parts.weights!r}: proposer=files reads a folder of masks: "
                "--option proposer_weights=FOLDER"
            )
        self.folder = Path(parts.weights)
        self._digest = _digest(self.folder)

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Proposer.provenance``."""
        return {**super().provenance, "files": self._digest}

    def propose(self, picture: Picture) -> Proposals:
        """See ``Proposer.propose``.  Raises ``UserError`` when this image has no file, or a wrong one."""
        path, (height, width) = masks_path(self.folder, picture.name), picture.size
        if not path.is_file():
            raise UserError(
                f"no masks for image {picture.name!r}: {path} does not exist.  "
                "ovss.methods.proposals.mask_files.write_masks writes it, with masks of the size to which the protocol "
                f"resizes the image, {width}x{height} px"
            )
        try:
            with np.load(path, allow_pickle=False) as file:
                masks, sure = file["masks"], file.get("objectness", None)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"masks file {path} cannot be read: {error}") from error
        if masks.ndim != 3 or masks.shape[1:] != picture.size or (sure is not None and sure.shape != masks.shape[:1]):
            shapes = f"masks {masks.shape}" + ("" if sure is None else f" and objectness {sure.shape}")
            raise UserError(
                f"masks file {path} of image {picture.name!r} has {shapes}; wanted are (Q, {height}, {width}), the "
                "size to which the protocol resizes the image, and (Q,)"
            )
        for name, values in {"masks": masks, "objectness": sure}.items():
            if values is not None and values.size and not (values.min() >= 0 and values.max() <= 1):
                raise UserError(f"masks file {path}: {name} must lie in [0, 1]")
        objectness = None if sure is None else torch.from_numpy(sure).to(self.device, torch.float32)[:, None]
        return Proposals(torch.from_numpy(masks).to(self.device, torch.float32), objectness)


def masks_path(folder: Path, name: str) -> Path:
    """Where the masks of the image called ``name`` lie.  Raises ``UserError`` for one that leads out of ``folder``."""
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or PurePosixPath(name).is_absolute():
        raise UserError(
            f"an image called {name!r} has no place in a folder of masks: {folder}/<image id>.npz is the file"
        )
    return folder / f"{name}.npz"


def write_masks(folder: Path, name: str, masks: ArrayLike, objectness: ArrayLike | None = None) -> Path:
    """Write the file that ``MaskFiles`` reads for the image called ``name``, and return its path."""
    path = masks_path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {"masks": np.asarray(masks)}
    if objectness is not None:
        arrays["objectness"] = np.asarray(objectness)
    np.savez_compressed(path, **arrays)
    return path


def _digest(folder: Path) -> str:
    """Hash over names and checksums of the folder's files; the files themselves are not read."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.npz")):
        try:
            with zipfile.ZipFile(path) as file:
                sums = sorted((part.filename, part.CRC) for part in file.infolist())
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"masks file {path} cannot be read: {error}") from error
        digest.update(f"{path.relative_to(folder).as_posix()}{sums}".encode())
    return digest.hexdigest()
