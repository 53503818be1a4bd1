"""Prefetch: threads load the images that come next while the model works.

Reading, decoding and resizing leave Python to itself, so threads are enough.  Order is that of the ids: what a thread
finds wrong with an image is raised when it is that image's turn, after all before it were handed out.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ...datasets import Sample
from ...methods.core.picture import only_load

T = TypeVar("T")
IMAGES_AHEAD = 4
"""How many images are loaded or being loaded at most, for each thread: some spare for those that take longer."""
BYTES_AHEAD = 256 << 20
"""With so many bytes waiting for the model no thread begins another image; those that are begun are finished."""
_JOIN_SECONDS = 1.0


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """What was loaded for an id, and how long the caller waited for it."""

    id: str
    value: T
    wait_seconds: float


@contextmanager
def loaded(
    ids: Iterable[str], load: Callable[[str], T], threads: int, size: Callable[[T], int]
) -> Iterator[Iterator[Loaded[T]]]:
    """``load`` of each id, in order, by so many threads ahead of who asks (0: when asked).

    Ids are asked for in the caller's thread, ``threads * IMAGES_AHEAD`` of them before their turn.  ``size`` says how
    many bytes a value holds.  When the block ends, however it does, no further image is begun.
    """
    if not threads:
        yield _in_line(ids, load)
        return
    ahead = _Ahead(ids, load, threads, size)
    try:
        yield ahead.in_order()
    finally:
        ahead.end()


def bytes_of(samples: Iterable[Sample]) -> int:
    """What the arrays of samples hold; one that several have counts once."""
    arrays = {id(a): a.nbytes for sample in samples for a in (sample.image, sample.label)}
    return sum(arrays.values())


def _in_line(ids: Iterable[str], load: Callable[[str], T]) -> Iterator[Loaded[T]]:
    for image_id in ids:
        started = time.perf_counter()
        value = load(image_id)
        yield Loaded(image_id, value, time.perf_counter() - started)


@dataclass
class _Place(Generic[T]):
    """An id in the queue: what became of it when it is done."""

    id: str = ""
    values: list[T] = field(default_factory=list)
    error: BaseException | None = None
    done: bool = False
    bytes: int = 0


class _Ahead(Generic[T]):
    """A queue in order, and the threads that fill it."""

    def __init__(self, ids: Iterable[str], load: Callable[[str], T], threads: int, size: Callable[[T], int]) -> None:
        self._ids, self._load, self._size = iter(ids), load, size
        self._queue: deque[_Place[T]] = deque()
        self._todo: deque[_Place[T]] = deque()
        self._most = threads * IMAGES_AHEAD
        self._bytes = 0
        self._exhausted = self._ended = False
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._work, name="loader", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def in_order(self) -> Iterator[Loaded[T]]:
        """Every id's value; raises what its loading raised."""
        self._fill()
        while self._queue:
            started = time.perf_counter()
            with self._changed:
                self._changed.wait_for(lambda: self._queue[0].done)
                first = self._queue.popleft()
                self._bytes -= first.bytes
                self._changed.notify_all()
            waited = time.perf_counter() - started
            if first.error is not None:
                raise first.error
            self._fill()
            yield Loaded(first.id, first.values.pop(), waited)

    def end(self) -> None:
        """Let the threads go.  One that hangs in a read that never returns is left alone: it ends with the process."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        until = time.monotonic() + _JOIN_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _fill(self) -> None:
        """Ask for ids until enough are in the queue.  What asking raises is raised at its place."""
        while len(self._queue) < self._most and not self._exhausted:
            try:
                place = _Place[T](next(self._ids))
            except StopIteration:
                self._exhausted = True
                return
            except Exception as error:  # noqa: BLE001 - it is handed on
                self._exhausted = True
                place = _Place(error=error, done=True)
            with self._changed:
                self._queue.append(place)
                if not place.done:
                    self._todo.append(place)
                self._changed.notify_all()

    def _work(self) -> None:
        only_load()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._may_begin())
                if self._ended:
                    return
                place = self._todo.popleft()
            try:
                place.values.append(self._load(place.id))
                place.bytes = self._size(place.values[0])
            except BaseException as error:  # noqa: BLE001 - it is handed on
                place.error = error
            with self._changed:
                place.done = True
                self._bytes += place.bytes
                self._changed.notify_all()

    def _may_begin(self) -> bool:
        """The image that is asked for next may always be begun."""
        return bool(self._todo) and (self._bytes < BYTES_AHEAD or self._todo[0] is self._queue[0])
