"""Protocols: what moves the hash, what differs and why, mistakes, and the resize rule."""

import hashlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ovss.datasets import DatasetRecord, list_datasets
from ovss.harness.mmseg.shim import import_mmseg
from ovss.harness.protocol.differences import diff_settings
from ovss.harness.protocol.protocol import Protocol, Setting, lint_setting, list_protocols, load_protocol
from ovss.harness.protocol.resize import resize_image, resized_size
from ovss.methods import UserError

OTHER_VALUES: dict[str, Any] = {
    "short_side_px": 336,
    "long_side_px": 1024,
    "window_px": 224,
    "stride_px": 112,
    "allow_shared_texts": True,
    "templates": "simple",
    "synonym_separator": ";",
    "logit_scale": 40.0,
    "probability_threshold": 0.3,
    "area_threshold": 0.1,
    "closing_px": 3,
    "refine": "pamr",
    "refine_steps": 7,
    "region_vote": "slic",
    "region_options": {"segments": 50},
    "refine_grid": 40,
    "upsample": "direct",
    "refine_threshold": 0.2,
    "refine_fusion": "mean",
    "refine_noise": "fixed",
    "seed": 1,
    "precision": "bfloat16",
    "averaging": "labelled",
    "method_options": {"pad": True},
    "resize": "pillow-bicubic",
    "size_multiple_px": 16,
    "columns": 2,
    "average": "probability",
    "vocabulary": "sclip",
    "vocabulary_form": "background-first",
    "repair": True,
    "background_words": "shared",
    "class_scaling": "max",
    "class_gate": 0.3,
    "complement": True,
    "options_of": {"cliper": {"attention_threshold": 0.1}},
}
"""Another value for every field that has one."""
BASE = {"window_px": 448, "stride_px": 224}
WANTED: dict[str, dict[str, Any]] = {"region_options": {"region_vote": "slic"}}
"""What a field needs of others."""


def write(path: Path, text: str = "", **changes: str) -> Path:
    fields = {"summary": '"s"', "source": '"ours"', "version": "1", "family": '"unified"', **changes}
    path.write_text("".join(f"{k} = {v}\n" for k, v in fields.items()) + (text or "[base]\n"))
    return path


def test_the_table_of_other_values_is_complete() -> None:
    assert set(OTHER_VALUES) == set(Setting.model_fields)


@pytest.mark.parametrize("field", OTHER_VALUES)
def test_the_hash_moves_with_every_field(field: str) -> None:
    given = BASE | WANTED.get(field, {})
    base = Setting(**given)
    moved = Setting(**{**given, field: OTHER_VALUES[field]})
    assert moved.hash != base.hash
    assert Setting(**given).hash == base.hash
    assert [row[:3] for row in diff_settings(base, moved)] == [(field, getattr(base, field), OTHER_VALUES[field])]


DEFAULTS: dict[str, Any] = {
    "short_side_px": 0,
    "long_side_px": 2048,
    "resize": "opencv-linear",
    "size_multiple_px": 0,
    "columns": 1,
    "window_px": 0,
    "stride_px": 0,
    "average": "score",
    "upsample": "frame",
    "vocabulary": "official",
    "vocabulary_form": "synonyms",
    "synonym_separator": ", ",
    "repair": False,
    "background_words": "official",
    "allow_shared_texts": False,
    "templates": "openai80",
    "logit_scale": 100.0,
    "probability_threshold": 0.0,
    "area_threshold": 0.0,
    "class_scaling": "none",
    "class_gate": None,
    "complement": False,
    "closing_px": 0,
    "refine": "none",
    "region_vote": "none",
    "region_options": {},
    "refine_steps": 10,
    "refine_grid": 80,
    "refine_threshold": 0.1,
    "refine_fusion": "chain",
    "refine_noise": "per-image",
    "seed": 0,
    "precision": "float32",
    "averaging": "mmseg",
    "method_options": {},
    "options_of": {},
}
"""Not to be changed, only added to: a hash leaves out what is at its default."""


def test_a_default_never_changes() -> None:
    assert Setting().model_dump() == DEFAULTS
    empty = hashlib.sha256(b"{}").hexdigest()
    assert Setting().hash == Setting(**DEFAULTS).hash == empty


def test_hashes_are_stable() -> None:
    """The hash stands in every row of every table: it may change only when a value does."""
    plain = Setting(short_side_px=448, window_px=448, stride_px=224, background_words="shared")
    assert plain.hash == load_protocol("unified").setting(None).hash
    hashes = {name: load_protocol(name).setting("camvid").hash for name in list_protocols()}
    assert {"unified", "sclip", "naclip", "clearclip", "tiny"} <= set(hashes)
    assert len({hashes[name] for name in ("unified", "sclip", "naclip", "clearclip", "tiny")}) == 5
    assert all(len(h) == 64 for h in hashes.values())


