"""Data sets and constants of mmsegmentation configs in our harness, against mmseg's own loading and metric."""

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from ovss.datasets import DataError, find_record, open_dataset
from ovss.datasets.checks import find_problems
from ovss.harness import evaluate, load_protocol
from ovss.harness.mmseg.config import MmsegDataset
from ovss.harness.mmseg.protocol import MODELS, protocol_of
from ovss.harness.mmseg.shim import import_mmseg
from ovss.harness.protocol.words import class_texts
from ovss.harness.runs.photo import Photo
from ovss.harness.runs.pipeline import Clock, Pipeline
from ovss.harness.runs.sources import load_any, open_any, unused_words
from ovss.methods import UserError, create_method

MMSEG = import_mmseg()
SCENES = open_dataset("shapes")
IGNORED = 255

BASE = """
model = dict(type='{model}', clip_path='ViT-B/16')
default_scope = 'mmseg'
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_cfg = dict(type='TestLoop')
"""
CONFIG = """
_base_ = './base_config.py'
model = dict({model})
dataset_type = {kind!r}
data_root = {root!r}
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 336), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')]
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='images/val', seg_map_path='labels/val'),
        pipeline=test_pipeline,
        {fields}))
"""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a config of the SCLIP family's form, with its base and class file, and says where."""

    def made(
        kind: str = "BaseSegDataset",
        fields: str = "",
        model: str = "",
        words: tuple[str, ...] = (),
        model_type: str = "SCLIPSegmentation",
        root: str | None = None,
        name: str = "cfg_made.py",
    ) -> Path:
        folder = tmp_path / "project" / "configs"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "base_config.py").write_text(BASE.format(model=model_type))
        if words:
            (folder / "cls_made.txt").write_text("\n".join(words) + "\n")
            model = f"name_path='./configs/cls_made.txt', {model}"
        root = str(tmp_path) if root is None else root
        (folder / name).write_text(CONFIG.format(model=model, kind=kind, root=root, fields=fields))
        return folder / name

    return made


def save(root: Path, name: str, label: NDArray[Any], suffixes: tuple[str, str] = (".png", ".png")) -> None:
    """An image of noise and its label, below ``images/val`` and ``labels/val``."""
    image = np.random.default_rng(len(name)).integers(0, 256, (*label.shape, 3), np.uint8)
    for folder, suffix, pixels in (("images", suffixes[0], image), ("labels", suffixes[1], label)):
        path = root / folder / "val" / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


NAMES = ("a", "city/a", "town/a", "town/b.c")


def fill(root: Path, highest: int, suffixes: tuple[str, str], names: tuple[str, ...] = NAMES) -> None:
    """Labels with every value from 0 to ``highest``, and 255."""
    for k, name in enumerate(names):
        rng = np.random.default_rng(k)
        values = np.array([*range(highest + 1), IGNORED], np.uint8)
        label = rng.choice(values, (14 + k, 16))
        label.flat[: len(values)] = values
        save(root, name, label, suffixes)


def theirs(root: Path, kind: str | type, **fields: Any) -> Any:
    """mmseg's own data set of these files, with its ``LoadAnnotations``."""
    prefix = {"img_path": "images/val", "seg_map_path": "labels/val"}
    pipeline = [{"type": "mmseg.LoadAnnotations"}]
    config = {"type": kind, "data_root": str(root), "data_prefix": prefix, "pipeline": pipeline, "test_mode": True}
    return MMSEG.registry.DATASETS.build({**config, **fields})


def assert_equal_labels(ours: MmsegDataset, data: Any) -> None:
    """Same images, in whatever order, with the same labels; same classes and colours."""
    assert ours.record.classes == tuple(data.metainfo["classes"])
    assert ours.record.palette == tuple(map(tuple, data.metainfo["palette"]))
    found = {str(Path(ours.files(i)[0]).resolve()): ours.load(i).label for i in ours.ids}
    assert len(found) == len(ours.ids) == len(data) > 0
    for k in range(len(data)):
        sample = data[k]
        label = found[str(Path(sample["img_path"]).resolve())]
        assert label.dtype == sample["gt_seg_map"].dtype == np.uint8
        assert np.array_equal(label, sample["gt_seg_map"])


# --- labels, ids and classes --------------------------------------------------------------------------------------

