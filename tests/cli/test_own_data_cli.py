"""``bench run`` and ``bench data check`` on a user's own data: what is said, and that nothing hangs or breaks."""

import os
import sys
from collections.abc import Callable
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ..datasets.test_cases import HALVES, write
from ..datasets.test_hostile_files import png

Command = Callable[..., Any]
RUN = ("run", "-m", "clip", "--backbone", "tiny-clip", "--set", "templates=simple", "--set", "short_side_px=64")


def both(bench: Command, path: Path) -> tuple[Any, Any]:
    """How check and run end."""
    return bench("data", "check", str(path)), bench(*RUN, "-d", str(path))


def test_a_mask_is_never_100_without_a_note(bench: Command, tmp_path: Path) -> None:
    path = write(tmp_path / "set", HALVES * 255, '["background", "lesion"]', background="0")
    check, run = both(bench, path)
    for text in (check.out, run.err):
        assert "warning: " in text and "no label holds lesion (1 of 2 classes)" in text
        assert "50.0% of the pixels are ignored" in text and "set label_map = { 255 = 1 }" in text
    assert check.code == run.code == 0
    assert "note: " in run.out and "all scored pixels of attic are of one class (background)" in run.out
    told = bench(*RUN, "-d", str(path), "--json").json()
    assert "all scored pixels of attic are of one class (background)" in told["note"]


def test_check_prints_the_census_and_json_gives_all_of_it(bench: Command, tmp_path: Path) -> None:
    path = write(tmp_path / "set", HALVES, '["cat", "dog", "bus"]')
    lines = bench("data", "check", str(path)).out.splitlines()
    start = lines.index(next(line for line in lines if line.split() == ["class", "pixels", "images"]))
    assert [line.split() for line in lines[start + 1 : start + 3]] == [
        ["cat", "50.00", "%", "3", "of", "3"],
        ["dog", "50.00", "%", "3", "of", "3"],
    ]
    assert lines[start + 3 : start + 5] == ["in no label: 1 of 3 classes (bus)", "ignored: 0.00 % of all pixels"]
    report = bench("data", "check", str(path), "--json").json()
    census = report["census"]
    assert [(c["index"], c["name"], c["pixels"], c["images"]) for c in census["classes"]] == [
        (0, "cat", 3600, 3),
        (1, "dog", 3600, 3),
        (2, "bus", 0, 0),
    ]
    assert [c["pixel_share"] for c in census["classes"]] == [0.5, 0.5, 0.0]
    assert (census["labels"], census["listed"], census["pixels"], census["ignored_share"]) == (3, 3, 7200, 0.0)
    assert census["absent"] == ["bus"] and len(report["digest"]) == 64
    assert bench("data", "check", "shapes", "--fast").out.count("\n") == 2  # no files, no census


def test_a_set_that_is_scored_in_part_is_never_called_complete(bench: Command, tmp_path: Path) -> None:
    path = write(tmp_path / "set")
    for name, suffix in (("1", "JPG"), ("2", "jpeg")):
        (tmp_path / f"set/images/{name}.jpg").rename(tmp_path / f"set/images/{name}.{suffix}")
    check, run = both(bench, path)
    assert "1.JPG, 2.jpeg" in check.out and "1 of 3 images (partial) checked" in check.out
    assert "1.JPG, 2.jpeg" in run.err and "1 of 3 (partial)" in run.out
    assert bench("data", "check", str(path), "--json").json()["complete"] is False
    told = bench(*RUN, "-d", str(path), "--json").json()
    assert (told["complete"], told["images"], told["planned"]) == (False, 1, 3)


def test_what_the_rest_of_the_data_lacks_is_a_warning_of_a_partial_run(bench: Command, tmp_path: Path) -> None:
    path = write(tmp_path / "set")
    (tmp_path / "set/labels/2.png").unlink()
    run = bench(*RUN, "-d", str(path), "--limit", "2")
    assert run.code == 0 and "labels/2.png: the file does not exist (not asked for this time)" in run.err


def bomb(root: Path, file: str) -> None:
    (root / file).write_bytes(png(60000, 60000, colour=2 if file.startswith("images") else 0))


def pipe(root: Path, file: str) -> None:
    (root / file).unlink()
    os.mkfifo(root / file)


def lossy(root: Path, file: str) -> None:
    Image.fromarray(HALVES).save(root / file, "JPEG")


@pytest.mark.parametrize(
    ("damage", "file", "words"),
    [
        (bomb, "images/1.jpg", "has 3600 million pixels; at most 179 million are decoded"),
        (bomb, "labels/1.png", "has 3600 million pixels; at most 179 million are decoded"),
        (pipe, "images/1.jpg", "it is a pipe, not a file"),
        (pipe, "labels/1.png", "it is a pipe, not a file"),
        (lossy, "labels/1.png", "the label is compressed with loss (JPEG)"),
    ],
)
def test_a_bad_file_is_one_finding(
    bench: Command, tmp_path: Path, damage: Callable[[Path, str], None], file: str, words: str
) -> None:
    path = write(tmp_path / "set")
    damage(tmp_path / "set", file)
    check, run = both(bench, path)
    assert check.code == 1 and f"problem: {tmp_path}/set/{file}: " in check.out and words in check.out
    assert run.code == 2 and f"{tmp_path}/set/{file}: " in run.err and words in run.err
    assert "Traceback" not in check.err + run.err and not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("key", '"camvid"', "which is that of a catalogued data set"),
        ("classes", '"classes.txt"', "line 2 is empty"),
        ("list_file", '"latin.txt"', "byte 0xe9 in line 1"),
        ("title", "[" * 3000 + "]" * 3000, "it is nested too deeply"),
    ],
)
def test_a_bad_record_is_one_paragraph(bench: Command, tmp_path: Path, field: str, value: str, words: str) -> None:
    path = write(tmp_path / "set", **{field: value})
    (tmp_path / "set/classes.txt").write_text("cat\n\ndog\n")
    (tmp_path / "set/latin.txt").write_bytes(b"caf\xe9\n")
    for ended in both(bench, path):
        assert ended.code == 2 and ended.err.startswith("error: ") and words in ended.err
        assert "Traceback" not in ended.err and ended.out == ""


def test_a_file_name_that_is_no_utf_8_is_named(bench: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Standard streams take UTF-8 only, as they do in a terminal."""
    path = write(tmp_path / "set")
    odd = os.fsdecode(os.fsencode(tmp_path / "set/images") + b"/caf\xe9.jpg")
    try:
        Path(odd).write_bytes((tmp_path / "set/images/0.jpg").read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    check = ("data", "check", str(path))
    for command in (check, (*check, "--json"), (*RUN, "-d", str(path))):
        streams = {name: TextIOWrapper(BytesIO(), "utf-8", "strict") for name in ("stdout", "stderr")}
        with monkeypatch.context() as patch:
            for name, stream in streams.items():
                patch.setattr(sys, name, stream)
            code = bench(*command).code
        said = ""
        for stream in streams.values():
            stream.seek(0)
            said += stream.read()
        assert code in (1, 2) and "Traceback" not in said
        assert "caf\\xe9.jpg" in said.replace("\\\\", "\\")
