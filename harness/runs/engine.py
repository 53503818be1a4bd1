"""Engine: do the missing images of a run, in this process or in several.

Every process takes a share of the missing images and writes its own parts; nothing is shared but the folder.  How many
processes work, in which order, and which of them die decides nothing but the time: an image is done when a part that
holds it has its name.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from ...datasets import Dataset, Sample
from ...datasets.decoded import Decoded
from ...methods import UserError
from ...methods.core.picture import Memo
from . import parts
from .label_files import colours_of, label_path, write_label_map
from .loading import IN_LINE, Loading
from .parts import ImageResult, Stamp
from .photo import Photo
from .pipeline import Clock, Pipeline
from .plan import build_pipelines
from .prefetch import Loaded, loaded
from .provenance import peak_bytes
from .run import Run
from .scored import Scored
from .workers import prepare, stopped, worker_context

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


def never() -> bool:
    """Not to be stopped."""
    return False


def work_through(
    lanes: Sequence[Lane],
    ids: Iterable[str],
    device: str,
    advance: Advance,
    workers: int = 1,
    loading: Loading = IN_LINE,
    stopped: Callable[[], bool] = never,
) -> None:
    """Score ``ids`` one after the other and write parts; each lane takes what it has not done yet.

    ``workers`` is how many processes are at it, which every part says.  ``loading`` may look at ids ahead of their
    turn.  No image is scored after ``stopped``.

    A part is written every two seconds, in long runs less often, but every half minute at least.  Whatever ends the
    loop, finished images are written.
    """
    started = flushed = time.monotonic()
    names = [f"{lane.run.plan().spec.method} on {lane.data.record.key}" for lane in lanes]
    threads = loading.threads_for(device, workers)
    todo = [_Todo(lane, workers, threads, (*names[:k], *names[k + 1 :])) for k, lane in enumerate(lanes)]
    decoded = Decoded(loading.decoded)
    try:
        with loaded(ids, lambda image_id: _loaded(todo, image_id, decoded), threads, _Image.bytes) as images:
            for number, image in enumerate(images):
                if stopped():
                    break
                _score_image(image, device, warm=number >= WARM_UP_IMAGES)
                advance(len(image.value.todo))
                now = time.monotonic()
                if now - flushed > min(_FLUSH_AT_MOST, max(_FLUSH_SECONDS, _FLUSH_SHARE * (now - started))):
                    for t in todo:
                        t.flush()
                    flushed = now
    finally:
        for t in todo:
            t.flush()


class _Todo:
    """A lane, which images its run has, and results that are not written yet."""

    def __init__(self, lane: Lane, workers: int, loaders: int, shared_with: tuple[str, ...]) -> None:
        self.lane, plan = lane, lane.run.plan()
        self.content = plan.content
        self.done = lane.run.done()
        self.buffer: list[ImageResult] = []
        seconds = lane.pipeline.encode_seconds
        cost = {"workers": workers, "loaders": loaders, "encode_seconds": seconds}
        self.stamp = Stamp.of(plan, **cost, shared_with=shared_with)

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
        """What its arrays hold; one that several lanes have counts once."""
        arrays = {id(a): a.nbytes for sample in self.samples for a in (sample.image, sample.label)}
        return sum(arrays.values())


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
            scored = [_scored(t.lane, image.photo(), s, c) for t, s, c in every]
        except UserError as error:
            raise UserError(f"image {loaded.id}: {error}") from error
    peak, wait = peak_bytes(device), loaded.wait_seconds
    for (t, sample, clock), result in zip(every, scored, strict=True):
        t.buffer.append(ImageResult(loaded.id, result, clock.seconds, peak, warm, sample.digest, wait))


def _scored(lane: Lane, photo: Photo, sample: Sample, clock: Clock) -> Scored:
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


def work_in_processes(
    runs: Sequence[Run],
    wanted: tuple[str, ...],
    workers: int,
    advance: Advance,
    labels: Sequence[Path | None],
    loading: Loading = IN_LINE,
) -> None:
    """Score ``wanted`` for every run, which share their images, in ``workers`` processes.

    ``labels``: where the label maps of each run go.
    Raises ``UserError`` of the first process that fails; the others finish the image they are at.
    """

    def done() -> int:
        return sum(parts.images_in(run.parts_folder) for run in runs)

    start = done()
    threads = max(1, torch.get_num_threads() // workers)  # as many together as one process would use
    context = worker_context()
    stop = context.RawValue("b", 0)
    pool = ProcessPoolExecutor(workers, context, initializer=prepare, initargs=(stop, dict(os.environ)))
    folders = [str(run.folder) for run in runs]
    try:
        tasks = [
            pool.submit(_work_share, folders, labels, wanted[k::workers], threads, workers, loading)
            for k in range(workers)
        ]
        pending: set[Future[None]] = set(tasks)
        done_before = 0
        while pending:
            finished, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            for task in finished:
                task.result()
            done_now = done() - start
            advance(done_now - done_before)
            done_before = done_now
    except BrokenProcessPool:
        raise UserError(
            "a worker process died (out of memory, or killed).  What it had finished is kept: run the same command "
            "again, perhaps with fewer --workers"
        ) from None
    finally:
        stop.value = 1
        pool.shutdown(wait=True, cancel_futures=True)


def _work_share(
    folders: list[str],
    labels: Sequence[Path | None],
    ids: tuple[str, ...],
    threads: int,
    workers: int,
    loading: Loading = IN_LINE,
) -> None:
    torch.set_num_threads(threads)
    runs = [Run(Path(folder)) for folder in folders]
    specs = [run.plan().spec for run in runs]
    opened = {(spec.dataset, spec.data_root): spec.open_data() for spec in specs}
    data = [opened[spec.dataset, spec.data_root] for spec in specs]
    lanes = [Lane(*lane) for lane in zip(runs, build_pipelines(specs, data), data, labels, strict=True)]
    work_through(lanes, ids, specs[0].device, lambda count: None, workers, loading, stopped)
