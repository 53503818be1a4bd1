"""Recipes that write images too: ADE20K in full, birds, tiles."""

import csv
import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import ovss.datasets
from ovss.datasets import DataError
from ovss.datasets.prepare import Job, find_recipe

CLASSES = Path(ovss.datasets.__file__).parent / "classes"
ADE = {"table": {"file": "ade847.map.tsv", "from": "ade_full_id", "to": "train_id"}}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


def save(path: Path, values: Any, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path, **how)
    return path


def read(path: Path) -> NDArray[Any]:
    with Image.open(path) as image:
        return np.asarray(image)


def run(recipe: str, home: Path, output: Path, options: dict[str, Any]) -> None:
    find_recipe(recipe)(Job(home, output, options))


def refusal(recipe: str, home: Path, output: Path, options: dict[str, Any]) -> str:
    with pytest.raises(DataError) as caught:
        run(recipe, home, output, options)
    return str(caught.value)


def times(output: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in output.rglob("*.*")}


def noise(h: int, w: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)


def coded(numbers: Any, blue: int = 9) -> NDArray[np.uint8]:
    """Colours of ``*_seg.png``: red holds the high part in tens, blue the instance."""
    numbers = np.asarray(numbers)
    return np.stack([numbers // 256 * 10, numbers % 256, np.full_like(numbers, blue)], -1).astype(np.uint8)


def ade_scene(home: Path, name: str, image: Any, numbers: Any) -> Path:
    folder = home / "images/ADE/validation/home_or_hotel/bedroom"
    save(folder / f"{name}_seg.png", coded(numbers))
    return save(folder / f"{name}.jpg", image, quality=95)


def test_every_object_of_ade847(home: Path, output: Path) -> None:
    lines = [x for x in (CLASSES / "ade847.map.tsv").read_text().splitlines() if not x.startswith("#")]
    table = {int(r["ade_full_id"]): int(r["train_id"]) for r in csv.DictReader(lines, delimiter="\t")}
    assert sorted(table.values()) == list(range(847)) and (table[2978], table[165]) == (0, 7)
    numbers = np.arange(60 * 60).reshape(60, 60)
    ade_scene(home, "ADE_val_00000001", noise(60, 60), numbers)
    run("ade_full", home, output, ADE)
    with Image.open(output / "labels/ADE_val_00000001.tif") as image:
        assert image.mode == "I;16"
        label = np.asarray(image)
    assert label.ravel().tolist() == [table.get(i, 65535) for i in range(3600)]


def test_red_counts_in_tens(home: Path, output: Path) -> None:
    image = ade_scene(home, "ADE_val_00000001", noise(1, 2), [[0, 0]])
    # 2978 = 11 * 256 + 162; a red of 119 still means 11
    save(image.with_name("ADE_val_00000001_seg.png"), [[[110, 162, 0], [119, 162, 255]]])
    run("ade_full", home, output, ADE)
    assert read(output / "labels/ADE_val_00000001.tif").tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("size", "new"), [((16, 24), (16, 24)), ((24, 36), (16, 24)), ((40, 30), (21, 16)), ((32, 32), (16, 16))]
)
def test_large_images_and_labels_are_shrunk(
    home: Path, output: Path, size: tuple[int, int], new: tuple[int, int]
) -> None:
    numbers = np.where(np.arange(size[0] * size[1]).reshape(size) % 3, 2978, 312)
    path = ade_scene(home, "ADE_val_00000001", noise(*size), numbers)
    run("ade_full", home, output, {**ADE, "short_side_px": 16})
    label = read(output / "labels/ADE_val_00000001.tif")
    ys, xs = (np.floor(np.arange(n) * (o / n)).astype(int) for n, o in zip(new, size, strict=True))
    assert np.array_equal(label, np.where(numbers == 2978, 0, 1)[ys][:, xs])
    stored = cv2.resize(read(path), new[::-1], interpolation=cv2.INTER_LINEAR) if size != new else read(path)
    buffer = io.BytesIO()
    Image.fromarray(stored).save(buffer, "JPEG", quality=75)
    assert (output / "images/ADE_val_00000001.jpg").read_bytes() == buffer.getvalue()


def test_ade_needs_only_validation_and_makes_nothing_twice(home: Path, output: Path) -> None:
    ade_scene(home, "ADE_val_00000001", noise(4, 4), np.full((4, 4), 2978))
    save(home / "images/ADE/validation/home_or_hotel/bedroom/ADE_val_00000001/instance_000_a.png", [[1]])
    (home / "index_ade20k.pkl").write_bytes(b"never opened")
    run("ade_full", home, output, ADE)
    before = times(output)
    assert sorted(p.name for p in before) == ["ADE_val_00000001.jpg", "ADE_val_00000001.tif", "prepared.json"]
    run("ade_full", home, output, ADE)
    assert times(output) == before
    (output / "images/ADE_val_00000001.jpg").unlink()
    run("ade_full", home, output, ADE)
    assert (output / "images/ADE_val_00000001.jpg").is_file()


def test_ade_names_what_is_absent_doubled_or_of_another_size(home: Path, output: Path) -> None:
    assert "ADE20K_2021_17_01" in refusal("ade_full", home, output, ADE)
    first = ade_scene(home, "ADE_val_00000001", noise(4, 4), np.zeros((4, 4), int))
    second = ade_scene(home, "ADE_val_00000002", noise(4, 4), np.zeros((4, 5), int))
    text = refusal("ade_full", home, output, ADE)
    assert "ADE_val_00000002_seg.png" in text and "5x4" in text
    assert (output / "labels/ADE_val_00000001.tif").is_file()
    twin = save(first.parent.parent / "kitchen" / first.name, noise(4, 4))
    second.with_name("ADE_val_00000002_seg.png").unlink()
    text = refusal("ade_full", home, output, ADE)
    for path in (second.with_name("ADE_val_00000002_seg.png"), twin.with_name("ADE_val_00000001_seg.png")):
        assert str(path) in text
    assert "would also become ADE_val_00000001" in text


def birds(home: Path) -> None:
    names = ["001.Albatross/A_1", "001.Albatross/A_2", "200.Wren/W_1"]
    for i, name in enumerate(names):
        save(home / f"images/{name}.jpg", noise(1, 3, i), quality=90)
        save(home / f"segmentations/{name}.png", [[128, 129, 255]])
    (home / "images.txt").write_text("".join(f"{i} {n}.jpg\n" for i, n in enumerate(names, 1)))
    (home / "train_test_split.txt").write_text("1 0\n2 1\n3 0\n")


def test_birds_of_the_test_split(home: Path, output: Path) -> None:
    birds(home)
    run("species_mask", home, output, {})
    assert sorted(p.name for p in (output / "labels").iterdir()) == ["A_1.png", "W_1.png"]
    assert read(output / "labels/A_1.png").tolist() == [[0, 1, 1]]
    assert read(output / "labels/W_1.png").tolist() == [[0, 200, 200]]
    assert (output / "images/W_1.jpg").read_bytes() == (home / "images/200.Wren/W_1.jpg").read_bytes()
    before = times(output)
    run("species_mask", home, output, {})
    assert times(output) == before


def test_birds_name_what_is_wrong(home: Path, output: Path) -> None:
    assert str(home / "images.txt") in refusal("species_mask", home, output, {})
    birds(home)
    assert "no image has the value 7" in refusal("species_mask", home, output, {"split_value": "7"})
    (home / "segmentations/200.Wren/W_1.png").unlink()
    assert "W_1.png" in refusal("species_mask", home, output, {})
    (home / "images.txt").write_text("1 wren/W_1.jpg\n")
    assert "species number" in refusal("species_mask", home, output, {})


TILES: dict[str, Any] = {
    "images": "test/test-org-img",
    "labels": "test/test-label-img",
    "label_suffix": "_lab.png",
    "size_px": 4,
}


def test_tiles_go_row_by_row_and_are_filled_up(home: Path, output: Path) -> None:
    image, label = noise(6, 9), np.arange(54).reshape(6, 9) % 10
    save(home / "test/test-org-img/6279.jpg", image)
    save(home / "test/test-label-img/6279_lab.png", label)
    run("tile", home, output, TILES)
    stored = read(home / "test/test-org-img/6279.jpg")
    assert len(list(output.rglob("*.png"))) == 12
    for k, (top, left) in enumerate([(0, 0), (0, 4), (0, 8), (4, 0), (4, 4), (4, 8)]):
        wanted, wanted_label = np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 255)
        part, part_label = stored[top : top + 4, left : left + 4], label[top : top + 4, left : left + 4]
        wanted[: part.shape[0], : part.shape[1]] = part
        wanted_label[: part.shape[0], : part.shape[1]] = part_label
        assert np.array_equal(read(output / f"images/6279_{k}.png"), wanted)
        assert np.array_equal(read(output / f"labels/6279_{k}.png"), wanted_label)
    before = times(output)
    run("tile", home, output, TILES)
    assert times(output) == before


def test_an_image_of_one_tile_and_jpeg_tiles(home: Path, output: Path) -> None:
    save(home / "test/test-org-img/1.jpg", noise(4, 4))
    save(home / "test/test-label-img/1_lab.png", np.ones((4, 4)))
    run("tile", home, output, {**TILES, "target_suffix": ".jpg"})
    assert [p.name for p in (output / "images").iterdir()] == ["1_0.jpg"]
    assert read(output / "labels/1_0.png").tolist() == [[1] * 4] * 4


def test_tiles_name_what_is_absent_or_of_another_size(home: Path, output: Path) -> None:
    assert str(home / "test/test-org-img") in refusal("tile", home, output, TILES)
    save(home / "test/test-org-img/1.jpg", noise(4, 4))
    assert "1_lab.png" in refusal("tile", home, output, TILES)
    save(home / "test/test-label-img/1_lab.png", np.ones((4, 3)))
    text = refusal("tile", home, output, TILES)
    assert "1_lab.png" in text and "3x4" in text
