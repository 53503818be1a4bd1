"""``bench suite`` end to end: a table, exit codes, what fails and what goes on, kill -9 and the same command again."""

import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import SCRIPT

Command = Callable[..., Any]
PLUGIN = """
import os
import time

from ovss.methods.maskclip import MaskCLIP


class Slow(MaskCLIP):
    def score_windows(self, seen, words):
        time.sleep(float(os.environ.get("SLOW_SECONDS", "0")))
        return super().score_windows(seen, words)


class Broken(MaskCLIP):
    def score_windows(self, seen, words):
        raise ArithmeticError("nothing adds up")
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Methods of others that can be named as ``suite_methods:Slow``."""
    folder = tmp_path / "plugin"
    folder.mkdir()
    (folder / "suite_methods.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(folder)
    return folder


def written(folder: Path, *tables: str) -> str:
    (folder / "mine.toml").write_text('title = "Mine"\n' + "\n".join(f"[[runs]]\n{table}" for table in tables))
    return "mine.toml"


def counts_of(results: Path) -> dict[str, bytes]:
    return {p.parent.name: p.read_bytes() for p in sorted(results.glob("runs/*/counts.parquet"))}


def test_a_shipped_suite_runs_and_is_answered(bench: Command, tmp_path: Path) -> None:
    ended = bench("suite", "shapes", "--limit", "2")
    assert ended.code == 0, ended.err
    assert ended.out.count("2 of 300 (partial)") == 4 and "4 runs: 4 done, 0 failed" in ended.out
    assert "weights tiny-clip file:" in ended.out and ", code " in ended.out and "cpu (" in ended.out
    written_at = {p: p.stat().st_mtime_ns for p in tmp_path.glob("results/runs/*/*.parquet")}
    told = bench("suite", "shapes", "--limit", "2", "--json").json()
    assert [run["problem"] for run in told["runs"]] == [None] * 4 and told["suite"] == "shapes"
    assert {p: p.stat().st_mtime_ns for p in written_at} == written_at
    first = told["runs"][0]
    assert len(first["protocol_hash"]) == 64 and first["weights"]["name"] == "tiny-clip" and first["miou"] > 0
    for run in told["runs"]:  # the command that is told does the same
        assert bench(*shlex.split(run["command"])[1:], "--json").json()["run_dir"] == run["run_dir"]


def test_a_dry_run_runs_nothing_and_says_what_it_would_take(bench: Command, tmp_path: Path) -> None:
    ended = bench("suite", "eight-benchmarks", "--dry-run", "--method", "sclip,clip", "--json")
    assert ended.code == 1 and not (tmp_path / "results").exists()
    told = json.loads(ended.out)
    assert len(told["runs"]) == 16 and {run["images"] for run in told["runs"]} == {1449, 5105, 5000, 500, 2000}
    assert [need["name"] for need in told["missing"]][:2] == ["clip-vit-b-16-openai", "voc21"]
    shown = bench("suite", "eight-benchmarks", "--dry-run", "--dataset", "voc21", "--method", "clip")
    assert (
        shown.code == 1
        and "1 run in 1 pass over the images, 1449 images in all" in shown.out
        and "bench data download voc21" in shown.out
    )
    assert "bench weights fetch clip-vit-b-16-openai" in shown.out and "are free there" in shown.out
    bench("run", "-m", "clip", "-d", "shapes", "--limit", "2")
    here = bench("suite", "shapes", "--dry-run", "--limit", "4", "--json")
    assert here.code == 0
    runs = {run["method"]: run for run in here.json()["runs"] if run["protocol"] == "tiny"}
    assert (runs["clip"]["done"], runs["clip"]["images"]) == (2, 4) and runs["clip"]["seconds"] > 0
    assert runs["sclip"]["seconds"] is None and "done" in bench("suite", "shapes", "--dry-run").out


def test_what_fails_stops_nothing_else(bench: Command, tmp_path: Path, plugin: Path) -> None:
    """One of a pass, and one whose data are not here; both are said at the end, with the command that does it again."""
    suite = written(
        tmp_path,
        'methods = ["suite_methods:Broken", "clip"]\ndatasets = ["shapes"]\nbackbone = "tiny-clip"\nlimit = 2',
        'methods = ["clip"]\ndatasets = ["voc21"]\nbackbone = "tiny-clip"',
        'methods = ["maskclip"]\ndatasets = ["shapes:val"]\nlimit = 2',
    )
    ended = bench("suite", suite)
    assert ended.code == 1 and "Traceback" not in ended.err
    assert "4 runs: 2 done, 2 failed" in ended.out
    assert "failed: suite_methods:Broken on shapes: " in ended.out and "nothing adds up" in ended.out
    assert "failed: clip on voc21: data set 'voc21' needs its folder" in ended.out
    assert "again: bench run --method clip --dataset voc21 --backbone tiny-clip" in ended.out
    assert sorted(name.rpartition("-")[0] for name in counts_of(tmp_path / "results")) == [
        "shapes-clip-tiny",
        "shapes-val-maskclip-tiny",
    ]


def test_killed_at_work_and_run_again(
    bench: Command, tmp_path: Path, plugin: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The finished run stays as it is, the begun one goes on, and the bytes are those of a quiet day."""
    suite = written(
        tmp_path,
        'methods = ["clip"]\ndatasets = ["shapes"]\nlimit = 2',
        'methods = ["suite_methods:Slow"]\ndatasets = ["shapes"]\nlimit = 12\nbackbone = "tiny-clip"',
    )
    assert bench("suite", suite, "--results", "quiet").code == 0
    places = os.pathsep.join([str(plugin), *filter(None, [environment.get("PYTHONPATH")])])
    slow = {**environment, "PYTHONPATH": places, "SLOW_SECONDS": "0.5"}
    killed = subprocess.Popen(
        [str(SCRIPT), "suite", suite], cwd=tmp_path, env=slow, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    end = time.monotonic() + 120
    while not list(tmp_path.glob("results/runs/*Slow*/parts/part-*.parquet")):
        assert killed.poll() is None and time.monotonic() < end, killed.communicate()[1]
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.glob("results/runs/*/parts/part-*.parquet")}
    assert len(counts_of(tmp_path / "results")) == 1  # clip was finished, Slow was not
    told = bench("suite", suite, "--json").json()
    assert [run["images"] for run in told["runs"]] == [2, 12]
    assert counts_of(tmp_path / "results") == counts_of(tmp_path / "quiet")
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    slow_parts = list(tmp_path.glob("results/runs/*Slow*/parts/part-*.parquet"))
    assert len(slow_parts) > 1 and sum(int(p.name.split("-")[2]) for p in slow_parts) == 12


def test_mistakes_are_told(bench: Command, tmp_path: Path) -> None:
    wrong = written(tmp_path, 'methods = ["sclpi"]\ndatasets = ["shapes"]')
    for words, said in (
        (("suite", "shaeps"), "did you mean shapes?"),
        (("suite", wrong), "mine.toml cannot be run:\n  runs[1].methods: unknown method 'sclpi'; did you mean sclip?"),
        (("suite", "absent.toml"), "absent.toml"),
        (("suite", "shapes", "--method", "naclip"), "no run of --method 'naclip'"),
        (("suite", "shapes", "--device", "gpu"), "unknown device 'gpu'"),
    ):
        ended = bench(*words)
        assert ended.code == 2 and ended.out == "" and said in ended.err


def test_options_that_a_method_does_not_take_are_told_before_any_work(bench: Command, tmp_path: Path) -> None:
    suite = written(
        tmp_path,
        'methods = ["clip"]\ndatasets = ["shapes"]\nlimit = 2',
        'methods = ["maskclip"]\ndatasets = ["shapes"]\noptions = { padd = true }',
    )
    ended = bench("suite", suite)
    assert ended.code == 2 and "suite mine, runs[2].options: " in ended.err and "padd" in ended.err
    assert not (tmp_path / "results").exists()


def test_list_suites(bench: Command) -> None:
    rows = {row["suite"]: row for row in bench("list", "suites", "--json").json()}
    assert {"eight-benchmarks", "mess", "shapes"} <= set(rows)
    assert rows["eight-benchmarks"]["data sets"] == 8 and rows["mess"]["data sets"] == 25
    assert all(Path(row["file"]).is_file() and row["title"] for row in rows.values())
    assert "eight-benchmarks" in bench("list", "suites").out
