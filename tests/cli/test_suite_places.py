"""``bench suite`` by many workers, loading ahead, on a cluster: same bytes, and what fails stops nothing else."""

import json
import multiprocessing
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ovss.harness.engines.choose import Where
from ovss.harness.engines.door import Status
from ovss.harness.engines.local import Local
from ovss.harness.runs.worker import work
from ovss.harness.runs.worker_task import WorkerTask

Command = Callable[..., Any]
PLUGIN = """
from ovss.methods.maskclip import MaskCLIP


class Broken(MaskCLIP):
    def score_windows(self, seen, words):
        raise ArithmeticError("nothing adds up")
"""
FILES = ("counts.parquet", "metrics.json")
SHAPES = 'methods = ["clip", "maskclip"]\ndatasets = ["shapes"]\nlimit = 3'
OTHERS = 'methods = ["clip"]\ndatasets = ["shapes:val"]\nlimit = 3'
BROKEN = 'methods = ["places_methods:Broken", "clip"]\ndatasets = ["shapes"]\nlimit = 3\nbackbone = "tiny-clip"'


@pytest.fixture(autouse=True)
def _quick_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are forked, and methods of others can be named as ``places_methods:Broken``."""
    forked = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: forked)
    (tmp_path / "plugin").mkdir()
    (tmp_path / "plugin" / "places_methods.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path / "plugin")


def written(folder: Path, *tables: str) -> str:
    (folder / "mine.toml").write_text("\n".join(f"[[runs]]\n{table}" for table in tables))
    return "mine.toml"


def outputs(results: Path) -> dict[str, bytes]:
    return {f"{p.parent.name}/{p.name}": p.read_bytes() for name in FILES for p in results.glob(f"runs/*/{name}")}


def manifests(results: Path) -> list[dict[str, Any]]:
    return [json.loads(p.read_text()) for p in sorted(results.glob("runs/*/manifest.json"))]


def test_workers_and_loaders_change_no_byte(bench: Command, tmp_path: Path) -> None:
    suite = written(tmp_path, SHAPES, OTHERS)
    assert bench("suite", suite, "--results", "alone").code == 0
    placed = ("--workers", "2", "--loaders", "1", "--cache-decoded", "kept", "--results", "together")
    ended = bench("suite", suite, *placed)
    assert ended.code == 0 and "3 runs: 3 done, 0 failed" in ended.out, ended.err
    assert len(outputs(tmp_path / "alone")) == 6 and outputs(tmp_path / "together") == outputs(tmp_path / "alone")
    assert [(m["workers"], m["loaders"]) for m in manifests(tmp_path / "together")] == [(2, 1)] * 3
    assert [(m["workers"], m["loaders"]) for m in manifests(tmp_path / "alone")] == [(1, 0)] * 3


def test_several_methods_and_data_sets_in_one_command_too(bench: Command, tmp_path: Path, camvid: Path) -> None:
    """``bench run -m A,B -d X,Y``: two data sets over the same frames."""
    text = f'title = "t"\nimages = "{camvid}/test"\nimage_suffix = ".png"\nlabels = "{camvid}/testannot"\n'
    for key, first in (("road", 0), ("street", 1)):
        names = json.dumps(["sky", *(f"thing {k}" for k in range(11 - first))])
        (tmp_path / f"{key}.toml").write_text(f'key = "{key}"\n{text}classes = {names}\nfirst_label = {first}\n')
    command = ("run", "-m", "clip,maskclip", "-d", "road.toml,street.toml", "--backbone", "tiny-clip")
    command += ("--protocol", "tiny", "--json")
    alone = bench(*command, "--results", "alone").json()
    placed = ("--workers", "2", "--loaders", "2", "--cache-decoded", "kept")
    together = bench(*command, "--results", "together", *placed).json()
    assert [(r["method"], r["dataset"]) for r in together] == [(r["method"], r["dataset"]) for r in alone]
    assert len(outputs(tmp_path / "alone")) == 8 and outputs(tmp_path / "together") == outputs(tmp_path / "alone")
    assert len(list((tmp_path / "kept").glob("*.decoded"))) == 2


def test_what_fails_in_a_worker_is_told_and_the_others_are_done(bench: Command, tmp_path: Path) -> None:
    """In a pass of two runs; the command that does it again works at the same place."""
    suite = written(tmp_path, BROKEN, OTHERS)
    ended = bench("suite", suite, "--workers", "2", "--loaders", "0")
    assert ended.code == 1 and "Traceback" not in ended.err
    assert "3 runs: 2 done, 1 failed" in ended.out
    assert "failed: places_methods:Broken on shapes: " in ended.out and "nothing adds up" in ended.out
    (line,) = (line for line in ended.out.splitlines() if "again: " in line)
    again = shlex.split(line.partition("again: ")[2])
    assert again[-4:] == ["--workers", "2", "--loaders", "0"]
    failed = bench(*again[1:])
    assert failed.code == 2 and "nothing adds up" in failed.err
    assert {name.partition("/")[0].rpartition("-")[0] for name in outputs(tmp_path / "results")} == {
        "shapes-clip-tiny",
        "shapes-val-clip-tiny",
    }


class Cluster:
    """Jobs outlive the process that queued them: here, until the next one polls."""

    poll_seconds = 0.0
    queued: ClassVar[list[tuple[str, WorkerTask]]] = []

    def submit(self, tasks: Sequence[WorkerTask]) -> list[str]:
        left = [name for name, task in self.queued if task.runs == tasks[0].runs]
        new = [(f"7_{len(self.queued) + k}", task) for k, task in enumerate(tasks[len(left) :])]
        self.queued.extend(new)
        return [*left, *(name for name, _ in new)]

    def poll(self, names: Sequence[str]) -> dict[str, Status]:
        for name, task in self.queued:
            if name in names:
                work(task)
        return {name: Status("done") for name in names}

    def cancel(self, names: Sequence[str]) -> None: ...


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, WorkerTask]]:
    """A SLURM cluster, as far as a suite sees one; what is queued."""
    queued: list[tuple[str, WorkerTask]] = []
    monkeypatch.setattr(Cluster, "queued", queued)
    monkeypatch.setattr(Where, "check", lambda where, device, results: None)
    start = lambda where, folder: Cluster() if where.engine == "slurm" else Local()  # noqa: E731
    monkeypatch.setattr(Where, "start", start)
    return queued


def test_every_pass_is_queued_and_the_same_command_waits(
    bench: Command, tmp_path: Path, cluster: list[tuple[str, WorkerTask]]
) -> None:
    suite = written(tmp_path, SHAPES, OTHERS, 'methods = ["clip"]\ndatasets = ["voc21"]\nbackbone = "tiny-clip"')
    assert bench("run", "-m", "clip", "-d", "shapes:val", "--limit", "3").code == 0  # done before: no job for it
    flags = ("suite", suite, "--engine", "slurm", "--workers", "2", "--slurm", "time=90")
    left = bench(*flags, "--detach")
    assert left.code == 1 and "4 runs: 1 done, 1 failed" in left.out  # voc21 is not here
    assert "2 runs left to jobs 7_0, 7_1: the same command without --detach waits for them" in left.out
    assert "--engine slurm --slurm time=90" in left.out and "--detach\n" not in left.out
    assert [len(task.runs) for _, task in cluster] == [2, 2]
    told = json.loads(bench(*flags, "--detach", "--json").out)
    assert [one["jobs"] for one in told["runs"]] == [["7_0", "7_1"]] * 2 + [[]] * 2
    found = bench(*flags)
    assert "4 runs: 3 done, 1 failed" in found.out and len(cluster) == 2
    assert bench("suite", suite, "--results", "alone").code == 1
    assert outputs(tmp_path / "results") == outputs(tmp_path / "alone") != {}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gpus", "all"), "--gpus is for --engine local with --device cuda"),
        (("--detach",), "--detach is for --engine slurm"),
        (("--slurm", "time", "--engine", "slurm"), "--slurm takes KEY=VALUE, not 'time'"),
        (("--engine", "ray"), "needs Ray: pip install 'ovss-bench[ray]'"),
        (("--loaders", "65"), "--loaders"),
        (("--workers", "0"), "--workers"),
    ],
)
def test_mistakes_are_told_before_any_work(
    bench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.setattr("ovss.harness.engines.ray.find_spec", lambda name: None)
    ended = bench("suite", "shapes", *words)
    assert ended.code == 2 and said in ended.err and not (tmp_path / "results").exists()
