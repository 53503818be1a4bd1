"""``bench leaderboard``: filters choose what is shown, and a part never takes the place of the whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


@pytest.fixture
def results(bench: Command, tmp_path: Path) -> Path:
    bench("run", "-m", "clip,maskclip", "-d", "shapes", "--limit", "10", "--results", str(tmp_path / "r"))
    return tmp_path / "r"


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


def test_complete_runs_only(bench: Command, results: Path) -> None:
    ended = bench("leaderboard", "--results", str(results), "--complete")
    assert "maskclip" not in ended.out  # 10 of 300 scenes


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--sort", "speed"), "rank"),
        (("--method", "clpi"), "none of 2 finished"),
        (("--protocol", "no"), "none of 2 finished"),
    ],
)
def test_mistakes_are_told(bench: Command, results: Path, flags: tuple[str, ...], said: str) -> None:
    ended = bench("leaderboard", "--results", str(results), *flags)
    assert ended.code == 2 and said in ended.err
