"""Which checkpoints something really loaded: licences and training data in tables follow from that, not from names."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

OWN_FILE = "unknown: a file of your own"
"""Licence of weights that the user named, and that nothing identifies."""


@dataclass(frozen=True)
class LoadedWeights:
    """Weights that something loaded: a catalogued checkpoint, or a file of the user's that nothing identifies."""

    name: str
    licence: str
    catalogued: bool


_recording: ContextVar[list[LoadedWeights] | None] = ContextVar("recording", default=None)


@contextmanager
def recorded() -> Iterator[list[LoadedWeights]]:
    """The checkpoints that are recorded while this lasts, in order: what a method really loads."""
    found: list[LoadedWeights] = []
    token = _recording.set(found)
    try:
        yield found
    finally:
        _recording.reset(token)


def record_own(path: Path) -> None:
    """Say that a file of the user's is loaded, for those who do not ask ``find_weights`` about it."""
    record(LoadedWeights(f"file {path.name}", OWN_FILE, catalogued=False))


def record(loaded: LoadedWeights) -> None:
    """Say that weights are loaded."""
    found = _recording.get()
    if found is not None and loaded not in found:
        found.append(loaded)
