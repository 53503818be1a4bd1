"""Picture: what a method or a guide may look at, and what was computed of it already."""

import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from .arithmetic import arithmetic
from .windows import Box

T = TypeVar("T")
_thread = threading.local()


@dataclass
class Bill:
    """What somebody who asks a ``Memo`` owes for what others have computed.

    ``seconds`` grows by what a value took when it was computed, the first time that this asker gets it from another.
    What the asker computed is on its own watch already.
    """

    seconds: float = 0.0
    paid: set[Hashable] = field(default_factory=set)


@dataclass(frozen=True)
class _Entry:
    """A value, the seconds that it took without what it asked for, and the keys of that."""

    value: Any
    seconds: float
    needs: frozenset[Hashable]


@dataclass
class _Open:
    """A value that is being computed: what it asked for, and the seconds of what was computed for it."""

    needs: set[Hashable] = field(default_factory=set)
    seconds: float = 0.0


class Memo:
    """Values computed of one image, each once: the second who asks gets it for nothing.

    Time is told so that nobody seems faster than it is alone: the seconds on an asker's own watch and those on its
    ``Bill`` together are what it would have taken without the others.
    """

    def __init__(self) -> None:
        self._entries: dict[Hashable, _Entry] = {}
        self._open = _Open()
        self._bill = Bill()

    def __enter__(self) -> "Memo":
        """For the time that the image is worked on; after it all values are forgotten.

        A value may hold its picture, which holds this: without it they would stay until the garbage is collected.
        """
        return self

    def __exit__(self, *exception: object) -> None:
        self._entries.clear()

    @contextmanager
    def charged_to(self, bill: Bill) -> Iterator[None]:
        """Whose asking it is for the time being."""
        before, self._bill = self._bill, bill
        try:
            yield
        finally:
            self._bill = before

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The value of ``key``; ``compute`` makes it for the first who asks.  What raises is not kept."""
        if key not in self._entries:
            self._entries[key] = self._compute(key, compute)
        entry = self._entries[key]
        keys = {key, *entry.needs}
        self._bill.seconds += sum(self._entries[k].seconds for k in keys - self._bill.paid)
        self._bill.paid |= keys
        self._open.needs |= keys
        value: T = entry.value
        return value

    def _compute(self, key: Hashable, compute: Callable[[], Any]) -> _Entry:
        outer, self._open = self._open, _Open()
        started = _now()
        try:
            value = compute()
        finally:
            inner, self._open = self._open, outer
        elapsed = _now() - started
        outer.seconds += elapsed
        self._bill.paid.add(key)  # by the asker's own watch
        return _Entry(value, elapsed - inner.seconds, frozenset(inner.needs))


def _now() -> float:
    """Seconds; on a GPU the queue is emptied, so that work counts where it is done."""
    wait_for_gpu()
    return time.perf_counter()


def wait_for_gpu() -> None:
    """Wait until a GPU that is in use has done what it was given."""
    if torch.cuda.is_initialized() and not getattr(_thread, "only_loads", False):
        torch.cuda.synchronize()


def only_load() -> None:
    """From now on this thread waits for no GPU: what it times is reading and resizing, and the queue is another's."""
    _thread.only_loads = True


@dataclass(frozen=True, eq=False)
class Picture:
    """An image while it is worked on.

    ``pixels`` ``(3, h, w)`` uint8 RGB are those that the protocol resized, on any device; ``original`` ``(3, H, W)``
    uint8 RGB is the image before that, in main memory; nobody writes to either.  ``name`` is the image's id: noise and
    files of masks go by it.

    ``view`` and ``part`` tell ``memo`` apart what is computed of differently resized pixels, and of different parts of
    an image.
    """

    pixels: Tensor
    original: Tensor
    name: str = ""
    memo: Memo = field(default_factory=Memo, repr=False)
    view: Hashable = ()
    part: Hashable = ()

    def __post_init__(self) -> None:
        for image in (self.pixels, self.original):
            if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
                raise ValueError(f"a picture is (3, H, W) uint8, not {tuple(image.shape)} {image.dtype}")

    @classmethod
    def of(cls, image: Tensor, name: str = "") -> "Picture":
        """An image that nobody resizes, ``(3, H, W)`` uint8 RGB."""
        return cls(image, image, name)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of ``pixels``."""
        return self.pixels.shape[1], self.pixels.shape[2]

    @property
    def unresized(self) -> "Picture":
        """The image before it was resized, as a picture; what is computed of it is the same for all sizes."""
        return Picture(self.original, self.original, self.name, self.memo, ("original", self.part), self.part)

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """What ``compute`` returns, for the first who asks; later ones get the same value.

        ``key`` says everything that moves the value, ``pixels`` apart: which model, which layer, which options.
        """
        return self.memo.once((self.view, arithmetic().programs, key), compute)

    def once_of_original(self, key: Hashable, compute: Callable[[], T]) -> T:
        """``once`` for what depends on ``original`` and not on how it was resized."""
        return self.memo.once(("original", self.part, arithmetic().programs, key), compute)


@dataclass(frozen=True, eq=False)
class Windows:
    """Some windows of a picture, of one size: ``pixels`` ``(B, 3, H, W)`` uint8 RGB.

    ``place`` says which they are, ``boxes`` where each lies in the picture.
    """

    pixels: Tensor
    picture: Picture
    place: Hashable = ()
    boxes: tuple[Box, ...] = ()

    @classmethod
    def of(cls, pixels: Tensor) -> "Windows":
        """Windows that come from nowhere, ``(B, 3, H, W)`` uint8 RGB."""
        picture = Picture.of(pixels[0])
        return cls(pixels, picture, boxes=(Box(0, 0, *picture.size),) * len(pixels))

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """See ``Picture.once``; for these windows."""
        return self.picture.once((self.place, key), compute)
