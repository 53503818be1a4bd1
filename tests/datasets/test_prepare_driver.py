"""What all recipes share: nothing made twice, nothing half, nothing in the user's folder, every error with its file."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovss.datasets import DataError
from ovss.datasets.prepare import RECIPES, Job, find_recipe
from ovss.datasets.writing import _host

THRESHOLD = {"labels": "masks", "threshold": 127}


def make_home(folder: Path, count: int = 3) -> Path:
    """Masks a, b, c ... of 1x2 pixels; mask number i is (i, 255)."""
    (folder / "masks").mkdir(parents=True)
    for i in range(count):
        Image.fromarray(np.array([[i, 255]], np.uint8)).save(folder / "masks" / f"{chr(ord('a') + i)}.png")
    return folder


def prepare(home: Path, output: Path, recipe: str = "binarise", **options: Any) -> list[tuple[int, int]]:
    """Run a recipe; what it said about its progress."""
    told: list[tuple[int, int]] = []
    find_recipe(recipe)(Job(home, output, {**THRESHOLD, **options}, lambda done, total: told.append((done, total))))
    return told


def times(output: Path) -> dict[str, int]:
    return {str(p.relative_to(output)): p.stat().st_mtime_ns for p in output.rglob("*") if p.is_file()}


def refusal(home: Path, output: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        prepare(home, output, **options)
    return str(caught.value)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path / "home")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_every_recipe_can_be_found() -> None:
    assert [find_recipe(name).__name__ for name in RECIPES] == list(RECIPES)
    with pytest.raises(DataError, match="did you mean remap"):
        find_recipe("remapp")


def test_wrong_options_are_all_named(home: Path, output: Path) -> None:
    text = refusal(home, output, threshold=300, treshold=1)
    assert "threshold" in text and "treshold" in text
    assert not output.exists()


def test_a_second_run_makes_nothing(home: Path, output: Path) -> None:
    assert prepare(home, output) == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    before = times(output)
    assert set(before) == {"labels/a.png", "labels/b.png", "labels/c.png", "list.txt", "prepared.json"}
    assert prepare(home, output) == [(4, 4)]
    assert times(output) == before


def test_the_manifest_says_what_was_made(home: Path, output: Path) -> None:
    prepare(home, output)
    manifest = json.loads((output / "prepared.json").read_text())
    assert (manifest["recipe"], manifest["files"]) == ("binarise", 4)
    assert manifest["options"]["threshold"] == 127 and manifest["options"]["labels"] == "masks"
    size, time = (home / "masks/a.png").stat().st_size, (home / "masks/a.png").stat().st_mtime_ns
    assert manifest["made"]["labels/a.png"] == [f" {size}@{time}", "labels/a.png"]


def test_only_what_has_changed_is_made_again(home: Path, output: Path) -> None:
    prepare(home, output)
    before = times(output)
    Image.fromarray(np.array([[200, 7]], np.uint8)).save(home / "masks/b.png")
    os.utime(home / "masks/b.png", ns=(1, 1))
    (output / "labels/c.png").unlink()
    assert prepare(home, output)[0] == (2, 4)
    assert np.asarray(Image.open(output / "labels/b.png")).tolist() == [[1, 0]]
    assert np.asarray(Image.open(output / "labels/c.png")).tolist() == [[0, 1]]
    after = times(output)
    assert after["labels/a.png"] == before["labels/a.png"] and after["list.txt"] == before["list.txt"]


def test_another_option_makes_everything_again_and_leaves_no_old_file(home: Path, output: Path) -> None:
    prepare(home, output)
    assert prepare(home, output, target_suffix="_x.png")[0] == (0, 4)
    assert sorted(p.name for p in (output / "labels").iterdir()) == ["a_x.png", "b_x.png", "c_x.png"]
    assert prepare(home, output, target_suffix="_x.png", threshold=1)[0] == (0, 4)
    assert np.asarray(Image.open(output / "labels/c_x.png")).tolist() == [[1, 1]]


def test_another_table_makes_everything_again(home: Path, output: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.tsv"
    options = {"labels": "masks", "table": {"file": str(table), "from": "a", "to": "b", "also": {"255": 9}}}
    for shift in (10, 20):
        table.write_text("a\tb\n" + "".join(f"{i}\t{i + shift}\n" for i in range(3)))
        find_recipe("remap")(Job(home, output, options))
        assert np.asarray(Image.open(output / "labels/c.png")).tolist() == [[2 + shift, 9]]


@pytest.mark.parametrize("content", ["", "[1]", '{"made": {"labels/a.png": 3}}', '{"made": {"x": []}}'])
def test_a_damaged_manifest_only_costs_time(home: Path, output: Path, content: str) -> None:
    prepare(home, output)
    (output / "prepared.json").write_text(content)
    assert prepare(home, output)[0] == (0, 4)
    assert prepare(home, output) == [(4, 4)]


def test_an_interrupted_run_is_continued(home: Path, output: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_recipe("binarise")(Job(home, output, THRESHOLD, stop))
    made = times(output)["labels/a.png"]
    assert prepare(home, output)[0] == (2, 4)
    assert times(output)["labels/a.png"] == made
    assert prepare(home, output) == [(4, 4)]


def test_a_killed_run_without_its_manifest_is_continued(home: Path, output: Path) -> None:
    prepare(home, output)
    (output / "prepared.json").unlink()
    (output / "labels/b.png").unlink()
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    (output / f"labels/.b.png.{child}-{_host()}{'0' * 12}.tmp").write_bytes(b"half")
    prepare(home, output)
    assert not list(output.rglob("*.tmp"))
    assert np.asarray(Image.open(output / "labels/b.png")).tolist() == [[0, 1]]


def test_bad_files_are_named_together_and_the_others_made(home: Path, output: Path) -> None:
    good = (home / "masks/a.png").read_bytes()
    (home / "masks/a.png").write_bytes(good[:40])
    (home / "masks/c.png").write_bytes(b"no image")
    text = refusal(home, output)
    assert "2 file(s) cannot be converted" in text
    assert str(home / "masks/a.png") in text and str(home / "masks/c.png") in text
    assert sorted(p.name for p in (output / "labels").iterdir()) == ["b.png"]
    shutil.copy(home / "masks/b.png", home / "masks/c.png")
    (home / "masks/a.png").write_bytes(good)
    assert prepare(home, output)[0] == (2, 4)


def test_absent_sources_are_named_before_anything_is_made(tmp_path: Path, output: Path) -> None:
    text = refusal(tmp_path / "nowhere", output)
    assert str(tmp_path / "nowhere/masks") in text and "does not exist" in text and "*.png" in text
    (tmp_path / "empty/masks").mkdir(parents=True)
    assert "there is no *.png" in refusal(tmp_path / "empty", output)
    assert not output.exists()


def test_listed_files_that_are_absent_are_named_together(home: Path, output: Path) -> None:
    (home / "val.txt").write_text("/elsewhere/a.jpg more\n\nx\ny\n")
    text = refusal(home, output, list_file="val.txt")
    assert str(home / "masks/x.png") in text and str(home / "masks/y.png") in text and "a.png" not in text
    assert str(home / "gone.txt") in refusal(home, output, list_file="gone.txt")
    assert not output.exists()


@pytest.mark.parametrize("where", [".", "prepared", "masks/deep", ".."])
def test_the_own_folder_is_never_written_to(home: Path, tmp_path: Path, where: str) -> None:
    before = times(home)
    link = tmp_path / "link"
    link.symlink_to(home, target_is_directory=True)
    for output in (home / where, link / where):
        text = refusal(home, output)
        assert str(home) in text and "OVSS_PREPARED" in text
    assert times(home) == before


def test_a_link_in_the_output_does_not_lead_into_the_own_folder(home: Path, output: Path) -> None:
    output.mkdir()
    (output / "labels").symlink_to(home / "masks", target_is_directory=True)
    before = times(home)
    assert "does not lie below" in refusal(home, output)
    assert times(home) == before


def test_old_entries_cannot_remove_files_elsewhere(home: Path, output: Path) -> None:
    output.mkdir()
    (output / "prepared.json").write_text(json.dumps({"made": {"x": ["", "../home/masks/a.png"]}}))
    assert "does not lie below" in refusal(home, output)
    assert (home / "masks/a.png").is_file()


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "disk is full"), (errno.EACCES, "may write to")])
def test_a_full_disk_stops_at_once_and_says_what_to_do(
    home: Path, output: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    replace = os.replace

    def fails(old: Path, new: Path) -> None:
        if new.name == "c.png":
            raise OSError(number, os.strerror(number))
        replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fails)
        text = refusal(home, output)
    assert str(output / "labels/c.png") in text and words in text and "OVSS_PREPARED" in text
    assert not list(output.rglob("*.tmp"))
    assert prepare(home, output)[0] == (2, 4)
    assert prepare(home, output) == [(4, 4)]


def test_a_prepared_folder_may_be_read_only(home: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(home, output)

    def fails(*arguments: object) -> None:
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr("ovss.datasets.writing.os.open", fails)
    assert prepare(home, output) == [(4, 4)]
