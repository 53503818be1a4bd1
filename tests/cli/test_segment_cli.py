"""``bench segment`` as a person calls it."""

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovss.harness.report.overlay import overlay
from ovss.harness.show.colours import class_colours

Command = Callable[..., Any]
TINY = ("--backbone", "tiny-clip")
QUICK = (*TINY, "--protocol", "tiny")
"""Where the size of the picture is nothing to the test: a second less."""


@pytest.fixture
def own(photo: Path, tmp_path: Path) -> Path:
    """The photo in a folder of its own, beside another image as in a data set."""
    folder = tmp_path / "set/images"
    folder.mkdir(parents=True)
    (folder / "photo.jpg").write_bytes(photo.read_bytes())
    return folder / "photo.jpg"


def tree(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def test_the_picture_lies_in_the_working_folder_and_never_beside_the_photo(
    bench: Command, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(tmp_path / "set")
    found = bench("segment", str(own), "--classes", "grass, sky, house", *QUICK, "--json").json()
    assert found["picture"] == "photo_sclip.png" and (tmp_path / "photo_sclip.png").is_file()
    assert tree(tmp_path / "set") == before
    with Image.open(tmp_path / "photo_sclip.png") as written:
        assert written.width >= 120 and written.height > 90  # the photo and a legend below
    monkeypatch.chdir(own.parent)
    found = bench("segment", own.name, "--classes", "grass, sky, house", *QUICK, "--json").json()
    assert found["picture"] == "results/photo_sclip.png"
    assert sorted(p.name for p in own.parent.iterdir()) == ["photo.jpg", "results"]


def test_json_says_what_the_labels_are_from(bench: Command, own: Path, tmp_path: Path) -> None:
    command = ("segment", str(own), "--classes", "grass; sky, clouds; house", *TINY, "--option", "pad=end")
    found = bench(*command, "--set", "short_side_px=112", "--set", "window_px=0", "--json").json()
    assert list(found["shares"]) == ["grass", "sky", "house"]
    assert sum(found["areas_px"].values()) == 120 * 90
    assert found["shares"] == {n: a / 10800 for n, a in found["areas_px"].items()}
    assert found["photo"] == {
        "name": "photo.jpg",
        "sha256": hashlib.sha256(own.read_bytes()).hexdigest(),
        "width_px": 120,
        "height_px": 90,
    }
    assert found["protocol"] == "unified*" and found["setting"]["short_side_px"] == 112
    plain = bench("segment", str(own), "--classes", "grass, sky, house", *TINY, "--json").json()
    assert plain["protocol"] == "unified" and plain["protocol_hash"] != found["protocol_hash"]
    assert plain["vocabulary_hash"] != found["vocabulary_hash"]
    assert found["words"] == {"grass": "grass", "sky": "sky, clouds", "house": "house"}
    assert found["options"] == {"pad": "end"} and found["method_provenance"]["pad"] == "end"
    assert found["weights"]["name"] == "tiny-clip" and len(found["source_hash"]) == 16
    assert found["precision"] == "float32" and found["device"].startswith("cpu")
    assert found["code_version"] and "ranks do not transfer" in found["note"]


def test_a_class_file_is_read_as_those_of_data_sets(bench: Command, own: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("grass\nsky, clouds\nhouse\n", encoding="utf-8")
    by_file = bench("segment", str(own), "--classes-file", "names.txt", *QUICK, "--json").json()
    by_hand = bench("segment", str(own), "--classes", "grass; sky, clouds; house", *QUICK, "--json").json()
    for key in ("areas_px", "words", "vocabulary_hash"):
        assert by_file[key] == by_hand[key]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"caf\xe9\n", ["class file names.txt", "line 1", "not UTF-8"]),
        (b"cat\n\nsky\n", ["names.txt line 2 is empty"]),
        (b"# animals\ncat\n", ["names.txt line 1", "comment"]),
        (b"", ["names no class"]),
        (b"cat\nsky, cat\ncat, feline\n", ["names cat twice"]),
    ],
)
def test_a_class_file_that_is_not_usable(
    bench: Command, own: Path, tmp_path: Path, content: bytes, words: list[str]
) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    ended = bench("segment", str(own), "--classes-file", "names.txt", *TINY)
    assert ended.code == 2 and all(word in ended.err for word in words), ended.err


