"""The grid of the leaderboard: what it marks, averages and drops, by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ovss.harness.metrics.counts import Counts
from ovss.harness.report.grid import Grid, grids
from ovss.harness.report.grid_text import grid_markdown, grid_table, head, numbered
from ovss.harness.report.rows import Only, Row
from ovss.methods import UserError


def row(method: str, dataset: str, miou: float, **changes: Any) -> Row:
    text = dict.fromkeys(Row.model_fields, "x")
    numbers = {"low": None, "high": None, "group": None, "behind": None, "behind_low": None, "behind_high": None}
    return Row(
        **text
        | numbers
        | {"method": method, "dataset": dataset, "miou": miou, "split": "test", "note": "", "schema_version": 1}
        | {"training_free": True, "images": 1, "units": 1, "complete": True, "images_per_second": 2.0, "peak_mb": 100}
        | {"reported": None, "protocol": "p", "protocol_hash": "abcdef12", "regions": "", "origin": ""}
        | changes
    )


def build(rows: list[Row], sort: str = "rank") -> tuple[Grid, ...]:
    def result(r: Row) -> Any:
        tp = np.array([[round((r.miou or 0) * 100)]])
        return SimpleNamespace(counts=Counts(tp, np.full_like(tp, 10000), tp), clusters=None, averaging="mmseg")

    return grids(rows, result, sort)


THREE = [row("a", "one", 90), row("b", "one", 50), row("c", "one", 10)]
TWO = [row("a", "two", 40, images_per_second=1.0, peak_mb=300), row("b", "two", 60), row("c", "two", 20)]


def test_three_by_two() -> None:
    (grid,) = build([*THREE, *TWO])
    assert [x.row.method for x in grid.lines] == ["a", "b", "c"]
    assert [x.mean for x in grid.lines] == pytest.approx([65, 55, 15]) and [x.rank for x in grid.lines] == [1, 1, 3]
    assert grid.lines[0].images_per_second == pytest.approx(2 / 1.5) and grid.lines[0].peak_mb == 300
    first = grid_markdown(grid, {})[4]
    assert first.startswith("| 1 | a | **90.00** | <ins>40.00</ins> | **65.00** | 1.3 | 300 |")
    assert [x.row.method for x in build([*THREE, *TWO], "two")[0].lines] == ["b", "a", "c"]
    with pytest.raises(UserError, match="--sort"):
        build(THREE, "three")


def test_a_missing_cell_leaves_the_data_set_out_for_all() -> None:
    (grid,) = build([*THREE, *TWO[1:]])
    assert [x.mean for x in grid.lines] == pytest.approx([90, 50, 10]) and "over 1 of 2" in head(grid)
    assert [r.method for r in Only(complete=True).of([*THREE, *TWO[1:]])] == ["b", "c", "b", "c"]


def test_partial_runs_are_marked_and_count_nowhere() -> None:
    part = row("d", "one", 99, complete=False, images_sha256="other")
    (grid,) = build([*THREE, part])
    (line,) = [x for x in grid.lines if x.row.method == "d"]
    assert line.rank is None and line.mean is None and [x.rank for x in grid.lines[:3]] == [1, 2, 3]
    assert "| 99.00 (partial) |" in "\n".join(grid_markdown(grid, {}))


def test_hashes_kinds_and_devices_stay_apart() -> None:
    rows = [*THREE, row("e", "one", 70, training_free=False, device="y"), row("a", "one", 80, protocol_hash="0" * 8)]
    other, free, trained = build(rows)
    assert (len(other.lines), len(free.lines), len(trained.lines)) == (1, 3, 1)
    assert trained.lines[0].rank == 1 and trained.lines[0].images_per_second is None


def test_notes_are_said_once() -> None:
    assert numbered([row("a", "one", 1, note="all; own"), row("b", "one", 1, note="all")]) == {"all": 0, "own": 1}


def test_a_narrow_terminal_drops_in_the_stated_order() -> None:
    (grid,) = build([r.model_copy(update={"backbone": "a-long-backbone"}) for r in (*THREE, *TWO)])
    assert grid_table(grid, None).dropped == grid_table(grid, 200).dropped == ()
    assert grid_table(grid, 80).dropped == ("backbone",)
    table = grid_table(grid, 40)
    assert table.dropped == ("backbone", "peak MB", "images/s", "two test")
    assert table.columns == ("rank", "method", "one test", "mean") and {len(r) for r in table.rows} == {4}
    assert grid_table(grid, 1).columns[:3] == ("rank", "method", "one test")  # one data set stays
