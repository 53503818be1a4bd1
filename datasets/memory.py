"""Memory of files that were read before, so that unchanged ones need not be read again.

One file for each record and place.  Its first line names the format, the code that read the files and the SHA-256 of
the rest: a memory of another format or of other rules, or one that was damaged, is as good as none.
"""

import hashlib
import json
import logging
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from .dataset import Dataset
from .examine import ImageFacts, LabelFacts
from .writing import clean_temporaries, write_atomically

_FORMAT = "ovss-checked 2"
_RULES = ("examine.py", "files.py", "loader.py", "record.py")
"""Files of ours that decide what is refused and what is remembered."""


class _Entry(BaseModel):
    """Facts of a sample with the marks of the files that they were read from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_mark: str = ""
    image: ImageFacts | None = None
    label_mark: str = ""
    label: LabelFacts | None = None


class _Entries(BaseModel):
    samples: dict[str, _Entry] = {}


class Memory:
    """What was read of each sample's files before; ``folder`` None remembers nothing beyond this object."""

    def __init__(self, folder: Path | None, dataset: Dataset) -> None:
        self.path = None if folder is None else _place(folder, dataset)
        self._samples = _stored(self.path)
        self._changed = False

    def image(self, image_id: str, mark: str) -> ImageFacts | None:
        """Facts of an image file with this ``mark``."""
        entry = self._samples.get(image_id)
        return entry.image if entry and mark and entry.image_mark == mark else None

    def label(self, image_id: str, mark: str) -> LabelFacts | None:
        """Facts of a label file with this ``mark``."""
        entry = self._samples.get(image_id)
        return entry.label if entry and mark and entry.label_mark == mark else None

    def remember(
        self, image_id: str, marks: tuple[str, str], image: ImageFacts | None, label: LabelFacts | None
    ) -> None:
        """Keep what was read, None for what could not be."""
        entry = _Entry(image_mark=marks[0], image=image, label_mark=marks[1], label=label)
        if self._samples.get(image_id) != entry:
            self._samples[image_id] = entry
            self._changed = True

    def save(self) -> None:
        """Write it, if something is new.  A folder that cannot be written is said and harmless."""
        if self.path is None or not self._changed:
            return
        body = json.dumps({"samples": {k: v.model_dump() for k, v in self._samples.items()}}).encode()
        clean_temporaries(self.path.parent)
        try:
            write_atomically(self.path, head_of(body) + b"\n" + body)
        except OSError as error:
            logging.getLogger(__name__).warning("checked files cannot be remembered in %s: %s", self.path.parent, error)


def head_of(body: bytes) -> bytes:
    """First line of a memory that holds ``body``."""
    return f"{_FORMAT} {rules()} {hashlib.sha256(body).hexdigest()}".encode()


@cache
def rules() -> str:
    """Digest of the code that decides what is read from a file."""
    code = (Path(__file__).with_name(name).read_bytes() for name in _RULES)
    return hashlib.sha256(b"".join(code)).hexdigest()[:16]


def mark(path: Path) -> str:
    """What changes when a file does: path, size, times and inode; "" if it is absent.

    The time of the last change of status cannot be set by hand: other content with the old size and date is noticed.
    """
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{path.absolute()}|{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}|{status.st_ino}"


def _place(folder: Path, dataset: Dataset) -> Path | None:
    files = dataset.files(dataset.ids[0]) if dataset.ids else ()
    if not files:
        return None
    where = " ".join(str(f.resolve().parent) for f in files)
    name = hashlib.sha256(f"{dataset.record.model_dump_json()}{where}".encode()).hexdigest()[:16]
    return folder / f"{dataset.record.key}-{name}.json"


def _stored(path: Path | None) -> dict[str, _Entry]:
    """What the file holds; nothing if it is absent, of another format or damaged."""
    try:
        head, _, body = path.read_bytes().partition(b"\n") if path else (b"", b"", b"")
        if head != head_of(body):
            return {}
        return dict(_Entries.model_validate_json(body).samples)
    except (OSError, ValidationError):
        return {}
