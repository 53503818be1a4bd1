"""Our methods in mmsegmentation's own test loop: the labels of our pipeline, and the numbers of our evaluator."""

import json
import logging
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from numpy.typing import NDArray
from PIL import Image

from ovss.datasets import DatasetRecord, open_dataset
from ovss.harness import evaluate, load_protocol
from ovss.harness.mmseg.segmentor import OvssSegmentor
from ovss.harness.runs.photo import Photo
from ovss.harness.runs.pipeline import Clock, Pipeline
from ovss.methods import UserError, create_method

SCENES = open_dataset("shapes")
CLASSES = SCENES.record.classes
SIZES = [(96, 96), (80, 96), (96, 61), (73, 90)]
SHORT_SIDE = 84

HEAD = 'summary = "made up"\nsource = "this test"\nversion = 1\nfamily = "unified"\n[base]\n'
PROTOCOLS = {
    "whole": "",
    "windows": f"short_side_px = {SHORT_SIDE}\nwindow_px = 64\nstride_px = 40\n",
    "columns": "columns = 2\n",
    "small": f"short_side_px = {SHORT_SIDE}\n",
    "large": "short_side_px = 448\nwindow_px = 448\nstride_px = 224\n",
    "thresholds": 'probability_threshold = 0.3\narea_threshold = 0.01\nrefine = "pamr"\nlogit_scale = 60.0\n',
}
RECORD = f"""
key = "made"
title = "made up"
images = "images"
labels = "labels"
image_suffix = ".png"
background = 0
classes = {json.dumps(list(CLASSES))}
"""
LOAD, LABELS, PACK = {"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}
RESIZE = {"type": "Resize", "scale": (2048, SHORT_SIDE), "keep_ratio": True}
PAD = {"type": "Pad", "size": (128, 128)}
FLIP = {"type": "RandomFlip", "prob": 1.0}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cut-outs of scenes of several sizes, with ignored pixels; a record and protocols beside them."""
    folder = tmp_path_factory.mktemp("made")
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for image_id, (height, width) in zip(SCENES.ids, SIZES, strict=False):
        sample = SCENES.load(image_id)
        label = sample.label[:height, :width].astype(np.uint8)
        label[:, :5] = 255
        Image.fromarray(sample.image[:height, :width]).save(folder / "images" / f"{image_id}.png")
        Image.fromarray(label).save(folder / "labels" / f"{image_id}.png")
    (folder / "made.toml").write_text(RECORD)
    for name, fields in PROTOCOLS.items():
        (folder / f"{name}.toml").write_text(HEAD + fields)
    return folder


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def config(root: Path, work: Path, model: dict[str, Any], transforms: tuple[dict[str, Any], ...] = ()) -> Config:
    """As a config of mmseg: its scope, data set, sampler, loops and metric, with ``transforms`` after loading."""
    loader = {
        "batch_size": 2,
        "num_workers": 0,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "dataset": {
            "type": "BaseSegDataset",
            "data_root": str(root),
            "data_prefix": {"img_path": "images", "seg_map_path": "labels"},
            "img_suffix": ".png",
            "seg_map_suffix": ".png",
            "metainfo": {"classes": CLASSES},
            "reduce_zero_label": False,
            "pipeline": [LOAD, *transforms, LABELS, PACK],
        },
    }
    metric = {"type": "IoUMetric", "iou_metrics": ["mIoU"], "output_dir": str(work / "labels")}
    return Config(
        {
            "default_scope": "mmseg",
            "custom_imports": {"imports": ["ovss.harness.mmseg.segmentor"]},
            "work_dir": str(work),
            "experiment_name": work.name,  # mmengine keeps its loggers by name
            "model": {"type": "OvssSegmentor", "backbone": "tiny-clip", **model},
            "test_dataloader": loader,
            "test_cfg": {"type": "TestLoop"},
            "test_evaluator": metric,
            "val_dataloader": loader,
            "val_cfg": {"type": "ValLoop"},
            "val_evaluator": metric,
            "visualizer": {"type": "SegLocalVisualizer", "vis_backends": [{"type": "LocalVisBackend"}]},
            "default_hooks": {"visualization": {"type": "SegVisualizationHook", "interval": 1}},
            "load_from": None,
        }
    )


def written(work: Path) -> dict[str, NDArray[np.uint8]]:
    """The label maps that mmseg's metric wrote, by image id."""
    return {p.stem: np.asarray(Image.open(p)) for p in (work / "labels").glob("*.png")}


def expected(root: Path, method: str, protocol: str) -> dict[str, NDArray[np.uint8]]:
    """The label maps of our pipeline."""
    data = open_dataset(str(root / "made.toml"))
    setting = load_protocol(str(root / f"{protocol}.toml")).setting("made")
    pipeline = Pipeline(create_method(method, backbone="tiny-clip"), setting, data.record)
    return {i: pipeline.predict(Photo(data.load(i).image), Clock()).numpy() for i in data.ids}


def assert_equal_labels(found: dict[str, NDArray[np.uint8]], wanted: dict[str, NDArray[np.uint8]]) -> None:
    assert sorted(found) == sorted(wanted) == sorted(SCENES.ids[: len(SIZES)])
    for image_id, size in zip(sorted(wanted), SIZES, strict=True):
        assert found[image_id].shape == size
        assert np.array_equal(found[image_id], wanted[image_id]), image_id
    assert len(np.unique(np.concatenate([m.ravel() for m in found.values()]))) > 1


@pytest.mark.parametrize(
    ("method", "protocol"), [("maskclip", "whole"), ("sclip", "windows"), ("clip", "columns"), ("naclip", "thresholds")]
)
def test_labels_and_numbers_are_ours(root: Path, tmp_path: Path, method: str, protocol: str) -> None:
    record, path = str(root / "made.toml"), str(root / f"{protocol}.toml")
    model = {"method": method, "dataset": record, "protocol": path}
    theirs = Runner.from_cfg(config(root, tmp_path, model)).test()
    assert_equal_labels(written(tmp_path), expected(root, method, protocol))
    ours = evaluate(create_method(method, backbone="tiny-clip"), record, path).summary()
    assert theirs["mIoU"] == pytest.approx(ours["miou"], abs=0.0101)
    assert theirs["mAcc"] == pytest.approx(ours["macc"], abs=0.0101)
    assert theirs["aAcc"] == pytest.approx(ours["aacc"], abs=0.0101)
    assert theirs["mIoU"] > 3


def test_resize_of_the_config_gives_the_same_labels_at_the_same_size(root: Path, tmp_path: Path) -> None:
    """mmseg's keep-ratio resize is the protocol's, so only who does it differs."""
    model = {"method": "sclip", "dataset": list(CLASSES), "resized_by": "pipeline"}
    model["protocol"] = str(root / "windows.toml")
    Runner.from_cfg(config(root, tmp_path, model, (RESIZE,))).val()
    assert_equal_labels(written(tmp_path), expected(root, "sclip", "windows"))


def test_resize_of_the_config_replaces_that_of_the_protocol(root: Path, tmp_path: Path) -> None:
    model = {"method": "maskclip", "dataset": list(CLASSES), "resized_by": "pipeline"}
    model["protocol"] = str(root / "large.toml")
    Runner.from_cfg(config(root, tmp_path, model, (RESIZE,))).test()
    assert_equal_labels(written(tmp_path), expected(root, "maskclip", "small"))


def test_mmsegs_own_script_runs(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``tools/test.py`` wants a checkpoint: an empty one will do."""
    import mmseg

    script = Path(mmseg.__file__).parent / ".mim" / "tools" / "test.py"
    if not script.is_file():
        pytest.skip("this installation of mmsegmentation has no tools")
    model = {"method": "maskclip", "dataset": str(root / "made.toml"), "protocol": "tiny"}
    config(root, tmp_path, model).dump(tmp_path / "config.py")
    torch.save({}, tmp_path / "none.pth")
    command = [
        str(script),
        str(tmp_path / "config.py"),
        str(tmp_path / "none.pth"),
        "--show-dir",
        str(tmp_path / "shown"),
    ]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(str(script), run_name="__main__")
    assert_equal_labels(written(tmp_path), expected(root, "maskclip", "whole"))
    (report,) = tmp_path.glob("*/*.json")
    ours = evaluate(create_method("maskclip", backbone="tiny-clip"), str(root / "made.toml"), "tiny")
    assert json.loads(report.read_text())["mIoU"] == pytest.approx(ours.miou, abs=0.0101)
    assert len(list(tmp_path.rglob("shown/**/*.png"))) == len(SIZES)


@pytest.mark.parametrize(
    ("transforms", "changes", "text"),
    [
        ((RESIZE,), {}, "remove Resize"),
        ((PAD,), {}, "arrives as 128x128, not as 96x96"),
        ((RESIZE, PAD), {"resized_by": "pipeline"}, "arrives as 128x128, not as 84x84"),
        ((FLIP,), {"resized_by": "pipeline"}, "flipped"),
    ],
)
def test_transforms_that_would_spoil_labels_are_refused(
    root: Path, tmp_path: Path, transforms: tuple[dict[str, Any], ...], changes: dict[str, Any], text: str
) -> None:
    model = {"method": "maskclip", "dataset": list(CLASSES), "protocol": "tiny", **changes}
    with pytest.raises(UserError, match=text):
        Runner.from_cfg(config(root, tmp_path, model, transforms)).test()


def test_normalised_images_and_training_are_refused() -> None:
    from mmseg.structures import SegDataSample

    segmentor = OvssSegmentor("maskclip", ["sky", "grass"], backbone="tiny-clip")
    sample = SegDataSample(metainfo={"ori_shape": (40, 50)})
    image = torch.zeros(3, 40, 50, dtype=torch.uint8)
    with pytest.raises(UserError, match=r"\(3, 40, 50\) torch.float32"):
        segmentor(image[None].float(), [sample], mode="predict")
    with pytest.raises(UserError, match="training"):
        segmentor(image[None], [sample], mode="loss")
    (found,) = segmentor.test_step({"inputs": [image], "data_samples": [sample]})
    assert found.pred_sem_seg.data.shape == (1, 40, 50)
    assert found.pred_sem_seg.data.dtype == torch.int64


def test_classes_come_in_every_form(root: Path) -> None:
    record = open_dataset(str(root / "made.toml")).record
    forms: list[Any] = [str(root / "made.toml"), record, record.model_dump(), {"classes": CLASSES}, CLASSES, "shapes"]
    for form in forms:
        segmentor = OvssSegmentor("maskclip", form, protocol="tiny", backbone="tiny-clip")
        assert segmentor.pipeline.record.classes == CLASSES
        assert isinstance(segmentor.pipeline.record, DatasetRecord)
    backgrounds = [OvssSegmentor("clip", f, backbone="tiny-clip").pipeline.record.background for f in forms[:5:2]]
    assert backgrounds == [0, 0, None]
    with pytest.raises(UserError, match="classes"):
        OvssSegmentor("maskclip", ["sky", "sky"], backbone="tiny-clip")


def test_table_of_the_data_set_applies(root: Path) -> None:
    path = root / "tabled.toml"
    path.write_text(f"{HEAD}short_side_px = 50\n[dataset.made]\nshort_side_px = 70\n")
    sides = [
        OvssSegmentor("clip", d, protocol=str(path), backbone="tiny-clip").pipeline.setting.short_side_px
        for d in (str(root / "made.toml"), {"key": "made", "classes": ["sky"]}, ["sky"])
    ]
    assert sides == [70, 70, 50]


TILED = load_protocol("tiny").changed(columns=2)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"resized_by": "me"}, "'protocol' and 'pipeline'"),
        ({"data_preprocessor": {"type": "SegDataPreProcessor"}}, "remove data_preprocessor"),
        ({"protocol": "unifed"}, "unified"),
        ({"method": "maskclp"}, "maskclip"),
        ({"options": {"nonsense": 1}}, "nonsense"),
        ({"resized_by": "pipeline", "protocol": TILED}, "cuts, refines or votes"),
    ],
)
def test_wrong_values_are_explained(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        OvssSegmentor(**{"method": "maskclip", "dataset": ["sky"], "backbone": "tiny-clip", **changes})
