"""Where seconds are counted, and how many threads a worker gets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ovss.datasets import open_dataset
from ovss.harness.protocol.protocol import load_protocol
from ovss.harness.runs import decision, photo, pipeline, worker
from ovss.harness.runs.photo import Photo
from ovss.harness.runs.pipeline import Clock, Observed, Pipeline
from ovss.harness.runs.worker_task import WorkerTask, threads_for
from ovss.methods import Box, MethodInfo, ScoreField, Vocabulary

from ...toys import Toy

SIZE = (8, 12)


class Slow:
    """A clock that moves only when somebody works: ``work(3)`` takes 3 seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(pipeline.time, "perf_counter", lambda: self.now)  # one module: the memo's watch, too

    def work(self, seconds: float) -> None:
        self.now += seconds


class Flat(Toy):
    """Every class has the score 0."""

    info = MethodInfo("flat", "Flat", "nobody, never")

    def score_pixels(self, pixels: Tensor, vocabulary: Vocabulary) -> Tensor:
        return torch.zeros(len(pixels), len(vocabulary.queries), 2, 3)


def make(refine: str) -> Pipeline:
    setting = load_protocol("tiny").changed(refine=refine).setting("shapes")
    return Pipeline(Flat(), setting, open_dataset("shapes").record)


@pytest.mark.parametrize("refine", ["none", "pamr"])
def test_refining_inside_decode_counts_as_refining(monkeypatch: pytest.MonkeyPatch, refine: str) -> None:
    """Making affinities takes 2 s, refining twice 3 s, the rest of decoding 5 s."""
    clock, slow, pipe = Clock(), Slow(monkeypatch), make(refine)

    class SlowPamr:
        def __init__(self, *given: Any, **named: Any) -> None:
            slow.work(2)

    def slow_refined(pamr: SlowPamr, maps: Tensor) -> Tensor:
        slow.work(3)
        return maps

    def slow_decode(field: ScoreField, size: tuple[int, int], rule: Any, refiner: Callable[[Tensor], Tensor] | None):
        slow.work(4)
        if refiner is not None:
            refiner(refiner(torch.zeros(1, *size)))
        slow.work(1)
        return torch.zeros(size, dtype=torch.uint8)

    monkeypatch.setattr("ovss.methods.refine.pamr.Pamr", SlowPamr)
    monkeypatch.setattr("ovss.harness.decoding.pamr.refined", slow_refined)
    monkeypatch.setattr(decision, "decode", slow_decode)
    classes = len(pipe.words.query_to_class)
    whole = (Box(0, 0, *SIZE),)
    field = ScoreField(torch.zeros(1, classes, 2, 3), whole, whole, SIZE, pipe.words.query_to_class)
    pipe.finish(Observed(field, torch.zeros(3, *SIZE, dtype=torch.uint8), SIZE), clock)
    assert clock.seconds["decode"] == 5
    assert clock.seconds["refine"] == (8 if refine == "pamr" else 0)
    assert sum(clock.seconds.values()) == slow.now - 100  # nothing is counted twice


def test_shared_work_counts_on_every_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resizing and scoring once for two data sets costs each of them what it would have alone."""
    slow = Slow(monkeypatch)
    first = make("none")
    second = Pipeline(first.method, first.setting, first.record)
    resize, look, score = photo.resize_image, Flat.encode_windows, Flat.score_windows
    monkeypatch.setattr(photo, "resize_image", lambda *given: (slow.work(2), resize(*given))[1])
    monkeypatch.setattr(Flat, "encode_windows", lambda *given: (slow.work(7), look(*given))[1])
    monkeypatch.setattr(Flat, "score_windows", lambda *given: (slow.work(1), score(*given))[1])
    clocks = [Clock(), Clock()]
    shown = Photo(torch.zeros(*SIZE, 3, dtype=torch.uint8).numpy())
    for one, clock in zip((first, second), clocks, strict=True):
        one.predict(shown, clock)
    assert slow.now - 100 == 2 + 7 + 1 + 1
    assert [(clock.seconds["resize"], clock.seconds["segment"]) for clock in clocks] == [(2, 8), (2, 8)]


@pytest.mark.parametrize(("threads", "workers", "each"), [(8, 2, 4), (7, 2, 3), (4, 4, 1), (2, 6, 1), (1, 1, 1)])
def test_workers_share_the_threads(threads: int, workers: int, each: int) -> None:
    """As many together as one process would use, and at least one each; a scheduler's word comes first."""
    assert threads_for(workers, {"OMP_NUM_THREADS": str(threads)}) == each
    assert threads_for(workers, {"OMP_NUM_THREADS": "99", "SLURM_CPUS_PER_TASK": str(threads)}) == each


def test_threads_of_a_machine_are_the_cores_it_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert threads_for(2, {}) == 3 and threads_for(4, {"SLURM_CPUS_PER_TASK": "some"}) == 1


def test_a_worker_uses_the_threads_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are set before anything else: what is loaded first may start threads of its own."""

    class EnoughError(Exception):
        pass

    def noted(count: int) -> None:
        used.append(count)
        raise EnoughError

    used: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", noted)
    monkeypatch.setattr(worker, "Run", lambda folder: pytest.fail("threads come first"))
    with pytest.raises(EnoughError):
        worker.work(WorkerTask(runs=(Path("somewhere"),), threads=3))
    assert used == [3]