JPG, CITY = (".jpg", ".png"), ("_leftImg8bit.png", "_gtFine_labelTrainIds.png")
LISTED = "ann_file='val.txt'"


@pytest.mark.parametrize(
    ("kind", "highest", "suffixes", "fields"),
    [
        ("ADE20KDataset", 150, JPG, ""),
        ("mmseg.ADE20KDataset", 150, JPG, ""),
        ("CityscapesDataset", 18, CITY, ""),
        ("PascalVOCDataset", 20, JPG, LISTED),
        ("COCOStuffDataset", 170, (".jpg", "_labelTrainIds.png"), ""),
        ("PascalContextDataset", 59, JPG, LISTED),
        ("PascalContextDataset59", 59, JPG, LISTED),
    ],
)
def test_labels_of_stock_types(
    write: Write, tmp_path: Path, kind: str, highest: int, suffixes: tuple[str, str], fields: str
) -> None:
    fill(tmp_path, highest, suffixes)
    listed = NAMES[1:] if fields else NAMES  # a list that leaves one out, and is not sorted
    (tmp_path / "val.txt").write_text("\n".join(reversed(listed)) + "\n")
    ours = MmsegDataset(write(kind, fields))
    assert ours.ids == tuple(sorted(listed)) and ours.planned == len(listed)
    assert_equal_labels(ours, theirs(tmp_path, kind, **({"ann_file": "val.txt"} if fields else {})))
    assert ours.record.words == () and ours.record.ignore_index == IGNORED
    assert ours.record.background == (0 if ours.record.classes[0] == "background" else None)
    found = find_problems(ours, ours.ids)
    assert (found.problems, found.warnings) == ([], [])


@pytest.mark.parametrize("kind", ["CityscapesDataset", "ADE20KDataset"])
def test_chosen_classes(write: Write, tmp_path: Path, kind: str) -> None:
    """Classes of ``metainfo`` in their own order; all others are ignored, with and without zero-label reduction."""
    suffixes, highest = (CITY, 18) if kind.startswith("City") else (JPG, 150)
    fill(tmp_path, highest, suffixes)
    chosen = ("car", "wall", "sky")
    ours = MmsegDataset(write(kind, f"metainfo=dict(classes={chosen!r})"))
    data = theirs(tmp_path, kind, metainfo={"classes": chosen})
    assert ours.record.classes == chosen
    found = np.unique(ours.load("a").label)
    assert found.tolist() == [0, 1, 2, IGNORED]
    assert_equal_labels(ours, data)


FAMILY = {
    "PascalVOC20Dataset": ("voc20", 20, ".png", True),
    "PascalContext60Dataset": ("context60", 59, ".png", False),
    "COCOObjectDataset": ("coco_object", 80, "_instanceTrainIds.png", False),
}


@pytest.mark.parametrize("kind", FAMILY)
def test_labels_of_types_that_projects_define(write: Write, tmp_path: Path, kind: str) -> None:
    key, highest, suffix, reduce = FAMILY[kind]
    fill(tmp_path, highest, (".jpg", suffix))
    record = find_record(key)
    meta = {"classes": record.classes, "palette": [list(c) for c in record.palette or ()]}
    ours = MmsegDataset(write(kind))
    assert_equal_labels(
        ours, theirs(tmp_path, "BaseSegDataset", metainfo=meta, seg_map_suffix=suffix, reduce_zero_label=reduce)
    )
    assert ours.record.classes == record.classes and ours.record.background == record.background
    assert MMSEG.registry.DATASETS.get(kind) is None  # a project may still register its own


