"""Files that were made to break a reader: each ends as one clear finding, soon, and never as a traceback."""

import contextlib
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovss.datasets import DataError, DatasetRecord, check_samples, files, open_dataset, read_record
from ovss.datasets.checks import find_problems
from ovss.datasets.dataset import FolderDataset
from ovss.datasets.errors import Problem, shown
from ovss.datasets.loader import read_image, read_label

from .test_cases import HALVES, photo, write

RECORD = DatasetRecord(key="made_up", title="made up", images="i", labels="l", classes=("a", "b"))
Read = Callable[[Path], object]
READERS: dict[str, Read] = {"image": read_image, "label": lambda path: read_label(path, RECORD)}


def png(width: int, height: int, colour: int = 2) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    )


def finding(read: Read, path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(path)
    (problem,) = caught.value.problems
    assert problem.file == path
    return str(problem)


# Size


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    ("size", "words"),
    [((13378, 13400), "has 179 million pixels; at most 179"), ((60000, 60000), "has 3600 million pixels; at most 179")],
)
def test_decompression_bombs_are_refused_before_they_are_decoded(
    tmp_path: Path, kind: str, size: tuple[int, int], words: str
) -> None:
    (tmp_path / "a.png").write_bytes(png(*size, colour=2 if kind == "image" else 0))
    started = time.monotonic()
    assert words in finding(READERS[kind], tmp_path / "a.png")
    assert time.monotonic() - started < 1


@pytest.mark.filterwarnings("error")
def test_pictures_below_the_bound_are_read_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow warns from its own limit on; many threads that read at once must not get each other's warnings either."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr(files, "LARGE_PIXELS", 100)
    path = write(tmp_path)  # 2400 pixels: more than both, less than twice the first would be 2000: an error of Pillow's
    with pytest.raises(DataError, match="has 0 million pixels"):
        read_image(tmp_path / "images/0.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    data = open_dataset(str(path))
    assert check_samples(data, data.ids, threads=8).warnings == []


def test_a_file_of_too_many_bytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with path.open("wb") as file:
        file.truncate(files.MAX_PICTURE_BYTES + 1)  # sparse
    for read in READERS.values():
        assert "more than the 1024 MiB that are read" in finding(read, path)
    text = tmp_path / "big.toml"
    with text.open("wb") as file:
        file.truncate(files.MAX_TEXT_BYTES + 1)
    with pytest.raises(DataError, match=r"big\.toml cannot be read: the file has 64 MiB"):
        read_record(text)


# Kinds of files


def in_time(work: Callable[[], object], seconds: float = 5) -> None:
    """Fail when it hangs; the thread is left behind."""
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  handed on below
            errors.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it hangs"
    if errors:
        raise errors[0]


@pytest.mark.parametrize("kind", READERS)
def test_a_pipe_device_or_folder_is_no_picture(tmp_path: Path, kind: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    for name, what in (("pipe", "a pipe"), ("device", "a device"), ("folder", "a folder")):
        in_time(lambda n=name, w=what: finding_says(READERS[kind], tmp_path / n, f"it is {w}, not a file"))


def finding_says(read: Read, path: Path, words: str) -> None:
    assert words in finding(read, path)


@pytest.mark.parametrize("file", ["attic.toml", "classes.txt", "val.txt", "images/1.jpg", "labels/1.png"])
def test_a_pipe_in_the_place_of_any_file_does_not_hang(tmp_path: Path, file: str) -> None:
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "val.txt").write_text("0\n1\n")
    path = write(tmp_path, classes='"classes.txt"', list_file='"val.txt"')
    (tmp_path / file).unlink()
    os.mkfifo(tmp_path / file)

    def check() -> None:
        data = open_dataset(str(path))
        check_samples(data, data.ids)

    with pytest.raises(DataError, match=f"{Path(file).name}.*(is a pipe|does not exist)"):
        in_time(check)


# Damage


@pytest.mark.parametrize("kind", READERS)
def test_damaged_pictures_are_findings(tmp_path: Path, kind: str) -> None:
    """Bytes changed at random: read or refused, nothing else."""
    rng, path = np.random.default_rng(7), tmp_path / "a.png"
    forms = {"PNG": HALVES, "TIFF": HALVES, "GIF": HALVES, "BMP": HALVES, "JPEG": np.asarray(photo())}
    for form, pixels in forms.items():
        Image.fromarray(pixels).save(path, form)
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(40):
            damaged = whole.copy()
            damaged[rng.integers(0, len(damaged), 3)] = rng.integers(0, 256, 3)
            path.write_bytes(damaged.tobytes()[: rng.integers(1, len(damaged) + 1)])
            with contextlib.suppress(DataError):
                READERS[kind](path)


@pytest.mark.parametrize(
    "content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"%PDF-1.4\n", b"GIMP", b"text"]
)
def test_only_pictures_are_handed_to_the_decoder(tmp_path: Path, content: bytes) -> None:
    """PostScript would start another program."""
    (tmp_path / "a.jpg").write_bytes(content)
    text = finding(read_image, tmp_path / "a.jpg")
    assert "it begins as none of PNG, JPEG" in text and "BytesIO" not in text


# Names


def test_a_name_that_is_no_utf_8_is_named_and_nothing_breaks(tmp_path: Path) -> None:
    path = write(tmp_path)
    for folder, end in (("images", ".jpg"), ("labels", ".png")):
        source = tmp_path / folder / f"0{end}"
        try:
            Path(os.fsdecode(os.fsencode(tmp_path / folder) + b"/caf\xe9" + end.encode())).write_bytes(
                source.read_bytes()
            )
        except OSError:
            pytest.skip("this file system takes UTF-8 only")
    data = open_dataset(str(path))
    assert data.ids == ("0", "1", "2")
    (problem,) = find_problems(data, data.ids).problems
    assert "caf\\xe9.jpg" in str(problem) and "no UTF-8" in str(problem)
    str(problem).encode()


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31mb", "a\tb"])
def test_a_name_with_control_characters_is_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, names=("0", name))
    data = open_dataset(str(path))
    (problem,) = find_problems(data, data.ids).problems
    assert data.ids == ("0",) and str(problem).isprintable() and "control characters" in str(problem)


