"""Small made-up copies of every catalogued data set, in the layouts and encodings that users have on disk.

They are written from the description of the layouts, not from the records: paths, suffixes and values are literal here,
so that a wrong record shows.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .miniature_form import HEIGHT, WIDTH, Form, Miniature, save_image, save_label, save_lines

Raw = Callable[[Miniature, Path, int], Path]


def build(key: str, root: Path, images: int = 3, form: str = "") -> Path:
    """Write a form (default: the usual one) of a data set; returns the data root to pass."""
    miniature = MINIATURES[key]
    return miniature.write(miniature.forms[form or "usual"], root, images)


def build_raw(key: str, root: Path, images: int = 3) -> Path:
    """Write what `bench data prepare` starts from; returns the data root to pass."""
    return RAW[key](MINIATURES[key], root, images)


# PASCAL VOC: background, aeroplane, cat, person, tvmonitor, void

VOC = "VOCdevkit/VOC2012", "JPEGImages", ".jpg"
VOC_LIST = {"ImageSets/Segmentation/val.txt": "{}"}


def voc(loaded: list[int], **more: Form) -> Miniature:
    usual = Form(*VOC, "SegmentationClass", ".png", "stored", "P", lists=VOC_LIST, strangers=("2007_000032",))
    aug = Form(*VOC, "SegmentationClassAug", ".png", "stored", source="aug", lists=VOC_LIST)
    columns = {"stored": [0, 1, 8, 15, 20, 255], "loaded": loaded}
    return Miniature(lambda i: f"2007_{33 + i:06d}", columns, {"usual": usual, "aug": aug, **more})


def voc_detectron2(folder: str, source: str) -> dict[str, Form]:
    """A label with nothing but ignored pixels is not written, so an image has none."""
    return {source: Form(*VOC, folder, ".png", source=source, strangers=("2007_000032",))}


# PASCAL Context: aeroplane, bag, bicycle, cat, person, wood, and what is none of the 59

CONTEXT = "VOCdevkit/VOC2010", "JPEGImages", ".jpg"
CONTEXT_LIST = {"ImageSets/SegmentationContext/val.txt": "{}"}
CONTEXT_COLUMNS = {
    "sixty": [1, 2, 6, 15, 37, 59, 0],
    "alphabetical": [0, 1, 5, 14, 36, 58, 255],
    "vocfirst": [0, 20, 1, 7, 14, 58, 255],
    "ids": [2, 9, 23, 65, 284, 458, 0],
}


def context(column: str) -> Miniature:
    detectron2 = *CONTEXT, "annotations_detectron2/pc59_val", ".png"
    forms = {
        "usual": Form(
            *CONTEXT, "SegmentationClassContext", ".png", "sixty", lists=CONTEXT_LIST, strangers=("2008_000001",)
        ),
        "detectron2": Form(*detectron2, "alphabetical", strangers=("2008_000001",)),
        "mat": Form(*detectron2, "vocfirst", source="mat", strangers=("2008_000001",)),
    }
    columns = {**CONTEXT_COLUMNS, "loaded": CONTEXT_COLUMNS[column]}
    return Miniature(lambda i: f"2008_{i + 2:06d}", columns, forms, first_only=(3,))


def context_json(miniature: Miniature, root: Path, images: int) -> Path:
    """The merged JSON: below all segments lies one that they cover; another image is of the training split."""
    from pycocotools import mask

    home = root / CONTEXT[0]
    entries, segments = [], []
    for number, name in enumerate(miniature.ids(images + 1)):
        save_image(home / "JPEGImages" / f"{name}.jpg", miniature.image(number))
        entry = {"image_id": number + 7, "file_name": f"{name}.jpg", "height": HEIGHT, "width": WIDTH}
        entries.append({**entry, "phase": "val" if number < images else "train"})
        ids = miniature.values(number, "ids")
        for area, category in [(ids > 0, 415), *((ids == c, int(c)) for c in np.unique(ids) if c)]:
            code = mask.encode(np.asfortranarray(area.astype(np.uint8)))
            code["counts"] = code["counts"].decode()
            segments.append({"image_id": number + 7, "category_id": category, "segmentation": code})
    (home / "trainval_merged.json").write_text(json.dumps({"images": entries, "annos_segmentation": segments}))
    return root


def pc459() -> Miniature:
    place = *CONTEXT, "annotations_detectron2/pc459_val", ".tif"
    forms = {"usual": Form(*place, mode="I;16", strangers=("2008_000001",))}
    columns = {"loaded": [0, 44, 255, 300, 430, 458], "mat": [1, 45, 256, 301, 431, 459]}
    return Miniature(lambda i: f"2008_{i + 2:06d}", columns, forms)


def mat_files(place: str, images_folder: str, folder: str, variable: str, list_file: str) -> Raw:
    """MATLAB files of the listed images and of one more."""

    def raw(miniature: Miniature, root: Path, images: int) -> Path:
        from scipy.io import savemat

        home = root / place
        save_lines(home / list_file, miniature.ids(images))
        (home / folder).mkdir(parents=True)
        for number, name in enumerate(miniature.ids(images + 1)):
            save_image(home / images_folder / f"{name}.jpg", miniature.image(number))
            savemat(home / folder / f"{name}.mat", {variable: miniature.values(number, "mat").astype(np.uint16)})
        return root

    return raw


# COCO: person, bicycle, stop sign, cat, banner, grass, sky-other, tree, wood, unlabelled

COCO_COLUMNS = {
    "raw": [0, 1, 12, 16, 91, 123, 156, 168, 181, 255],
    "train": [0, 1, 11, 15, 80, 112, 145, 157, 170, 255],
    "object": [1, 2, 12, 16, 0, 0, 0, 0, 0, 0],
    "group": [9, 11, 8, 7, 17, 22, 23, 22, 24, 255],
    "train10k": [1, 2, 12, 16, 81, 113, 146, 158, 171, 0],
    "mat": [1, 2, 13, 17, 92, 124, 157, 169, 182, 0],
}
COCO = "coco_stuff164k", "images/val2017", ".jpg"
COCO_OWN = "coco", "val2017", ".jpg"
STUFF_RAW = Form(*COCO, "annotations/val2017", ".png", "raw")
STUFF_TRAIN = Form(*COCO, "annotations/val2017", "_labelTrainIds.png", "train")
OBJECT_TRAIN = Form(*COCO, "annotations/val2017", "_instanceTrainIds.png", "object")
STUFF_CATSEG = Form("coco-stuff", *COCO[1:], "annotations_detectron2/val2017", ".png", "train")
STUFF_FORMS = {
    "detectron2": Form(*COCO, "stuffthingmaps_detectron2/val2017", ".png", "train"),
    "detectron2, own root": Form(*COCO_OWN, "stuffthingmaps_detectron2/val2017", ".png", "train"),
    "raw, own root": Form(*COCO_OWN, "stuffthingmaps/val2017", ".png", "raw"),
}


def coco(column: str, **forms: Form) -> Miniature:
    return Miniature(lambda i: f"{139 + i:012d}", {**COCO_COLUMNS, "loaded": COCO_COLUMNS[column]}, forms, grey=True)


def coco_stuff10k() -> Miniature:
    place = "coco_stuff10k", "images/test2014", ".jpg", "annotations/test2014", "_labelTrainIds.png", "train10k"
    columns = {**COCO_COLUMNS, "loaded": COCO_COLUMNS["train"]}
    return Miniature(lambda i: f"COCO_train2014_{i + 77:012d}", columns, {"usual": Form(*place)}, grey=True)


# Cityscapes, ADE20K, CamVid

CITY = "cityscapes", "leftImg8bit/val", "_leftImg8bit.png", "gtFine/val"
CITY_IDS = Form(*CITY, "_gtFine_labelIds.png", "ids")
CITY_NAMES = [
    "frankfurt/frankfurt_000000_000294", "frankfurt/frankfurt_000000_000576", "lindau/lindau_000000_000019",
    "munster/munster_000000_000019",
]  # fmt: skip
CITY_COLUMNS = {"ids": [7, 8, 11, 21, 24, 33, 0, 4], "loaded": [0, 1, 2, 8, 11, 18, 255, 255]}


def ade20k() -> Miniature:
    name = "ADEChallengeData2016"
    forms = {
        "usual": Form(f"ade/{name}", "images/validation", ".jpg", "annotations/validation", ".png", "stored"),
        "detectron2": Form(name, "images/validation", ".jpg", "annotations_detectron2/validation", ".png"),
    }
    columns = {"stored": [0, 1, 7, 50, 150], "loaded": [255, 0, 6, 49, 149]}
    return Miniature(lambda i: f"ADE_val_{i + 1:08d}", columns, forms, grey=True)


def ade847() -> Miniature:
    """Wall, building, floor, bed, two classes that need care in 8 bits, and an object that is none of the 847."""
    place = "ADE20K_2021_17_01", "images_detectron2/validation", ".jpg", "annotations_detectron2/validation", ".tif"
    columns = {"loaded": [0, 1, 5, 7, 255, 846, 65535], "full": [2978, 312, 976, 165, 1857, 3148, 4000]}
    return Miniature(lambda i: f"ADE_val_{i + 1:08d}", columns, {"usual": Form(*place, mode="I;16")}, grey=True)


def ade_full(miniature: Miniature, root: Path, images: int) -> Path:
    folder = root / "ADE20K_2021_17_01/images/ADE/validation/urban/street"
    for number, name in enumerate(miniature.ids(images)):
        save_image(folder / f"{name}.jpg", miniature.image(number))
        code = miniature.values(number, "full")
        save_label(folder / f"{name}_seg.png", np.stack([code // 256 * 10, code % 256, code * 0 + 77], -1), "RGB")
    return root


def camvid() -> Miniature:
    """Sky, building, road, car, bicyclist, void; the list files have a foreign prefix."""
    colours = [(128, 128, 128), (128, 0, 0), (128, 64, 128), (64, 0, 128), (0, 128, 192), (0, 0, 0)]
    columns = {"stored": [0, 1, 3, 8, 10, 11], "loaded": [0, 1, 3, 8, 10, 255], "colours": colours}
    lists = {"test.txt": "/SegNet/CamVid/test/{0}.png /SegNet/CamVid/testannot/{0}.png"}
    usual = Form("CamVid", "test", ".png", "testannot", ".png", "stored", lists=lists)
    return Miniature(lambda i: f"0001TP_{8550 + 30 * i:06d}", columns, {"usual": usual})


def camvid_original(miniature: Miniature, root: Path, images: int) -> Path:
    """One frame more than the list of the SegNet layout names."""
    form = Form("CamVid", "701_StillsRaw_full", ".png", "LabeledApproved_full", "_L.png", "colours", "RGB")
    miniature.write(form, root, images + 1)
    save_lines(root / "CamVid/test.txt", [f"/SegNet/CamVid/test/{n}.png x" for n in miniature.ids(images)])
    return root


# MESS

IMAGES, LABELS = "images_detectron2", "annotations_detectron2"
TEST_JPG = f"{IMAGES}/test", ".jpg", f"{LABELS}/test", ".png"
TEST_PNG = f"{IMAGES}/test", ".png", f"{LABELS}/test", ".png"
VAL_PNG = f"{IMAGES}/val", ".png", f"{LABELS}/val", ".png"
NIGHT = "rgb_anon/val/night/GOPR0356"
CORROSION = "Corrosion Condition State Classification"
READER = "Annotator 1 (biologist second round of manual marks up)"
POTSDAM = "ISPRS_Potsdam", f"{IMAGES}/test/irrg", ".png", f"{LABELS}/test", ".png"
FLOODS = "WorldFloods", f"{IMAGES}/test/irrg", ".png", f"{LABELS}/test", ".png"


def mess(
    name: str, classes: int, usual: Form, /, columns: dict[str, list[Any]] | None = None, **more: Form
) -> Miniature:
    """Labels hold the first, second and last class and, except for binary sets, 255; ``{}`` of ``name`` is a number."""
    loaded = [0, 1] if classes == 2 else [0, 1, classes - 1, 255]
    all_columns = {"loaded": loaded, "mask": [0, 255], **(columns or {})}
    return Miniature(
        lambda i: name.format(i + 1), all_columns, {"usual": usual, **more}, grey="thermal" in usual.images
    )


def paxray(part: str) -> Miniature:
    return mess("case_{:04d}", 2, Form("paxray_dataset", f"{IMAGES}/test", ".png", f"{LABELS}/test/{part}", ".png"))


def files(form: Form) -> Raw:
    return lambda miniature, root, images: miniature.write(form, root, images)


def kvasir(miniature: Miniature, root: Path, images: int) -> Path:
    """One image more than the list of the test split names."""
    miniature.write(Form("kvasir-instrument", "images", ".jpg", "masks", ".png", "mask"), root, images + 1)
    save_lines(root / "kvasir-instrument/test.txt", miniature.ids(images))
    return root


def chase(miniature: Miniature, root: Path, images: int) -> Path:
    """The first eight of the sorted list are for training."""
    return miniature.write(Form("CHASEDB1", ".", ".jpg", ".", "_1stHO.png", mode="1"), root, images + 8)


def birds(miniature: Miniature, root: Path, images: int) -> Path:
    """Masks that count the votes of five annotators; one image more is of the training split."""
    home, paths = root / "CUB_200_2011", [f"200.Common_Yellowthroat/{n}" for n in miniature.ids(images + 1)]
    for number, path in enumerate(paths):
        save_image(home / "images" / f"{path}.jpg", miniature.image(number))
        save_label(home / "segmentations" / f"{path}.png", miniature.values(number, "votes"), "L")
    save_lines(home / "images.txt", [f"{i} {path}.jpg" for i, path in enumerate(paths, 1)])
    save_lines(home / "train_test_split.txt", [f"{i} {int(i > images)}" for i in range(1, images + 2)])
    return root


MINIATURES: dict[str, Miniature] = {
    "voc21": voc([0, 1, 8, 15, 20, 255]),
    "voc20": voc([255, 0, 7, 14, 19, 255], **voc_detectron2("annotations_detectron2/val", "ovseg")),
    "voc20b": voc([20, 0, 7, 14, 19, 255], **voc_detectron2("annotations_detectron2_bg/val", "catseg")),
    "context60": context("sixty"),
    "context59": context("alphabetical"),
    "pc459": pc459(),
    "coco_stuff": coco("train", usual=STUFF_TRAIN, raw=STUFF_RAW, catseg=STUFF_CATSEG, **STUFF_FORMS),
    "coco_object": coco(
        "object", usual=OBJECT_TRAIN, raw=STUFF_RAW, own=STUFF_FORMS["raw, own root"],
        instances=Form(*COCO, "coco_seg_anno", ".png", "object", source="instances"),
    ),
    "coco_stuff27": coco("group", usual=STUFF_RAW, train=STUFF_TRAIN, **STUFF_FORMS),
    "coco_stuff10k": coco_stuff10k(),
    "cityscapes": Miniature(
        CITY_NAMES.__getitem__, CITY_COLUMNS, {"usual": Form(*CITY, "_gtFine_labelTrainIds.png"), "ids": CITY_IDS}
    ),
    "ade20k": ade20k(),
    "ade847": ade847(),
    "camvid": camvid(),
    "mess_bdd100k": mess(
        "{:08d}-a", 19, Form("bdd100k", "images/10k/val", ".jpg", f"{LABELS}/val", ".png", mode="P"),
        colormaps=Form("bdd100k", "images/10k/val", ".jpg", "labels/sem_seg/colormaps/val", ".png", mode="P"),
        masks=Form("bdd100k", "images/10k/val", ".jpg", "labels/sem_seg/masks/val", ".png"),
    ),
    "mess_dark_zurich": mess(
        "GOPR0356_frame_{:06d}", 20, Form("Dark_Zurich", NIGHT, "_rgb_anon.png", f"{LABELS}/val", "_gt_labelIds.png"),
        newer=Form("Dark_Zurich", NIGHT, "_rgb_anon.png", "gt/val_detectron2", "_gt_labelIds.png"),
    ),
    "mess_mhp_v1": mess("{:04d}", 19, Form("LV-MHP-v1", *TEST_JPG)),
    "mess_foodseg103": mess(
        "{:08d}", 104, Form("FoodSeg103", "Images/img_dir/test", ".jpg", "Images/ann_dir/test", ".png")
    ),
    "mess_atlantis": mess(
        "{:011d}", 56, Form("atlantis", *TEST_JPG), {"repository": [1, 2, 56, 0]},
        repository=Form("atlantis", "images/test", ".jpg", "masks/test", ".png", "repository", prefix="canal/"),
    ),
    "mess_dram": mess(
        "{:04d}", 12, Form("DRAM_processed", *TEST_JPG), {"voc": [3, 4, 20, 255]},
        download=Form("DRAM_processed", "test", ".jpg", "labels", ".png", "voc", prefix="Realism/Cezanne/"),
    ),
    "mess_isaid": mess("P0003_{}", 16, Form("isaid", *VAL_PNG)),
    "mess_isprs_potsdam_irrg": mess(
        "top_potsdam_2_13_{}", 6, Form(*POTSDAM),
        rgb=Form("ISPRS_Potsdam", f"{IMAGES}/test/rgb", ".png", f"{LABELS}/test", ".png", source="rgb"),
    ),
    "mess_worldfloods_irrg": mess(
        "EMSR286_08ITUANGONORTH_DEL_{}", 3, Form(*FLOODS),
        rgb=Form("WorldFloods", f"{IMAGES}/test/rgb", ".png", f"{LABELS}/test", ".png", source="rgb"),
    ),
    "mess_floodnet": mess("6279_{}", 10, Form("FloodNet-Supervised_v1.0", *TEST_JPG)),
    "mess_uavid": mess("seq16_000000_{}", 8, Form("uavid_v1.5", *VAL_PNG)),
    "mess_kvasir_instrument": mess("case{}", 2, Form("kvasir-instrument", *TEST_PNG)),
    "mess_chase_db1": mess("Image_{:02d}L", 2, Form("CHASEDB1", *TEST_JPG, mode="1")),
    "mess_cryonuseg": mess("Human_Skin_{:02d}", 2, Form("CryoNuSeg", IMAGES, ".png", LABELS, ".png")),
    "mess_paxray_lungs": paxray("lungs"),
    "mess_paxray_mediastinum": paxray("mediastinum"),
    "mess_paxray_bones": paxray("bones"),
    "mess_paxray_diaphragm": paxray("diaphragm"),
    "mess_corrosion_cs": mess(
        "{}", 4, Form(CORROSION, "original/Test/images", ".jpeg", "original/Test/masks", ".png")
    ),
    "mess_deepcrack": mess("11215-{}", 2, Form("DeepCrack", "test_img", ".jpg", f"{LABELS}/test", ".png")),
    "mess_pst900": mess(
        "{}_bag21_rect_rgb_frame", 5, Form("PST900_RGBT_Dataset", "test/thermal", ".png", "test/labels", ".png"),
        rgb=Form("PST900_RGBT_Dataset", "test/rgb", ".png", "test/labels", ".png", source="rgb"),
        pseudo=Form("PST900_RGBT_Dataset", "test/thermal_pseudo", ".png", "test/labels", ".png", source="pseudo"),
    ),
    "mess_zerowaste": mess(
        "01_frame_{:06d}", 5,
        Form("zerowaste-f", "splits_final_deblurred/test/data", ".PNG", "splits_final_deblurred/test/sem_seg", ".PNG"),
    ),
    "mess_suim": mess(
        "d_r_{}_", 8, Form("SUIM", "TEST/images", ".jpg", f"{LABELS}/test", ".png"),
        {"loaded": [0, 1, 7], "colours": [(0, 0, 0), (0, 0, 255), (255, 255, 255)]},
        download=Form("SUIM", "TEST/images", ".jpg", "TEST/masks", ".bmp", "colours", "RGB"),
    ),
    "mess_cub_200": mess(
        "Common_Yellowthroat_{:04d}", 201, Form("CUB_200_2011", *TEST_JPG),
        {"loaded": [0, 200], "votes": [102, 153]},
    ),
    "mess_cwfid": mess(
        "{:03d}", 3, Form("cwfid", "images", "_image.png", f"{LABELS}/test", "_annotation.png", strangers=("060",)),
        dots=Form("cwfid", "images", ".image.png", f"{LABELS}/test", ".annotation.png", strangers=("060",)),
    ),
}  # fmt: skip

RAW: dict[str, Raw] = {
    "context60": context_json,
    "context59": context_json,
    "pc459": mat_files(CONTEXT[0], "JPEGImages", "trainval", "LabelMap", "ImageSets/Main/val.txt"),
    "coco_stuff": files(STUFF_RAW),
    "coco_object": files(STUFF_RAW),
    "coco_stuff27": files(STUFF_RAW),
    "coco_stuff10k": mat_files("coco_stuff10k", "images", "annotations", "S", "imageLists/test.txt"),
    "cityscapes": files(CITY_IDS),
    "ade847": ade_full,
    "camvid": camvid_original,
    "mess_floodnet": files(
        Form("FloodNet-Supervised_v1.0", "test/test-org-img", ".jpg", "test/test-label-img", "_lab.png")
    ),
    "mess_kvasir_instrument": kvasir,
    "mess_chase_db1": chase,
    "mess_cryonuseg": files(
        Form("CryoNuSeg", "tissue images", ".tif", f"{READER}/{READER}/mask binary", ".png", "mask")
    ),
    "mess_deepcrack": files(Form("DeepCrack", "test_img", ".jpg", "test_lab", ".png", "mask")),
    "mess_cub_200": birds,
}