def test_a_type_of_the_project_itself(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that the config imports defines the type; its own wins over the one we would supply."""
    module = tmp_path / "project" / "made_datasets.py"
    config = write("COCOObjectDataset", name="own.py")
    config.write_text(
        "custom_imports = dict(imports=['made_datasets'], allow_failed_imports=False)\n" + config.read_text()
    )
    module.write_text(
        "from mmseg.datasets import BaseSegDataset\n"
        "from mmseg.registry import DATASETS\n"
        "@DATASETS.register_module()\n"
        "class COCOObjectDataset(BaseSegDataset):\n"
        "    METAINFO = dict(classes=('sky', 'sea'), palette=[[1, 1, 1], [2, 2, 2]])\n"
    )
    fill(tmp_path, 1, JPG)
    with pytest.raises(UserError, match="PYTHONPATH"):
        MmsegDataset(config)
    monkeypatch.syspath_prepend(module.parent)
    try:
        ours = MmsegDataset(config)
        assert ours.record.classes == ("sky", "sea") and ours.ids == tuple(sorted(NAMES))
    finally:
        MMSEG.registry.DATASETS.module_dict.pop("COCOObjectDataset", None)
        sys.modules.pop("made_datasets", None)


def test_data_root_of_the_user_replaces_that_of_the_config(write: Write, tmp_path: Path) -> None:
    fill(tmp_path, 18, CITY)
    config = write("CityscapesDataset", root="data/cityscapes")
    with pytest.raises(DataError, match=r"data_root is 'data/cityscapes'; pass another with --data-root"):
        open_any(f"mmseg:{config}")
    ours = open_any(f"mmseg:{config}", tmp_path)
    assert ours.ids == tuple(sorted(NAMES))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.symlink_to(tmp_path)
    other = open_any(f"mmseg:{config}", elsewhere)
    assert other.record.hash == ours.record.hash and other.ids == ours.ids


def test_ids_do_not_depend_on_which_images_are_there(write: Write, tmp_path: Path) -> None:
    fill(tmp_path, 18, CITY, names=("city/a", "city/b"))
    assert MmsegDataset(write("CityscapesDataset")).ids == ("city/a", "city/b")


def test_stems_that_differ_by_the_suffix_alone(write: Write, tmp_path: Path) -> None:
    """A list of whole file names, with empty suffixes."""
    meta = "metainfo=dict(classes=('a', 'b')), img_suffix='', seg_map_suffix='.png', ann_file='val.txt'"
    for suffix in (".jpg", ".png"):
        save(tmp_path, "one", np.zeros((9, 9), np.uint8), (suffix, f"{suffix}.png"))
    (tmp_path / "val.txt").write_text("one.png\none.jpg\n")
    ours = MmsegDataset(write(fields=meta))
    assert ours.ids == ("one.jpg", "one.png")
    assert [p.name for p in ours.files("one.jpg")] == ["one.jpg", "one.jpg.png"]


def test_an_image_that_is_listed_twice_is_a_problem(write: Write, tmp_path: Path) -> None:
    fill(tmp_path, 20, JPG)
    (tmp_path / "val.txt").write_text("a\ncity/a\na\n")
    ours = MmsegDataset(write("PascalVOCDataset", LISTED))
    assert ours.ids == ("a", "city/a")
    (problem,) = find_problems(ours, ours.ids).problems
    assert "image a is listed 2 times" in str(problem) and problem.file.name == "cfg_made.py"


def test_sixteen_bits(write: Write, tmp_path: Path) -> None:
    """mmseg wraps modulo 256; ours keeps, and refuses what is no class."""
    label = np.array([[0, 1, 256], [258, 299, 65535]], np.uint16)
    save(tmp_path, "one", label, JPG)
    names = tuple(f"class {k}" for k in range(300))
    fields = f"metainfo=dict(classes={names!r}), ignore_index=65535"
    wrapped = theirs(tmp_path, "BaseSegDataset", metainfo={"classes": names})[0]["gt_seg_map"]
    assert wrapped.tolist() == [[0, 1, 0], [2, 43, 255]]
    kept = MmsegDataset(write(fields=fields)).load("one").label
    assert kept.dtype == np.uint16 and np.array_equal(kept, label)
    reduced = MmsegDataset(write(fields=f"{fields}, reduce_zero_label=True")).load("one").label
    assert reduced.tolist() == [[65535, 0, 255], [257, 298, 65535]]
    few = MmsegDataset(write(fields=f"metainfo=dict(classes={names[:60]!r})"))
    with pytest.raises(DataError, match="256, 258, 299, 65535 are neither a class"):
        few.load("one")
    with pytest.raises(UserError, match="ignore_index 255 is also class"):
        MmsegDataset(write(fields=f"metainfo=dict(classes={names!r})"))


def test_the_metric_decides_what_is_ignored(write: Write, tmp_path: Path) -> None:
    fill(tmp_path, 2, JPG)
    config = write(fields="metainfo=dict(classes=('a', 'b')), ignore_index=7")
    assert MmsegDataset(config).record.ignore_index == 7
    for metric in ("dict(type='IoUMetric', ignore_index=2)", "[dict(type='IoUMetric', ignore_index=2)]"):
        config.write_text(config.read_text() + f"\ntest_evaluator = {metric}\n")
        assert MmsegDataset(config).record.ignore_index == 2


# --- words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_type", "lines"),
    [
        ("CLIPForSegmentation", ("sky, wall, sea", "aeroplane, jet")),
        ("SCLIPSegmentation", ("sky, wall, sea", "aeroplane, jet")),
        ("ProxyCLIPSegmentation", ("sky; wall; sea", "aeroplane; jet")),
        ("ClearCLIPSegmentation", ("sky,wall, sea", "aeroplane,jet")),
    ],
)
def test_words_of_the_class_file(write: Write, tmp_path: Path, model_type: str, lines: tuple[str, ...]) -> None:
    """Projects separate words differently; under any protocol they are the same texts."""
    fill(tmp_path, 1, JPG)
    config = write(fields="metainfo=dict(classes=('background', 'plane'))", words=lines, model_type=model_type)
    record = MmsegDataset(config).record
    assert record.classes == ("background", "plane") and record.background == 0
    for protocol in ("sclip", "tiny"):
        setting = load_protocol(protocol).setting(record.key)
        assert class_texts(setting, record) == ([["sky", "wall", "sea"], ["aeroplane", "jet"]], 0)


# --- constants -----------------------------------------------------------------------------------------------------

MODEL = "prob_thd=0.1, logit_scale=65, area_thd=0.1, slide_crop=224, slide_stride=112, pamr_steps=7"


def test_every_constant_arrives(write: Write) -> None:
    protocol = load_any(f"mmseg:{write('COCOObjectDataset', model=MODEL)}")
    setting = protocol.setting("mmseg_cfg_made")
    assert (setting.short_side_px, setting.long_side_px, setting.resize) == (336, 2048, "opencv-linear")
    assert (setting.window_px, setting.stride_px, setting.logit_scale) == (224, 112, 65.0)
    assert (setting.probability_threshold, setting.area_threshold) == (0.1, 0.1)
    assert (setting.refine, setting.refine_steps) == ("pamr", 7)
    assert protocol.name == "cfg_made" and set(protocol.sources) == set(protocol.base)
    again = load_any(f"mmseg:{write('COCOObjectDataset', model=MODEL)}")
    assert again == protocol and again.setting(None).hash == setting.hash
    other = write("COCOObjectDataset", model=MODEL.replace("65", "66"))
    assert load_any(f"mmseg:{other}").setting(None).hash != setting.hash


def test_a_setting_equals_that_of_our_protocol(write: Write) -> None:
    """SCLIP's config of VOC21 says only some of it; the rest are defaults of its code, as our protocol has them."""
    model = "logit_scale=65, prob_thd=0.1, area_thd=0.1"
    config = write("PascalVOCDataset", LISTED, model, ("sky",), model_type="CLIPForSegmentation")
    ours = load_protocol("sclip").setting("voc21")
    assert protocol_of(config).setting(None) == ours.model_copy(update={"vocabulary": "official"})
    assert protocol_of(config).sources["window_px"] == load_protocol("sclip").sources["window_px"]


@pytest.mark.parametrize("model_type", MODELS)
def test_what_a_config_says_wins_over_the_defaults_of_its_model(write: Write, model_type: str) -> None:
    plain = protocol_of(write(model_type=model_type)).setting(None)
    known = load_protocol(MODELS[model_type][0]).setting(None)
    assert plain == known.model_copy(update={"short_side_px": 336, "long_side_px": 2048})
    model = "slide_crop=0, logit_scale=30, pamr_steps=0, prob_thd=0.0, area_thd=None"
    changed = protocol_of(write(model=model, model_type=model_type)).setting(None)
    assert (changed.window_px, changed.logit_scale, changed.refine) == (0, 30.0, "none")
    assert changed.probability_threshold == changed.area_threshold == 0


SLIDE = "model = dict(test_cfg=dict(mode='slide', crop_size=(96, 96), stride=(64, 64)))"


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ("model = dict(test_cfg=dict(mode='whole'))", (336, 2048, "opencv-linear", 0)),
        (SLIDE, (336, 2048, "opencv-linear", 96)),
        ("test_dataloader['dataset']['pipeline'][1]['backend'] = 'pillow'", (336, 2048, "pillow-linear", 224)),
        ("test_dataloader['dataset']['pipeline'][1]['scale'] = 300", (300, 300, "opencv-linear", 224)),
        ("test_dataloader['dataset']['pipeline'][1]['type'] = 'LoadMore'", (0, 100_000, "opencv-linear", 224)),
        ("test_dataloader = None", (336, 2048, "opencv-linear", 224)),
    ],
)  # fmt: skip
def test_pipelines_and_windows_of_mmseg(write: Write, changes: str, fields: tuple[Any, ...]) -> None:
    config = write(model="slide_crop=224, slide_stride=112")
    config.write_text(f"{config.read_text()}\n{changes}\n")
    setting = protocol_of(config).setting(None)
    assert (setting.short_side_px, setting.long_side_px, setting.resize, setting.window_px) == fields


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ("model = dict()", r"does not say what window_px is for its model type 'SCLIPSegmentation'"),
        ("model = dict(slide_crop=0, prob_thd=0.1)", "does not say what logit_scale is"),
        ("model = dict(slide_crop=(224, 112), slide_stride=112)", r"square, not \(224, 112\)"),
        ("model = dict(slide_crop=224, slide_stride=300)", "stride 300 must lie between"),
        ("model = dict(slide_crop=0, prob_thd=1.5, logit_scale=40)", "probability_threshold: Input should be less"),
        ("model = dict(slide_crop=0, pamr_steps=10, pamr_stride=(1, 2))", "pamr_stride"),
        ("test_dataloader['dataset']['pipeline'][1]['keep_ratio'] = False", r"cannot express .* \(Resize"),
        ("test_dataloader['dataset']['pipeline'][1]['interpolation'] = 'area'", "cannot express"),
        ("test_dataloader['dataset']['pipeline'].insert(1, dict(type='RandomFlip'))", r"\(RandomFlip, Resize\)"),
    ],
)  # fmt: skip
def test_constants_that_a_protocol_cannot_express(write: Write, changes: str, text: str) -> None:
    config = write(model="")
    config.write_text(f"{config.read_text()}\n{changes}\n")
    with pytest.raises(UserError, match=text) as error:
        load_any(f"mmseg:{config}")
    assert "cfg_made.py" in str(error.value)


