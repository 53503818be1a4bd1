"""Small made-up copies of every catalogued data set, in the layouts and encodings that users have on disk.

They are written from the description of the layouts, not from the records: paths, suffixes and values are literal here,
so that a wrong record shows.  A label is drawn in symbols 0, 1, 2 ...; ``Miniature.columns`` says, per column, which value
a symbol has in a kind of file, and the column ``loaded`` which value the loader must give.
"""

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
HEIGHT, WIDTH = 40, 48


@dataclass(frozen=True)
class Form:
    """One layout.  ``place`` is the data set's own folder below the data root, ``column`` the values in label files.

    ``mode`` is that of the label file; ``lists`` are list files with a line per image, where ``{}`` is the id; ``prefix``
    stands before an id where a layout has folders per class.
    """

    place: str
    images: str
    image_suffix: str
    labels: str
    label_suffix: str
    column: str = "loaded"
    mode: str = "L"
    source: str | None = None
    lists: dict[str, str] = field(default_factory=dict)
    prefix: str = ""
    strangers: tuple[str, ...] = ()
    """Images that lie there, but do not belong to the split."""


@dataclass(frozen=True)
class Miniature:
    """``name`` makes the id of an image from its number; symbols of ``first_only`` are in the first label only."""

    name: Callable[[int], str]
    columns: dict[str, list[Any]]
    forms: dict[str, Form]
    first_only: tuple[int, ...] = ()
    grey: bool = False

    def ids(self, images: int = 3) -> list[str]:
        return [self.name(i) for i in range(images)]

    def symbols(self, number: int) -> Array:
        """Label of an image in symbols, (H, W): rectangles, and every symbol in at least one pixel."""
        rng = np.random.default_rng(zlib.crc32(self.name(number).encode()))
        allowed = [s for s in range(len(self.columns["loaded"])) if number == 0 or s not in self.first_only]
        label = np.full((HEIGHT, WIDTH), allowed[0])
        for _ in range(12):
            top, left = rng.integers(0, HEIGHT - 8), rng.integers(0, WIDTH - 8)
            label[top : top + rng.integers(4, 20), left : left + rng.integers(4, 20)] = rng.choice(allowed)
        label.ravel()[: len(allowed)] = allowed
        return label

    def truth(self, number: int, column: str = "loaded") -> Array:
        return np.array(self.columns[column])[self.symbols(number)]


def image_of(miniature: Miniature, number: int) -> Array:
    """Pixels of an image; the second one is grey where the data set has grey images."""
    rng = np.random.default_rng(number)
    shape = (HEIGHT, WIDTH) if miniature.grey and number == 1 else (HEIGHT, WIDTH, 3)
    return rng.integers(0, 256, shape, np.uint8)


