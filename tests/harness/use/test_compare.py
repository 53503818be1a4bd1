"""``compare`` from Python: any way to name a run, one answer."""

from pathlib import Path

import pytest

from ovss.harness import compare, every_pair, find_run, leaderboard, run
from ovss.harness.runs.run import Finished
from ovss.methods import UserError


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Finished]]:
    results = tmp_path_factory.mktemp("results")
    return results, run(every_pair(["clip", "maskclip"], ["shapes"]), results, limit=11)


def test_a_run_is_named_in_any_way(two: tuple[Path, list[Finished]]) -> None:
    results, (clip, maskclip) = two
    found = compare(clip, maskclip)
    assert found.difference == pytest.approx(clip.summary["miou"] - maskclip.summary["miou"])
    assert (found.first, found.second, found.dataset, found.split) == (clip.name, maskclip.name, "shapes", "test")
    assert found.images == found.units == 11 and found.same_protocol and "ranks do not transfer" in found.note
    assert found.interval is not None and found.interval[0] <= found.difference <= found.interval[1]
    assert compare(clip.folder, "shapes-maskclip", results) == found
    assert compare(find_run("shapes-clip", results), maskclip.run) == found


def test_what_cannot_be_compared(two: tuple[Path, list[Finished]], tmp_path: Path) -> None:
    results, (clip, _) = two
    (other,) = run(every_pair(["clip"], ["shapes:val"]), tmp_path, limit=1)
    with pytest.raises(UserError, match="not on the same images"):
        compare(clip, other)
    with pytest.raises(UserError, match="no run is named 'gone'"):
        compare(clip, "gone", results)


def test_the_leaderboard_says_the_same(two: tuple[Path, list[Finished]]) -> None:
    """Rows from Python; nothing is written unless a place for it is named."""
    results, runs = two
    board = leaderboard(results)
    assert sorted(row.run for row in board.rows) == sorted(f.name for f in runs) and board.skipped == ()
    best = max(board.rows, key=lambda row: row.miou or 0)
    other = next(row for row in board.rows if row is not best)
    found = compare(other.run, best.run, results)
    assert best.behind == 0 and other.behind == pytest.approx(found.difference)
    assert all(f"| {row.method} |" in board.markdown for row in board.rows)
    assert [p.name for p in results.iterdir()] == ["runs"]
    leaderboard(results, results / "TABLE.md")
    assert sorted(p.suffix for p in results.glob("TABLE.*")) == [".csv", ".json", ".md", ".tex"]