def test_findings_can_be_printed_anywhere() -> None:
    assert shown("caf\udce9/a\x07.png") == "caf\\xe9/a\\x07.png" and shown("ü/日.png") == "ü/日.png"
    assert str(Problem(Path("a"), "class \x1b[2Jx", "Mend it")).isprintable()


# TOML


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = " + "[" * 5000 + "]" * 5000, "it is nested too deeply"),
        ("a" + ".a" * 50_000 + " = 1", "a key of it is nested too deeply"),
        ("[a" + " . a" * 50_000 + "]", "a key of it is nested too deeply"),
        ("a" * 2_000_000, "is no valid TOML"),
        ("x = 1\n" * 700_000, "more than the 4 MiB that are read"),
        ('key = "x"\nclasses = "/dev/zero"', "it is a device, not a file"),
        ('key = "x"\nclasses = "."', "it is a folder, not a file"),
        ('key = "x"\nparents = "deep.json"', "it is nested too deeply"),
        ('key = "x"\ntitle = "x"\nimages = "a\\u0000b"\nlabels = "l"\nclasses = ["a"]', "cannot be seen (U+0000)"),
        ('key = "x"\ntitle = "x"\nimages = "i"\nlabels = "l"\nclasses = ["a"]\nfirst_label = 1e99', "first_label"),
        (
            'key = "x"\ntitle = "x"\nimages = "i"\nlabels = "l"\nclasses = ["a"]\nexpected_images = -1',
            "expected_images",
        ),
    ],
)
def test_odd_records_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(DataError) as caught:
        read_record(tmp_path / "a.toml")
    assert words in str(caught.value) and len(str(caught.value)) < 3000


@pytest.mark.parametrize("key", ["camvid", "shapes", "camvid@original", "voc21@mine"])
def test_a_record_must_not_take_the_key_of_a_catalogued_data_set(tmp_path: Path, key: str) -> None:
    path = write(tmp_path, key=f'"{key}"')
    with pytest.raises(DataError) as caught:
        open_dataset(str(path))
    assert f"has the key {key!r}, which is that of a catalogued data set" in str(caught.value)
    assert f'key = "my_{key}"' in str(caught.value)


# Patterns


@pytest.mark.parametrize("pattern", [r"((a|b|ab)*)*c", r"^(\\w+\\d*)+$x"])
def test_a_pattern_that_takes_too_long_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    from ovss.datasets import dependence

    monkeypatch.setattr(dependence, "PATTERN_SECONDS", 0.05)
    data = FolderDataset(RECORD.model_copy(update={"cluster_pattern": pattern}), tmp_path)
    started = time.monotonic()
    with contextlib.suppress(DataError):  # the matcher may know a short cut
        data.clusters(("ab" * 40,))
    assert time.monotonic() - started < 2


def test_a_slow_pattern_is_found_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import regex

    def slow(*args: object, **kwargs: object) -> object:
        assert kwargs["timeout"] == 1.0
        raise TimeoutError

    path = write(tmp_path, cluster_pattern='"^(.)"')
    monkeypatch.setattr(regex, "match", slow)
    data = open_dataset(str(path))
    (problem,) = find_problems(data, data.ids).problems
    assert "cluster_pattern '^(.)' takes longer than 1 s to match '0'" in problem.what


@pytest.mark.parametrize("pattern", ["(", "a" * 501, "(a{99999999999999999999})", "abc"])
def test_patterns_that_cannot_be_used_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="cluster_pattern"):
        DatasetRecord.model_validate({**RECORD.model_dump(), "cluster_pattern": pattern})
