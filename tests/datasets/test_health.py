"""What is wrong with a copy is found: a miniature is damaged in one way, and exactly that finding comes, with its fix.

The last test sees to it that every check of every record has such a miniature.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ovss.datasets import DataError, dataset_keys, find_record, open_dataset
from ovss.datasets.checks import find_problems

from .miniatures import MINIATURES, build, build_raw

VOC = Path("VOCdevkit/VOC2012")
VOC_LABELS, VOC_LIST = VOC / "SegmentationClass", VOC / "ImageSets/Segmentation/val.txt"
CONTEXT = Path("VOCdevkit/VOC2010")
STUFF = Path("coco_stuff164k/annotations/val2017")
CITY = Path("cityscapes/gtFine/val")
ADE = Path("ade/ADEChallengeData2016/annotations/validation")
FULL = Path("ADE20K_2021_17_01")

Array = NDArray[Any]
Change = Callable[[Array], Array]
Damage = Callable[[Path], object]


def findings(key: str, root: Path, planned: int | None = None) -> list[tuple[str, str]]:
    """Level and text of everything that is found; a data set that cannot be opened is "refused".

    The miniature counts as the whole data set, unless ``planned`` says how many images there should be.
    """
    try:
        data = open_dataset(key, root)
    except DataError as error:
        return [("refused", str(error))]
    data.record = data.record.model_copy(update={"expected_images": planned})
    found = find_problems(data, data.ids)
    return [*(("problem", str(p)) for p in found.problems), *(("warning", str(w)) for w in found.warnings)]


# Ways of damaging files below a folder


def rewrite(path: Path, change: Change) -> None:
    """Change the stored values; the mode of the picture follows from the type of the result."""
    with Image.open(path) as picture:
        values = np.asarray(picture)
    Image.fromarray(change(values)).save(path)


def each(folder: Path | str, change: Change) -> Damage:
    """Every file of the folder."""
    return lambda root: [rewrite(p, change) for p in (root / folder).rglob("*.*")]


def first(folder: Path | str, change: Change) -> Damage:
    """The first file of the folder."""
    return lambda root: rewrite(min((root / folder).rglob("*.*")), change)


def rename(folder: Path | str, old: str, new: str) -> Damage:
    def damage(root: Path) -> None:
        for path in list((root / folder).rglob(f"*{old}")):
            path.rename(path.with_name(path.name.removesuffix(old) + new))

    return damage


def move(old: Path | str, new: Path | str) -> Damage:
    return lambda root: (root / old).rename(root / new)


def remove(path: Path | str) -> Damage:
    return lambda root: (root / path).unlink()


def cut(pattern: Path | str) -> Damage:
    """Half of the first file that fits the pattern."""

    def damage(root: Path) -> None:
        path = min(root.glob(str(pattern)))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


def touch(path: Path | str) -> Damage:
    def damage(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()

    return damage


def append(path: Path | str, text: str) -> Damage:
    def damage(root: Path) -> None:
        with (root / path).open("a") as file:
            file.write(text)

    return damage


def constant(value: int, kind: type = np.uint8) -> Change:
    return lambda values: np.full(values.shape[:2], value, kind)


def renamed(old: int, new: int) -> Change:
    return lambda values: np.where(values == old, new, values).astype(values.dtype)


# The miniatures


@dataclass(frozen=True)
class Case:
    """``start`` is a form of the miniature, "raw" for what is prepared from, or KEY/FORM of another data set."""

    name: str
    key: str
    damage: Damage
    level: str
    what: str
    fix: str
    start: str = "usual"
    files: int = 1
    """How many files have the finding."""

    def write(self, root: Path) -> None:
        key, _, form = self.start.rpartition("/")
        if form == "raw":
            build_raw(key or self.key, root)
        else:
            build(key or self.key, root, 3, form)
        self.damage(root)


def nothing(root: Path) -> None:
    """The start is wrong in itself."""


NO_VOID = "no label has the value 255: the void band around objects is missing"
NO_VOID_FIX = "the original SegmentationClass of VOC 2012 has it"
VOC_RANGE = "check that this is SegmentationClass, not SegmentationObject"
CONTEXT_RANGE = "459-class labels are the data set pc459"
NOT_STUFF = "these are labels of COCO-Object"
ONE_OR_OTHER = "`_labelTrainIds` is COCO-Stuff, `_instanceTrainIds` is COCO-Object"
FULL_ADE = "the full ADE20K with thousands of labels"
SCENE_PARSING = "Download ADEChallengeData2016.zip, or use the data set ade847"

CASES = [
    # PASCAL VOC and Context
    Case("no void band", "voc21", each(VOC_LABELS, renamed(255, 0)), "warning", NO_VOID, NO_VOID_FIX),
    Case("no void band", "voc20b", each(VOC_LABELS, renamed(255, 0)), "warning", NO_VOID, NO_VOID_FIX),
    *(Case("objects", k, first(VOC_LABELS, constant(33)), "problem", "33", VOC_RANGE) for k in ("voc21", "voc20")),
    Case("objects", "voc20b", first(VOC_LABELS, constant(33)), "problem", "label values 33 are not in the", VOC_RANGE),
    *(
        Case("other order", k, nothing, "problem", "probably VOC first", f"Ask for them by `{k}@mat`", "mat")
        for k in ("context59", "context60")
    ),
    *(
        Case("not prepared", k, nothing, "refused", "There is trainval_merged.json", f"`bench data prepare {k}`", "raw")
        for k in ("context59", "context60")
    ),
    *(
        Case("459", k, first(CONTEXT / "SegmentationClassContext", constant(200)), "problem", "200", CONTEXT_RANGE)
        for k in ("context59", "context60")
    ),
    Case(
        "unannotated",
        "pc459",
        first(CONTEXT / "annotations_detectron2", constant(65535, np.uint16)),
        "warning",
        "some labels hold 65535",
        "`bench data prepare pc459`",
    ),
    Case(
        "8 bits",
        "pc459",
        first(CONTEXT / "annotations_detectron2", lambda v: v.astype(np.uint8)),
        "problem",
        "the label has 8 bits, too few for 459 classes",
        "`bench data prepare pc459`",
    ),
    Case(
        "wrapped",
        "pc459",
        each(CONTEXT / "annotations_detectron2", lambda v: (v % 256).astype(np.uint16)),
        "warning",
        'no label has the value 430 ("unknown")',
        "16 bits: make them again with `bench data prepare pc459`",
    ),
    Case(
        "from 1",
        "pc459",
        first(CONTEXT / "annotations_detectron2", lambda v: v + np.uint16(1)),
        "problem",
        "label values 459 are neither a class",
        "459 means that 1 was not subtracted",
    ),
    Case(
        "not prepared", "pc459", nothing, "refused", "There are the `.mat` files", "`bench data prepare pc459`", "raw"
    ),
    # COCO
    Case(
        "wrong suffix",
        "coco_object",
        nothing,
        "refused",
        "_labelTrainIds.png: labels of another data set or another form",
        "`bench data prepare coco_object`",
        "coco_stuff/usual",
    ),
    Case(
        "stuff",
        "coco_object",
        rename(STUFF, "_labelTrainIds.png", "_instanceTrainIds.png"),
        "problem",
        "255",
        "`_labelTrainIds` is COCO-Stuff; make the right one with `bench data prepare coco_object`",
        "coco_stuff/usual",
        files=3,
    ),
    Case(
        "hidden 255",
        "coco_object",
        first(STUFF, constant(255)),
        "problem",
        "some labels hold 255, which never occurs",
        "`_instanceTrainIds` is COCO-Object",
    ),
    Case(
        "object",
        "coco_stuff",
        rename(STUFF, "_instanceTrainIds.png", "_labelTrainIds.png"),
        "problem",
        NOT_STUFF,
        ONE_OR_OTHER,
        "coco_object/usual",
    ),
    Case(
        "raw ids",
        "coco_stuff",
        rename(STUFF, ".png", "_labelTrainIds.png"),
        "problem",
        "label values 181",
        "values above 170 under that name are raw ids; remove the renamed copies",
        "raw",
        files=3,
    ),
    Case(
        "converted under the raw name",
        "coco_stuff",
        rename(STUFF, "_labelTrainIds.png", ".png"),
        "problem",
        "label values 11 are not in the table",
        "raw files (`ID.png`) are read as they are",
        files=3,
    ),
    Case(
        "object",
        "coco_stuff27",
        rename(STUFF, "_instanceTrainIds.png", ".png"),
        "problem",
        NOT_STUFF,
        ONE_OR_OTHER,
        "coco_object/usual",
    ),
    Case(
        "converted under the raw name",
        "coco_stuff27",
        rename(STUFF, "_labelTrainIds.png", ".png"),
        "problem",
        "label values 11 are not in the table",
        "check that these are the stuffthingmaps as downloaded",
        "train",
        3,
    ),
    Case(
        "raw ids",
        "coco_stuff10k",
        first("coco_stuff10k/annotations", constant(182)),
        "problem",
        "label values 182",
        "higher values are the raw ids: `bench data prepare coco_stuff10k`",
    ),
    Case(
        "not prepared",
        "coco_stuff10k",
        nothing,
        "refused",
        "There are the `.mat` files as published",
        "`bench data prepare coco_stuff10k`",
        "raw",
    ),
    # Cityscapes
    Case(
        "labelIds",
        "cityscapes",
        rename(CITY, "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"),
        "problem",
        "label values 21, 24, 33 are neither",
        "`_gtFine_labelIds.png` are read as they are",
        "ids",
        3,
    ),
    Case(
        "only colours",
        "cityscapes",
        rename(CITY, "_gtFine_labelTrainIds.png", "_gtFine_color.png"),
        "refused",
        "_gtFine_color.png: labels of another data set or another form",
        "`bench data prepare cityscapes`",
    ),
    # ADE20K
    Case(
        "full, own root",
        "ade20k",
        move(FULL / "images", "images"),
        "refused",
        FULL_ADE,
        SCENE_PARSING,
        "ade847/raw",
    ),
    *(
        Case(f"full, {path}", "ade20k", touch(path), "refused", what, SCENE_PARSING, "camvid/usual")
        for path, what in (
            ("index_ade20k.pkl", "There is index_ade20k.pkl: this is the full ADE20K"),
            (FULL / "index_ade20k.mat", "There is the full ADE20K with thousands of labels"),
            ("images/validation/a/b/x_seg.png", "There are `*_seg.png`: this is the full ADE20K"),
        )
    ),
    Case("full", "ade20k", first(ADE, constant(151)), "problem", "label values 151", "come from the full ADE20K"),
    Case(
        "scene parsing",
        "ade847",
        nothing,
        "refused",
        "There is ADEChallengeData2016, which has 150 classes",
        "ade847 needs the full release",
        "ade20k/detectron2",
    ),
    Case(
        "not prepared",
        "ade847",
        nothing,
        "refused",
        "There is the release as published",
        "`bench data prepare ade847`",
        "raw",
    ),
    Case(
        "8 bits",
        "ade847",
        first(FULL / "annotations_detectron2", lambda v: v.astype(np.uint8)),
        "problem",
        "the label has 8 bits, too few for 847 classes",
        "make them again with `bench data prepare ade847`",
    ),
    Case(
        "wrapped",
        "ade847",
        each(FULL / "annotations_detectron2", lambda v: (v % 256).astype(np.uint16)),
        "problem",
        "no label has the value 65535: the labels went through 8 bits",
        "16 bits: make them again",
    ),
    Case(
        "another table",
        "ade847",
        first(FULL / "annotations_detectron2", constant(847, np.uint16)),
        "problem",
        "label values 847",
        "make them again with `bench data prepare ade847`",
    ),
    # CamVid
    Case(
        "original release",
        "camvid",
        nothing,
        "refused",
        "There are `*_L.png`: this is the original release with 32 classes at 960x720",
        "run `bench data prepare camvid` and ask for `camvid@original`",
        "raw",
    ),
    Case(
        "original labels",
        "camvid",
        touch("CamVid/0016E5_07959_L.png"),
        "refused",
        "There are `*_L.png`: this is the original release with 32 classes at 960x720",
        "Get the SegNet layout (folders test and testannot)",
        "voc21/usual",
    ),
    Case(
        "32 classes", "camvid", first("CamVid/testannot", constant(31)), "problem", "31", "check that this is testann"
    ),
    # Files of any data set
    Case(
        "no list",
        "voc21",
        remove(VOC_LIST),
        "refused",
        f"its list {{root}}/{VOC_LIST} does not exist",
        "unpack it from the archive of the data set, or write the name of one image per line",
    ),
    Case("doubled line", "voc21", append(VOC_LIST, "2007_000033\n"), "problem", "both name 2007_000033", "Remove one"),
    Case(
        "no label", "voc21", remove(VOC_LABELS / "2007_000034.png"), "problem", "the file does not exist", "Check the"
    ),
    Case(
        "no image",
        "voc21",
        remove(VOC / "JPEGImages/2007_000034.jpg"),
        "problem",
        "the file does not exist",
        "Check the",
    ),
    Case(
        "no labels at all",
        "voc21",
        move(VOC_LABELS, VOC / "elsewhere"),
        "refused",
        "has images in",
        "`bench data down",
    ),
    Case(
        "another size",
        "voc21",
        first(VOC_LABELS, lambda v: v[:-1]),
        "problem",
        "the label is 48x39, its image 48x40",
        "check for swapped folders, resized copies and EXIF orientation",
    ),
    Case(
        "cut image",
        "voc21",
        cut(VOC / "JPEGImages/2007_000033.jpg"),
        "problem",
        "cannot be decoded",
        "download it again",
    ),
    Case("cut label", "camvid", cut("CamVid/testannot/*"), "problem", "cannot be decoded", "download it again"),
    Case(
        "photo of 16 bits",
        "camvid",
        first("CamVid/test", constant(900, np.uint16)),
        "problem",
        "more than 8 bits per channel",
        "convert it to 8 bits first",
    ),
    Case(
        "label of 16 bits",
        "camvid",
        first("CamVid/testannot", constant(65535, np.uint16)),
        "problem",
        "label values 65535 are neither",
        "Labels in the SegNet layout hold 0 to 11",
    ),
    Case(
        "colours",
        "camvid",
        first("CamVid/testannot", lambda v: np.stack([v, v, v], -1)),
        "problem",
        "mode RGB, not one channel of indices",
        'set label_encoding = "colour" and a palette',
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.key}: {c.name}")
def test_exactly_this_is_found(case: Case, tmp_path: Path) -> None:
    case.write(tmp_path)
    found = findings(case.key, tmp_path)
    assert [level for level, _ in found] == [case.level] * case.files, found
    for _, text in found:
        assert case.fix in text, text
    assert all(case.what.format(root=tmp_path) in text for _, text in found), found


@pytest.mark.parametrize("key", MINIATURES)
def test_nothing_is_found_in_a_clean_copy(key: str, tmp_path: Path) -> None:
    assert findings(key, build(key, tmp_path)) == []


def test_what_a_part_of_a_data_set_lacks_is_a_warning(tmp_path: Path) -> None:
    root = build("ade847", tmp_path)
    each(FULL / "annotations_detectron2", lambda v: (v % 256).astype(np.uint16))(root)
    assert [level for level, _ in findings("ade847", root)] == ["problem"]
    assert [level for level, _ in findings("ade847", root, planned=2000)] == ["warning"]


def test_a_blank_last_line_and_other_files_are_harmless(tmp_path: Path) -> None:
    root = build("voc21", tmp_path)
    append(VOC_LIST, "\n  \n\n")(root)
    for name in ("Thumbs.db", ".DS_Store", "2007_000033.txt"):
        (root / VOC_LABELS / name).touch()
    assert findings("voc21", root) == [] and len(open_dataset("voc21", root).ids) == 3


def test_every_check_of_every_record_is_tested() -> None:
    general = find_record("shapes").out_of_range
    for key in dataset_keys():
        record, cases = find_record(key), [c for c in CASES if c.key == key]
        for text in (*(h.what for h in record.health), *(f"{a.what}: {a.fix}" for a in record.lookalikes)):
            assert any(c.what in text for c in cases), (key, text)
        if record.out_of_range != general:
            assert any(c.level == "problem" and c.fix in record.out_of_range for c in cases), key
