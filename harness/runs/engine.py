"""Engine: score images one after the other, for several runs at once, and write parts.

Every process that works on a run writes its own parts; nothing is shared but the folder.  How many work, in which
order, and which of them die decides nothing but the time: an image is done when a part that holds it has its name.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from ...datasets import Dataset, Sample
from ...methods import UserError
from ...methods.core.picture import Memo
from . import parts
from .label_files import colours_of, label_path, write_label_map
from .parts import ImageResult, Stamp
from .photo import Photo
from .pipeline import Clock, Pipeline
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

    ``begins`` is told each image before it is scored, ``stored`` those that are on the disk since the last time, and
    ``advance`` how many results are new.
    """

    advance: Advance = lambda count: None
    begins: Callable[[str], None] = lambda image_id: None
    stored: Callable[[Sequence[str]], None] = lambda image_ids: None


def work_through(
    lanes: Sequence[Lane],
    ids: Iterable[str],
    device: str,
    watch: Watch,
    workers: int = 1,
    done: Sequence[AbstractSet[str]] | None = None,
) -> None:
    """Score ``ids`` one after the other and write parts; each lane takes what it has not done yet.

    ``workers`` is how many processes are at it, which every part says.  ``done``: what each lane has, if the caller
    knows; else the parts are asked.

    A part is written every two seconds, in long runs less often, but every half minute at least.  Whatever ends the
    loop, finished images are written.
    """
    started = flushed = time.monotonic()
    names = [f"{lane.run.plan().spec.method} on {lane.data.record.key}" for lane in lanes]
    known = done or [lane.run.done() for lane in lanes]
    todo = [
        _Todo(lane, has, device, workers, (*names[:k], *names[k + 1 :]))
        for k, (lane, has) in enumerate(zip(lanes, known, strict=True))
    ]
    passed: list[str] = []

    def flush() -> None:
        for t in todo:
            t.flush()
        watch.stored(tuple(passed))
        passed.clear()

    try:
        for number, image_id in enumerate(ids):
            watch.begins(image_id)
            asked = [t for t in todo if image_id not in t.done]
            if asked:
                _score_image(asked, image_id, device, warm=number >= WARM_UP_IMAGES)
            passed.append(image_id)
            watch.advance(len(asked))
            now = time.monotonic()
            if now - flushed > min(_FLUSH_AT_MOST, max(_FLUSH_SECONDS, _FLUSH_SHARE * (now - started))):
                flush()
                flushed = now
    finally:
        flush()


class _Todo:
    """A lane, which images its run has, and results that are not written yet."""

    def __init__(
        self, lane: Lane, done: AbstractSet[str], device: str, workers: int, shared_with: tuple[str, ...]
    ) -> None:
        self.lane, plan = lane, lane.run.plan()
        self.content = plan.content
        self.done = done
        self.buffer: list[ImageResult] = []
        seconds = lane.pipeline.encode_seconds
        self.stamp = Stamp.of(plan, device, workers=workers, encode_seconds=seconds, shared_with=shared_with)

    def flush(self) -> None:
        if self.buffer:
            parts.write_part(self.lane.run.parts_folder, self.buffer, self.stamp)
            self.buffer = []


def _score_image(todo: list[_Todo], image_id: str, device: str, warm: bool) -> None:
    clocks = [Clock() for _ in todo]
    with Memo() as memo:
        samples = [_load(t, image_id, clock, memo) for t, clock in zip(todo, clocks, strict=True)]
        _check_content(todo, samples)
        try:
            photo = Photo(samples[0].image, image_id, memo)
            scored = [_scored(t.lane, photo, s, c) for t, s, c in zip(todo, samples, clocks, strict=True)]
        except UserError as error:
            raise UserError(f"image {image_id}: {error}") from error
    for t, result, clock, sample in zip(todo, scored, clocks, samples, strict=True):
        t.buffer.append(ImageResult(image_id, result, clock.seconds, peak_bytes(device), warm, sample.digest))


def _scored(lane: Lane, photo: Photo, sample: Sample, clock: Clock) -> Scored:
    labels = lane.pipeline.predict(photo, clock)
    if lane.labels is not None:
        write_label_map(label_path(lane.labels, sample.id), labels.cpu().numpy(), colours_of(lane.data.record))
    return lane.pipeline.compare(labels, sample, clock)


def _load(todo: _Todo, image_id: str, clock: Clock, memo: Memo) -> Sample:
    """What other lanes have read already is taken from ``memo``, and on the bill."""
    with memo.charged_to(clock.bill):
        return clock.time("load", lambda: todo.lane.data.load(image_id, memo.once))


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
