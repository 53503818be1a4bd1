"""Which jobs a SLURM engine takes for its own.  Submitit and queue are stand-ins; ``tests/cluster`` has real ones."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ovss.harness.engines import slurm
from ovss.harness.engines.slurm import Slurm
from ovss.harness.runs.loading import Loading
from ovss.harness.runs.worker_task import WorkerTask
from ovss.methods import UserError


class Cluster:
    """A queue in which every job runs until the test says otherwise; numbers of arrays are even."""

    def __init__(self) -> None:
        self.queue: dict[str, str] = {}
        self.arrays = 0

    def submit_array(self, jobs: Sequence[Any]) -> list[Any]:
        self.arrays += 2
        names = [f"{self.arrays}_{k}" for k in range(len(jobs))]
        self.queue |= dict.fromkeys(names, "RUNNING")
        return [SimpleNamespace(job_id=name) for name in names]

    def submit(self, job: Any) -> Any:
        (found,) = self.submit_array([job])
        return found

    def update_parameters(self, **values: Any) -> None: ...

    def call(self, command: str, *words: str) -> str:
        if command == "scancel":
            self.queue |= dict.fromkeys(words, "COMPLETING")
        return "\n".join(f"{name} {state}" for name, state in self.queue.items())


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made, module = Cluster(), ModuleType("submitit")

    def paths(folder: Path, name: str, task: int) -> Any:
        return SimpleNamespace(result_pickle=folder / f"{name}.result", stderr=folder / f"{name}.err")

    module.SlurmExecutor = lambda folder, max_num_timeout: made  # type: ignore[attr-defined]
    utils = SimpleNamespace(JobPaths=paths, pickle_load=lambda path: ("success", path.read_text()))
    module.core = SimpleNamespace(utils=utils)  # type: ignore[attr-defined]
    module.__spec__ = SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "submitit", module)
    monkeypatch.setattr(slurm.shutil, "which", lambda name: name)
    monkeypatch.setattr(slurm, "_call", made.call)
    monkeypatch.setenv("OVSS_SHARED_TMP", "1")
    return made


ONE = WorkerTask(runs=(Path("a"),), workers=2)
BOTH = WorkerTask(runs=(Path("a"), Path("b")), workers=2)


def test_jobs_that_were_left_are_found(cluster: Cluster, tmp_path: Path) -> None:
    """By a later process, also one that wants fewer or loads otherwise; the others are new."""
    assert Slurm(tmp_path, {}).submit([ONE] * 2) == ["2_0", "2_1"]
    later = ONE.model_copy(update={"workers": 3, "loading": Loading(threads=2)})
    assert Slurm(tmp_path, {}).submit([later]) == ["2_0", "2_1"]
    again = Slurm(tmp_path, {})
    assert again.submit([later] * 3) == ["2_0", "2_1", "4_0"]
    assert again.submit([later]) == ["6_0"]  # in the place of one that died, not one that it has already
    assert Slurm(tmp_path, {}).submit([later] * 4) == ["2_0", "2_1", "4_0", "6_0"]


def test_jobs_at_other_runs_are_not(cluster: Cluster, tmp_path: Path) -> None:
    """A pass of two runs that failed is tried run by run: what one run's jobs say is none of the other's business."""
    Slurm(tmp_path, {}).submit([BOTH] * 2)
    assert Slurm(tmp_path, {}).submit([ONE]) == ["4_0"]
    assert Slurm(tmp_path, {}).submit([ONE.model_copy(update={"limit": 5})]) == ["6_0"]


def test_jobs_that_were_cancelled_are_not(cluster: Cluster, tmp_path: Path) -> None:
    """Though the queue still has them: run again at once after Ctrl-C, it would take their end for deaths."""
    first = Slurm(tmp_path, {})
    first.cancel(first.submit([ONE] * 2))
    assert cluster.queue == {"2_0": "COMPLETING", "2_1": "COMPLETING"}
    assert Slurm(tmp_path, {}).submit([ONE]) == ["4_0"]


def test_jobs_that_have_said_how_they_ended_are_not(cluster: Cluster, tmp_path: Path) -> None:
    first = Slurm(tmp_path, {})
    first.submit([ONE] * 2)
    (tmp_path / "2_0.result").write_text("the image is damaged")
    assert first.poll(["2_0"])["2_0"].state == "refused" and first.poll(["2_1"])["2_1"].state == "running"
    assert Slurm(tmp_path, {}).submit([ONE]) == ["2_1"]


def test_what_is_missing_here_is_told_before_anything(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OVSS_SHARED_TMP")
    monkeypatch.setattr(slurm.tempfile, "gettempdir", lambda: str(tmp_path))
    with pytest.raises(UserError, match="which other nodes do not see"):
        slurm.check_here(tmp_path / "results")
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="needs the command sbatch"):
        slurm.check_here(tmp_path)
    monkeypatch.setattr(slurm, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs submitit: pip install"):
        slurm.check_here(tmp_path)