REFUSED = {
    "suffix": (["-o", "out.jpg"], ["--output writes a PNG", "out.jpg"]),
    "absent folder": (["-o", "gone/out.png"], ["gone", "is not there"]),
    "file for a folder": (["-o", "a-file/out.png"], ["a-file", "is no folder"]),
    "folder for a file": (["-o", "a-folder.png"], ["a-folder.png", "no plain file"]),
    "the photo itself": (["-o", "link.png"], ["would overwrite the photo"]),
    "no class": (["--classes", ", ,"], ["names no class"]),
    "two names": (["--classes", "cat,dog,cat"], ["--classes names cat twice"]),
    "both": (["--classes-file", "a-file"], ["one of both"]),
    "vocabulary": (["--set", "vocabulary=sclip"], ["--set vocabulary has no effect"]),
    "field": (["--set", "colour=1"], ["colour: no such field"]),
    "threshold": (["--set", "probability_threshold=0.3"], ["needs a background class"]),
    "option": (["--option", "colour=1"], ["there is no option 'colour'"]),
    "method": (["-m", "sclp"], ["did you mean sclip?"]),
    "device": (["--device", "cudo"], ["unknown device 'cudo'"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_wrong_is_said_before_a_model_is_loaded(
    bench: Command, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    more, words = REFUSED[what]
    (tmp_path / "a-file").write_text("x")
    (tmp_path / "a-folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(own)
    monkeypatch.setattr("ovss.methods.registry.create_method", lambda *a, **k: pytest.fail("a model was loaded"))
    monkeypatch.setattr("ovss.harness.use.photo.create_method", lambda *a, **k: pytest.fail("a model was loaded"))
    before = tree(tmp_path)
    classes = [] if "--classes" in more else ["--classes", "cat, sky"]
    ended = bench("segment", str(own), *classes, *TINY, *more)
    assert ended.code == 2 and ended.out == "" and "Traceback" not in ended.err
    assert all(word in ended.err for word in words), ended.err
    assert tree(tmp_path) == before


def test_several_methods_side_by_side(bench: Command, own: Path, tmp_path: Path) -> None:
    """Each says what it says alone; their pictures stand beside the photo, with titles above."""
    command = ("segment", str(own), "--classes", "grass, sky, house", *QUICK)
    alone = {m: bench(*command, "-m", m, "--json").json() for m in ("clip", "maskclip")}
    both = bench(*command, "-m", "clip,maskclip", "--save-labels", "--json").json()
    assert [value["method"] for value in both] == ["clip", "maskclip"]
    for value in both:
        assert value["picture"] == "photo_clip+maskclip.png"
        same = alone[value["method"]]
        assert all(value[k] == same[k] for k in ("areas_px", "shares", "method_provenance", "protocol_hash", "weights"))
        with Image.open(value["labels"]) as picture:
            labels = np.array(picture)
        assert np.bincount(labels.ravel(), minlength=3).tolist() == list(value["areas_px"].values())
        assert value["labels"] == f"photo_{value['method']}_labels.png"
        assert json.loads((tmp_path / f"photo_{value['method']}.json").read_text()) == value
    with Image.open("photo_clip+maskclip.png") as picture, Image.open(own) as photo:
        pixels = np.asarray(picture)
        assert picture.width == 3 * 120 + 4 and np.array_equal(pixels[18:108, :120], np.asarray(photo))
    shown = bench(*command, "-m", "clip,maskclip")
    lines = shown.out.splitlines()
    assert lines[1].split() == ["class", "clip", "maskclip"] and "wrote photo_clip+maskclip.png" in shown.out


def test_several_photos(bench: Command, own: Path, tmp_path: Path) -> None:
    (own.parent / "b.PNG").write_bytes(own.read_bytes())
    (own.parent / "notes.txt").write_text("")
    asked = ("--classes", "grass, sky, house", *QUICK)
    found = bench("segment", str(own.parent), *asked, "--json").json()
    assert [v["picture"] for v in found] == [f"results/segments/{n}_sclip.png" for n in ("b", "photo")]
    assert all((tmp_path / v["picture"]).is_file() for v in found)
    assert found[0]["areas_px"] == found[1]["areas_px"]
    shown = bench("segment", str(own), str(own.parent / "b.PNG"), *asked, "-o", "out")
    assert shown.code == 0 and sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "b_sclip.png",
        "photo_sclip.png",
    ]
    assert "photo.jpg" in shown.out and "b.PNG" in shown.out
    for more, words in {
        (str(own),): "named twice",
        (str(tmp_path / "out"), "-o", "one.png"): "3 photos need a folder",
        (str(own.parent / "b.PNG"), "-o", str(own.parent)): "has the photos in it",
        (str(own.parent / "notes.txt"), "-o", "out"): "notes.txt",
    }.items():
        ended = bench("segment", str(own), *more, *asked)
        assert ended.code == 2 and words in ended.err, ended.err
    (tmp_path / "empty").mkdir()
    assert "has no pictures" in bench("segment", "empty", *asked).err


def test_a_heat_map_of_one_class(bench: Command, own: Path) -> None:
    from ovss.harness import segment_photo
    from ovss.harness.report.overlay import heat_overlay

    asked = ("segment", str(own), "--classes", "grass, house", *QUICK, "-m", "maskclip")
    assert bench(*asked, "--heat", "house").code == 0
    with Image.open("photo_maskclip.png") as picture:
        pixels = np.asarray(picture)
    found = segment_photo(
        own, ["grass", "house"], method="maskclip", protocol="tiny", backbone="tiny-clip", heat="house"
    )
    assert found.heat is not None and found.heat.shape == found.labels.shape
    assert 0 <= found.heat.min() < found.heat.max() <= 1
    assert np.array_equal(found.heat > 0.5, found.labels == 1)  # of two classes the larger probability wins
    assert np.array_equal(pixels[18:108, -120:], heat_overlay(found.image, found.heat))
    ended = bench(*asked, "--heat", "hose")
    assert ended.code == 2 and "no class 'hose' to show a heat map of; did you mean house" in ended.err


def test_options_of_one_method(bench: Command, own: Path) -> None:
    asked = ("segment", str(own), "--classes", "grass, sky", "-m", "sclip,naclip", *QUICK, "--json")
    found = bench(*asked, "--option", "sclip.pad=end").json()
    assert [v["options"] for v in found] == [{"pad": "end"}, {}]
    assert "none of the methods" in bench(*asked, "--option", "colour=1").err


def test_a_photo_that_claims_too_many_pixels(bench: Command, tmp_path: Path) -> None:
    Image.new("1", (30_000, 30_000)).save(tmp_path / "bomb.png")
    ended = bench("segment", "bomb.png", "--classes", "cat", *TINY)
    assert ended.code == 2 and "bomb.png" in ended.err and "million are decoded" in ended.err
    assert "Traceback" not in ended.err and len(ended.err.splitlines()) <= 2


def test_a_full_disk_leaves_no_half_picture(
    bench: Command, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    command = ("segment", str(own), "--classes", "cat, sky", *QUICK)
    assert bench(*command).code == 0  # texts are cached now
    (tmp_path / "photo_sclip.png").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        ended = bench(*command)
    assert ended.code == 2 and "photo_sclip.png could not be written: No space left" in ended.err
    assert not list(tmp_path.glob("*.png")) and not list(tmp_path.glob(".*.tmp"))


def test_the_picture_is_the_overlay_at_any_size(tmp_path: Path) -> None:
    """Strips join without a seam: against the formula over the whole picture at once."""
    from ovss.harness.report import overlay as module
    from ovss.harness.report.sheets import photo_sheet

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (600, 40, 3), np.uint8)
    labels = np.repeat(rng.integers(0, 3, (60, 40)), 10, axis=0).astype(np.uint8)
    labels[module._STRIP_ROWS :] = (labels[module._STRIP_ROWS :] + 1) % 3  # a border between two strips
    colours = class_colours(3)
    wanted = (0.45 * image + 0.55 * np.array(colours, np.uint8)[labels]).astype(np.uint8)
    edges = np.zeros(labels.shape, bool)
    edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edges[1:] |= labels[1:] != labels[:-1]
    wanted[edges] = 255
    assert np.array_equal(overlay(image, labels, colours), wanted)
    sheet = photo_sheet(image, labels, ["a", "b", "c"], colours, [0.2, 0.3, 0.5])
    assert np.array_equal(np.asarray(sheet)[:600, :40], wanted)


def test_the_legend_grows_with_the_picture() -> None:
    from ovss.harness.report.sheets import add_legend

    names = ["grass", "sky"]
    small, large = (add_legend(np.zeros((side, side, 3), np.uint8), names, class_colours(2)) for side in (600, 2400))
    assert large.height - 2400 == pytest.approx(4 * (small.height - 600), abs=4)
    long = add_legend(np.zeros((2400, 2400, 3), np.uint8), ["x" * 100_000], class_colours(1))
    assert long.width < 5000
