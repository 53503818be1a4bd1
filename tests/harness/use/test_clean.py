"""What is found to be litter, and what never is: results that nothing supersedes, and runs that somebody works on."""

import os
from pathlib import Path
from typing import Any

import pytest

from ovss.datasets import writing
from ovss.harness.report.origin import Origin
from ovss.harness.runs.run import ORIGIN, Run, find_run
from ovss.harness.use import clean
from ovss.harness.use.clean import Litter, find_litter, remove
from ovss.methods import UserError

from .remaking import age, remake

OLD, NEW = "2026-01-01T10:00:00.000000+00:00", "2026-01-02T10:00:00.000000+00:00"
OLDER_CODE: dict[str, Any] = {"source_hash": "0" * 16}


def later(made: Run, results: Path, **changes: Any) -> Run:
    """A run of this code that was finished a day after ``earlier``."""
    return aged(remake(made, results, **{"stamp": {"written": NEW}, **changes}))


def earlier(made: Run, results: Path, **changes: Any) -> Run:
    run = remake(made, results, **{"identity": OLDER_CODE, "stamp": {"written": OLD}, **changes})
    age(run.folder, 10 * 365 * 86400)  # the date of one that was never merged is that of its files
    return run


def aged(run: Run) -> Run:
    age(run.folder)
    return run


def kinds(results: Path) -> list[str]:
    return [litter.kind for litter in find_litter(results)]


def test_nothing_in_an_empty_folder(tmp_path: Path) -> None:
    assert find_litter(tmp_path) == []


def test_a_run_of_older_code_goes_when_a_newer_one_has_its_words(made: Run, tmp_path: Path) -> None:
    old, new = earlier(made, tmp_path), later(made, tmp_path)
    size = sum(p.stat().st_size for p in old.folder.rglob("*") if p.is_file())
    (found,) = find_litter(tmp_path)
    assert found == Litter("superseded run", old.folder, size, f"by {new.folder.name}", 3) and found.holds_results
    remove(found)
    assert [p.name for p in (tmp_path / "runs").iterdir()] == [new.folder.name] and new.finished()


def test_two_runs_of_one_second_have_an_order(made: Run, tmp_path: Path) -> None:
    old = earlier(made, tmp_path, stamp={"written": OLD})
    new = later(made, tmp_path, stamp={"written": OLD.replace(".000000", ".000001")})
    assert [litter.path for litter in find_litter(tmp_path)] == [old.folder]
    assert find_run("shapes-clip-tiny", tmp_path).folder == new.folder