def test_equal_values_have_one_hash_however_they_are_written(tmp_path: Path) -> None:
    plain = load_protocol(str(write(tmp_path / "a.toml", "[base]\nlogit_scale = 100\nshort_side_px = 336\n")))
    other = load_protocol(
        str(
            write(
                tmp_path / "b.toml",
                "[base]\nshort_side_px = 1\n[dataset.camvid]\nshort_side_px = 336\nlogit_scale = 100.0\n",
                summary='"other prose"',
                source='"elsewhere"',
                version="7",
            )
        )
    )
    assert plain.name == "a" and other.name == "b"
    assert plain.setting("camvid").hash == other.setting("camvid").hash
    assert plain.setting(None).hash != other.setting(None).hash


def test_values_per_data_set() -> None:
    sclip = load_protocol("sclip")
    assert sclip.setting(None).short_side_px == 336
    assert sclip.setting("cityscapes").short_side_px == 560
    assert sclip.setting("coco_stuff").short_side_px == 448
    assert sclip.setting("camvid") == sclip.setting(None)
    assert sclip.setting("cityscapes").window_px == 224  # what the table does not name stays
    assert load_protocol("clearclip").setting(None).method_options == {"pad": True}
    assert load_protocol("naclip").setting(None).refine == "pamr"


def test_changed() -> None:
    sclip = load_protocol("sclip")
    assert sclip.changed() is sclip
    changed = sclip.changed(short_side_px=448, logit_scale=50)
    assert changed.name == "sclip*"
    for key in (None, "cityscapes", "coco_stuff"):
        assert changed.setting(key).short_side_px == 448 and changed.setting(key).logit_scale == 50.0
        assert changed.setting(key).window_px == sclip.setting(key).window_px
    assert sclip.setting("cityscapes").short_side_px == 560  # the original is as it was
    assert changed.setting("coco_stuff").hash != sclip.setting("coco_stuff").hash
    assert sclip.changed(logit_scale=40.0).setting(None).hash == sclip.setting(None).hash


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"short_size_px": 3}, "short_size_px"),
        ({"logit_scale": 0}, "greater than 0"),
        ({"logit_scale": "warm"}, "valid number"),
        ({"short_side_px": -1}, "greater than or equal to 0"),
        ({"probability_threshold": 1.0}, "less than 1"),
        ({"refine": "crf"}, "pamr"),
        ({"precision": "float64"}, "bfloat16"),
        ({"window_px": 224, "stride_px": 300}, "stride"),
    ],
)
def test_values_that_are_not_allowed(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        load_protocol("unified").changed(**values)
    assert "protocol 'unified'" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "changes", "words"),
    [
        ("[base]\nlogit_scale = \n", {}, "no valid TOML"),
        ("[base]\nlogit_skale = 3\n", {}, "logit_skale"),
        ("[base]\n[dataset.camvid]\nrefine_steps = 0\n", {}, "refine_steps"),
        ("", {"family": '"mine"'}, "family"),
        ("", {"version": "0"}, "version"),
        ("", {"colour": "3"}, "colour"),
        ("[base]\nwindow_px = 10\nstride_px = 11\n", {}, "stride"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, changes: dict[str, str], words: str) -> None:
    path = write(tmp_path / "mine.toml", text, **changes)
    with pytest.raises(UserError, match=words) as caught:
        load_protocol(str(path))
    assert str(path) in str(caught.value)


def test_unknown_protocols(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown protocol 'unifed'; did you mean unified\? Known: .*sclip"):
        load_protocol("unifed")
    with pytest.raises(UserError, match="unknown protocol"):
        load_protocol(str(tmp_path / "gone.toml"))
    (tmp_path / "latin.toml").write_bytes(b'summary = "caf\xe9"')
    with pytest.raises(UserError, match="no valid TOML"):
        load_protocol(str(tmp_path / "latin.toml"))


def test_diff_says_why() -> None:
    found = diff_settings(load_protocol("unified").setting(None), load_protocol("naclip").setting(None))
    assert [(row[0], row[1], row[2]) for row in found] == [
        ("short_side_px", 448, 336),
        ("window_px", 448, 224),
        ("stride_px", 224, 112),
        ("background_words", "shared", "official"),
        ("logit_scale", 100.0, 40.0),
        ("refine", "none", "pamr"),
    ]
    assert all(len(row[3]) > 20 for row in found)
    assert diff_settings(Setting(), Setting()) == []
    assert all(f.description for f in Setting.model_fields.values())


def record(**fields: Any) -> DatasetRecord:
    values = {"key": "k", "title": "t", "images": "i", "labels": "l", "classes": ("wall", "cat", "sofa, couch")}
    return DatasetRecord.model_validate({**values, **fields})


def test_lint_refuses_thresholds_without_a_background() -> None:
    for threshold in ("probability_threshold", "area_threshold"):
        setting = Setting.model_validate({threshold: 0.3})
        assert [level for level, _ in lint_setting(setting, record())] == ["error"]
        assert "no background" in lint_setting(setting, record())[0][1]
        assert lint_setting(setting, record(background=0)) == []
    assert lint_setting(Setting(), record()) == []


def test_lint_sees_windows_and_words() -> None:
    large = Setting(short_side_px=336, window_px=448, stride_px=224)
    assert [level for level, _ in lint_setting(large, record())] == ["warning"]
    doubled = lint_setting(Setting(), record(classes=("wall", "cat", "sofa, cat")))
    assert [level for level, _ in doubled] == ["error"] and "'cat' speaks for" in doubled[0][1]
    meant = lint_setting(Setting(allow_shared_texts=True), record(classes=("wall", "cat", "sofa, cat")))
    assert [level for level, _ in meant] == ["warning"] and "loses every tie" in meant[0][1]
    listed = lint_setting(Setting(synonym_separator="|"), record(classes=("wall; door", "cat")))
    assert [level for level, _ in listed] == ["warning"] and "separator" in listed[0][1]


def test_shipped_protocols_have_no_errors_on_shipped_data() -> None:
    for name in list_protocols():
        protocol = load_protocol(name)
        assert isinstance(protocol, Protocol) and protocol.summary and protocol.source
        for key, found in list_datasets().items():
            levels = {level for level, _ in lint_setting(protocol.setting(key), found)}
            assert "error" not in levels, (name, key)


SIZES = [  # width, height, short side -> width, height; the long side is limited to 2048
    (500, 375, 336, 448, 336),
    (500, 333, 336, 505, 336),
    (333, 500, 336, 336, 505),
    (640, 427, 336, 504, 336),
    (640, 480, 448, 597, 448),
    (500, 281, 448, 797, 448),
    (2048, 1024, 448, 896, 448),
    (2048, 1024, 560, 1120, 560),
    (2000, 300, 336, 2048, 307),
]


@pytest.mark.parametrize(("width", "height", "short", "new_width", "new_height"), SIZES)
def test_sizes_of_the_keep_ratio_rule(width: int, height: int, short: int, new_width: int, new_height: int) -> None:
    assert resized_size(height, width, short) == (new_height, new_width)
    assert resized_size(height, width, 0) == (height, width)


def picture(height: int, width: int) -> np.ndarray:
    """Edges, a gradient and noise, so that kernels show."""
    rng = np.random.default_rng(height * 1000 + width)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    image[: height // 2] = np.linspace(0, 255, width).astype(np.uint8)[None, :, None]
    image[height // 4 : height // 3, width // 4 :] = 255
    return image


@pytest.mark.parametrize(
    ("height", "width", "short"), [(375, 500, 336), (97, 131, 64), (60, 41, 100), (30, 400, 64), (120, 160, 120)]
)
def test_resize_equals_mmseg(height: int, width: int, short: int) -> None:
    import_mmseg()
    from mmcv.transforms import Resize

    image = picture(height, width)
    theirs = Resize(scale=(512, short), keep_ratio=True)({"img": image.copy()})["img"]
    ours = resize_image(image, short, 512)
    assert ours.shape == theirs.shape and ours.dtype == np.uint8
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1


@pytest.mark.parametrize("short", [112, 224, 336, 448])
def test_resize_equals_torch_without_antialias(short: int) -> None:
    image = picture(360, 480)
    ours = resize_image(image, short)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    expected = F.interpolate(tensor, ours.shape[:2], mode="bilinear", antialias=False)[0].permute(1, 2, 0)
    assert (torch.from_numpy(ours).float() - expected.round()).abs().max() <= 1
    antialiased = cv2.resize(image, ours.shape[1::-1], interpolation=cv2.INTER_AREA)
    if short < 336:  # the test sees the difference between kernels
        assert np.abs(ours.astype(int) - antialiased.astype(int)).max() > 20


def test_no_resize_gives_the_image_itself() -> None:
    image = picture(50, 60)
    assert resize_image(image, 0) is image
    assert np.array_equal(resize_image(image, 50), image)


def test_a_change_to_the_same_values_is_no_change() -> None:
    cliper = load_protocol("cliper-v2")
    assert cliper.changed(refine="sd21", columns=1) is not cliper  # Cityscapes has two columns
    assert cliper.changed(refine="sd21") is cliper
    assert cliper.changed(refine="none").name == "cliper-v2*"
