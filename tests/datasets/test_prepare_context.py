"""PASCAL Context from its merged JSON."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as codec

import ovss.datasets
from ovss.datasets import DataError
from ovss.datasets.prepare import Job, find_recipe, job

CLASSES = Path(ovss.datasets.__file__).parent / "classes"
OPTIONS: dict[str, Any] = {
    "table": {"file": "context59.map.tsv", "from": "pascal_context_full_id", "to": "label_60"},
}
AEROPLANE, BAG, WOOD, OUTSIDE = 2, 9, 458, 3  # ids of the 459 numbering; 3 is none of the 59


def runs(mask: Any) -> dict[str, Any]:
    out = codec.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(out["size"]), "counts": out["counts"].decode()}


def image(number: int, phase: str | None = "val", size: tuple[int, int] = (3, 4)) -> dict[str, Any]:
    entry = {"image_id": number, "file_name": f"2008_{number:06d}.jpg", "height": size[0], "width": size[1]}
    return entry if phase is None else {**entry, "phase": phase}


def segment(number: int, category: int, segmentation: Any) -> dict[str, Any]:
    return {"image_id": number, "category_id": category, "segmentation": segmentation}


def box(top: int, left: int, bottom: int, right: int) -> Any:
    mask = np.zeros((3, 4), np.uint8)
    mask[top:bottom, left:right] = 1
    return runs(mask)


GOOD = {
    "images": [image(2), image(3), image(5, "train")],
    "annos_segmentation": [
        segment(2, AEROPLANE, box(0, 0, 2, 2)),
        segment(5, WOOD, box(0, 0, 3, 4)),
        segment(2, WOOD, box(1, 1, 3, 4)),
        segment(2, OUTSIDE, box(0, 3, 2, 4)),
        segment(3, BAG, {"size": [3, 4], "counts": [1, 2, 9]}),  # runs go down the columns
        segment(3, AEROPLANE, [[2, 0, 4, 0, 4, 3, 2, 3]]),
    ],
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def run(home: Path, content: Any = None, **options: Any) -> Path:
    if content is not None:
        (home / "trainval_merged.json").write_text(content if isinstance(content, str) else json.dumps(content))
    output = home.parent / "out"
    find_recipe("context_json")(Job(home, output, {**OPTIONS, **options}))
    return output


def refusal(home: Path, content: Any = None, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        run(home, content, **options)
    return str(caught.value)


def label(output: Path, stem: str) -> list[list[int]]:
    with Image.open(output / f"labels/{stem}.png") as picture:
        assert picture.mode == "L"
        return np.asarray(picture).tolist()


def test_later_segments_cover_earlier_ones_and_other_ids_are_background(home: Path) -> None:
    output = run(home, GOOD)
    # aeroplane is label 1, wood 59; the last segment, of an id outside the 59, covers wood
    assert label(output, "2008_000002") == [[1, 1, 0, 0], [1, 59, 59, 0], [0, 59, 59, 59]]
    assert label(output, "2008_000003") == [[0, 0, 1, 1], [2, 0, 1, 1], [2, 0, 1, 1]]
    assert (output / "val.txt").read_text() == "2008_000002\n2008_000003\n"
    assert not (output / "labels/2008_000005.png").exists()


def test_every_class(home: Path) -> None:
    lines = [x for x in (CLASSES / "context59.map.tsv").read_text().splitlines() if not x.startswith("#")]
    table = [r for r in csv.DictReader(lines, delimiter="\t") if r["pascal_context_full_id"]]
    content: dict[str, Any] = {"images": [image(1, size=(1, 459))], "annos_segmentation": []}
    for category in range(1, 460):
        mask = np.zeros((1, 459), np.uint8)
        mask[0, category - 1] = 1
        content["annos_segmentation"].append(segment(1, category, runs(mask)))
    wanted = {int(r["pascal_context_full_id"]): int(r["label_60"]) for r in table}
    assert sorted(wanted.values()) == list(range(1, 60))
    assert label(run(home, content), "2008_000001") == [[wanted.get(i, 0) for i in range(1, 460)]]


def test_other_phase_and_list_file(home: Path) -> None:
    output = run(home, GOOD, phase="train")
    assert label(output, "2008_000005") == [[59] * 4] * 3
    assert (output / "train.txt").read_text() == "2008_000005\n"
    for entry in (without := json.loads(json.dumps(GOOD)))["images"]:
        del entry["phase"]
    text = refusal(home, without)
    assert "phase 'val'" in text and "list_file" in text
    (home / "val.txt").write_text("2008_000003\n")
    output = run(home, without, list_file="val.txt")
    assert (output / "val.txt").read_text() == "2008_000003\n"
    (home / "val.txt").write_text("2008_000003\n2010_001606\n")
    assert "2010_001606" in refusal(home, without, list_file="val.txt")


def test_a_second_run_makes_nothing_and_a_changed_file_everything(home: Path) -> None:
    output = run(home, GOOD)
    before = {p: p.stat().st_mtime_ns for p in output.rglob("*.*")}
    assert {p: p.stat().st_mtime_ns for p in run(home).rglob("*.*")} == before
    run(home, {**GOOD, "annos_segmentation": []})
    assert label(output, "2008_000002") == [[0] * 4] * 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "no valid JSON"),
        ([], "no lists"),
        ({"images": []}, "no lists"),
        ({"images": [{}], "annos_segmentation": []}, "image_id"),
        ({"images": [{"image_id": 1}], "annos_segmentation": []}, "file_name"),
        ({"images": [], "annos_segmentation": []}, "no image has the phase"),
    ],
)
def test_a_file_of_another_shape_is_refused(home: Path, content: Any, words: str) -> None:
    text = refusal(home, content)
    assert str(home / "trainval_merged.json") in text and words in text
    assert not (home.parent / "out").exists()


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [3, 4], "counts": "zzzz"},
        {"size": [3, 4], "counts": [1, 50]},
        {"size": [3, 4], "counts": [-1, 13]},
        {"size": [4, 3], "counts": [0, 12]},
        {"counts": "0"},
        [],
        [[0, 0, 1, 1]],
        None,
        "text",
    ],
)
def test_a_bad_segment_is_named_by_its_image(home: Path, segmentation: Any) -> None:
    content = {**GOOD, "annos_segmentation": [segment(2, AEROPLANE, segmentation), segment(3, BAG, box(0, 0, 1, 1))]}
    text = refusal(home, content)
    assert str(home / "trainval_merged.json") in text and "2008_000002.jpg" in text
    assert label(home.parent / "out", "2008_000003")[0] == [2, 0, 0, 0]


def test_an_absent_file_and_an_absent_library_are_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(home / "trainval_merged.json") in refusal(home)

    def absent(name: str) -> Any:
        raise ImportError(f"No module named {name}")

    (home / "trainval_merged.json").write_text(json.dumps(GOOD))
    recipe = find_recipe("context_json")
    monkeypatch.setattr(job, "import_module", absent)
    with pytest.raises(DataError, match="pip install pycocotools"):
        recipe(Job(home, home.parent / "out", OPTIONS))
