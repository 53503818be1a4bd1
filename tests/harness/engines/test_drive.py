"""The loop that keeps workers at a pass, with an engine that is a script."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from ovss.harness.engines import drive as driving
from ovss.harness.engines.door import Status
from ovss.harness.engines.drive import drive
from ovss.harness.runs.sealed import seal
from ovss.harness.runs.worker_task import WorkerTask
from ovss.methods import UserError


class Scripted:
    """Workers end as a list says, one after the other; one may store a part when it does."""

    poll_seconds = 0.0

    def __init__(self, parts: Path, ends: list[tuple[str, int]]) -> None:
        self.parts, self.ends = parts, ends
        self.started: list[str] = []
        self.cancelled: list[str] = []

    def submit(self, tasks: Sequence[WorkerTask]) -> list[str]:
        names = [f"worker {len(self.started) + k}" for k in range(len(tasks))]
        self.started += names
        return names

    def poll(self, names: Sequence[str]) -> dict[str, Status]:
        if not self.ends:
            return {name: Status("done") for name in names}
        if self.ends[0][0] == "waiting":
            return {name: Status("waiting") for name in names}
        state, images = self.ends.pop(0)
        if images:
            (self.parts / f"part-{len(self.ends):032x}-{images}-{0:016x}.parquet").touch()
        return {names[0]: Status(state, "mend this" if state == "refused" else "exit code -9")}  # type: ignore[arg-type]

    def cancel(self, names: Sequence[str]) -> None:
        self.cancelled += names


class Planned:
    """A run of ten images, of which ``missing`` says what no part holds."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.parts_folder = folder, folder / "parts"

    def plan(self) -> SimpleNamespace:
        return SimpleNamespace(ids=tuple(f"image {k}" for k in range(10)))

    def missing(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        file = self.folder / "missing"
        return tuple(i for i in wanted if file.is_file() and i in file.read_text().splitlines())


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerTask:
    (tmp_path / "parts").mkdir()
    monkeypatch.setattr(driving, "pass_folder", lambda runs, limit: tmp_path / "pass")
    monkeypatch.setattr(driving, "Run", Planned)
    return WorkerTask(runs=(tmp_path,))


def scripted(task: WorkerTask, *ends: tuple[str, int]) -> Scripted:
    return Scripted(task.runs[0] / "parts", list(ends))


def test_all_end(task: WorkerTask) -> None:
    seen: list[int] = []
    engine = scripted(task, ("done", 3), ("running", 2), ("done", 4))
    drive(engine, task, 2, seen.append)
    assert sum(seen) == 9 and engine.started == ["worker 0", "worker 1"] and engine.cancelled == []


def test_one_that_dies_is_replaced(task: WorkerTask) -> None:
    engine = scripted(task, ("failed", 1))
    drive(engine, task, 2, lambda count: None)
    assert engine.started == ["worker 0", "worker 1", "worker 2"]


def test_deaths_with_progress_between_them_are_no_end(task: WorkerTask) -> None:
    engine = scripted(task, *[("failed", 1)] * 9)
    drive(engine, task, 1, lambda count: None)
    assert len(engine.started) == 10


def test_deaths_without_progress_are(task: WorkerTask) -> None:
    engine = scripted(task, *[("failed", 0)] * 9)
    with pytest.raises(UserError, match=r"5 worker processes died one after the other \(exit code -9\)"):
        drive(engine, task, 1, lambda count: None)
    assert len(engine.started) == 5


def test_one_that_dies_when_nothing_is_left_is_not_replaced(task: WorkerTask) -> None:
    """On a cluster the next one would be queued, perhaps for hours, to find nothing to do."""
    engine = scripted(task, ("failed", 10))
    drive(engine, task, 1, lambda count: None)
    assert engine.started == ["worker 0"]


def test_nobody_waits_for_workers_that_have_no_place_yet_when_nothing_is_left(task: WorkerTask) -> None:
    engine = scripted(task, ("done", 10), ("waiting", 0))
    drive(engine, task, 3, lambda count: None)
    assert engine.cancelled == ["worker 1", "worker 2"]


@pytest.mark.parametrize(("stored", "missing"), [(9, ""), (10, "image 3"), (12, "image 9")])
def test_workers_wait_while_an_image_is_missing(task: WorkerTask, stored: int, missing: str) -> None:
    """Names of parts say how many images they hold, and an image that was done twice is in two."""
    (task.runs[0] / "missing").write_text(missing)
    engine = scripted(task, ("done", stored), ("waiting", 0))
    polls: list[int] = []

    def poll(names: Sequence[str]) -> dict[str, Status]:
        polls.append(1)
        if len(polls) == 4:
            engine.ends.clear()
        return Scripted.poll(engine, names)

    engine.poll = poll  # type: ignore[method-assign]
    drive(engine, task, 2, lambda count: None)
    assert len(polls) == 4 and engine.cancelled == []


@pytest.mark.parametrize(("limit", "over"), [(4, True), (5, False)])
def test_only_what_is_asked_for_has_to_be_there(task: WorkerTask, limit: int, over: bool) -> None:
    (task.runs[0] / "missing").write_text("image 4")
    asked = task.model_copy(update={"limit": limit})
    engine = scripted(asked, ("done", 5), ("failed", 0))
    drive(engine, asked, 2, lambda count: None)
    assert len(engine.started) == (2 if over else 3)


def test_one_that_refuses_ends_all(task: WorkerTask) -> None:
    engine = scripted(task, ("refused", 1))
    with pytest.raises(UserError, match="mend this"):
        drive(engine, task, 3, lambda count: None)
    assert engine.cancelled == ["worker 1", "worker 2"]


def test_images_that_were_given_up_are_named(task: WorkerTask) -> None:
    folder = task.runs[0] / "pass" / "given-up"
    folder.mkdir(parents=True)
    (folder / "x.json").write_bytes(seal({"image": "street 7", "tries": 3}))
    with pytest.raises(UserError, match="1 images ended every worker that began them, street 7 for one"):
        drive(scripted(task), task, 1, lambda count: None)
