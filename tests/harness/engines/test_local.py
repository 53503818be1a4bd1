"""Workers of this machine: what one finds when it starts, what becomes of one that hangs or must not work."""

import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ovss.harness.engines import local
from ovss.harness.engines.drive import drive
from ovss.harness.engines.local import Local, prepare, start_early, worker_context
from ovss.harness.runs import engine
from ovss.harness.runs.packing import pack
from ovss.harness.runs.presence import Presence
from ovss.harness.runs.run import COUNTS, PLAN, Run
from ovss.harness.runs.worker import work
from ovss.harness.runs.worker_task import WorkerTask
from ovss.harness.use.pairs import every_pair
from ovss.harness.use.workers import plan_runs
from ovss.methods import UserError

served = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a fork server, and /proc to look at it")


FACTS = """{
    "imported": {"torch", "open_clip", "ovss.harness.runs.worker"} & set(__import__("sys").modules),
    "touched CUDA": __import__("torch").cuda._is_in_bad_fork(),
    "torch computes": __import__("torch").ones(999, 999).mm(__import__("torch").ones(999, 999)).max().item(),
    "numpy computes": (__import__("numpy").ones((999, 999)) @ __import__("numpy").ones((999, 999))).max(),
    "said": __import__("os").environ.get("SAID"),
    "stopped": __import__("ovss.harness.engines.local", fromlist=["x"]).stopped(),
}"""
"""Asked of a worker before anything else; text, because a worker cannot import this module."""


@served
def test_a_worker_is_a_copy_of_a_server_that_only_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    start_early()
    start_early()  # harmless
    monkeypatch.setenv("SAID", "after the server was started")
    context = worker_context()
    stop = context.RawValue("b", 1)  # type: ignore[attr-defined]
    with ProcessPoolExecutor(1, context, initializer=prepare, initargs=(stop, dict(os.environ))) as pool:
        found = pool.submit(eval, FACTS).result(60)
    assert found == {
        "imported": {"torch", "open_clip", "ovss.harness.runs.worker"},
        "touched CUDA": False,
        "torch computes": 999,  # with threads of its own
        "numpy computes": 999,
        "said": "after the server was started",
        "stopped": True,
    }
    assert local._KIND == "forkserver"


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerTask:
    """A run of six scenes; workers are forked, which is quick."""
    forked = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: forked)
    pairs = every_pair(["clip"], ["shapes"])
    (run,) = plan_runs(pairs, tmp_path)
    return WorkerTask(runs=(run.folder,), limit=6, workers=2)


def test_a_worker_that_hangs_ends_itself_and_is_replaced(
    planned: WorkerTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image hangs in the first process that comes to it."""
    score = engine._score_image
    hung = tmp_path / "hung"

    def score_or_hang(loaded: Any, *given: Any, **named: Any) -> None:
        if loaded.id == "test_00003" and not hung.exists():
            hung.touch()
            time.sleep(60)
        score(loaded, *given, **named)

    monkeypatch.setattr(engine, "_score_image", score_or_hang)
    begun = time.monotonic()
    drive(Local(), planned.model_copy(update={"image_seconds": 1.0, "lease_seconds": 3.0}), 2, lambda count: None)
    assert hung.exists() and time.monotonic() - begun < 50
    (done,) = (Run(folder).done() for folder in planned.runs)
    assert len(done) == 6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source_hash": "0" * 16}, "source_hash differ"),
        ({"vocabulary_hash": "other"}, "vocabulary_hash differ"),
        ({"method": {"name": "clip", "weights": "other"}}, "method differ"),
    ],
)
def test_a_machine_with_other_code_or_weights_refuses(planned: WorkerTask, change: dict[str, Any], words: str) -> None:
    (run,) = map(Run, planned.runs)
    plan = run.plan()
    (run.folder / PLAN).write_bytes(plan.model_copy(update={"identity": plan.identity | change}).sealed())
    with pytest.raises(UserError, match=words):
        work(planned)
    assert not run.done()


def test_every_gpu_gets_workers_that_see_no_other(planned: WorkerTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without GPUs here: what a worker would be started with."""
    seen: list[str] = []

    class Idle:
        exitcode, pid = None, 1

        def __init__(self, target: Any, args: tuple[Any, ...], daemon: bool) -> None:
            seen.append(args[3]["CUDA_VISIBLE_DEVICES"])

        def start(self) -> None:
            assert os.environ["CUDA_VISIBLE_DEVICES"] == seen[-1]  # a spawned process has it before it imports

        def is_alive(self) -> bool:
            return True

        def join(self) -> None: ...

    engine = Local(gpus=("0", "GPU-5c8d"))
    monkeypatch.setattr(engine._context, "Process", Idle)
    before = dict(os.environ)
    names = engine.submit([planned] * 4)
    assert seen == ["0", "GPU-5c8d", "0", "GPU-5c8d"] and dict(os.environ) == before
    assert {s.state for s in engine.poll(names).values()} == {"running"}


def test_shares_without_leases_add_up(planned: WorkerTask) -> None:
    (run,) = map(Run, planned.runs)
    for k in range(4):
        assert len(run.done()) == [0, 2, 4, 5][k]
        work(planned.model_copy(update={"shard": (k, 4)}))
    assert len(run.done()) == 6 and not (run.folder / "leases").exists()


def test_fresh_does_not_delete_what_workers_write(planned: WorkerTask) -> None:
    (run,) = map(Run, planned.runs)
    work(planned)
    with Presence([run.folder]), run.lock(), pytest.raises(UserError, match="1 workers are writing"):
        run.begin(run.plan(), fresh=True)
    assert len(run.done()) == 6
    with run.lock():
        run.begin(run.plan(), fresh=True)
    assert not run.done()


def test_many_parts_are_packed_into_few_and_give_the_same_bytes(planned: WorkerTask) -> None:
    (run,) = map(Run, planned.runs)
    for k in range(6):
        work(planned.model_copy(update={"shard": (k, 6)}))
    run.merge()
    before, done = (run.folder / COUNTS).read_bytes(), run.done()
    pack(run.parts_folder, run.plan(), more_than=6)
    assert len(list(run.parts_folder.glob("part-*"))) == 6  # not more than that: left alone
    pack(run.parts_folder, run.plan(), more_than=5)
    assert len(list(run.parts_folder.glob("part-*"))) == 1 and run.done() == done
    run.merge()
    assert (run.folder / COUNTS).read_bytes() == before
