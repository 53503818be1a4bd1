"""What lies beside the samples of a folder: images of another suffix, labels without an image."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import shown
from .record import DatasetRecord

PICTURES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".jp2", ".avif")


@dataclass(frozen=True)
class Beside:
    """``images`` have a label but another suffix than the record's: they are not scored.  ``labels`` have no image."""

    images: tuple[Path, ...] = ()
    labels: tuple[Path, ...] = ()


def find_beside(record: DatasetRecord, images: Path, labels: Path, found: Sequence[Path], ids: Sequence[str]) -> Beside:
    """Look through ``found``, the files below ``images``, and the files below ``labels``.

    Another form of a label that has an image (``0_colour.png`` beside ``0.png``) is no label without an image.
    """
    known = set(ids)
    left_out = {}
    for path in found:
        if path.suffix.lower() in PICTURES and not path.name.endswith(record.image_suffix) and is_plain(path):
            stem = path.relative_to(images).with_suffix("").as_posix()
            label = labels / f"{stem}{record.label_suffix}"
            if stem not in known and label != path and label.is_file():
                left_out[path] = stem
    known |= set(left_out.values())
    if labels == images:
        return Beside(tuple(left_out))
    candidates = (p for p in sorted(visible_files(labels)) if p.name.endswith(record.label_suffix))
    spare = (p for p in candidates if not _belongs(p.relative_to(labels).as_posix(), record.label_suffix, known))
    return Beside(tuple(left_out), tuple(spare))


def _belongs(name: str, suffix: str, known: set[str]) -> bool:
    """Whether a label file is that of an image, or one of its other forms."""
    stem = name.removesuffix(suffix)
    return stem in known or any(stem[:k] in known for k, c in enumerate(stem) if c in "_.-")


def is_plain(path: Path) -> bool:
    """Whether a name can be written into any file and shown on any terminal."""
    return path.name == shown(path.name)


def visible_files(folder: Path) -> Iterator[Path]:
    """Files in a folder and below it.

    Linked folders are followed, each once.  Hidden files and folders are left out: archives packed on macOS contain
    ``._NAME.jpg`` for every ``NAME.jpg``, and notebooks leave copies in ``.ipynb_checkpoints``.
    """
    walked: set[Path] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = Path(place).resolve()
        folders[:] = [] if real in walked else sorted(n for n in folders if not n.startswith("."))
        if real not in walked:
            yield from (Path(place, n) for n in names if not n.startswith("."))
        walked.add(real)
