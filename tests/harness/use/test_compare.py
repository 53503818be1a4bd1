"""``compare`` from Python: any way to name a run, one answer."""

from pathlib import Path

import numpy as np
import pytest

from ovss.harness import compare, every_pair, find_run, leaderboard, run
from ovss.harness.metrics.draws import REPLICATES, SEED
from ovss.harness.runs.run import Finished
from ovss.methods import UserError


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Finished]]:
    results = tmp_path_factory.mktemp("results")
    return results, run(every_pair(["clip", "maskclip"], ["shapes"]), results, limit=11)


def test_a_run_is_named_in_any_way(two: tuple[Path, list[Finished]]) -> None:
    results, (clip, maskclip) = two
    found = compare(clip, maskclip)
    (pair,) = found.differences
    assert pair.difference == pytest.approx(clip.summary["miou"] - maskclip.summary["miou"])
    assert (pair.first, pair.second, found.dataset, found.split) == (clip.name, maskclip.name, "shapes", "test")
    assert found.images == found.units == 11 and pair.same_protocol and "ranks do not transfer" in found.note
    assert pair.interval is not None and pair.interval[0] <= pair.difference <= pair.interval[1]
    assert [s.miou for s in found.sides] == [pytest.approx(f.summary["miou"]) for f in (clip, maskclip)]
    assert [s.interval for s in found.sides] == [tuple(f.summary["interval"]) for f in (clip, maskclip)]
    assert compare(clip.folder, "shapes-maskclip", results=results) == found
    assert compare(find_run("shapes-clip", results), maskclip.run) == found


def test_classes_and_images_by_hand(two: tuple[Path, list[Finished]]) -> None:
    """Against IoU from the rows themselves, and a bootstrap with a loop."""
    _, (clip, maskclip) = two
    (pair,) = compare(clip, maskclip).differences
    sums = [
        (f.result.counts.tp, f.result.counts.gt + f.result.counts.pred - f.result.counts.tp) for f in (clip, maskclip)
    ]
    with np.errstate(invalid="ignore"):
        first, second = (100 * tp.sum(axis=0) / union.sum(axis=0) for tp, union in sums)
    by_name = {c.name: c for c in pair.classes}
    for k, name in enumerate(clip.plan.record.classes):
        one = by_name[name]
        if np.isnan(first[k] - second[k]):
            assert one.difference is None and one.interval is None
        else:
            assert (one.first, one.second) == (pytest.approx(first[k]), pytest.approx(second[k]))
            assert one.difference == pytest.approx(first[k] - second[k])
        assert one.images == (clip.result.counts.gt[:, k] > 0).sum()
    order = [c.difference for c in pair.classes if c.difference is not None]
    assert order == sorted(order, reverse=True) and len(order) > 5

    name = clip.plan.record.classes[int(np.nanargmax(np.abs(first - second)))]
    k, draws = (
        clip.plan.record.classes.index(name),
        np.random.default_rng(SEED).multinomial(11, [1 / 11] * 11, REPLICATES),
    )
    drawn = []
    for weights in draws:
        with np.errstate(invalid="ignore"):
            a, b = (100 * (weights @ tp[:, k]) / (weights @ union[:, k]) for tp, union in sums)
        drawn.append(a - b)
    assert by_name[name].interval == pytest.approx(tuple(np.nanpercentile(drawn, [2.5, 97.5])))

    sizes = [abs(i.difference) for i in pair.images]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) == 10
    worst = pair.images[0]
    row = clip.result.ids.index(worst.image)
    labelled = clip.result.counts.gt[row] > 0
    assert worst.first == pytest.approx(100 * (sums[0][0][row] / np.maximum(sums[0][1][row], 1))[labelled].mean())


def test_several_runs_and_what_else_differs(two: tuple[Path, list[Finished]], tmp_path: Path) -> None:
    _, (clip, maskclip) = two
    (other,) = run(every_pair(["maskclip"], ["shapes"], changes={"templates": "simple"}), tmp_path, limit=11)
    found = compare(clip, maskclip, other)
    alone = [compare(clip, one).differences[0] for one in (maskclip, other)]
    assert [p.second for p in found.differences] == [maskclip.name, other.name]
    assert [p.difference for p in found.differences] == [p.difference for p in alone]
    least, most = sorted(p.p_value or 0 for p in alone)
    assert sorted(p.p_value or 0 for p in found.differences) == [pytest.approx(2 * least), max(most, 2 * least)]
    assert [p.same_protocol for p in found.differences] == [True, False]
    (change,) = found.differences[1].changes
    assert (change.field, change.second) == ("protocol: templates", "simple") and change.why


def test_what_cannot_be_compared(two: tuple[Path, list[Finished]], tmp_path: Path) -> None:
    results, (clip, _) = two
    (other,) = run(every_pair(["clip"], ["shapes:val"]), tmp_path, limit=1)
    with pytest.raises(UserError, match="not on the same images"):
        compare(clip, other)
    with pytest.raises(UserError, match="no run is named 'gone'"):
        compare(clip, "gone", results=results)
    with pytest.raises(UserError, match="named twice"):
        compare(clip, clip.folder)
    with pytest.raises(UserError, match="two runs or more"):
        compare(clip)


def test_the_leaderboard_says_the_same(two: tuple[Path, list[Finished]]) -> None:
    """Rows from Python; nothing is written unless a place for it is named."""
    results, runs = two
    board = leaderboard(results)
    assert sorted(row.run for row in board.rows) == sorted(f.name for f in runs) and board.skipped == ()
    best = max(board.rows, key=lambda row: row.miou or 0)
    other = next(row for row in board.rows if row is not best)
    (found,) = compare(other.run, best.run, results=results).differences
    assert best.behind == 0 and other.behind == pytest.approx(found.difference)
    assert all(f"| {row.method} |" in board.markdown for row in board.rows)
    assert [p.name for p in results.iterdir()] == ["runs"]
    leaderboard(results, results / "TABLE.md")
    assert sorted(p.suffix for p in results.glob("TABLE.*")) == [".bib", ".csv", ".json", ".md", ".tex"]
