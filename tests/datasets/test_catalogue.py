"""Every catalogued data set: its record against the published numbers, and its miniature through the loader."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovss.datasets import DataError, check_samples, dataset_keys, find_record, open_dataset
from ovss.datasets.places import prepared_root
from ovss.datasets.prepare import RECIPES, Job, find_recipe

from .miniatures import MINIATURES, RAW, build, build_raw

# Classes, images, index of ignored pixels, background.
TABLE = {
    "voc21": (21, 1449, 255, 0),
    "voc20": (20, 1449, 255, None),
    "voc20b": (21, 1449, 255, 20),
    "context60": (60, 5105, 255, 0),
    "context59": (59, 5105, 255, None),
    "pc459": (459, 5105, 65535, None),
    "coco_object": (81, 5000, 255, 0),
    "coco_stuff": (171, 5000, 255, None),
    "coco_stuff10k": (171, 1000, 255, None),
    "coco_stuff27": (27, 5000, 255, None),
    "cityscapes": (19, 500, 255, None),
    "ade20k": (150, 2000, 255, None),
    "ade847": (847, 2000, 65535, None),
    "camvid": (11, 233, 255, None),
    "mess_bdd100k": (19, 1000, 255, None),
    "mess_dark_zurich": (20, 50, 255, 0),
    "mess_mhp_v1": (19, 980, 255, 0),
    "mess_foodseg103": (104, 2125, 255, 0),
    "mess_atlantis": (56, 1295, 255, None),
    "mess_dram": (12, 718, 255, 11),
    "mess_isaid": (16, 4055, 255, 0),
    "mess_isprs_potsdam_irrg": (6, 504, 255, 5),
    "mess_worldfloods_irrg": (3, 160, 255, 0),
    "mess_floodnet": (10, 5571, 255, 0),
    "mess_uavid": (8, 840, 255, 0),
    "mess_kvasir_instrument": (2, 118, 255, 0),
    "mess_chase_db1": (2, 20, 255, 0),
    "mess_cryonuseg": (2, 30, 255, 0),
    "mess_paxray_lungs": (2, 180, 255, 0),
    "mess_paxray_mediastinum": (2, 180, 255, 0),
    "mess_paxray_bones": (2, 180, 255, 0),
    "mess_paxray_diaphragm": (2, 180, 255, 0),
    "mess_corrosion_cs": (4, 44, 255, 0),
    "mess_deepcrack": (2, 237, 255, 0),
    "mess_pst900": (5, 288, 255, 0),
    "mess_zerowaste": (5, 929, 255, 0),
    "mess_suim": (8, 110, 255, 0),
    "mess_cub_200": (201, 5794, 255, 0),
    "mess_cwfid": (3, 21, 255, 0),
}
NOT_ALL_OF_INTEREST = {"mess_worldfloods_irrg": (1,), "mess_floodnet": (1, 3)}
FORMS = [(key, form) for key, miniature in MINIATURES.items() for form in miniature.forms]


def assert_loads(data: Any, key: str, images: int = 3, prefix: str = "", first: int = 0) -> None:
    """The data set holds exactly the labels of the miniature, in its order, and images of the same size."""
    miniature = MINIATURES[key]
    numbers = range(first, first + images)
    assert data.ids == tuple(sorted(prefix + miniature.name(i) for i in numbers))
    for number in numbers:
        sample = data.load(prefix + miniature.name(number))
        assert np.array_equal(sample.label, miniature.values(number)), (key, number)
        assert sample.image.shape == (*sample.label.shape, 3)
        assert sample.label.dtype == (np.uint16 if data.record.ignore_index == 65535 else np.uint8)


# The records


def test_the_catalogue_is_complete() -> None:
    assert set(dataset_keys()) == {"shapes", *TABLE} == {"shapes", *MINIATURES}


@pytest.mark.parametrize("key", TABLE)
def test_a_record_agrees_with_the_published_numbers(key: str) -> None:
    record = find_record(key)
    got = len(record.classes), record.expected_images, record.ignore_index, record.background
    assert record.key == key and got == TABLE[key]
    assert record.protocol == "unified" and record.title and record.licence and record.home.startswith("http")
    assert record.steps.strip() and record.split in ("val", "val2017", "validation", "test")
    assert all(name == name.strip() for name in record.classes)
    for other in record.shares_images_with:
        assert key in find_record(other).shares_images_with, other


@pytest.mark.parametrize("key", [k for k in TABLE if k.startswith("mess_")])
def test_classes_of_interest_are_all_but_the_background(key: str) -> None:
    classes, _, _, background = TABLE[key]
    expected = NOT_ALL_OF_INTEREST.get(key, tuple(c for c in range(classes) if c != background))
    assert find_record(key).classes_of_interest == expected


def test_prepared_forms_and_recipes_belong_together() -> None:
    for key in TABLE:
        record = find_record(key)
        paths = [p for form in (record, *record.alternatives) for p in (form.images, form.labels) if p]
        assert any(p.startswith("@/") for p in paths) == (record.prepare is not None), key
        assert (key in RAW) == (record.prepare is not None), key
        assert record.prepare is None or record.prepare.recipe in RECIPES
    assert find_record("context59").prepared_folder == find_record("context60").prepared_folder == "context60"


def test_the_ground_truth_is_named() -> None:
    expected = {
        **dict.fromkeys(["voc21", "voc20", "voc20b"], "voc"),
        **dict.fromkeys(["context60", "context59"], "json"),
        **dict.fromkeys(["coco_stuff", "coco_object", "coco_stuff27"], "stuffmaps"),
        **dict.fromkeys([k for k in TABLE if k.startswith("mess_")], "mess"),
    }
    assert {key: find_record(key).source for key in expected} == expected
    forms = find_record("coco_object").forms("instances")
    assert [form.key for form in forms] == ["coco_object@instances"]
    assert not forms[0].health  # in these masks 255 may occur


def test_class_names_at_places_that_are_often_wrong() -> None:
    spots = {
        "context59": {36: "person", 14: "cat", 58: "wood"},
        "context60": {0: "background", 37: "person", 15: "cat"},
        "pc459": {430: "unknown"},
        "coco_object": {0: "background", 1: "person", 80: "toothbrush"},
        "coco_stuff": {0: "person", 80: "banner", 170: "wood"},
        "coco_stuff27": {9: "person", 14: "food-stuff", 26: "water"},
        "cityscapes": {0: "road", 18: "bicycle"},
        "ade20k": {7: "bed"},
        "voc20b": {0: "aeroplane", 19: "tvmonitor", 20: "background"},
        "mess_dram": {0: "bird", 11: "background"},
    }
    for key, names in spots.items():
        assert {i: find_record(key).classes[i] for i in names} == names


def test_unseen_classes_groups_and_parents() -> None:
    assert find_record("voc20").unseen == ("pottedplant", "sheep", "sofa", "train", "tvmonitor")
    stuff = find_record("coco_stuff")
    ids = [stuff.classes.index(name) for name in stuff.unseen]
    assert ids == [19, 23, 28, 29, 36, 51, 76, 88, 94, 112, 133, 136, 137, 157, 160]
    assert len(find_record("context59").unseen) == 10
    assert len(stuff.groups) == 171 and set(stuff.groups) == set(range(27))
    assert [stuff.groups[i] for i in (0, 1, 15, 80, 112, 145, 170)] == [9, 11, 7, 17, 22, 23, 24]
    assert find_record("coco_stuff10k").groups == stuff.groups
    assert find_record("ade20k").parents[9] == (17,) and find_record("ade847").parents[29] == (18, 34)
    for key in ("ade20k", "ade847", "pc459"):
        record = find_record(key)
        used = {*record.parents, *(p for parents in record.parents.values() for p in parents)}
        assert used and max(used) < len(record.classes)


def test_raw_tables_are_complete() -> None:
    """All 172 values of a COCO-Stuff PNG and all 34 of Cityscapes are mapped, and 255."""
    never = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
    raw = [v for v in range(182) if v not in never]
    for key, expected in (
        ("coco_stuff", {v: i for i, v in enumerate(raw)} | {255: 255}),
        ("coco_object", {v: i + 1 if v <= 90 else 0 for i, v in enumerate(raw)} | {255: 0}),
    ):
        form = next(f for f in find_record(key).forms() if f.labels == "annotations/val2017" and f.label_map)
        assert form.label_map == expected and form.only_mapped
    groups = find_record("coco_stuff27").label_map
    assert set(groups) == {*raw, 255} and set(groups.values()) == {*range(27), 255}
    city = next(f for f in find_record("cityscapes").forms() if f.label_map).label_map
    assert set(city) == {*range(34), 255} and sorted(set(city.values())) == [*range(19), 255]
    assert [city[v] for v in (7, 8, 11, 17, 26, 31, 33, 0, 9)] == [0, 1, 2, 5, 13, 16, 18, 255, 255]


# The miniatures


@pytest.mark.parametrize(("key", "form"), FORMS)
def test_every_form_loads_with_exactly_its_labels(key: str, form: str, tmp_path: Path) -> None:
    layout = MINIATURES[key].forms[form]
    name = f"{key}@{layout.source}" if layout.source else key
    data = open_dataset(name, build(key, tmp_path, 3, form))
    assert_loads(data, key, prefix=layout.prefix)
    assert data.record.key == name
    assert check_samples(data, data.ids).warnings == []  # a clean copy gives no warnings


@pytest.mark.parametrize("key", MINIATURES)
def test_the_data_root_may_be_the_own_root_or_a_link(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = build(key, tmp_path / "data", 2)
    own = root / MINIATURES[key].forms["usual"].place
    (tmp_path / "links").mkdir()
    (tmp_path / "link").symlink_to(own, target_is_directory=True)
    (tmp_path / "links" / key).symlink_to(own, target_is_directory=True)
    for place in (root, own, own.parent, tmp_path / "link", tmp_path / "links"):
        assert_loads(open_dataset(key, place), key, 2)
    monkeypatch.setenv("OVSS_DATA", f"{tmp_path / 'nothing'}:{root}")
    assert_loads(open_dataset(key), key, 2)


@pytest.mark.parametrize("key", RAW)
def test_what_is_prepared_is_found_and_loads(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pycocotools")
    pytest.importorskip("scipy")
    monkeypatch.setenv("OVSS_PREPARED", str(tmp_path / "prepared"))
    record = find_record(key)
    assert record.prepare is not None
    root = build_raw(key, tmp_path / "data")
    home = next(root / p for p in (*record.places, ".") if (root / p / record.prepare.needs).exists())
    find_recipe(record.prepare.recipe)(Job(home, prepared_root() / record.prepared_folder, record.prepare.options))
    if key == "mess_floodnet":  # the only recipe that changes the size
        data = open_dataset(key, root)
        label = data.load("6279_1_0").label
        assert len(data.ids) == 3 and label.shape == (1024, 1024)
        assert np.array_equal(label[:40, :48], MINIATURES[key].values(0)) and (label[40:] == 255).all()
        return
    if record.prepare.recipe == "remap":  # these are also read as they are: take the originals away
        (home / record.labels).rename(home / "elsewhere")
    data = open_dataset("camvid@original" if key == "camvid" else key, root)
    assert data.files(data.ids[0])[1].is_relative_to(tmp_path / "prepared")
    assert_loads(data, key, first=8 if key == "mess_chase_db1" else 0)


def test_units_of_the_bootstrap(tmp_path: Path) -> None:
    data = open_dataset("cityscapes", build("cityscapes", tmp_path, 4))
    assert data.clusters(data.ids).tolist() == [0, 0, 1, 2]  # two frames of one sequence
    ids = ("P0003_0", "P0003_1", "P0003_10", "P0007_0")
    assert open_dataset("mess_isaid", build("mess_isaid", tmp_path)).clusters(ids).tolist() == [0, 0, 0, 1]
    tiles = ("top_potsdam_2_13_0", "top_potsdam_2_13_35", "top_potsdam_2_14_0")
    key = "mess_isprs_potsdam_irrg"
    assert open_dataset(key, build(key, tmp_path)).clusters(tiles).tolist() == [0, 0, 1]


# What users get wrong


def refusal(key: str, root: Path) -> str:
    """Why a data set cannot be opened or used."""
    with pytest.raises(DataError) as caught:  # noqa: PT012 - it may come from either
        data = open_dataset(key, root)
        data.record = data.record.model_copy(update={"expected_images": None})  # the miniature is the whole
        check_samples(data, data.ids)
    return str(caught.value)


def rename_labels(folder: Path, old: str, new: str) -> None:
    for path in list(folder.rglob(f"*{old}")):
        path.rename(path.with_name(path.name.removesuffix(old) + new))


@pytest.mark.parametrize(("asked", "there"), [("coco_object", "coco_stuff"), ("coco_stuff", "coco_object")])
def test_labels_of_the_other_coco_are_told(asked: str, there: str, tmp_path: Path) -> None:
    text = refusal(asked, build(there, tmp_path))
    assert f"data set '{asked}' has images in" in text and "labels of another data set or another form" in text
    assert f"bench data prepare {asked}" in text
    suffixes = {"coco_object": "_instanceTrainIds.png", "coco_stuff": "_labelTrainIds.png"}
    rename_labels(tmp_path / "coco_stuff164k/annotations", suffixes[there], suffixes[asked])
    text = refusal(asked, tmp_path)
    assert "`_instanceTrainIds` is COCO-Object" in text and "`_labelTrainIds` is COCO-Stuff" in text
    assert f"bench data prepare {asked}" in text


def test_a_hidden_255_in_coco_object_is_told(tmp_path: Path) -> None:
    """Labels of COCO-Stuff that happen to have no value above 80."""
    folder = build("coco_object", tmp_path) / "coco_stuff164k/annotations/val2017"
    path = next(folder.iterdir())
    Image.fromarray(np.full((40, 48), 255, np.uint8)).save(path)
    assert "255, which never occurs in COCO-Object" in refusal("coco_object", tmp_path)


def test_label_ids_under_the_name_of_train_ids_are_told(tmp_path: Path) -> None:
    build("cityscapes", tmp_path, 3, "ids")
    rename_labels(tmp_path / "cityscapes/gtFine", "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png")
    assert "values from 19 to 33 are labelIds" in refusal("cityscapes", tmp_path)


def test_the_other_order_of_context_is_told(tmp_path: Path) -> None:
    for key in ("context59", "context60"):
        text = refusal(key, build(key, tmp_path, 3, "mat"))
        assert "probably VOC first" in text and f"{key}@mat" in text


def test_the_alphabetical_order_is_told_where_voc_first_is_asked_for(tmp_path: Path) -> None:
    for key in ("context59", "context60"):
        root = build(key, tmp_path / key, 3, "detectron2")
        label = next((root / "VOCdevkit/VOC2010/annotations_detectron2/pc59_val").iterdir())
        Image.fromarray(np.full((40, 48), 46, np.uint8)).save(label)  # sky in alphabetical order
        text = refusal(f"{key}@mat", root)
        assert "alphabetical order, not VOC first" in text and f"plain `{key}`" in text


def test_other_ground_truths_that_are_absent_get_no_advice_for_the_usual_one(tmp_path: Path) -> None:
    root = build_raw("context59", tmp_path / "context")
    text = refusal("context59@mat", root)
    assert "'context59@mat'" in text and "pc59_val is not there" in text and "bench data prepare" not in text
    text = refusal("coco_object@instances", build_raw("coco_object", tmp_path / "coco"))
    assert "coco_seg_anno" in text and "bench data prepare" not in text and "ask for plain 'coco_object'" in text
    text = refusal("camvid@original", build("camvid", tmp_path / "camvid"))
    assert "no images in '701_StillsRaw_full'" in text and "bench data download camvid" in text


def test_a_missing_void_band_is_a_warning(tmp_path: Path) -> None:
    folder = build("voc21", tmp_path) / "VOCdevkit/VOC2012/SegmentationClass"
    for path in folder.iterdir():
        with Image.open(path) as picture:
            values = np.asarray(picture)
        Image.fromarray(np.where(values == 255, 0, values)).save(path)
    for key in ("voc21", "voc20b"):
        data = open_dataset(key, tmp_path)
        warnings = check_samples(data, data.ids).warnings
        assert len(warnings) == 1 and "the void band around objects is missing" in warnings[0]


def test_the_full_ade_in_place_of_scene_parsing_is_told(tmp_path: Path) -> None:
    build_raw("ade847", tmp_path)
    (tmp_path / "ADE20K_2021_17_01/index_ade20k.pkl").touch()
    assert "this is the full ADE20K" in refusal("ade20k", tmp_path / "ADE20K_2021_17_01")
    text = refusal("ade20k", tmp_path)
    assert "the full ADE20K with thousands of labels" in text and "ADEChallengeData2016.zip" in text
    folder = build("ade20k", tmp_path) / "ade/ADEChallengeData2016/annotations/validation"
    Image.fromarray(np.full((40, 48), 151, np.uint8)).save(next(folder.iterdir()))
    assert "higher values come from the full ADE20K" in refusal("ade20k", tmp_path)


def test_the_original_camvid_is_told(tmp_path: Path) -> None:
    text = refusal("camvid", build_raw("camvid", tmp_path))
    assert "this is the original release with 32 classes" in text and "camvid@original" in text


@pytest.mark.parametrize("key", ["context60", "context59", "pc459", "coco_stuff10k", "ade847"])
def test_what_is_not_prepared_yet_is_told(key: str, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    pytest.importorskip("scipy")
    assert f"bench data prepare {key}" in refusal(key, build_raw(key, tmp_path))


def test_unannotated_pixels_of_the_459_are_a_warning(tmp_path: Path) -> None:
    folder = build("pc459", tmp_path) / "VOCdevkit/VOC2010/annotations_detectron2/pc459_val"
    Image.fromarray(np.full((40, 48), 65535, np.uint16)).save(next(folder.iterdir()))
    data = open_dataset("pc459", tmp_path)
    assert any("some labels hold 65535" in w for w in check_samples(data, data.ids).warnings)


def test_a_part_of_the_data_raises_no_alarm_about_what_is_absent(tmp_path: Path) -> None:
    data = open_dataset("context59", build("context59", tmp_path, 3, "mat"))
    assert check_samples(data, data.ids[:1]).warnings == []
