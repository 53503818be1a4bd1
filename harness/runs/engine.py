"""Engine: score images one after the other, for several runs at once, and write parts.

Every process that works on a run writes its own parts; nothing is shared but the folder.  How many work, in which
order, and which of them die decides nothing but the time: an image is done when a part that holds it has its name.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...datasets import Dataset, Sample
from ...datasets.decoded import Decoded
from ...methods import UserError
from ...methods.core.arithmetic import computed_by
from ...methods.core.picture import Memo
from . import parts
from .label_files import colours_of, label_path, write_label_map
from .loading import IN_LINE, Loading
from .parts import ImageResult, Stamp
from .photo import Photo
from .pipeline import Clock, Pipeline
from .prefetch import Loaded, bytes_of, loaded
from .provenance import peak_bytes
from .run import Run
from .scored import Scored

WARM_UP_IMAGES = 2
_FLUSH_SECONDS, _FLUSH_SHARE, _FLUSH_AT_MOST = 2.0, 0.02, 30.0
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Lane:
    """A run with what it needs.  Several lanes over the same images are worked on in one pass.

    ``labels``: the folder that label maps are written to (None: to none).
    """

    run: Run
    pipeline: Pipeline
    data: Dataset
    labels: Path | None = None


@dataclass(frozen=True)
class Watch:
    """Who wants to know how far the work is.

    ``begins`` is told each image before it is loaded, and again before it is scored if others were loaded meanwhile;
    ``stored`` those that are on the disk since the last time, and ``advance`` how many results are new.
    """

    advance: Advance = lambda count: None
    begins: Callable[[str], None] = lambda image_id: None
    stored: Callable[[Sequence[str]], None] = lambda image_ids: None


def never() -> bool:
    """Not to be stopped."""
    return False


def work_through(
    lanes: Sequence[Lane],
    ids: Iterable[str],
    device: str,
    watch: Watch,
    workers: int = 1,
    loading: Loading = IN_LINE,
    stopped: Callable[[], bool] = never,
    done: Sequence[AbstractSet[str]] | None = None,
) -> None:
    """Score ``ids`` one after the other and write parts; each lane takes what it has not done yet.

    ``workers`` is how many processes are at it, which every part says.  ``loading`` may look at ids ahead of their
    turn.  No image is scored after ``stopped``.  ``done``: what each lane has, if the caller knows; else the parts are
    asked.

    A part is written every two seconds, in long runs less often, but every half minute at least.  Whatever ends the
    loop, finished images are written.
    """
    started = flushed = time.monotonic()
    names = [f"{lane.run.plan().spec.method} on {lane.data.record.key}" for lane in lanes]
    known = done or [lane.run.done() for lane in lanes]
    threads = loading.threads_for(device, workers)
    todo = [
        _Todo(lane, has, device, workers, threads, (*names[:k], *names[k + 1 :]))
        for k, (lane, has) in enumerate(zip(lanes, known, strict=True))
    ]
    decoded = Decoded(loading.decoded)
    passed: list[str] = []

    def flush() -> None:
        for t in todo:
            t.flush()
        watch.stored(tuple(passed))
        passed.clear()

    try:
        with loaded(_told(ids, watch), lambda i: _loaded(todo, i, decoded), threads, _Image.bytes) as images:
            for number, image in enumerate(images):
                if stopped():
                    break
                watch.begins(image.id)
                _score_image(image, device, warm=number >= WARM_UP_IMAGES)
                passed.append(image.id)
                watch.advance(len(image.value.todo))
                now = time.monotonic()
                if now - flushed > min(_FLUSH_AT_MOST, max(_FLUSH_SECONDS, _FLUSH_SHARE * (now - started))):
                    flush()
                    flushed = now
    finally:
        flush()


def _told(ids: Iterable[str], watch: Watch) -> Iterator[str]:
    for image_id in ids:
        watch.begins(image_id)
        yield image_id


class _Todo:
    """A lane, which images its run has, and results that are not written yet."""

    def __init__(
        self,
        lane: Lane,
        done: AbstractSet[str],
        device: str,
        workers: int,
        loaders: int,
        shared_with: tuple[str, ...],
    ) -> None:
        self.lane, plan = lane, lane.run.plan()
        self.content, self.arithmetic = plan.content, plan.arithmetic
        self.done = done
        self.buffer: list[ImageResult] = []
        seconds = lane.pipeline.encode_seconds
        cost = {"workers": workers, "loaders": loaders, "encode_seconds": seconds}
        self.stamp = Stamp.of(plan, device, **cost, shared_with=shared_with)

    def flush(self) -> None:
        if self.buffer:
            parts.write_part(self.lane.run.parts_folder, self.buffer, self.stamp)
            self.buffer = []


@dataclass(frozen=True)
class _Image:
    """An image for the lanes that lack it: a clock and a sample for each, and what they share."""

    todo: list[_Todo]
    clocks: list[Clock]
    samples: list[Sample]
    memo: Memo

    def photo(self) -> Photo:
        """The picture itself."""
        return Photo(self.samples[0].image, self.samples[0].id, self.memo)

    def bytes(self) -> int:
        """What its arrays hold."""
        return bytes_of(self.samples)


def _loaded(every: Sequence[_Todo], image_id: str, decoded: Decoded) -> _Image:
    """Read what the lanes need of an image, and resize it as each asks."""
    todo = [t for t in every if image_id not in t.done]
    clocks, memo = [Clock() for _ in todo], Memo()
    samples = [_load(t, image_id, clock, memo, decoded) for t, clock in zip(todo, clocks, strict=True)]
    _check_content(todo, samples)
    image = _Image(todo, clocks, samples, memo)
    for t, clock in zip(todo, clocks, strict=True):
        pipeline = t.lane.pipeline
        with memo.charged_to(clock.bill):
            clock.time("resize", partial(image.photo().prepare, pipeline.setting, pipeline.method.device))
    return image


def _score_image(loaded: Loaded[_Image], device: str, warm: bool) -> None:
    image = loaded.value
    every = list(zip(image.todo, image.samples, image.clocks, strict=True))
    with image.memo:
        try:
            scored = [_scored(t, image.photo(), s, c) for t, s, c in every]
        except UserError as error:
            raise UserError(f"image {loaded.id}: {error}") from error
    peak, wait = peak_bytes(device), loaded.wait_seconds
    for (t, sample, clock), result in zip(every, scored, strict=True):
        t.buffer.append(ImageResult(loaded.id, result, clock.seconds, peak, warm, sample.digest, wait))


def _scored(todo: _Todo, photo: Photo, sample: Sample, clock: Clock) -> Scored:
    lane = todo.lane
    with computed_by(todo.arithmetic):
        labels = lane.pipeline.predict(photo, clock)
    if lane.labels is not None:
        write_label_map(label_path(lane.labels, sample.id), labels.cpu().numpy(), colours_of(lane.data.record))
    return lane.pipeline.compare(labels, sample, clock)


def _load(todo: _Todo, image_id: str, clock: Clock, memo: Memo, decoded: Decoded) -> Sample:
    """What other lanes have read already is taken from ``memo``, and on the bill."""
    data = todo.lane.data
    with memo.charged_to(clock.bill):
        return clock.time("load", lambda: data.load(image_id, decoded.through(memo.once, data.record)))


def _check_content(todo: Sequence[_Todo], samples: Sequence[Sample]) -> None:
    """Raise ``UserError`` when a file has changed since the run was planned."""
    for t, sample in zip(todo, samples, strict=True):
        if sample.digest != t.content[sample.id]:
            files = " or ".join(map(str, t.lane.data.files(sample.id)))
            raise UserError(
                f"image {sample.id}: {files} has changed since this run was planned, so it would mix two data sets.  "
                "What was finished is kept; run the same command again: it checks the data anew and works on a run of "
                "its own"
            )
