"""Engine: do the missing images of a run, in this process or in several.

Every process takes a share of the missing images and writes its own parts; nothing is shared but the folder.  How many
processes work, in which order, and which of them die decides nothing but the time: an image is done when a part that
holds it has its name.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch

from ..datasets import Dataset
from ..methods import UserError
from . import parts
from .parts import ImageResult
from .pipeline import Clock, Pipeline
from .provenance import peak_bytes
from .runs import Run

WARM_UP_IMAGES = 2
_FLUSH_SECONDS, _FLUSH_SHARE, _FLUSH_AT_MOST = 2.0, 0.02, 30.0
Advance = Callable[[int], None]
_stop: Any = None
"""In a worker: shared byte, 1 when another has failed or the user has interrupted.  It has no lock, so that a worker
which is killed while it reads blocks nobody."""


def work_through(
    run: Run, pipeline: Pipeline, data: Dataset, ids: Iterable[str], device: str, advance: Advance
) -> None:
    """Score ``ids`` one after the other and write parts.

    A part is written every two seconds, in long runs less often, but every half minute at least.  Whatever ends the
    loop, finished images are written.
    """
    started = flushed = time.monotonic()
    buffer: list[ImageResult] = []
    try:
        for number, image_id in enumerate(ids):
            clock = Clock()
            sample = clock.time("load", lambda i=image_id: data.load(i))  # type: ignore[misc]
            try:
                counts, boundary = pipeline.score(sample, clock)
            except UserError as error:
                raise UserError(f"image {image_id}: {error}") from error
            warm = number >= WARM_UP_IMAGES
            buffer.append(ImageResult(image_id, counts, boundary, clock.seconds, peak_bytes(device), warm))
            advance(1)
            now = time.monotonic()
            if now - flushed > min(_FLUSH_AT_MOST, max(_FLUSH_SECONDS, _FLUSH_SHARE * (now - started))):
                parts.write_part(run.parts_folder, buffer)
                buffer, flushed = [], now
    finally:
        if buffer:
            parts.write_part(run.parts_folder, buffer)


def work_in_processes(run: Run, wanted: tuple[str, ...], workers: int, advance: Advance) -> None:
    """Score ``wanted`` in ``workers`` processes.

    Raises ``UserError`` of the first process that fails; the others finish the image they are at.
    """
    start = parts.images_in(run.parts_folder)
    threads = max(1, torch.get_num_threads() // workers)  # as many together as one process would use
    context = multiprocessing.get_context("spawn")
    stop = context.RawValue("b", 0)
    pool = ProcessPoolExecutor(workers, context, initializer=_prepare, initargs=(os.getpid(), stop))
    try:
        tasks = [pool.submit(_work_share, str(run.folder), wanted[k::workers], threads) for k in range(workers)]
        pending: set[Future[None]] = set(tasks)
        done_before = 0
        while pending:
            finished, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            for task in finished:
                task.result()
            done = parts.images_in(run.parts_folder) - start
            advance(done - done_before)
            done_before = done
    except BrokenProcessPool:
        raise UserError(
            "a worker process died (out of memory, or killed).  What it had finished is kept: run the same command "
            "again, perhaps with fewer --workers"
        ) from None
    finally:
        stop.value = 1
        pool.shutdown(wait=True, cancel_futures=True)


def _work_share(folder: str, ids: tuple[str, ...], threads: int) -> None:
    torch.set_num_threads(threads)
    run = Run(Path(folder))
    spec = run.plan().spec
    data = spec.open_data()
    setting = spec.setting_for(data)
    pipeline = Pipeline(spec.build_method(setting), setting, data.record, spec.boundary)
    asked = takewhile(lambda _: _stop.value == 0, ids)
    work_through(run, pipeline, data, asked, spec.device, lambda count: None)


def _prepare(parent: int, stop: Any) -> None:
    """Start a worker that ends when its parent is gone: a killed run must not go on in the background."""
    global _stop
    _stop = stop

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
