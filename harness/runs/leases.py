"""Leases: workers take chunks of a pass over the images by renaming files, so nobody has to hand them out.

    ROUND/chunks.json           the images of every chunk          written once, with the round
    ROUND/todo/000012.0         a chunk that is free, and how often its owner has vanished
    ROUND/held/000012.0.OWNER   a chunk that a worker has
    TRIES/HASH.2                the second try of an image that may have ended a worker
    GIVEN_UP/HASH.json          an image that has ended a worker in every try

A rename has one winner on every file system.  A chunk whose owner is gone (``presence``) goes back to ``todo``; it is
then done one image at a time, each image written down before it is begun, so that one which kills its worker is found.
What is correct never depends on leases: an image that was done twice collapses when parts are merged.
"""

import contextlib
import hashlib
import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...methods import UserError
from .presence import Presence
from .sealed import read_sealed, seal
from .storing import made_folder, store

TRIES = 3
"""So often an image of a chunk whose owner vanished is begun, before it is given up."""
LARGEST_CHUNK = 64


@dataclass(frozen=True)
class Chunk:
    """Images that one worker took.  ``suspect``: an earlier owner has vanished."""

    name: str
    images: tuple[str, ...]

    @property
    def suspect(self) -> bool:
        """Whether its images are to be done one at a time."""
        return not self.name.endswith(".0")


def chunk_size(images: int, workers: int) -> int:
    """Small enough that a slow worker's last chunk costs little, large enough that claims cost nothing.

    ``clamp(N / (20 W), 1, 64)``; ``docs/design/many-machines.md`` has the simulation.
    """
    return max(1, min(LARGEST_CHUNK, images // (20 * workers)))


class Leases:
    """The chunks of one pass, as one worker sees them."""

    def __init__(self, folder: Path, presence: Presence) -> None:
        self.folder, self._presence = folder, presence
        self._round = Path()
        self._chunks: list[list[str]] = []
        self._listed: list[str] = []

    def begin(self, images: Sequence[str], size: int) -> None:
        """Join the open round, or lay out one of ``images``; of several that try at once the first wins."""
        rounds = self._rounds()
        if not rounds or self._is_over(rounds[-1]):
            self._lay_out(images, size, len(rounds) + 1)
        self._round = self._rounds()[-1]
        self._chunks, self._listed = read_sealed(self._round / "chunks.json")["chunks"], []

    def claim(self) -> Chunk | None:
        """A free chunk, which is this worker's from now on; None if there is none."""
        while names := self._listed or self._free():
            self._listed = names
            name = names.pop()
            with contextlib.suppress(FileNotFoundError):  # another was faster
                (self._round / "todo" / name).rename(self._held(name))
                return Chunk(name, tuple(self._chunks[int(name.partition(".")[0])]))
        return None

    def finish(self, chunk: Chunk) -> None:
        """All images of a chunk are on the disk."""
        self._held(chunk.name).unlink(missing_ok=True)

    def give_back(self, chunk: Chunk) -> None:
        """Leave a chunk to others, as one that was never begun: its owner did not vanish."""
        with contextlib.suppress(FileNotFoundError):  # it was taken over, since this process was silent for too long
            self._held(chunk.name).rename(self._round / "todo" / chunk.name)

    def free_those_of_the_gone(self) -> None:
        """Give chunks back whose owners are gone."""
        for path in list((self._round / "held").iterdir()):
            number, vanished, owner = path.name.split(".", 2)
            if self._presence.is_gone(owner):
                with contextlib.suppress(FileNotFoundError):
                    path.rename(self._round / "todo" / f"{number}.{int(vanished) + 1}")

    def is_over(self) -> bool:
        """Whether every chunk of the round was finished."""
        return self._is_over(self._round)

    def may_try(self, image: str) -> bool:
        """Write down that an image is begun which may have ended a worker; False if it was tried too often."""
        tries = made_folder(self.folder / "tries")
        name = hashlib.sha256(image.encode()).hexdigest()[:32]
        number = len(list(tries.glob(f"{name}.*"))) + 1
        if number <= TRIES:
            (tries / f"{name}.{number}").touch()
            return True
        store(self.folder / "given-up" / f"{name}.json", seal({"image": image, "tries": TRIES}))
        return False

    def _lay_out(self, images: Sequence[str], size: int, number: int) -> None:
        draft = made_folder(self.folder / f".{self._presence.owner}")
        chunks = [list(images[k : k + size]) for k in range(0, len(images), size)]
        store(draft / "chunks.json", seal({"chunks": chunks}))
        for name in ("todo", "held"):
            made_folder(draft / name)
        for k in range(len(chunks)):
            (draft / "todo" / f"{k:06}.0").touch()
        try:
            draft.rename(self.folder / f"{number:04}")
        except OSError:  # another was faster: a folder that is not empty is never replaced
            shutil.rmtree(draft)

    def _rounds(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*"))

    def _is_over(self, folder: Path) -> bool:
        """``held`` is looked at between two looks at ``todo``, since a chunk that is given back moves there."""
        return not any(any((folder / name).iterdir()) for name in ("todo", "held", "todo"))

    def _free(self) -> list[str]:
        names = [path.name for path in (self._round / "todo").iterdir()]
        random.Random(self._presence.owner).shuffle(names)
        return names

    def _held(self, name: str) -> Path:
        return self._round / "held" / f"{name}.{self._presence.owner}"


def given_up(folder: Path) -> list[str]:
    """Images of a pass that ended a worker in every try."""
    found = []
    for path in sorted((folder / "given-up").glob("*.json")):
        with contextlib.suppress(UserError, KeyError, json.JSONDecodeError):
            found.append(str(read_sealed(path)["image"]))
    return found
