"""Every run folder with its state: finished, partial, unfinished, damaged, and of older code."""

from pathlib import Path

import pytest

from ovss.harness.report.origin import Origin
from ovss.harness.runs.provenance import source_hash
from ovss.harness.runs.run import ORIGIN, Run
from ovss.harness.use.run_list import all_runs, size_of

from .remaking import remake


def test_an_empty_folder_has_no_runs(tmp_path: Path) -> None:
    assert all_runs(tmp_path) == []


def test_a_partial_run(made: Run) -> None:
    (found,) = all_runs(made.folder.parent.parent)
    assert (found.name, found.state, found.done, found.older_code) == (made.folder.name, "partial", 3, False)
    assert found.miou == made.finished().summary["miou"] and found.date == made.manifest().finished
    assert found.size_bytes == sum(p.stat().st_size for p in made.folder.rglob("*") if p.is_file()) > 0


def test_a_finished_run(made: Run, tmp_path: Path) -> None:
    """All images that are planned: here three."""
    run = remake(made, tmp_path)
    plan = run.plan()
    ids = tuple(sorted(run.done()))
    (run.folder / "plan.json").write_bytes(plan.model_copy(update={"ids": ids, "planned": 3}).sealed())
    run.merge()
    (found,) = all_runs(tmp_path)
    assert (found.state, found.done) == ("finished", 3)


def test_unfinished_runs(made: Run, tmp_path: Path) -> None:
    """Without a summary; and with more images than the summary is of."""
    run = remake(made, tmp_path, images=2, merged=False)
    (found,) = all_runs(tmp_path)
    assert (found.state, found.done, found.miou) == ("unfinished", 2, None)
    run.merge()
    (path,) = made.parts_folder.iterdir()
    (run.parts_folder / path.name).write_bytes(path.read_bytes())
    (found,) = all_runs(tmp_path)
    assert (found.state, found.done, found.finished is not None) == ("unfinished", 3, True)


def test_older_code(made: Run, tmp_path: Path) -> None:
    remake(made, tmp_path, identity={"source_hash": "0" * 16})
    (found,) = all_runs(tmp_path)
    assert found.older_code and found.state == "partial" and source_hash() != "0" * 16


@pytest.mark.parametrize("name", ["plan.json", "manifest.json", "counts.parquet", ORIGIN])
def test_damaged_runs_stand_in_the_list_with_the_reason(made: Run, tmp_path: Path, name: str) -> None:
    run = remake(made, tmp_path)
    (run.folder / ORIGIN).write_bytes(Origin(bundle="b", sha256="0" * 64).sealed())
    remake(made, tmp_path, identity={"source_hash": "0" * 16})
    content = bytearray((run.folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run.folder / name).write_bytes(content)
    found = {one.name: one for one in all_runs(tmp_path)}
    assert found.pop(run.folder.name).state == "damaged" and [one.state for one in found.values()] == ["partial"]
    (damaged,) = (one for one in all_runs(tmp_path) if one.state == "damaged")
    assert name in damaged.problem and damaged.plan is None and damaged.size_bytes == size_of(run.folder)


def test_a_folder_that_is_no_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / ".import-x").mkdir()
    (found,) = all_runs(tmp_path)
    assert found.state == "damaged" and "is not a run folder" in found.problem
