"""Reading images and labels: every encoding that data sets come in, and a clear refusal of every other."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ovss.datasets import DataError, DatasetRecord
from ovss.datasets.dataset import FolderDataset
from ovss.datasets.loader import read_image, read_label

VALUES = np.array([[0, 1, 2], [150, 254, 255]])


def record(classes: int = 255, **fields: object) -> DatasetRecord:
    names = tuple(f"class {i}" for i in range(classes))
    return DatasetRecord.model_validate(
        {"key": "made_up", "title": "made up", "images": "i", "labels": "l", "classes": names, **fields}
    )


def problem(path: Path, rule: DatasetRecord) -> str:
    """What the loader says about a label that it refuses; the file is always named."""
    with pytest.raises(DataError) as caught:
        read_label(path, rule)
    assert str(path) in str(caught.value)
    assert [p.file for p in caught.value.problems] == [path]
    return str(caught.value)


def test_grey_png_holds_indices(tmp_path: Path) -> None:
    Image.fromarray(VALUES.astype(np.uint8)).save(tmp_path / "a.png")
    label = read_label(tmp_path / "a.png", record())
    assert label.dtype == np.uint8 and np.array_equal(label, VALUES)


def test_palette_png_holds_indices_not_colours(tmp_path: Path) -> None:
    picture = Image.fromarray(VALUES.astype(np.uint8)).convert("P")
    picture.putdata(VALUES.ravel().tolist())
    picture.putpalette([v for i in range(256) for v in (255 - i, i * 5 % 256, 7)])
    picture.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as stored:
        assert stored.mode == "P"
    assert np.array_equal(read_label(tmp_path / "a.png", record()), VALUES)


def test_two_colour_png_holds_indices(tmp_path: Path) -> None:
    values = np.array([[True, False], [False, True]])
    Image.fromarray(values).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as stored:
        assert stored.mode == "1"
    assert np.array_equal(read_label(tmp_path / "a.png", record(2)), values.astype(int))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("values", [[[0, 1, 299], [255, 256, 44]], [[65535, 65535, 0], [298, 299, 65535]]])
def test_sixteen_bits_are_never_wrapped(tmp_path: Path, suffix: str, values: list[list[int]]) -> None:
    expected = np.array(values, np.uint16)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(expected).save(path)
    label = read_label(path, record(300, ignore_index=65535))
    assert label.dtype == np.uint16 and np.array_equal(label, expected)


@pytest.mark.parametrize("value", [300, 511, 458, 65280])
def test_sixteen_bit_values_out_of_range_are_refused_not_wrapped(tmp_path: Path, value: int) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.array([[0, value]], np.uint16)).save(path)
    assert f"label values {value} are neither a class (0 to 299) nor 65535" in problem(
        path, record(300, ignore_index=65535)
    )


def test_big_endian_tiff(tmp_path: Path) -> None:
    header = b"MM\x00*\x00\x00\x00\x08"
    entries = [(256, 3, 1, 2 << 16), (257, 3, 1, 1 << 16), (258, 3, 1, 16 << 16), (259, 3, 1, 1 << 16)]
    entries += [(262, 3, 1, 1 << 16), (273, 4, 1, 8 + 2 + 12 * 8 + 4), (278, 3, 1, 1 << 16), (279, 4, 1, 4)]
    ifd = len(entries).to_bytes(2, "big")
    for tag, kind, count, value in entries:
        ifd += tag.to_bytes(2, "big") + kind.to_bytes(2, "big") + count.to_bytes(4, "big") + value.to_bytes(4, "big")
    path = tmp_path / "a.tif"
    path.write_bytes(header + ifd + bytes(4) + np.array([258, 65535], ">u2").tobytes())
    assert np.array_equal(read_label(path, record(300, ignore_index=65535)), [[258, 65535]])


def test_values_beyond_sixteen_bits_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.array([[0, 70000]], np.int32)).save(path)
    assert "70000" in problem(path, record(300, ignore_index=65535))
    Image.fromarray(np.array([[-1, 0]], np.int32)).save(path)
    assert "-1" in problem(path, record(300, ignore_index=65535))


def test_value_out_of_range_names_file_and_values(tmp_path: Path) -> None:
    path = tmp_path / "wrong.png"
    Image.fromarray(np.array([[0, 3, 200], [7, 255, 2]], np.uint8)).save(path)
    text = problem(path, record(3))
    assert "label values 3, 7, 200 are neither a class (0 to 2) nor 255" in text and "label_map" in text


def test_label_map_renames_before_the_check(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[0, 1, 11], [11, 2, 255]], np.uint8)).save(path)
    assert "label values 11" in problem(path, record(3))
    assert read_label(path, record(3, label_map={11: 255})).tolist() == [[0, 1, 255], [255, 2, 255]]
    swapped = read_label(path, record(3, label_map={11: 255, 0: 1, 1: 0}))  # all at once, not one after the other
    assert swapped.tolist() == [[1, 0, 255], [255, 2, 255]]


PALETTE = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]


def colour_record(**fields: object) -> DatasetRecord:
    return record(3, label_encoding="colour", palette=PALETTE, **fields)


def save_colours(path: Path, colours: list[list[tuple[int, int, int]]]) -> None:
    Image.fromarray(np.array(colours, np.uint8)).save(path)


def test_colours_are_looked_up_and_black_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save_colours(path, [[PALETTE[2], PALETTE[0], (0, 0, 0)], [PALETTE[1], PALETTE[1], PALETTE[2]]])
    assert read_label(path, colour_record()).tolist() == [[2, 0, 255], [1, 1, 2]]
    assert read_label(path, colour_record(label_map={2: 255})).tolist() == [[255, 0, 255], [1, 1, 255]]
    with Image.open(path) as picture:
        picture.quantize(8).save(path)  # the same colours behind a palette
    assert read_label(path, colour_record()).tolist() == [[2, 0, 255], [1, 1, 2]]


def test_black_may_be_a_class(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save_colours(path, [[(0, 0, 0), (9, 9, 9)]])
    assert read_label(path, record(2, label_encoding="colour", palette=[(9, 9, 9), (0, 0, 0)])).tolist() == [[1, 0]]


def test_unknown_colour_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save_colours(path, [[PALETTE[0], (200, 0, 1), (1, 2, 3)]])
    text = problem(path, colour_record())
    assert "(200, 0, 1)" in text and "(1, 2, 3)" in text and "(200, 0, 0)" not in text


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_several_channels_are_refused_under_index(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    Image.new(mode, (3, 2)).save(path)
    text = problem(path, record())
    assert f"mode {mode}" in text and 'label_encoding = "colour"' in text


def test_jpeg_labels_of_colours_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(np.repeat(np.repeat(np.array([PALETTE], np.uint8), 8, 0), 5, 1)).save(path, quality=60)
    assert "JPEG" in problem(path, colour_record())


def photo(height: int = 12, width: int = 17) -> NDArray[np.uint8]:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 9 % 256, y * 17 % 256, (x + y) * 5 % 256], -1).astype(np.uint8)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_images_become_three_channels(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(photo()).convert(mode).save(path)
    image = read_image(path)
    assert image.shape == (12, 17, 3) and image.dtype == np.uint8


def test_grey_image_has_three_equal_channels(tmp_path: Path) -> None:
    grey = photo()[:, :, 0]
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), np.stack([grey] * 3, -1))


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, turns: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    Image.fromarray(photo(64, 48)).save(path, exif=exif, quality=100, subsampling=0)
    image = read_image(path)
    assert image.shape[:2] == ((64, 48) if turns % 2 == 0 else (48, 64))
    assert np.abs(image.astype(int) - np.rot90(photo(64, 48), turns).astype(int)).mean() < 2


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "missing", "folder"])
def test_images_that_cannot_be_read_are_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(photo(80, 80)).save(path)
    whole = path.read_bytes()
    content = {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"not an image"}.get(kind)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(DataError) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert ("does not exist" in str(caught.value)) == (kind == "missing")


def test_damaged_labels_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 3, (90, 90), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    assert "cannot be decoded" in problem(path, record(3))
    path.unlink()
    assert "does not exist" in problem(path, record(3))


def test_label_of_another_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "i").mkdir()
    (tmp_path / "l").mkdir()
    Image.fromarray(photo(12, 17)).save(tmp_path / "i/a.jpg")
    Image.fromarray(np.zeros((17, 12), np.uint8)).save(tmp_path / "l/a.png")
    with pytest.raises(DataError, match=r"the label is 12x17, its image 17x12") as caught:
        FolderDataset(record(3), tmp_path).load("a")
    assert caught.value.problems[0].file == tmp_path / "l/a.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: now the label fits
    Image.fromarray(photo(12, 17)).save(tmp_path / "i/a.jpg", exif=exif)
    assert FolderDataset(record(3), tmp_path).load("a").image.shape == (17, 12, 3)
