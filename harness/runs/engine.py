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
from itertools import takewhile
from pathlib import Path

import torch

from ...datasets import Dataset, Sample
from ...methods import UserError
from ...methods.core.picture import Memo
from . import parts
from .label_files import colours_of, label_path, write_label_map
from .parts import ImageResult, Stamp
from .photo import Photo
from .pipeline import Clock, Pipeline
from .plan import build_pipelines
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


def work_through(lanes: Sequence[Lane], ids: Iterable[str], device: str, advance: Advance, workers: int = 1) -> None:
    """Score ``ids`` one after the other and write parts; each lane takes what it has not done yet.

    ``workers`` is how many processes are at it, which every part says.

    A part is written every two seconds, in long runs less often, but every half minute at least.  Whatever ends the
    loop, finished images are written.
    """
    started = flushed = time.monotonic()
    names = [f"{lane.run.plan().spec.method} on {lane.data.record.key}" for lane in lanes]
    todo = [_Todo(lane, workers, (*names[:k], *names[k + 1 :])) for k, lane in enumerate(lanes)]
    try:
        for number, image_id in enumerate(ids):
            asked = [t for t in todo if image_id not in t.done]
            if asked:
                _score_image(asked, image_id, device, warm=number >= WARM_UP_IMAGES)
            advance(len(asked))
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

    def __init__(self, lane: Lane, workers: int, shared_with: tuple[str, ...]) -> None:
        self.lane, plan = lane, lane.run.plan()
        self.content = plan.content
        self.done = lane.run.done()
        self.buffer: list[ImageResult] = []
        seconds = lane.pipeline.encode_seconds
        self.stamp = Stamp.of(plan, workers=workers, encode_seconds=seconds, shared_with=shared_with)

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


def work_in_processes(
    runs: Sequence[Run],
    wanted: tuple[str, ...],
    workers: int,
    advance: Advance,
    labels: Sequence[Path | None],
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
            pool.submit(_work_share, folders, labels, wanted[k::workers], threads, workers) for k in range(workers)
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
    folders: list[str], labels: Sequence[Path | None], ids: tuple[str, ...], threads: int, workers: int
) -> None:
    torch.set_num_threads(threads)
    runs = [Run(Path(folder)) for folder in folders]
    specs = [run.plan().spec for run in runs]
    opened = {(spec.dataset, spec.data_root): spec.open_data() for spec in specs}
    data = [opened[spec.dataset, spec.data_root] for spec in specs]
    lanes = [Lane(*lane) for lane in zip(runs, build_pipelines(specs, data), data, labels, strict=True)]
    asked = takewhile(lambda _: not stopped(), ids)
    work_through(lanes, asked, specs[0].device, lambda count: None, workers)