# --- what can be wrong ---------------------------------------------------------------------------------------------

TWO = "metainfo=dict(classes=('a', 'b'))"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ("model = dict(name_path='./configs/none.txt')", "names the class file ./configs/none.txt"),
        ("model = dict(name_path='short.txt')", "has 1 lines, the data set of .* has 2 classes"),
        ("model = dict(name_path='empty.txt')", "'' is no text"),
        ("def broken(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("custom_imports = dict(imports=['not_there'], allow_failed_imports=False)", "not_there.*PYTHONPATH"),
        ("test_dataloader = None", "neither a test_dataloader nor a val_dataloader"),
        ("test_dataloader = dict(batch_size=1, _delete_=True)", "with a dataset"),
        ("test_dataloader['dataset']['type'] = 'LandsDataset'", "'LandsDataset' is not known to mmseg.*custom_imports"),
        ("test_dataloader['dataset'].pop('type')", "data set type '' is not known"),
        ("test_dataloader['dataset']['colour'] = 1", "BaseSegDataset cannot be built: TypeError.*colour"),
        ("test_dataloader['dataset']['metainfo'] = dict(classes=('a', 'a'))", "classes are named twice: a"),
        ("test_dataloader['dataset']['ignore_index'] = 1", "ignore_index 1 is also class 'b'"),
        ("test_dataloader['dataset'] = dict(type='ConcatDataset', datasets=[])", "'ConcatDataset' is no Base"),
        ("test_dataloader['dataset'] = dict(type='RepeatDataset', times=2)", "one config for each data set"),
    ],
)  # fmt: skip
def test_configs_that_do_not_work(write: Write, tmp_path: Path, changes: str, text: str) -> None:
    fill(tmp_path, 1, JPG)
    config = write(fields=TWO)
    (config.parent / "short.txt").write_text("one\n")
    (config.parent / "empty.txt").write_text("one\n\n")
    assert MmsegDataset(config).record.classes == ("a", "b")
    config.write_text(f"{config.read_text()}\n{changes}\n")
    with pytest.raises(UserError, match=f"(?s){text}") as error:
        open_any(f"mmseg:{config}")
    assert "cfg_made.py" in str(error.value)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (f"{TWO}, seg_map_suffix='_labels.png'", r"lists 4 file\(s\) that are absent:.*b.c_labels.png"),
        (f"{TWO}, img_suffix='.tif'", "lists no image"),
        (f"{TWO}, ann_file='none.txt'", "BaseSegDataset are absent: Failed to load `ann_file`"),
        (f"{TWO}, ann_file='list.txt'", r"lists 2 file\(s\) that are absent:.*missing.jpg.*missing.png"),
    ],
)
def test_files_that_are_absent(write: Write, tmp_path: Path, fields: str, text: str) -> None:
    fill(tmp_path, 1, JPG)
    (tmp_path / "list.txt").write_text("a\nmissing\n")
    with pytest.raises(DataError, match=f"(?s){text}") as error:
        open_any(f"mmseg:{write(fields=fields)}")
    assert "cfg_made.py" in str(error.value)


