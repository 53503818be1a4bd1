"""Worker: do what is missing of some runs, and write parts; any number may be at it, on any machines.

A worker needs the run folders and the data, nothing else: what is to be done stands in the plans, what is done in the
parts, who does what in ``leases``.  It writes no other file, takes no lock and speaks to nobody.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ...datasets import Dataset
from ...methods import UserError
from .engine import Advance, Lane, Watch, never, work_through
from .leases import Chunk, Leases, chunk_size, given_up
from .pipeline import Pipeline
from .plan import RunSpec, build_pipelines, make_plan
from .presence import Presence
from .run import Run
from .sealed import digest_of
from .worker_task import WorkerTask, pass_folder

_IDLE_SECONDS = 0.5
_IDLE_AT_MOST = 10.0


def work(task: WorkerTask, stopped: Callable[[], bool] = never, advance: Advance = lambda count: None) -> None:
    """Do what is missing until nothing is, or ``stopped`` says so; wait for what others are at.

    Whatever ends it, what was finished is written and what was claimed is given back.

    Raises ``UserError`` when code, weights or data are not those of the plan.
    """
    if task.threads:
        torch.set_num_threads(task.threads)
    lanes = open_lanes(task)
    wanted = lanes[0].run.plan().ids[: task.limit]
    device = task.device or lanes[0].run.plan().spec.device
    with Presence([lane.run.folder for lane in lanes], task.lease_seconds, task.image_seconds) as presence:
        if task.shard:
            k, n = task.shard
            watch = Watch(advance, presence.working_on)
            work_through(lanes, wanted[k::n], device, watch, task.workers, task.loading, stopped)
            return
        folder = pass_folder([lane.run for lane in lanes], task.limit)
        leases = Leases(folder, presence)
        while not stopped() and (missing := _missing(lanes, wanted, folder)):
            leases.begin(missing, chunk_size(len(missing), task.workers))
            _Round(lanes, leases, presence, device, task, stopped, advance).work()


def open_lanes(task: WorkerTask) -> list[Lane]:
    """Runs with their data and methods.  Raises ``UserError`` when they are not what was planned."""
    runs = [Run(folder) for folder in task.runs]
    plans = [run.plan() for run in runs]
    changes = {
        **({"device": task.device} if task.device else {}),
        **({"data_root": str(task.data_root)} if task.data_root else {}),
    }
    specs = [plan.spec.model_copy(update=changes) for plan in plans]
    opened: dict[tuple[str, str | None], Dataset] = {}
    for spec in specs:
        if (spec.dataset, spec.data_root) not in opened:
            opened[spec.dataset, spec.data_root] = spec.open_data()
    data = [opened[spec.dataset, spec.data_root] for spec in specs]
    pipelines = build_pipelines(specs, data)
    for run, spec, pipeline, d in zip(runs, specs, pipelines, data, strict=True):
        _check_same(run, spec, pipeline, d)
    labels = task.labels or (None,) * len(runs)
    return [Lane(*lane) for lane in zip(runs, pipelines, data, labels, strict=True)]


def _check_same(run: Run, spec: RunSpec, pipeline: Pipeline, data: Dataset) -> None:
    """Raise ``UserError`` unless this machine would plan the same run; images are compared when they are scored."""
    plan = run.plan()
    if data.ids != plan.ids:
        raise UserError(f"{data.record.key} has {len(data.ids)} images here, and {run.folder} planned {len(plan.ids)}")
    here = make_plan(spec, pipeline, data, plan.content)
    other = [name for name, value in plan.identity.items() if digest_of(here.identity[name]) != digest_of(value)]
    if other:
        raise UserError(
            f"this machine would not do {run.folder} as it was planned: {', '.join(other)} differ.  Its parts would "
            "mix two programs or two weights under one name: install what the plan was made with, or plan anew here"
        )


def _missing(lanes: Sequence[Lane], wanted: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """Images that some run lacks and nobody has given up."""
    hopeless = set(given_up(folder))
    lacking = {i for lane in lanes for i in lane.run.missing(wanted)} - hopeless
    return tuple(i for i in wanted if i in lacking)


@dataclass
class _Round:
    """One worker in one round of leases."""

    lanes: Sequence[Lane]
    leases: Leases
    presence: Presence
    device: str
    task: WorkerTask
    stopped: Callable[[], bool]
    advance: Advance
    held: dict[str, Chunk] = field(default_factory=dict)
    left: dict[str, set[str]] = field(default_factory=dict)
    suspect: Chunk | None = None

    def __post_init__(self) -> None:
        self.done = [lane.run.done() for lane in self.lanes]

    def work(self) -> None:
        """Take chunks until all are finished, by this worker or others."""
        idle = _IDLE_SECONDS
        try:
            while not self.stopped() and not self.leases.is_over():
                self._through(self._images())
                if self.suspect:
                    self._one_by_one(self.suspect)
                    self.suspect, idle = None, _IDLE_SECONDS
                elif not self.stopped():
                    self._wait(idle)
                    idle = min(2 * idle, _IDLE_AT_MOST)
                    self.leases.free_those_of_the_gone()
        finally:
            for chunk in [*self.held.values(), *([self.suspect] if self.suspect else [])]:
                self.leases.give_back(chunk)

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.stopped():
            time.sleep(_IDLE_SECONDS / 5)

    def _through(self, images: Iterable[str]) -> None:
        watch = Watch(self.advance, self.presence.working_on, self._stored)
        try:
            work_through(
                *(self.lanes, images, self.device, watch, self.task.workers, self.task.loading, self.stopped, self.done)
            )
        finally:
            self.presence.working_on(None)

    def _images(self) -> Iterator[str]:
        """Images of chunks that nobody has died at; ends when there are none, or a suspect chunk comes."""
        while not self.stopped() and (chunk := self.leases.claim()):
            if chunk.suspect:
                self.suspect = chunk
                return
            self.held[chunk.name], self.left[chunk.name] = chunk, set(chunk.images)
            for image in chunk.images:
                if self.stopped():
                    return
                yield image

    def _stored(self, images: Sequence[str]) -> None:
        for name, left in list(self.left.items()):
            left.difference_update(images)
            if not left:
                self.leases.finish(self.held.pop(name))
                del self.left[name]

    def _one_by_one(self, chunk: Chunk) -> None:
        self.done = [lane.run.done() for lane in self.lanes]
        for image in chunk.images:
            if self.stopped():
                self.leases.give_back(chunk)
                return
            if not all(image in has for has in self.done) and self.leases.may_try(image):
                self._through([image])
        self.leases.finish(chunk)