@pytest.mark.parametrize(
    "changes",
    [
        {"identity": {**OLDER_CODE, "method": {"weights": {"sha256": "other"}}}},
        {"identity": {"method": {"weights": {"sha256": "other"}}}},
        {"merged": False},
    ],
    ids=["other weights too", "other weights alone", "never merged"],
)
def test_what_is_superseded_as_well(made: Run, tmp_path: Path, changes: dict[str, Any]) -> None:
    earlier(made, tmp_path, **changes)
    later(made, tmp_path)
    assert kinds(tmp_path) == ["superseded run"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({}, {"images": 2}),
        ({}, {"merged": False}),
        ({"spec": {"options": {"pad": True}}}, {}),
        ({"spec": {"weights": "/a.safetensors"}}, {"spec": {"weights": "/b.safetensors"}}),
        ({"identity": {**OLDER_CODE, "boundary": True}}, {}),
        ({"identity": {**OLDER_CODE, "vocabulary_hash": "other"}}, {}),
        ({"identity": {}}, {"identity": OLDER_CODE}),
        ({"stamp": {"written": NEW}}, {"stamp": {"written": OLD}}),
    ],
    ids=[
        "more images",
        "newer one unfinished",
        "options",
        "weights by name",
        "boundary",
        "words",
        "this code",
        "newer",
    ],
)
def test_what_is_not_superseded(made: Run, tmp_path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    earlier(made, tmp_path, **old)
    aged(remake(made, tmp_path, **{"stamp": {"written": NEW}, **new}))
    assert find_litter(tmp_path) == []


@pytest.mark.parametrize("number", [0, 1])
def test_an_imported_run_takes_no_part_in_it(made: Run, tmp_path: Path, number: int) -> None:
    runs = [earlier(made, tmp_path), later(made, tmp_path)]
    (runs[number].folder / ORIGIN).write_bytes(Origin(bundle="b", sha256="0" * 64).sealed())
    age(runs[number].folder)
    assert find_litter(tmp_path) == []


def test_a_locked_run_is_left_alone(made: Run, tmp_path: Path) -> None:
    old = earlier(made, tmp_path)
    later(made, tmp_path)
    (found,) = find_litter(tmp_path)
    with old.lock():
        age(old.folder)
        assert find_litter(tmp_path) == []
        with pytest.raises(UserError, match="somebody works on"):
            remove(found)
    assert old.finished()


def test_a_run_that_was_written_to_a_moment_ago_is_left_alone(made: Run, tmp_path: Path) -> None:
    """Workers elsewhere hold no lock; they touch a file."""
    old = earlier(made, tmp_path)
    later(made, tmp_path)
    (found,) = find_litter(tmp_path)
    (old.folder / "workers").mkdir()
    (old.folder / "workers" / "host-1-abc").touch()
    assert find_litter(tmp_path) == []
    with pytest.raises(UserError, match="somebody works on"):
        remove(found)
    age(old.folder, clean.AT_WORK_SECONDS + 5)
    assert kinds(tmp_path) == ["superseded run"]


def test_temporaries_of_the_dead_and_damaged_parts(made: Run, tmp_path: Path) -> None:
    run = remake(made, tmp_path)
    dead, alive = (f".x.{pid}-{writing._host()}{'0' * 12}.tmp" for pid in (2**22 + 1, os.getpid()))
    for folder in (tmp_path, run.folder, run.parts_folder):
        for name in (dead, alive):
            (folder / name).write_bytes(b"abc")
    (run.parts_folder / "damaged-part-x.parquet").write_bytes(b"x")
    (tmp_path / "runs" / ".import-x").mkdir()
    (tmp_path / "runs" / ".import-x" / "file").write_bytes(b"12345")
    aged(run)
    os.utime(run.folder / alive)
    assert kinds(tmp_path) == ["temporary"]  # somebody works on the run, and the import may be going on
    for name in (run.folder / alive, run.parts_folder / alive):
        name.unlink()
    aged(run)
    age(tmp_path / "runs" / ".import-x")
    found = find_litter(tmp_path)
    assert sorted((one.kind, one.path.name, one.size_bytes) for one in found) == [
        ("damaged part", "damaged-part-x.parquet", 1),
        ("temporary", ".import-x", 5),
        *[("temporary", dead, 3)] * 3,
    ]
    assert not any(one.holds_results for one in found)
    for one in found:
        remove(one)
    assert find_litter(tmp_path) == [] and run.finished() and (tmp_path / alive).exists()


def test_a_removal_that_is_cut_short_leaves_no_half_run(
    made: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = earlier(made, tmp_path), later(made, tmp_path)
    (found,) = find_litter(tmp_path)

    def fail(path: Path) -> None:
        raise OSError(5, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(clean.shutil, "rmtree", fail)
        with pytest.raises(UserError, match="could not be removed: Input/output error"):
            remove(found)
    assert not old.folder.exists()
    (rest,) = (p for p in (tmp_path / "runs").iterdir() if p != new.folder)
    assert rest.name.startswith(".clean-")
    age(rest)
    (litter,) = find_litter(tmp_path)
    assert (litter.kind, litter.path) == ("temporary", rest)
    remove(litter)
    assert list((tmp_path / "runs").iterdir()) == [new.folder]