def test_labels_are_needed_and_so_is_the_config(write: Write, tmp_path: Path) -> None:
    fill(tmp_path, 1, JPG)
    config = write(fields=TWO)
    config.write_text(config.read_text().replace(", seg_map_path='labels/val'", ""))
    with pytest.raises(DataError, match="an image without a label"):
        open_any(f"mmseg:{config}")
    for opened in (open_any, load_any):
        with pytest.raises(UserError, match=r"none\.py does not exist"):
            opened("mmseg:none.py")


def test_bases_of_mmseg_itself(write: Write) -> None:
    """``mmseg::`` needs a module that setuptools has dropped; a path does not."""
    config = write()
    config.write_text("_base_ = ['mmseg::_base_/datasets/ade20k.py']\n")
    if find_spec("pkg_resources") is None:
        with pytest.raises(UserError, match="Write paths for `mmseg::` in _base_"):
            open_any(f"mmseg:{config}")
    bases = Path(str(MMSEG.__file__)).parent / ".mim" / "configs" / "_base_" / "datasets"
    if not bases.is_dir():
        pytest.skip("this installation of mmsegmentation has no configs")
    config.write_text(f"_base_ = [{str(bases / 'ade20k.py')!r}]\n")
    with pytest.raises(DataError, match=r"ADE20KDataset are absent.*data_root is 'data/ade/ADEChallengeData2016'"):
        open_any(f"mmseg:{config}")


