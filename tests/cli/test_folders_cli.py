"""``bench list runs``, ``clean``, ``export`` and ``import``: what is printed, what is asked, and exit codes."""

import io
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ovss.harness.runs.run import Run

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two runs, one of older code: two images by it, three by the code that runs."""
    from ovss.harness import every_pair, run
    from ovss.harness.runs import plan

    results, pairs = tmp_path_factory.mktemp("made"), every_pair(["clip"], ["shapes"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "source_hash", lambda: "0" * 16)
        run(pairs, results, limit=2)
    run(pairs, results, limit=3)
    return results


@pytest.fixture
def results(made: Path, tmp_path: Path) -> Path:
    """A copy in which nothing was written for two hours."""
    copied = tmp_path / "results"
    shutil.copytree(made, copied)
    for path in copied.rglob("*"):
        os.utime(path, (time.time() - 7200,) * 2)
    return copied


def older_of(results: Path) -> Path:
    (found,) = (p for p in (results / "runs").iterdir() if Run(p).plan().identity["source_hash"] == "0" * 16)
    return found


def test_list_runs(bench: Command, results: Path) -> None:
    shown = bench("list", "runs")
    assert shown.code == 0 and "2 of 300" in shown.out and "3 of 300" in shown.out
    assert shown.out.count("partial, older code") == 1 and "2 runs, " in shown.out
    rows = {row["run"]: row for row in bench("list", "runs", "--json").json()}
    old = rows.pop(older_of(results).name)
    (new,) = rows.values()
    assert (old["state"], old["older_code"], old["images"], old["planned"]) == ("partial", True, 2, 300)
    assert (new["state"], new["older_code"], new["images"], new["method"]) == ("partial", False, 3, "clip")
    assert new["protocol"] == "tiny" and len(new["protocol_hash"]) == 64 and new["weights"]["name"] == "tiny-clip"
    assert new["device"].startswith("cpu") and new["code_version"] and new["size_bytes"] > 1000 and new["miou"] > 0


def test_list_runs_where_there_are_none_and_where_one_is_damaged(bench: Command, results: Path) -> None:
    assert "there are no runs in" in bench("list", "runs", "--results", "other").out
    (older_of(results) / "counts.parquet").write_bytes(b"x")
    shown = bench("list", "runs")
    assert shown.code == 0 and "damaged" in shown.out and "counts.parquet is damaged" in shown.out
    assert bench("list", "runs", "clip").code == 2


def test_clean_asks_nobody_and_so_keeps_results(bench: Command, results: Path) -> None:
    """Standard input of a test is no terminal."""
    old = older_of(results)
    dry = bench("clean", "--dry-run")
    assert dry.code == 0 and "superseded run" in dry.out and "1 to remove" in dry.out and str(old.name) in dry.out
    plain = bench("clean")
    assert plain.code == 0 and "removed 0 of 1" in plain.out and "1 hold results" in plain.out and old.exists()
    as_json = bench("clean", "--json").json()
    assert [(v["kind"], v["images"], v["removed"]) for v in as_json] == [("superseded run", 2, False)] and old.exists()
    yes = bench("clean", "--yes")
    assert "removed 1 of 1" in yes.out and not old.exists() and "hold results" not in yes.out
    assert "nothing to clean" in bench("clean").out


@pytest.mark.parametrize(
    ("answer", "gone"), [("y\n", True), ("yes\n", True), ("n\n", False), ("\n", False), ("", False)]
)
def test_clean_asks_on_a_terminal(
    bench: Command, results: Path, monkeypatch: pytest.MonkeyPatch, answer: str, gone: bool
) -> None:
    old = older_of(results)
    terminal = io.StringIO(answer)
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", terminal)
    ended = bench("clean")
    assert "with the results of 2 images? [y/N]" in ended.err and old.exists() is not gone


def test_clean_takes_what_holds_no_results_without_a_question(bench: Command, results: Path) -> None:
    old = older_of(results)
    (old / "parts" / "damaged-part-1.parquet").write_bytes(b"x")
    for path in (old, *old.rglob("*")):
        os.utime(path, (time.time() - 7200,) * 2)
    ended = bench("clean")
    assert "removed 1 of 2" in ended.out and not (old / "parts" / "damaged-part-1.parquet").exists() and old.exists()


def test_export_and_import(bench: Command, results: Path) -> None:
    old = older_of(results)
    written = bench("export", old.name, "-o", "ours.zip")
    assert written.code == 0 and "2 of 300" in written.out and "sha256" in written.out
    told = bench("export", old.name, "-o", "ours.zip", "--json").json()
    assert told["bundle"] == "ours.zip" and [one["run"] for one in told["runs"]] == [old.name]
    brought = bench("import", "ours.zip", "--results", "theirs")
    assert brought.code == 0 and "imported" in brought.out and "from ours" in brought.out
    (row,) = bench("import", "ours.zip", "--results", "theirs", "--json").json()
    assert (row["run"], row["state"]) == (old.name, "already here")
    board = bench("leaderboard", "--results", "theirs")
    assert f"ours {told['sha256'][:8]}" in board.out and "cpu (" in board.out
    shown = bench("show", f"theirs/runs/{old.name}").out
    assert f"ours {told['sha256'][:8]}" in shown and "imported from" in shown
    assert f"from ours {told['sha256'][:8]}" in bench("list", "runs", "--results", "theirs").out


def test_mistakes_are_told(bench: Command, results: Path) -> None:
    Path("text.zip").write_text("text")
    for words, said in (
        (("import", "text.zip"), "is no whole bundle"),
        (("import", "absent.zip"), "cannot be imported"),
        (("export", "nonsense", "-o", "b.zip"), "no run is named"),
        (("list", "rusn"), "did you mean runs?"),
    ):
        ended = bench(*words)
        assert ended.code == 2 and said in ended.err and ended.out == ""


def test_names_of_others_are_shown_escaped(bench: Command, results: Path) -> None:
    bench("export", older_of(results).name, "-o", "b.zip")
    assert bench("import", "b.zip", "--results", "theirs", "--name", "\x1b[2Jlab").code == 0
    for words in (("leaderboard",), ("list", "runs"), ("list", "runs", "--json")):
        ended = bench(*words, "--results", "theirs")
        assert ended.code == 0 and "\x1b" not in ended.out and "[2Jlab" in ended.out
    assert "\x1b" not in Path("theirs/LEADERBOARD.md").read_text()
