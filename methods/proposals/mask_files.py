"""Masks that were made before, by whatever program: one file per image.

A method sees pixels, not the names of images, so a file is named after the pixels: ``<key>.npz`` where the key is
``image_key`` of the image *as the method gets it*, resized by the protocol.  ``write_masks`` writes such a file.  It
holds ``masks`` ``(Q, h, w)``, bool or floating in [0, 1], and may hold ``objectness`` ``(Q,)`` in [0, 1].
"""

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ..core.errors import UserError
from .base import Proposals, Proposer, ProposerParts
from .loading import require


class MaskFiles(Proposer):
    """See the module docstring.  The folder is the proposer's "weights"."""

    name = "files"
    soft = True  # they may be
    supervision = "unknown (masks from files)"

    def __init__(self, parts: ProposerParts) -> None:
        require(
            isinstance(parts.weights, (str, Path)) and Path(parts.weights).is_dir(),
            "proposer_weights",
            parts.weights,
            "proposer=files reads a folder of masks: --option proposer_weights=FOLDER",
        )
        self.folder, self.device = Path(parts.weights), parts.device
        self._digest = _digest(self.folder)

    @property
    def options(self) -> dict[str, Any]:
        """See ``Proposer.options``."""
        return {"files": self._digest}

    def propose(self, image: Tensor) -> Proposals:
        """See ``Proposer.propose``.  Raises ``UserError`` when this image has no file, or a wrong one."""
        path = self.folder / f"{image_key(image)}.npz"
        size = tuple(image.shape[1:])
        if not path.is_file():
            raise UserError(
                f"no masks for this image of {size[1]}x{size[0]} px: {path} does not exist.  Files are named after the "
                "pixels that the method gets, after the protocol has resized them; "
                "ovss.methods.proposals.mask_files.write_masks writes them"
            )
        try:
            with np.load(path, allow_pickle=False) as file:
                masks, sure = file["masks"], file.get("objectness", None)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"masks file {path} cannot be read: {error}") from error
        if masks.ndim != 3 or masks.shape[1:] != size or (sure is not None and sure.shape != masks.shape[:1]):
            shapes = f"masks {masks.shape}" + ("" if sure is None else f" and objectness {sure.shape}")
            raise UserError(f"masks file {path} has {shapes}; (Q, {size[0]}, {size[1]}) and (Q,) fit the image")
        for name, values in {"masks": masks, "objectness": sure}.items():
            if values is not None and values.size and not (values.min() >= 0 and values.max() <= 1):
                raise UserError(f"masks file {path}: {name} must lie in [0, 1]")
        objectness = None if sure is None else torch.from_numpy(sure).to(self.device, torch.float32)[:, None]
        return Proposals(torch.from_numpy(masks).to(self.device, torch.float32), objectness)


def image_key(image: Tensor) -> str:
    """SHA-256 of an image's size and pixels, ``(3, h, w)`` uint8 RGB."""
    digest = hashlib.sha256(str(tuple(image.shape)).encode())
    digest.update(np.ascontiguousarray(image.cpu().numpy()).tobytes())
    return digest.hexdigest()


def write_masks(folder: Path, image: Tensor, masks: ArrayLike, objectness: ArrayLike | None = None) -> Path:
    """Write the file that ``MaskFiles`` reads for ``image``, and return its path."""
    path = folder / f"{image_key(image)}.npz"
    arrays: dict[str, Any] = {"masks": np.asarray(masks)}
    if objectness is not None:
        arrays["objectness"] = np.asarray(objectness)
    np.savez_compressed(path, **arrays)
    return path


def _digest(folder: Path) -> str:
    """Hash over names and checksums of the folder's files; the files themselves are not read."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.npz")):
        try:
            with zipfile.ZipFile(path) as file:
                sums = sorted((part.filename, part.CRC) for part in file.infolist())
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"masks file {path} cannot be read: {error}") from error
        digest.update(f"{path.name}{sums}".encode())
    return digest.hexdigest()
