"""Recipes of one label per label file, on tiny copies of the real layouts; every row of every table."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

import ovss.datasets
from ovss.datasets import DataError
from ovss.datasets.prepare import Job, find_recipe

CLASSES = Path(ovss.datasets.__file__).parent / "classes"
RAW_COCO = "coco_stuff.map.tsv"


def rows(name: str) -> list[dict[str, str]]:
    lines = [line for line in (CLASSES / name).read_text().splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines, delimiter="\t"))


def save(path: Path, values: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)
    return path


def label(path: Path) -> NDArray[Any]:
    """A written label; PNG labels are 8-bit with one channel."""
    with Image.open(path) as image:
        assert image.mode == ("L" if path.suffix == ".png" else "I;16")
        return np.asarray(image)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


def run(recipe: str, home: Path, output: Path, options: dict[str, Any]) -> None:
    find_recipe(recipe)(Job(home, output, options))


def refusal(recipe: str, home: Path, output: Path, options: dict[str, Any]) -> str:
    with pytest.raises(DataError) as caught:
        run(recipe, home, output, options)
    return str(caught.value)


def coco(column: str, suffix: str) -> dict[str, Any]:
    table = {"file": RAW_COCO, "from": "png_id_164k", "to": column}
    return {"labels": "annotations/val2017", "table": table, "target_suffix": suffix}


CITYSCAPES = {
    "labels": "gtFine/val",
    "label_suffix": "_gtFine_labelIds.png",
    "target_suffix": "_gtFine_labelTrainIds.png",
    "table": {"file": "cityscapes.map.tsv", "from": "label_id", "to": "train_id"},
}


def test_every_raw_coco_id_becomes_its_stuff_object_and_coarse_class(home: Path, output: Path) -> None:
    table = [r for r in rows(RAW_COCO) if r["png_id_164k"] != "255"]
    raw = [int(r["png_id_164k"]) for r in table]
    assert len(raw) == 171 and set(range(182)) - set(raw) == {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
    save(home / "annotations/val2017/000000000139.png", [[*raw, 255]])
    run("remap", home, output / "stuff", coco("train_id_164k", "_labelTrainIds.png"))
    stuff = label(output / "stuff/labels/000000000139_labelTrainIds.png")
    assert stuff.tolist() == [[*range(171), 255]]

    run("remap", home, output / "object", coco("coco_object_id", "_instanceTrainIds.png"))
    objects = label(output / "object/labels/000000000139_instanceTrainIds.png")
    # things are numbered from 1, stuff (raw id above 90) and unlabelled pixels are background
    assert objects.tolist() == [[*(i + 1 if r <= 90 else 0 for i, r in enumerate(raw)), 0]]
    assert objects.max() == 80

    run("remap", home, output / "coarse", coco("coarse27_id", ".png"))
    coarse = label(output / "coarse/labels/000000000139.png")
    assert coarse.tolist() == [[*(int(r["coarse27_id"]) for r in table), 255]]
    assert set(coarse[0, :-1].tolist()) == set(range(27))


def test_coco_labels_of_other_converters_are_skipped_and_val_is_enough(home: Path, output: Path) -> None:
    folder = home / "annotations/val2017"
    for i, name in enumerate(("1.png", "2.png", "1_labelTrainIds.png", "2_instanceTrainIds.png", "._1.png")):
        save(folder / name, [[i]])
    run("remap", home, output, coco("train_id_164k", ".png"))
    assert sorted(p.name for p in (output / "labels").iterdir()) == ["1.png", "2.png"]
    assert (output / "list.txt").read_text() == "1\n2\n"


def test_a_coco_id_without_a_class_is_an_error_that_names_the_file(home: Path, output: Path) -> None:
    bad = save(home / "annotations/val2017/1.png", [[0, 25, 200]])
    text = refusal("remap", home, output, coco("train_id_164k", ".png"))
    assert str(bad) in text and "25, 200" in text and "as downloaded" in text


def test_cityscapes_in_folders_of_cities(home: Path, output: Path) -> None:
    wanted = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10}
    wanted |= {24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    name = "frankfurt/frankfurt_000000_000294_gtFine_"
    save(home / f"gtFine/val/{name}labelIds.png", [range(34)])
    save(home / f"gtFine/val/{name}instanceIds.png", [range(34)])
    save(home / "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png", [[33], [7]])
    run("remap", home, output, CITYSCAPES)
    assert label(output / f"labels/{name}labelTrainIds.png").tolist() == [[wanted.get(i, 255) for i in range(34)]]
    assert label(output / "labels/lindau/lindau_000000_000019_gtFine_labelTrainIds.png").tolist() == [[18], [0]]
    assert len(list(output.rglob("*.png"))) == 2
    assert (output / "list.txt").read_text() == "frankfurt/frankfurt_000000_000294\nlindau/lindau_000000_000019\n"


def test_a_colour_image_is_no_index_image_and_palette_images_are(home: Path, output: Path) -> None:
    colour = save(home / "gtFine/val/a/a_gtFine_labelIds.png", np.zeros((2, 2, 3)))
    text = refusal("remap", home, output, CITYSCAPES)
    assert str(colour) in text and "mode RGB" in text
    picture = Image.fromarray(np.array([[7, 33]], np.uint8)).convert("P")
    picture.putdata([7, 33])
    picture.save(colour)
    run("remap", home, output, CITYSCAPES)
    assert label(output / "labels/a/a_gtFine_labelTrainIds.png").tolist() == [[0, 18]]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"file": "cityscapes.map.tsv", "from": "label_id"}, "from and to"),
        ({"first": 1}, "first and count"),
        ({"first": 1, "count": 3, "file": "x", "from": "a", "to": "b"}, "either"),
        ({"file": "gone.tsv", "from": "a", "to": "b"}, "gone.tsv"),
        ({"file": "cityscapes.map.tsv", "from": "id", "to": "train_id"}, "no column id"),
        ({"file": "cityscapes.map.tsv", "from": "label_id", "to": "name"}, "whole numbers"),
    ],
)
def test_unusable_tables_are_refused(home: Path, output: Path, table: dict[str, Any], words: str) -> None:
    save(home / "gtFine/val/a/a_gtFine_labelIds.png", [[7]])
    assert words in refusal("remap", home, output, {**CITYSCAPES, "table": table})


def test_a_class_above_255_is_not_wrapped_into_a_png(home: Path, output: Path) -> None:
    bad = save(home / "l/a.png", [[7]])
    options = {"labels": "l", "table": {"first": 0, "count": 1, "also": {"7": 300}}}
    text = refusal("remap", home, output, options)
    assert str(bad) in text and "300" in text and ".tif" in text
    run("remap", home, output, {**options, "target_suffix": ".tif"})
    assert label(output / "labels/a.tif").tolist() == [[300]]


CAMVID = {"labels": "labels", "label_suffix": "_L.png", "table": "camvid32.map.tsv"}


def test_every_camvid_colour(home: Path, output: Path) -> None:
    table = rows("camvid32.map.tsv")
    assert len({(r["red"], r["green"], r["blue"]) for r in table}) == len(table) == 32
    save(home / "labels/0001TP_006690_L.png", [[[int(r[c]) for c in ("red", "green", "blue")] for r in table]])
    run("colours", home, output, CAMVID)
    written = label(output / "labels/0001TP_006690.png")
    assert written.tolist() == [[int(r["to"]) for r in table]]
    names = (CLASSES / "camvid.txt").read_text().splitlines()
    assert set(written.ravel().tolist()) == {*range(len(names)), 255}
    of = {r["name"]: int(r["to"]) for r in table}
    same = {"Sky": "sky", "Building": "building", "Column_Pole": "pole", "Road": "road", "Sidewalk": "pavement"}
    same |= {"Tree": "tree", "SignSymbol": "sign symbol", "Fence": "fence", "Car": "car"}
    same |= {"Pedestrian": "pedestrian", "Bicyclist": "bicyclist"}
    assert {k: names[of[k]] for k in same} == same and of["Void"] == 255


def test_an_unknown_colour_is_named(home: Path, output: Path) -> None:
    bad = save(home / "labels/a_L.png", [[[128, 128, 128], [1, 2, 3]]])
    text = refusal("colours", home, output, CAMVID)
    assert str(bad) in text and "(1, 2, 3)" in text and "(128" not in text


def test_binary_masks_of_any_kind(home: Path, output: Path) -> None:
    save(home / "masks/grey.png", [[0, 127, 128, 255]])
    save(home / "masks/rgb.png", [[[0, 0, 0], [255, 255, 255]]])
    Image.fromarray(np.array([[True, False]])).save(home / "masks/two.png")
    run("binarise", home, output, {"labels": "masks", "threshold": 127})
    assert label(output / "labels/grey.png").tolist() == [[0, 0, 1, 1]]
    assert label(output / "labels/rgb.png").tolist() == [[0, 1]]
    assert label(output / "labels/two.png").tolist() == [[1, 0]]


def test_first_annotator_and_last_images_of_chase(home: Path, output: Path) -> None:
    for i in range(1, 5):
        save(home / f"Image_{i:02d}L_1stHO.png", [[0, 255]])
        save(home / f"Image_{i:02d}L_2ndHO.png", [[255, 255]])
        save(home / f"Image_{i:02d}L.jpg", [[0, 255]])
    run("binarise", home, output, {"labels": ".", "label_suffix": "_1stHO.png", "threshold": 127, "skip": 2})
    assert (output / "list.txt").read_text() == "Image_03L\nImage_04L\n"
    assert [label(p).tolist() for p in sorted((output / "labels").iterdir())] == [[[0, 1]], [[0, 1]]]


def test_only_listed_files_are_converted_also_in_folders(home: Path, output: Path) -> None:
    for name in ("x/a", "x/b", "y/c"):
        save(home / f"masks/{name}.png", [[255]])
    (home / "test.txt").write_text("c\nimages/a.jpg\n\n")
    run("binarise", home, output, {"labels": "masks", "threshold": 127, "list_file": "test.txt"})
    assert (output / "list.txt").read_text() == "x/a\ny/c\n"
    assert sorted(p.name for p in output.rglob("*.png")) == ["a.png", "c.png"]


PC459 = {
    "labels": "trainval",
    "variable": "LabelMap",
    "target_suffix": ".tif",
    "table": {"first": 1, "count": 459, "also": {"0": 65535}},
}


def test_every_label_of_pascal_context_459(home: Path, output: Path) -> None:
    (home / "trainval").mkdir(parents=True)
    savemat(home / "trainval/2008_000002.mat", {"LabelMap": np.arange(460, dtype=np.uint16).reshape(20, 23)})
    savemat(home / "trainval/2008_000003.mat", {"LabelMap": np.array([[459.0, 1.0, 0.0]])}, do_compression=True)
    run("mat_labels", home, output, PC459)
    assert label(output / "labels/2008_000002.tif").ravel().tolist() == [65535, *range(459)]
    assert label(output / "labels/2008_000003.tif").tolist() == [[458, 0, 65535]]


def test_every_label_of_coco_stuff_10k(home: Path, output: Path) -> None:
    ids = sorted(int(r["mat_id_10k"]) for r in rows(RAW_COCO))
    assert set(range(183)) - set(ids) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
    (home / "annotations").mkdir(parents=True)
    (home / "imageLists").mkdir()
    (home / "imageLists/test.txt").write_text("COCO_train2014_000000000077\n")
    savemat(home / "annotations/COCO_train2014_000000000077.mat", {"S": np.array([ids], np.uint8), "names": ["x"]})
    savemat(home / "annotations/COCO_train2014_000000000078.mat", {"S": np.array([[255]], np.uint8)})
    options = {
        "labels": "annotations",
        "variable": "S",
        "list_file": "imageLists/test.txt",
        "target_suffix": "_labelTrainIds.png",
        "table": {"file": RAW_COCO, "from": "mat_id_10k", "to": "train_id_10k_file"},
    }
    run("mat_labels", home, output, options)
    written = label(output / "labels/COCO_train2014_000000000077_labelTrainIds.png")
    assert written.tolist() == [list(range(172))]
    text = refusal("mat_labels", home, output, {**options, "list_file": None})
    assert "000000000078.mat" in text and "255" in text and "000000000077.mat" not in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"Labels": np.zeros((2, 2))}, "no array 'LabelMap'"),
        ({"LabelMap": np.zeros((2, 2, 2))}, "shape (2, 2, 2)"),
        ({"LabelMap": np.array([[1.5]])}, "whole numbers"),
        ({"LabelMap": np.array([[-1]])}, "whole numbers"),
        ({"LabelMap": np.array([[460]])}, "460"),
        (b"MATLAB 7.3 or something else", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_unusable_mat_files_are_named(home: Path, output: Path, content: Any, words: str) -> None:
    path = home / "trainval/a.mat"
    path.parent.mkdir(parents=True)
    path.write_bytes(content) if isinstance(content, bytes) else savemat(path, content)
    text = refusal("mat_labels", home, output, PC459)
    assert str(path) in text and words in text
