"""Small data sets as people bring them, each wrong in one way: what must be said about each, and what must not."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ovss.datasets import DataError, open_dataset
from ovss.datasets.checks import Findings, find_problems

Array = NDArray[Any]
HALVES = np.repeat(np.array([[0, 1]], np.uint8), 30, 1).repeat(40, 0)
"""A label of two classes, (40, 60)."""


def photo(seed: int = 0, size: tuple[int, int] = (40, 60)) -> Image.Image:
    blocks = np.random.default_rng(seed).integers(0, 256, (size[0] // 10, size[1] // 10, 3), np.uint8)
    return Image.fromarray(blocks.repeat(10, 0).repeat(10, 1))


def write(
    root: Path,
    label: Array = HALVES,
    classes: Any = '["cat", "dog"]',
    names: tuple[str, ...] = ("0", "1", "2"),
    suffix: str = ".jpg",
    **fields: str,
) -> Path:
    """A data set with the same label for every image; fields are written into its TOML file as they are."""
    for name in names:
        for folder, picture, end in (("images", photo(), suffix), ("labels", Image.fromarray(label), ".png")):
            path = root / folder / f"{name}{end}"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    lines = {"key": '"attic"', "title": '"attic"', "images": '"images"', "labels": '"labels"', "classes": classes}
    path = root / "attic.toml"
    path.write_text("".join(f"{k} = {v}\n" for k, v in {**lines, **fields}.items()))
    return path


def findings(path: Path) -> Findings:
    data = open_dataset(str(path))
    return find_problems(data, data.ids)


def said(found: Findings) -> list[str]:
    assert not found.problems
    return [str(w) for w in found.warnings]


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_dataset(str(path))
    return str(caught.value)


def test_nothing_is_said_about_good_data(tmp_path: Path) -> None:
    found = findings(write(tmp_path))
    assert said(found) == []
    assert [(c.name, c.pixels, c.images) for c in found.census.classes] == [("cat", 3600, 3), ("dog", 3600, 3)]
    assert (found.census.pixels, found.census.ignored, found.census.absent) == (7200, 0, ())


# Values


def test_a_mask_of_0_and_255(tmp_path: Path) -> None:
    found = findings(write(tmp_path, HALVES * 255, '["background", "lesion"]', background="0"))
    one, absent = said(found)
    assert "all 3 labels hold one class only, 'background'" in one
    assert "no label holds lesion (1 of 2 classes); 50.0% of the pixels are ignored (value 255)" in absent
    assert "set label_map = { 255 = 1 }" in absent
    mended = findings(write(tmp_path, HALVES * 255, '["background", "lesion"]', label_map="{ 255 = 1 }"))
    assert said(mended) == [] and mended.census.absent == ()


def test_a_mask_of_0_and_255_where_255_is_not_ignored(tmp_path: Path) -> None:
    (problem, *_) = findings(write(tmp_path, HALVES * 255, ignore_index="254")).problems
    assert "label values 255 are neither" in problem.what and "set label_map = { 255 = 1 }" in problem.fix


def test_a_mask_of_0_and_255_behind_first_label(tmp_path: Path) -> None:
    (problem,) = findings(write(tmp_path, HALVES * 255, '["polyp"]', first_label="1")).problems
    assert "3 of 3 labels hold no scored pixel" in problem.what and "set label_map = { 255 = 1 }" in problem.fix
    (note,) = said(findings(write(tmp_path, HALVES * 255, '["polyp"]', first_label="1", label_map="{ 255 = 1 }")))
    assert "a single class, 'polyp'" in note


def test_values_that_count_from_1(tmp_path: Path) -> None:
    found = findings(write(tmp_path, HALVES + 1, '["a cat", "a dog", "a bus"]'))
    (absent,) = said(found)
    assert "no label holds a cat (1 of 3 classes)" in absent and "set first_label = 1" in absent
    (problem, *_) = findings(write(tmp_path, HALVES + 1)).problems  # the last class is out of range
    assert "label values 2 are neither" in problem.what and "set first_label = 1" in problem.fix
    assert said(findings(write(tmp_path, HALVES + 1, first_label="1"))) == []


def test_no_advice_is_given_where_it_would_be_wrong(tmp_path: Path) -> None:
    """Values 1 and 2 are in range and 0 occurs: a missing class alone is no sign of another count."""
    names = '["a", "b", "c", "d", "e", "f", "g"]'
    (absent,) = said(findings(write(tmp_path, HALVES, names)))
    assert "no label holds c, d, e, f, g (5 of 7 classes)" in absent and "first_label" not in absent
    many = "[" + ", ".join(f'"c{k}"' for k in range(200)) + "]"
    (absent,) = said(findings(write(tmp_path, HALVES + 3, many)))
    assert absent.count("\n") == 0 and "c4" not in absent and "and 193 more (198 of 200 classes)" in absent
    assert "first_label" not in absent


def test_a_single_class_is_always_100(tmp_path: Path) -> None:
    (note,) = said(findings(write(tmp_path, HALVES, '["polyp"]', first_label="1")))
    assert "a single class, 'polyp'" in note and "mIoU is always 100" in note


def test_one_class_in_the_part_that_is_asked_for(tmp_path: Path) -> None:
    data = open_dataset(str(write(tmp_path)))
    Image.fromarray(HALVES * 0).save(tmp_path / "labels/0.png")
    (note,) = [str(w) for w in find_problems(data, ["0"]).warnings]
    assert "the 1 label(s) asked for hold one class only, 'cat'" in note
    assert find_problems(data, ["0", "1"]).warnings == []


def test_labels_without_a_scored_pixel(tmp_path: Path) -> None:
    path = write(tmp_path, np.full((40, 60), 255, np.uint8))
    (problem,) = findings(path).problems
    assert "3 of 3 labels hold no scored pixel" in problem.what
    Image.fromarray(HALVES).save(tmp_path / "labels/1.png")
    found = findings(path)
    (some,) = said(found)
    assert "2 of 3 labels hold no scored pixel: 0, 2" in some
    assert found.census.without_scored_pixel == ("0", "2") and found.census.ignored == 4800


# Files


def test_images_of_other_suffixes_are_named_and_the_set_is_partial(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "images/1.jpg").rename(tmp_path / "images/1.JPG")
    (tmp_path / "images/2.jpg").rename(tmp_path / "images/2.jpeg")
    (tmp_path / "images/notes.txt").touch()
    Image.new("RGB", (3, 3)).save(tmp_path / "images/icon.png")  # has no label
    (warning,) = said(findings(path))
    assert "2 of 3 images with a label are not scored, because their suffix is not .jpg: 1.JPG, 2.jpeg" in warning
    data = open_dataset(str(path))
    assert data.ids == ("0",) and data.planned == 3


def test_a_copy_of_a_scored_image_in_another_form_is_harmless(tmp_path: Path) -> None:
    path = write(tmp_path)
    photo().save(tmp_path / "images/1.png")
    assert said(findings(path)) == [] and open_dataset(str(path)).planned == 3


def test_only_images_of_another_suffix(tmp_path: Path) -> None:
    text = refusal(write(tmp_path, suffix=".JPG"))
    assert "no *.jpg in" in text and 'There: 3 files *.JPG.  Set image_suffix = ".JPG"' in text
    assert said(findings(write(tmp_path, suffix=".JPG", image_suffix='".JPG"'))) == []


def test_labels_without_images_are_named(tmp_path: Path) -> None:
    path = write(tmp_path)
    for name in ("9", "0_colour", "far/away"):
        (tmp_path / "labels" / name).parent.mkdir(exist_ok=True)
        Image.fromarray(HALVES).save(tmp_path / f"labels/{name}.png")
    found = findings(path)
    (warning,) = said(found)
    assert "2 labels without an image: 9.png, far/away.png" in warning
    assert [Path(p).name for p in found.census.spare_labels] == ["9.png", "away.png"]


def test_a_list_is_a_reason_for_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("0\n1\n")
    path = write(tmp_path, list_file='"val.txt"')
    photo().save(tmp_path / "images/3.png")
    assert said(findings(path)) == [] and open_dataset(str(path)).planned == 2


@pytest.mark.parametrize("orientation", [3, 6])
def test_photos_with_an_orientation_are_counted_and_named(tmp_path: Path, orientation: int) -> None:
    square = np.repeat(np.array([[0, 1]], np.uint8), 20, 1).repeat(40, 0)
    path = write(tmp_path, square, names=("0", "1"))
    exif = Image.Exif()
    for name, value in (("0", 1), ("1", orientation)):
        exif[0x0112] = value
        photo(size=(40, 40)).save(tmp_path / f"images/{name}.jpg", exif=exif)
    found = findings(path)
    (warning,) = said(found)
    assert "1 image with an EXIF orientation other than 1: 1" in warning
    assert "applied to the photo, labels are taken as they are stored" in warning
    assert found.census.oriented == {"1": orientation}


LOSSY: dict[str, Callable[[Path], None]] = {
    "JPEG": lambda p: Image.fromarray(HALVES).save(p, "JPEG", quality=95),
    "JPEG called png": lambda p: Image.fromarray(HALVES).save(p, "JPEG", quality=95),
    "WebP": lambda p: Image.fromarray(HALVES).save(p, "WEBP"),
    "WebP, moving": lambda p: Image.fromarray(HALVES).save(p, "WEBP", save_all=True, append_images=[photo()]),
    "TIFF with jpeg": lambda p: Image.fromarray(HALVES).save(p, "TIFF", compression="jpeg"),
    "JPEG 2000": lambda p: Image.fromarray(HALVES).save(p, "JPEG2000", irreversible=True),
}


@pytest.mark.parametrize("form", LOSSY)
def test_lossy_labels_are_refused_whatever_their_suffix(tmp_path: Path, form: str) -> None:
    suffix = ".jpg" if form == "JPEG" else ".png"
    path = write(tmp_path, label_suffix=f'"{suffix}"', names=("0",))
    LOSSY[form](tmp_path / f"labels/0{suffix}")
    (problem,) = findings(path).problems
    assert problem.file == tmp_path / f"labels/0{suffix}" and "compressed with loss" in problem.what


def test_labels_without_loss_are_read_whatever_their_form(tmp_path: Path) -> None:
    for form in ("TIFF", "BMP", "GIF"):
        path = write(tmp_path, names=("0",))
        Image.fromarray(HALVES).save(tmp_path / "labels/0.png", form)
        assert said(findings(path)) == []
    path = write(tmp_path, names=("0",), label_encoding='"colour"', palette="[[9, 9, 9], [200, 0, 0]]")
    colours = np.array([[9, 9, 9], [200, 0, 0]], np.uint8)[HALVES]
    Image.fromarray(colours).save(tmp_path / "labels/0.png", "WEBP", lossless=True)
    assert said(findings(path)) == []


# Class files


@dataclass(frozen=True)
class Content:
    content: bytes
    words: tuple[str, ...]


REFUSED_CLASSES = {
    "comment": Content(b"# names\ncat\ndog\n", ("classes.txt", "line 1 looks like a comment: '# names'")),
    "comment inside": Content(b"cat\n#dog\nbus\n", ("line 2 looks like a comment",)),
    "empty line": Content(b"cat\n\ndog\n", ("classes.txt", "line 2 is empty")),
    "blank line": Content(b"cat\r\n  \r\ndog\r\n", ("line 2 is empty",)),
    "empty first line": Content(b"\ncat\ndog\n", ("line 1 is empty",)),
    "latin-1": Content("café\ndog\n".encode("latin-1"), ("not UTF-8", "byte 0xe9 in line 1", "iconv")),
    "latin-1 later": Content("dog\nl\u00e4mp\n".encode("latin-1"), ("byte 0xe4 in line 2",)),
    "utf-16 without a mark": Content("cat\ndog\n".encode("utf-16-le"), ("NUL character in line 1", "UTF-8")),
    "damaged utf-16": Content("cat\n".encode("utf-16") + b"x", ("begins as UTF-16 and is damaged",)),
    "numbers": Content(b"0: cat\n1: dog\n", ("numbers its lines ('0: cat')", "sed")),
    "numbers from 1": Content(b"1, cat\n2, dog\n", ("numbers its lines",)),
    "numbers and tabs": Content(b"0\tcat\n1\tdog\n", ("numbers its lines",)),
    "numbers and blanks": Content(b"0 cat\n1 dog\n", ("numbers its lines",)),
    "zero-width": Content("cat\nd\u200bog\n".encode(), ("line 2 holds an invisible character (U+200B)",)),
    "escape": Content(b"cat\n\x1b[31mdog\n", ("line 2 holds an invisible character (U+001B)",)),
    "twice": Content(b"cat\ncat\n", ("named twice: cat",)),
}


@pytest.mark.parametrize("case", REFUSED_CLASSES)
def test_a_class_file_that_would_shift_classes_is_refused(tmp_path: Path, case: str) -> None:
    (tmp_path / "classes.txt").write_bytes(REFUSED_CLASSES[case].content)
    text = refusal(write(tmp_path, classes='"classes.txt"'))
    assert all(word in text for word in REFUSED_CLASSES[case].words), text
    assert "\x1b" not in text and "\u200b" not in text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_class_files_as_editors_write_them(tmp_path: Path, encoding: str, ending: str) -> None:
    (tmp_path / "classes.txt").write_bytes(f"café, bar{ending}3 seat sofa{ending}{ending}".encode(encoding))
    assert open_dataset(str(write(tmp_path, classes='"classes.txt"'))).record.classes == ("café, bar", "3 seat sofa")


# List files


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_list_files_as_editors_write_them(tmp_path: Path, encoding: str) -> None:
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    (tmp_path / "val.txt").write_bytes(mark + "# validation\r\n1\r\n\r\n0\r\n".encode(encoding))
    path = write(tmp_path, list_file='"val.txt"')
    assert open_dataset(str(path)).ids == ("0", "1") and said(findings(path)) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("0\n1\n".encode("utf-16-le"), ("list file", "val.txt", "NUL character")),
        (b"caf\xe9\n", ("val.txt", "byte 0xe9 in line 1")),
        ("0\n1\u200b\n".encode(), ("val.txt", "line 2 holds an invisible character (U+200B)")),
    ],
)
def test_a_list_in_an_unknown_encoding_is_named(tmp_path: Path, content: bytes, words: tuple[str, ...]) -> None:
    (tmp_path / "val.txt").write_bytes(content)
    text = refusal(write(tmp_path, list_file='"val.txt"'))
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    "line",
    ["{}", "{}.jpg", "images/{}.jpg", "/elsewhere/set/images/{}.jpg", "./{}", "{}.jpg labels/{}.png", "images\\{}.jpg"],
)
def test_list_lines_lead_into_subfolders(tmp_path: Path, line: str) -> None:
    names = ("a/0", "a/1", "b/1")
    (tmp_path / "val.txt").write_text("".join(f"{line.replace('{}', n)}\n" for n in ("a/0", "b/1")))
    path = write(tmp_path, names=names, list_file='"val.txt"')
    assert open_dataset(str(path)).ids == ("a/0", "b/1") and said(findings(path)) == []


def test_list_lines_with_blanks_in_names_and_names_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("my photo.jpg\nc/9\n../0\n")
    path = write(tmp_path, names=("my photo", "0"), list_file='"val.txt"')
    assert open_dataset(str(path)).ids == ("0", "9", "my photo")  # "../0" does not lead out of the folder
    assert {p.file.name for p in findings(path).problems} == {"9.jpg", "9.png"}
