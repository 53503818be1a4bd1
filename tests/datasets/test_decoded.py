"""Decoded images that are kept: the same as decoding, whatever happened to the folder, and faster."""

import errno
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import pytest
from PIL import Image

from ovss.datasets import DataError, DatasetRecord
from ovss.datasets import decoded as module
from ovss.datasets.dataset import every_time
from ovss.datasets.decoded import Decoded
from ovss.datasets.loader import (
    FileKey,
    ImageFile,
    LabelFile,
    Pixels,
    read_image,
    read_image_file,
    read_label,
    read_label_file,
)

RNG = np.random.default_rng(0)
T = TypeVar("T")


def record(classes: int = 200, **fields: object) -> DatasetRecord:
    names = tuple(f"class {i}" for i in range(classes))
    return DatasetRecord.model_validate(
        {"key": "made_up", "title": "made up", "images": "i", "labels": "l", "classes": names, **fields}
    )


class Reader:
    """Reads through a folder, and counts what had to be decoded."""

    def __init__(self, folder: Path | None, rule: DatasetRecord | None = None) -> None:
        self.decoded = 0
        self.record = rule or record()
        self.once = Decoded(folder).through(every_time, self.record)

    def image(self, path: Path) -> ImageFile:
        return self.once(FileKey("image", path), lambda: self._counted(lambda: read_image_file(path)))

    def label(self, path: Path) -> LabelFile:
        return self.once(FileKey("label", path), lambda: self._counted(lambda: read_label_file(path, self.record)))

    def _counted(self, read: Callable[[], T]) -> T:
        self.decoded += 1
        return read()


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """37 x 29 pixels: no whole number of blocks."""
    Image.fromarray(RNG.integers(0, 256, (29, 37, 3), np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def same(one: ImageFile, other: ImageFile) -> bool:
    facts = [(f.sha256, f.height, f.width, f.orientation) for f in (one, other)]
    return facts[0] == facts[1] and np.array_equal(one.pixels, other.pixels)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
@pytest.mark.parametrize("shape", [(1, 1), (29, 37), (64, 64), (300, 517)])
def test_an_image_is_decoded_once(tmp_path: Path, kept: Path, mode: str, shape: tuple[int, int]) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RNG.integers(0, 256, (*shape, 3), np.uint8)).convert(mode).save(path)
    plain, first, second = read_image_file(path), Reader(kept), Reader(kept)
    assert same(first.image(path), plain) and first.decoded == 1
    for _ in range(2):
        found = second.image(path)
        assert same(found, plain) and found.pixels is not None
        assert found.pixels.dtype == np.uint8 and found.pixels.flags.writeable and found.pixels.flags.c_contiguous
    assert second.decoded == 0


def test_an_upright_image_stays_upright(tmp_path: Path, kept: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.png"
    Image.fromarray(RNG.integers(0, 256, (20, 30, 3), np.uint8)).save(path, exif=exif)
    reader = Reader(kept)
    assert same(reader.image(path), reader.image(path)) and reader.decoded == 1
    assert reader.image(path).orientation == 6 and reader.image(path).height == 30


@pytest.mark.parametrize(("classes", "dtype"), [(200, np.uint8), (400, np.uint16)])
def test_a_large_label_is_read_once(tmp_path: Path, kept: Path, classes: int, dtype: type) -> None:
    path, rule = tmp_path / "a.png", record(classes, ignore_index=classes)
    Image.fromarray(np.resize(np.arange(classes, dtype=np.uint16), (1024, 2048))).save(path)
    first, second, plain = Reader(kept, rule), Reader(kept, rule), read_label_file(path, rule)
    for found in (first.label(path), second.label(path)):
        assert found.sha256 == plain.sha256 and found.values.dtype == dtype
        assert np.array_equal(found.values, plain.values)
    assert (first.decoded, second.decoded) == (1, 0)


def test_records_that_read_a_label_differently_share_nothing(tmp_path: Path, kept: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.resize(np.arange(1, 201, dtype=np.uint8), (1024, 2048))).save(path)
    plain, shifted = Reader(kept, record(201)), Reader(kept, record(200, first_label=1))
    for _ in range(2):
        assert plain.label(path).values[0, 0] == 1 and shifted.label(path).values[0, 0] == 0
    assert plain.decoded == shifted.decoded == 1


def test_what_is_fast_is_not_kept(tmp_path: Path, kept: Path) -> None:
    pixels = RNG.integers(0, 256, (64, 64, 3), np.uint8)
    for name in ("a.jpg", "b.JPEG", "c.bmp"):
        Image.fromarray(pixels).save(tmp_path / name)
        Reader(kept).image(tmp_path / name)
    Image.fromarray(pixels[..., 0] // 2).save(tmp_path / "label.png")
    Reader(kept).label(tmp_path / "label.png")
    assert len(list(kept.iterdir())) == 1  # the BMP
    large = tmp_path / "large.jpg"
    Image.fromarray(np.zeros((1025, 2048, 3), np.uint8)).save(large)
    Reader(kept).image(large)
    assert len(list(kept.iterdir())) == 2


def test_whoever_writes_to_the_pixels_writes_to_a_copy(kept: Path, image: Path) -> None:
    Reader(kept).image(image)
    found = Reader(kept).image(image)
    assert found.pixels is not None
    found.pixels[:] = 7
    assert same(Reader(kept).image(image), read_image_file(image))


# --- damage -----------------------------------------------------------------------------------------------------------


def spoil(content: bytearray, position: int) -> bytearray:
    content[position] ^= 0x10
    return content


DAMAGE: dict[str, Callable[[bytearray], bytes | bytearray]] = {
    "empty": lambda c: b"",
    "no page": lambda c: c[:100],
    "a head only": lambda c: c[:4096],
    "cut short": lambda c: c[:-1],
    "a page short": lambda c: c[:-4096],
    "longer": lambda c: c + bytes(4096),
    "zeros": lambda c: bytes(len(c)),
    "a block of zeros": lambda c: c[:4096] + bytes(4096) + c[8192:] if any(c[4096:8192]) else b"",
    "no sum": lambda c: spoil(c, 20),
    "another head": lambda c: spoil(c, 120),
    "the first pixel": lambda c: spoil(c, 4096),
    "a pixel of the last block": lambda c: spoil(c, -4096),
    "what fills the last block": lambda c: spoil(c, -1),
    "blocks exchanged": lambda c: c[:4096] + c[8192:12288] + c[4096:8192] + c[12288:],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_made_again(
    tmp_path: Path, kept: Path, damage: Callable[[bytearray], bytes | bytearray]
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RNG.integers(0, 256, (61, 67, 3), np.uint8)).save(path)  # three blocks
    Reader(kept).image(path)
    (file,) = kept.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(bytearray(whole)))
    reader = Reader(kept)
    assert same(reader.image(path), read_image_file(path)) and reader.decoded == 1
    assert file.read_bytes() == whole and len(list(kept.iterdir())) == 1


@pytest.mark.parametrize("position", range(0, 480, 7))
def test_no_byte_of_the_head_is_believed_unchecked(kept: Path, image: Path, position: int) -> None:
    Reader(kept).image(image)
    (file,) = kept.iterdir()
    file.write_bytes(spoil(bytearray(file.read_bytes()), position))
    assert same(Reader(kept).image(image), read_image_file(image))


def test_a_changed_image_is_decoded_anew(kept: Path, image: Path) -> None:
    """Also with the size and the date of the old one."""
    Reader(kept).image(image)
    status, content = image.stat(), image.read_bytes()
    other = RNG.integers(0, 256, (29, 37, 3), np.uint8)
    Image.fromarray(other).save(image)
    image.write_bytes(image.read_bytes().ljust(len(content), b"\0")[: max(len(content), image.stat().st_size)])
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    found = Reader(kept).image(image)
    assert found.pixels is not None and np.array_equal(found.pixels, other)
    assert len(list(kept.iterdir())) == 1


@pytest.mark.parametrize("what", ["rules", "Pillow"])
def test_other_rules_decode_anew(kept: Path, image: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    Reader(kept).image(image)
    if what == "rules":
        monkeypatch.setattr(module, "rules", lambda: "others")
    else:
        monkeypatch.setattr(module.PIL, "__version__", "0.1")
    reader = Reader(kept)
    reader.image(image)
    assert reader.decoded == 1


def test_a_file_that_changes_while_it_is_read_is_not_kept(kept: Path, image: Path) -> None:
    def read() -> ImageFile:
        found = read_image_file(image)
        Image.fromarray(RNG.integers(0, 256, (5, 5, 3), np.uint8)).save(image)
        return found

    Decoded(kept).through(every_time, record())(FileKey("image", image), read)
    assert not kept.exists()
    assert Reader(kept).image(image).height == 5


def test_a_damaged_image_is_told_as_without(tmp_path: Path, kept: Path, image: Path) -> None:
    image.write_bytes(image.read_bytes()[:-200])
    told = []
    for folder in (None, kept, kept):
        with pytest.raises(DataError) as caught:
            Reader(folder).image(image)
        told.append(str(caught.value))
        with pytest.raises(DataError, match="does not exist"):
            Reader(folder).image(tmp_path / "absent.png")
    assert len(set(told)) == 1 and not kept.exists()


def test_other_keys_pass(kept: Path) -> None:
    once = Decoded(kept).through(every_time, record())
    assert once(("scene", "val", 3), lambda: "drawn") == "drawn" and not kept.exists()


# --- the folder -------------------------------------------------------------------------------------------------------


def images(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    for number in range(count):
        Image.fromarray(RNG.integers(0, 256, (31, 33, 3), np.uint8)).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("place", ["a file", "below a file", "a folder of that name"])
def test_a_folder_that_cannot_be_written_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    paths = images(tmp_path / "images", 12)
    blocked = tmp_path / "file"
    blocked.write_text("mine")
    folder = {"a file": blocked, "below a file": blocked / "kept", "a folder of that name": tmp_path / "kept"}[place]
    if place == "a folder of that name":
        for path in paths:
            (folder / module._name(FileKey("image", path), record())).mkdir(parents=True)
    reader = Reader(folder)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(reader.image, paths * 2))
    assert all(same(one, read_image_file(path)) for one, path in zip(found, paths * 2, strict=True))
    assert reader.decoded == 24 and blocked.read_text() == "mine"
    (said,) = caplog.messages
    assert said.startswith(f"decoded images cannot be kept in {folder}: ") and "decoded each time" in said


def test_a_full_disk_is_said_once_and_asked_no_more(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked, real = [], module.atomic_file

    @contextmanager
    def filling(path: Path, sync: bool) -> Iterator[BinaryIO]:
        asked.append(path)
        with real(path, sync) as file:
            if len(asked) == 3:
                file.write(b"half")
                raise OSError(errno.ENOSPC, "No space left on device")
            yield file

    monkeypatch.setattr(module, "atomic_file", filling)
    paths = images(tmp_path / "images", 8)
    for _ in range(2):
        reader = Reader(kept)
        asked.clear()
        assert all(same(reader.image(path), read_image_file(path)) for path in paths)
        assert len(asked) == 3
    assert len(list(kept.iterdir())) == 4  # two of each round, and nothing half
    (said,) = set(caplog.messages)
    assert said.startswith(f"decoded images cannot be kept in {kept}: No space left on device.  ")
    assert len(caplog.messages) == 2


def test_many_at_a_time(tmp_path: Path, kept: Path) -> None:
    """Readers that share a folder, while somebody spoils its files."""
    paths = images(tmp_path / "images", 4)
    plain = {path: read_image_file(path) for path in paths}

    def read(number: int) -> bool:
        path = paths[number % 4]
        if number % 5 == 0:
            for file in kept.glob("*.decoded"):
                other = file.with_suffix(f".{number}")
                other.write_bytes(file.read_bytes()[: 4096 + number])
                other.replace(file)
        return same(Reader(kept).image(path), plain[path])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(120)))


def photo(height: int = 1024, width: int = 2048) -> Pixels:
    """Soft shapes of every size and the noise of a sensor: PNG takes two and a half bytes for a pixel."""
    rng, found = np.random.default_rng(1), np.full((height, width, 3), 110.0, np.float32)
    for level in range(2, 10):
        coarse = rng.normal(size=(2**level, 2 ** (level + 1), 3)).astype(np.float32)
        planes = [np.asarray(Image.fromarray(c).resize((width, height), 3)) for c in np.moveaxis(coarse, -1, 0)]
        found += np.stack(planes, -1) * np.float32(120 * 2.0**-level)
    return np.clip(found + rng.normal(size=found.shape).astype(np.float32), 0, 255).astype(np.uint8)


def test_it_is_faster_than_decoding(tmp_path: Path, kept: Path) -> None:
    """tests/benchmarks/lines_run.py asks for fifty times; here ten, best of nine against best of two."""
    path = tmp_path / "street.png"
    Image.fromarray(photo()).save(path, compress_level=1)
    reader = Reader(kept)
    reader.image(path)

    def best(read: Callable[[Path], object], rounds: int) -> float:
        taken = []
        for _ in range(rounds):
            started = time.perf_counter()
            read(path)
            taken.append(time.perf_counter() - started)
        return min(taken)

    assert best(read_image_file, 2) >= 10 * best(reader.image, 9) and reader.decoded == 1
    assert np.array_equal(reader.image(path).pixels, read_image(path))


def test_labels_are_compared_with_the_plain_reader(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.arange(200, dtype=np.uint8).reshape(10, 20)).save(path)
    assert np.array_equal(read_label_file(path, record()).values, read_label(path, record()))