# --- numbers -------------------------------------------------------------------------------------------------------


@pytest.fixture
def scenes(tmp_path: Path, write: Write) -> Path:
    """Scenes of the tiny world in the manner of ADE20K: classes from 1, 0 for nothing; and a config for them."""
    for k, image_id in enumerate(SCENES.ids[:6]):
        sample = SCENES.load(image_id)
        label = (sample.label + 1).astype(np.uint8)
        label[:, : 5 + k] = 0
        label[:3] = IGNORED
        for folder, pixels in (("images", sample.image), ("labels", label)):
            path = tmp_path / folder / "val" / f"town{k % 2}" / f"{k // 2}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    fields = f"img_suffix='.png', reduce_zero_label=True, metainfo=dict(classes={SCENES.record.classes!r})"
    words = ("lawn, grass", *SCENES.record.classes[1:])
    config = write(fields=fields, model="slide_crop=64, slide_stride=40, logit_scale=60, pamr_steps=0", words=words)
    config.write_text(config.read_text().replace("(2048, 336)", "(2048, 84)"))
    return config


def test_numbers_are_those_of_the_metric(scenes: Path, tmp_path: Path) -> None:
    method, name = create_method("sclip", backbone="tiny-clip"), f"mmseg:{scenes}"
    ours = evaluate(method, name, name)
    data = open_any(name)
    pipeline = Pipeline(method, load_any(name).setting(data.record.key), data.record)
    fields = {"reduce_zero_label": True, "img_suffix": ".png", "metainfo": {"classes": SCENES.record.classes}}
    metric = MMSEG.evaluation.IoUMetric()
    reference = theirs(tmp_path, "BaseSegDataset", **fields)
    metric.dataset_meta = reference.metainfo
    images = {str(data.files(i)[0]): data.load(i).image for i in data.ids}
    for k in range(len(reference)):
        sample = reference[k]
        prediction = pipeline.predict(Photo(images[sample["img_path"]]), Clock())
        label = torch.from_numpy(sample["gt_seg_map"])
        metric.process({}, [{"pred_sem_seg": {"data": prediction[None]}, "gt_sem_seg": {"data": label[None].long()}}])
    values = metric.evaluate(size=len(reference))
    summary = ours.summary()
    assert len(reference) == summary["images"] == 6 and ours.ids[:2] == ("town0/0", "town0/1")
    assert values["mIoU"] == pytest.approx(summary["miou"], abs=0.0101) and summary["miou"] > 3
    assert values["mAcc"] == pytest.approx(summary["macc"], abs=0.0101)
    assert values["aAcc"] == pytest.approx(summary["aacc"], abs=0.0101)


