"""``bench leaderboard``: filters choose what is shown, and a part never takes the place of the whole."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs stand that every test copies."""
    return tmp_path_factory.mktemp("kept") / "r"


@pytest.fixture
def results(bench: Command, tmp_path: Path, kept: Path) -> Path:
    if not kept.exists():
        bench("run", "-m", "clip,maskclip", "-d", "shapes", "--limit", "10", "--results", str(kept))
    return shutil.copytree(kept, tmp_path / "r")


def test_a_part_is_shown_and_the_whole_is_kept(bench: Command, results: Path, tmp_path: Path) -> None:
    whole = bench("leaderboard", "--results", str(results))
    assert "clip" in whole.out and "maskclip" in whole.out
    before = (results / "LEADERBOARD.md").read_bytes()
    part = bench("leaderboard", "--results", str(results), "--method", "maskclip")
    lines = [line.split() for line in part.out.splitlines()]
    assert any("maskclip" in words for words in lines) and not any("clip" in words for words in lines)
    assert (results / "LEADERBOARD.md").read_bytes() == before
    other = tmp_path / "part.md"
    bench("leaderboard", "--results", str(results), "--method", "maskclip", "--output", str(other))
    assert "| maskclip" in other.read_text() and "| clip " not in other.read_text()


def test_filters_that_nothing_passes(bench: Command, results: Path) -> None:
    ended = bench("leaderboard", "--results", str(results), "--method", "maskclip", "--complete")
    assert ended.code == 2 and "none of 2 finished runs is all of what was asked for" in ended.err


def test_marks_are_explained_once_and_runs_are_named(bench: Command, results: Path) -> None:
    bench("run", "-m", "clip,maskclip", "-d", "shapes:val", "--limit", "10", "--results", str(results))
    bench("run", "-m", "clip-s4-like", "-d", "shapes", "--limit", "10", "--results", str(results))
    said = bench("leaderboard", "--results", str(results)).out
    assert said.count("protocol tiny") == 4 and said.count("* best, + second") == 1  # two grids, two data sets
    assert "shapes val, protocol tiny 413ac101, 10 images, 10 units (partial)" in said
    for run in (results / "runs").iterdir():
        assert run.name in said


@pytest.mark.parametrize(("width", "dropped"), [(80, "too narrow for: run"), (200, "")])
def test_tables_fit_the_terminal(
    bench: Command, results: Path, monkeypatch: pytest.MonkeyPatch, width: int, dropped: str
) -> None:
    option = ("--option", "clip-dinoiser.pooling=clip_keys", "--option", "clip-dinoiser.gamma=0.25")
    bench("run", "-m", "clip-dinoiser", "-d", "shapes", "--limit", "10", "--results", str(results), *option)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    said = bench("leaderboard", "--results", str(results)).out
    said = re.sub(r"\x1b\[[0-9;]*m", "", said)
    tables = [line for line in said.splitlines() if line.startswith(("│", "┃", "┏"))]
    assert tables and max(map(len, tables)) <= width
    assert (dropped in said) and ("too narrow for: run" in said) == bool(dropped)


def test_the_papers_and_the_interval_of_latex(bench: Command, results: Path) -> None:
    bench("leaderboard", "--results", str(results), "--interval", "brackets")
    latex, papers = ((results / f"LEADERBOARD.{suffix}").read_text() for suffix in ("tex", "bib"))
    assert r"maskclip~\cite{zhou2022maskclip}" in latex and r"{\scriptsize [" in latex and r"\pm" not in latex
    assert papers.count("@inproceedings") == 2 and "@inproceedings{zhou2022maskclip," in papers


def test_complete_runs_only(bench: Command, results: Path) -> None:
    ended = bench("leaderboard", "--results", str(results), "--complete")
    assert "maskclip" not in ended.out  # 10 of 300 scenes


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--sort", "speed"), "rank"),
        (
            ("--method", "mask-clip"),
            "no finished run has --method 'mask-clip'; did you mean maskclip? Known: clip, m",
        ),
        (("--dataset", "shaeps"), "--dataset 'shaeps'; did you mean shapes?"),
        (("--protocol", "tinny"), "--protocol 'tinny'; did you mean tiny? Known: tiny, or six characters or more"),
        (("--method", "clip,x", "--dataset", "y"), "--method 'x'. Known: clip, maskclip;  nor --dataset 'y'. Known"),
        (("--plot", "x.png"), "--plot 'x.png' must end with .svg or .pdf"),
        (("--interval", "plus"), "--interval cannot be 'plus'. Known: brackets, none, pm"),
    ],
)
def test_mistakes_are_told(bench: Command, results: Path, flags: tuple[str, ...], said: str) -> None:
    ended = bench("leaderboard", "--results", str(results), *flags)
    assert ended.code == 2 and said in ended.err