def voc_colours() -> list[int]:
    """The colour map of PASCAL VOC: bits of the index, spread over the channels."""
    out = []
    for index in range(256):
        channels = [0, 0, 0]
        for bit in range(8):
            for c in range(3):
                channels[c] |= (index >> (3 * (bit // 3) + c) & 1) << (7 - bit // 3) if bit % 3 == 0 else 0
        out += channels
    return out


def save_label(path: Path, values: Array, mode: str) -> None:
    """Write a label as palette PNG ("P"), grey ("L"), 1 bit ("1"), 16-bit TIFF ("I;16") or colours ("RGB")."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode == "1":
        Image.fromarray(values.astype(bool)).save(path)
        return
    picture = Image.fromarray(values.astype(np.uint16 if mode == "I;16" else np.uint8))
    if mode == "P":
        picture.putpalette(voc_colours())
    assert picture.mode == mode, (picture.mode, mode)
    picture.save(path)


def save_image(path: Path, pixels: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write(miniature: Miniature, form: Form, root: Path, images: int) -> Path:
    """Write images, labels and lists of a form below the data root, which is returned."""
    home = root / form.place
    for number, name in enumerate(miniature.ids(images)):
        name = form.prefix + name
        save_image(home / form.images / f"{name}{form.image_suffix}", image_of(miniature, number))
        values = miniature.truth(number, form.column)
        save_label(home / form.labels / f"{name}{form.label_suffix}", values, form.mode)
    for stranger in form.strangers:
        save_image(home / form.images / f"{stranger}{form.image_suffix}", image_of(miniature, 0))
    for path, line in form.lists.items():
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        lines = [line.format(name) for name in miniature.ids(images)]
        (home / path).write_text("\n".join(lines) + "\n\n")  # a blank last line, as many have
    return root


def build(key: str, root: Path, images: int = 3, form: str = "") -> Path:
    """Write a form (default: the usual one) of a data set; returns the data root to pass."""
    miniature = MINIATURES[key]
    return write(miniature, miniature.forms[form or next(iter(miniature.forms))], root, images)


def build_raw(key: str, root: Path, images: int = 3) -> Path:
    """Write what `bench data prepare` starts from; returns the data root to pass."""
    return RAW[key](MINIATURES[key], root, images)


# PASCAL VOC and Context


def _voc(column: list[int], label: str, **more: Form) -> Miniature:
    stored = [0, 1, 8, 15, 20, 255]
    place, lists = "VOCdevkit/VOC2012", {"ImageSets/Segmentation/val.txt": "{}"}
    usual = Form(place, "JPEGImages", ".jpg", "SegmentationClass", ".png", "stored", "P", None, lists, "", ("2007_9",))
    aug = Form(place, "JPEGImages", ".jpg", "SegmentationClassAug", ".png", "stored", "L", "aug", lists)
    columns = {"stored": stored, "loaded": column, "detectron2": [255 if v == 255 else v for v in column]}
    return Miniature(lambda i: f"2007_{i:06d}", columns, {"usual": usual, "aug": aug, **more})


def _voc_detectron2(folder: str, source: str) -> Form:
    place = "VOCdevkit/VOC2012"
    return Form(place, "JPEGImages", ".jpg", folder, ".png", "detectron2", "L", source, {}, "", ("2007_9",))


# aeroplane, bag, bicycle, cat, person, wood and "none of the 59"
_ALPHABETICAL, _VOC_FIRST = [0, 1, 5, 14, 36, 58, 255], [0, 20, 1, 7, 14, 58, 255]
_SIXTY = [1, 2, 6, 15, 37, 59, 0]
_CONTEXT_IDS = [2, 9, 23, 59, 284, 458, 0]


def _context(loaded: list[int]) -> Miniature:
    place, folder = "VOCdevkit/VOC2010", "annotations_detectron2/pc59_val"
    lists = {"ImageSets/SegmentationContext/val.txt": "{}"}
    short = {"pascalcontext_val.txt": "{}"}
    jpg = "JPEGImages", ".jpg"
    forms = {
        "usual": Form(place, *jpg, "SegmentationClassContext", ".png", "sixty", "L", None, lists, "", ("2008_9",)),
        "detectron2": Form(place, *jpg, folder, ".png", "alphabetical", "L", None, lists),
        "catseg": Form(place, *jpg, folder, ".png", "alphabetical", "L", None, short, "", ("2008_9",)),
        "vocfirst": Form(place, *jpg, folder, ".png", "vocfirst", "L", "mat", lists),
        "vocfirst, short list": Form(place, *jpg, folder, ".png", "vocfirst", "L", "mat", short),
    }
    columns = {"loaded": loaded, "sixty": _SIXTY, "alphabetical": _ALPHABETICAL, "vocfirst": _VOC_FIRST}
    columns["ids"] = _CONTEXT_IDS
    return Miniature(lambda i: f"2008_{i:06d}", columns, forms, first_only=(3,))


def _context_json(miniature: Miniature, root: Path, images: int) -> Path:
    """The merged JSON: a segment per symbol, one below them that they cover, and a training image."""
    from pycocotools import mask

    home = root / "VOCdevkit/VOC2010"
    entries, segments = [], []
    for number, name in enumerate([*miniature.ids(images), "2009_000001"]):
        save_image(home / "JPEGImages" / f"{name}.jpg", image_of(miniature, number))
        phase = "val" if number < images else "train"
        entry = {"image_id": number + 7, "file_name": f"{name}.jpg", "phase": phase, "height": HEIGHT, "width": WIDTH}
        entries.append(entry)
        ids = miniature.truth(number, "ids")
        covered = (ids > 0, 415)
        for area, category in [covered, *((ids == c, c) for c in np.unique(ids) if c)]:
            coded = mask.encode(np.asfortranarray(area.astype(np.uint8)))
            coded["counts"] = coded["counts"].decode()
            segments.append({"image_id": number + 7, "category_id": int(category), "segmentation": coded})
    content = {"images": entries, "annos_segmentation": segments}
    (home / "trainval_merged.json").write_text(json.dumps(content))
    return root


def _pc459() -> Miniature:
    place, folder = "VOCdevkit/VOC2010", "annotations_detectron2/pc459_val"
    long, short = {"ImageSets/SegmentationContext/val.txt": "{}"}, {"pascalcontext_val.txt": "{}"}
    forms = {
        "usual": Form(place, "JPEGImages", ".jpg", folder, ".tif", mode="I;16", lists=long, strangers=("2008_9",)),
        "short list": Form(place, "JPEGImages", ".jpg", folder, ".tif", mode="I;16", lists=short),
    }
    columns = {"loaded": [0, 44, 255, 300, 430, 458], "mat": [1, 45, 256, 301, 431, 459]}
    return Miniature(lambda i: f"2008_{i:06d}", columns, forms)


def _mat(place: str, images_folder: str, folder: str, variable: str, lists: dict[str, str]) -> Any:
    def raw(miniature: Miniature, root: Path, images: int) -> Path:
        from scipy.io import savemat

        home = root / place
        for path, line in lists.items():
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            (home / path).write_text("".join(line.format(n) + "\n" for n in miniature.ids(images)))
        (home / folder).mkdir(parents=True)
        for number, name in enumerate([*miniature.ids(images), miniature.name(999)]):
            save_image(home / images_folder / f"{name}.jpg", image_of(miniature, number))
            savemat(home / folder / f"{name}.mat", {variable: miniature.truth(number, "mat").astype(np.uint16)})
        return root

    return raw


# COCO: person, bicycle, stop sign, cat, banner, grass, sky-other, tree, wood, unlabelled

_COCO = {
    "raw": [0, 1, 12, 16, 91, 123, 156, 168, 181, 255],
    "train": [0, 1, 11, 15, 80, 112, 145, 157, 170, 255],
    "object": [1, 2, 12, 16, 0, 0, 0, 0, 0, 0],
    "group": [9, 11, 8, 7, 17, 22, 23, 22, 24, 255],
    "ten": [1, 2, 12, 16, 81, 113, 146, 158, 171, 0],
    "mat": [1, 2, 13, 17, 92, 124, 157, 169, 182, 0],
}


def _coco_name(number: int) -> str:
    return f"{139 + number:012d}"


def _coco(loaded: str, usual: Form, **more: Form) -> Miniature:
    return Miniature(_coco_name, {**_COCO, "loaded": _COCO[loaded]}, {"usual": usual, **more}, grey=True)


def _coco_form(column: str, suffix: str, labels: str = "annotations/val2017", **more: Any) -> Form:
    return Form("coco_stuff164k", "images/val2017", ".jpg", labels, suffix, column, **more)


def _coco_own(column: str, folder: str) -> Form:
    return Form("coco", "val2017", ".jpg", folder, ".png", column)


_STUFF_RAW, _STUFF_TRAIN = _coco_form("raw", ".png"), _coco_form("train", "_labelTrainIds.png")
_STUFF_DETECTRON2 = _coco_own("train", "stuffthingmaps_detectron2/val2017")
_STUFF_OWN = _coco_own("raw", "stuffthingmaps/val2017")


def _raw_form(form: str) -> Any:
    return lambda miniature, root, images: write(miniature, miniature.forms[form], root, images)


def _coco_stuff10k() -> Miniature:
    form = Form(
        "coco_stuff10k", "images/test2014", ".jpg", "annotations/test2014", "_labelTrainIds.png", column="ten"
    )
    columns = {**_COCO, "loaded": _COCO["train"]}
    return Miniature(lambda i: f"COCO_train2014_{i:012d}", columns, {"usual": form}, grey=True)


# Cityscapes, ADE20K, CamVid


def _cityscapes() -> Miniature:
    columns = {
        "ids": [7, 8, 11, 21, 23, 24, 26, 33, 0, 4, 16],
        "loaded": [0, 1, 2, 8, 10, 11, 13, 18, 255, 255, 255],
    }
    places = "cityscapes", "leftImg8bit/val", "_leftImg8bit.png", "gtFine/val"
    names = "frankfurt/frankfurt_000000_000294", "frankfurt/frankfurt_000000_000576", "lindau/lindau_000000_000019"
    forms = {
        "usual": Form(*places, "_gtFine_labelTrainIds.png"),
        "labelIds": Form(*places, "_gtFine_labelIds.png", column="ids"),
    }
    return Miniature(lambda i: names[i], columns, forms)


def _ade20k() -> Miniature:
    columns = {"stored": [0, 1, 7, 50, 150], "loaded": [255, 0, 6, 49, 149]}
    forms = {
        "usual": Form("ade/ADEChallengeData2016", "images/validation", ".jpg", "annotations/validation", ".png", "stored"),
        "detectron2": Form(
            "ADEChallengeData2016", "images/validation", ".jpg", "annotations_detectron2/validation", ".png"
        ),
    }
    return Miniature(lambda i: f"ADE_val_{i + 1:08d}", columns, forms, grey=True)


def _ade847() -> Miniature:
    # wall, building, floor, bed (classes 0, 1, 5, 7), and a number that none of the 847 has
    columns = {"loaded": [0, 1, 5, 7, 65535], "tiff": [0, 255, 300, 846, 65535], "full": [2978, 312, 976, 165, 4000]}
    form = Form(
        "ADE20K_2021_17_01", "images_detectron2/validation", ".jpg", "annotations_detectron2/validation", ".tif",
        mode="I;16",
    )  # fmt: skip
    return Miniature(lambda i: f"ADE_val_{i + 1:08d}", columns, {"usual": form}, grey=True)


def _ade_full(miniature: Miniature, root: Path, images: int) -> Path:
    folder = root / "ADE20K_2021_17_01/images/ADE/validation/urban/street"
    for number, name in enumerate(miniature.ids(images)):
        save_image(folder / f"{name}.jpg", image_of(miniature, number))
        code = miniature.truth(number, "full")
        colours = np.stack([code // 256 * 10, code % 256, np.full_like(code, 77)], -1)
        save_label(folder / f"{name}_seg.png", colours, "RGB")
    return root


def _camvid() -> Miniature:
    # sky, building, road, car, bicyclist, void
    colours = [(128, 128, 128), (128, 0, 0), (128, 64, 128), (64, 0, 128), (0, 128, 192), (0, 0, 0)]
    columns = {"stored": [0, 1, 3, 8, 10, 11], "loaded": [0, 1, 3, 8, 10, 255], "colours": colours}
    line = "/SegNet/CamVid/test/{0}.png /SegNet/CamVid/testannot/{0}.png"
    usual = Form("CamVid", "test", ".png", "testannot", ".png", "stored", lists={"test.txt": line})
    return Miniature(lambda i: f"0001TP_{8550 + 30 * i:06d}", columns, {"usual": usual})


def _camvid_original(miniature: Miniature, root: Path, images: int) -> Path:
    form = Form("CamVid", "701_StillsRaw_full", ".png", "LabeledApproved_full", "_L.png", "colours", "RGB")
    write(miniature, form, root, images + 1)  # one more than the list names
    (root / "CamVid/test.txt").write_text("".join(f"/SegNet/CamVid/test/{n}.png x\n" for n in miniature.ids(images)))
    return root


# MESS: place, images, suffix, labels, suffix, number of classes


def _mess(place: str, images: str, image_suffix: str, labels: str, suffix: str, classes: int, name: str, **more: Any):  # type: ignore[no-untyped-def]  # noqa: ANN202
    void = [] if classes == 2 else [255]
    columns = {"loaded": [0, classes - 1, *([1] if classes > 2 else []), *void], "mask": [0, 255], **more.pop("columns", {})}
    usual = Form(place, images, image_suffix, labels, suffix, mode=more.pop("mode", "L"), **more.pop("form", {}))
    return Miniature(lambda i: name.format(i + 1), columns, {"usual": usual, **more}, grey=name.startswith("thermal"))


_I, _A, _T = "images_detectron2/", "annotations_detectron2/", "test"
_CORROSION = "Corrosion Condition State Classification"
_NIGHT = "rgb_anon/val/night/GOPR0356"
_SUIM = {"colours": [(0, 0, 0), (255, 255, 255), (0, 0, 255), (0, 0, 0)], "loaded": [0, 7, 1, 0]}


def _pax(part: str) -> Miniature:
    return _mess("paxray_dataset", _I + _T, ".png", f"{_A}test/{part}", ".png", 2, "case_{:04d}")


def _binary_masks(place: str, images: str, image_suffix: str, labels: str, suffix: str, mode: str = "L", **more: Any) -> Any:
    def raw(miniature: Miniature, root: Path, count: int) -> Path:
        column = "loaded" if mode == "1" else "mask"
        return write(miniature, Form(place, images, image_suffix, labels, suffix, column, mode, **more), root, count)

    return raw


def _cub(miniature: Miniature, root: Path, images: int) -> Path:
    """Birds of species 200, in its folder; one more image belongs to the training split."""
    home, lines, split = root / "CUB_200_2011", [], []
    for number, name in enumerate(miniature.ids(images + 1)):
        path = f"200.Common_Yellowthroat/{name}"
        save_image(home / "images" / f"{path}.jpg", image_of(miniature, number))
        votes = np.where(miniature.symbols(number) == 1, 204, 102)  # four or two of five annotators
        save_label(home / "segmentations" / f"{path}.png", votes, "L")
        lines.append(f"{number + 1} {path}.jpg\n")
        split.append(f"{number + 1} {int(number == images)}\n")
    (home / "images.txt").write_text("".join(lines))
    (home / "train_test_split.txt").write_text("".join(split))
    return root


MINIATURES: dict[str, Miniature] = {
    "voc21": _voc([0, 1, 8, 15, 20, 255], "voc21"),
    "voc20": _voc([255, 0, 7, 14, 19, 255], "voc20", ovseg=_voc_detectron2("annotations_detectron2/val", "ovseg")),
    "voc20b": _voc([20, 0, 7, 14, 19, 255], "voc20b", catseg=_voc_detectron2("annotations_detectron2_bg/val", "catseg")),
}
RAW: dict[str, Callable[[Miniature, Path, int], Path]] = {}