Bench = Callable[..., Any]


@pytest.fixture
def bench(scenes: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Bench:
    """``bench run`` in this process, in the folder of the config, which is named by its path below it."""
    from ovss.harness.cli.main import main

    monkeypatch.chdir(scenes.parent)
    name = f"mmseg:{scenes.name}"
    command = ["bench", "run", "-m", "maskclip", "-d", name, "--protocol", name, "--backbone", "tiny-clip", "--json"]

    def run(*more: str) -> Any:
        monkeypatch.setattr(sys, "argv", [*command, "--set", "templates=simple", *more])
        capfd.readouterr()
        with contextlib.suppress(SystemExit):
            main()
        out, err = capfd.readouterr()
        assert out, err
        return json.loads(out)

    return run


def test_command_line(bench: Bench) -> None:
    """A run goes on where it stopped, and answers at once when it is done."""
    part = bench("--limit", "2")
    assert (part["images"], part["planned"], part["complete"]) == (2, 6, False)
    whole = bench()
    assert (whole["images"], whole["complete"], whole["run_dir"]) == (6, True, part["run_dir"])
    assert (whole["dataset"], whole["protocol"]) == ("mmseg_cfg_made", "cfg_made*")
    parts = {p: p.stat().st_mtime_ns for p in Path(whole["run_dir"]).glob("parts/*")}
    assert bench()["miou"] == whole["miou"]
    assert {p: p.stat().st_mtime_ns for p in Path(whole["run_dir"]).glob("parts/*")} == parts
    name = "mmseg:cfg_made.py"
    protocol = load_any(name).changed(templates="simple")
    once = evaluate(create_method("maskclip", backbone="tiny-clip"), name, protocol)
    assert once.miou == pytest.approx(whole["miou"])


@pytest.mark.slow
def test_several_processes(bench: Bench) -> None:
    together = bench("--workers", "2")
    assert (together["images"], together["complete"]) == (6, True)
    assert bench("--fresh")["per_class"] == together["per_class"]


def test_words_of_a_config_that_are_not_used_are_named(write: Write) -> None:
    """The class file speaks for the config's own data set only; embeddings of words never do."""
    own = f"mmseg:{write(words=('a', 'b'), model_type='CLIPForSegmentation')}"
    assert unused_words(own, own) == []
    assert unused_words(own, "sclip") == []
    (found,) = unused_words("voc21", own)
    assert found == (
        f"--protocol {own}: the words that its name_path = './configs/cls_made.txt' stands for are not used; those of "
        f"voc21 are, by the protocol's vocabulary.  With --dataset {own} they are"
    )
    model = "decode_head=dict(text_categories=20, text_embeddings_path='voc.pth')"
    other = f"mmseg:{write(model=model, name='cfg_other.py')}"
    assert [w.partition(" stands")[0].rpartition("its ")[2] for w in unused_words(other, None)] == [
        "decode_head.text_categories = 20",
        "decode_head.text_embeddings_path = 'voc.pth'",
    ]
    assert len(unused_words(own, other)) == 2
    assert unused_words("shapes", None) == []
