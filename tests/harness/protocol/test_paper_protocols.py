"""Paper presets: their numbers against the tables of the public configurations, their words, templates and sources."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

import ovss.datasets
import ovss.harness
from ovss.datasets import DatasetRecord
from ovss.harness.protocol.protocol import Protocol, Setting, load_protocol
from ovss.harness.protocol.words import vocabulary_for
from ovss.methods.cass import CASSOptions
from ovss.methods.core.vocabulary import load_templates
from ovss.methods.corrclip import CorrCLIPOptions
from ovss.methods.itaclip import ITACLIPOptions
from ovss.methods.resclip import ResCLIPOptions
from ovss.methods.rf_clip import RFCLIPOptions
from ovss.methods.trident import TridentOptions

CLASSES = Path(ovss.datasets.__file__).parent / "classes"
WORDS = Path(ovss.harness.__file__).parent / "protocol" / "vocabularies"
SETS = ("voc21", "voc20", "context60", "context59", "coco_object", "coco_stuff", "cityscapes", "ade20k")
PRESETS = (
    *("tcl", "maskclip", "sclip", "naclip", "clearclip", "proxyclip", "trident", "sc-clip", "corrclip"),
    *("cliper-v1", "cliper-v1-l14", "cliper-v2", "cliper-v2-l14", "ovseg", "catseg", "mess", "clip-diy"),
    *("tcl-original", "groupvit", "segclip", "resclip", "sfp", "rf-clip", "itaclip", "pearl", "floss", "lposs", "cass"),
)
METHOD_OPTIONS = {"clearclip": {"pad": True}, "tcl": {"pad": "end", "positions": "size"}}
NAMED = [(name, key) for name in PRESETS for key in load_protocol(name).dataset]
BACKGROUND = {"voc21": 0, "context60": 0, "coco_object": 0, "voc20b": 20}
AS_ANOTHER = {"coco_stuff10k": "coco_stuff", "mess_*": "mess/foodseg103"}
"""Tables of data sets whose names stand in another one's file."""


def names_of(key: str) -> tuple[str, ...]:
    if key == "voc20b":
        return (*names_of("voc20"), "background")
    text = (CLASSES / f"{AS_ANOTHER.get(key, key)}.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line)


def record_of(key: str) -> DatasetRecord:
    fields = {"title": key, "images": "i", "labels": "l", "classes": names_of(key), "ignore_index": 65535}
    return DatasetRecord.model_validate({"key": key.rstrip("_*"), "background": BACKGROUND.get(key), **fields})


def tables(protocol: Protocol) -> list[dict[str, Any]]:
    return [protocol.base, *protocol.dataset.values()]


@pytest.mark.parametrize("name", PRESETS)
def test_every_value_has_a_source_and_every_source_a_value(name: str) -> None:
    protocol = load_protocol(name)
    assert protocol.family == "paper" and protocol.name == name
    assert protocol.summary and protocol.source
    assert {field for table in tables(protocol) for field in table} == set(protocol.sources)
    assert all(len(text) >= 4 for text in protocol.sources.values())
    assert set(protocol.sources) <= set(Setting.model_fields)


@pytest.mark.parametrize("name", PRESETS)
def test_words_are_chosen_data_set_by_data_set(name: str) -> None:
    """The base runs on any data set; thresholds and word lists belong to one."""
    protocol = load_protocol(name)
    base = protocol.setting("camvid")
    assert (base.vocabulary, base.vocabulary_form) == ("official", "synonyms")
    assert (base.probability_threshold, base.area_threshold, base.class_gate) == (0, 0, None)
    assert base.class_scaling == "none" and not base.complement
    assert all("vocabulary" in table for table in protocol.dataset.values())


def test_which_data_sets_have_a_table() -> None:
    for name in (*FAMILY, "cliper-v2"):
        assert set(SETS) <= set(load_protocol(name).dataset), name
    assert set(SETS) == set(load_protocol("cliper-v2-l14").dataset)
    for name in ("cliper-v1", "cliper-v1-l14"):
        assert set(load_protocol(name).dataset) == set(SETS) - {"cityscapes"}
    assert set(load_protocol("maskclip").dataset) == {"voc20", "context59", "coco_stuff", "cityscapes", "ade20k"}
    assert set(load_protocol("ovseg").dataset) == {"voc20", "context59", "pc459", "ade20k", "ade847"}
    assert set(load_protocol("catseg").dataset) == {"voc20", "voc20b", "context59", "pc459", "ade20k", "ade847"}


def test_aliases_and_versions() -> None:
    assert load_protocol("cliper").name == "cliper-v2"
    assert load_protocol("paper:cliper") == load_protocol("cliper-v2")
    assert load_protocol("clip-dinoiser").name == "tcl"
    assert load_protocol("lposs-plus").name == "lposs"
    versions = {name: load_protocol(name).version for name in PRESETS}
    second = {"sclip", "naclip", "clearclip", "groupvit", "segclip", "tcl-original", "clip-diy"}
    assert {name for name, version in versions.items() if version == 2} == second
    assert set(versions.values()) == {1, 2}


HALF = (
    *("sclip", "naclip", "clearclip", "proxyclip", "corrclip", "trident", "pearl"),
    *("cliper-v1", "cliper-v1-l14", "cliper-v2", "cliper-v2-l14"),
)
"""Presets of papers whose released code runs in float16 on a GPU."""


@pytest.mark.parametrize("name", HALF)
def test_float32_is_said_to_be_ours_and_moves_no_hash(name: str) -> None:
    protocol = load_protocol(name)
    assert "float16" in protocol.sources["precision"] and protocol.base["precision"] == "float32"
    unsaid = {field: value for field, value in protocol.base.items() if field != "precision"}
    assert protocol.model_copy(update={"base": unsaid}).setting("voc21").hash == protocol.setting("voc21").hash
    half = protocol.changed(precision="float16")
    assert half.name == f"{name}*" and half.setting("voc21").hash != protocol.setting("voc21").hash


def test_hashes_of_the_family_are_those_of_version_2() -> None:
    """Numbers that were made before keep their column."""
    hashes = {name: load_protocol(name).setting("voc21").hash[:8] for name in ("sclip", "naclip", "clearclip")}
    assert hashes == {"sclip": "dc79c9b6", "naclip": "5fab8442", "clearclip": "cfc7ecbc"}


# --- the per-data-set settings of the mmseg family ------------------------------------------------------------------

FAMILY: dict[str, dict[str, tuple[int, int, int, float, float, float]]] = {
    # short side, window, stride, logit scale, probability threshold, area threshold
    "tcl": dict.fromkeys(SETS, (448, 448, 224, 100, 0, 0)),
    "sclip": {
        "voc21": (336, 224, 112, 65, 0.1, 0.1),
        "voc20": (336, 224, 112, 40, 0, 0),
        "context60": (336, 224, 112, 50, 0.1, 0),
        "context59": (336, 224, 112, 40, 0, 0),
        "coco_object": (336, 224, 112, 50, 0.1, 0),
        "coco_stuff": (448, 224, 112, 40, 0, 0),
        "coco_stuff10k": (336, 224, 112, 40, 0, 0),
        "cityscapes": (560, 224, 112, 40, 0, 0),
        "ade20k": (336, 224, 112, 40, 0, 0),
    },
    "naclip": {
        "voc21": (336, 0, 0, 40, 0.1, 0),
        "voc20": (336, 0, 0, 40, 0, 0),
        "context60": (336, 224, 112, 40, 0.1, 0),
        "context59": (336, 224, 112, 40, 0, 0),
        "coco_object": (336, 224, 112, 40, 0.1, 0),
        "coco_stuff": (336, 224, 112, 40, 0, 0),
        "cityscapes": (560, 224, 112, 40, 0, 0),
        "ade20k": (336, 224, 112, 40, 0, 0),
    },
    "clearclip": {
        "voc21": (448, 448, 224, 50, 0.5, 0),
        "voc20": (448, 448, 224, 50, 0, 0),
        "context60": (448, 448, 224, 50, 0.15, 0),
        "context59": (448, 448, 224, 50, 0, 0),
        "coco_object": (448, 448, 224, 50, 0.4, 0),
        "coco_stuff": (448, 448, 224, 50, 0, 0),
        "cityscapes": (448, 224, 224, 50, 0, 0),
        "ade20k": (448, 448, 224, 50, 0, 0),
    },
    "proxyclip": {
        "voc21": (336, 336, 112, 40, 0.2, 0),
        "voc20": (336, 336, 112, 40, 0, 0),
        "context60": (336, 336, 112, 40, 0.15, 0),
        "context59": (336, 336, 112, 40, 0, 0),
        "coco_object": (336, 336, 112, 40, 0.25, 0),
        "coco_stuff": (336, 336, 112, 40, 0, 0),
        "cityscapes": (448, 224, 112, 40, 0, 0),
        "ade20k": (448, 336, 112, 40, 0, 0),
        "ade847": (448, 336, 112, 40, 0, 0),
        "pc459": (448, 336, 112, 40, 0, 0),
    },
    "trident": {  # the windows are the method's: see TRIDENT
        "voc21": (448, 0, 0, 40, 0.2, 0),
        "voc20": (336, 0, 0, 40, 0, 0),
        "context60": (576, 0, 0, 40, 0.15, 0),
        "context59": (576, 0, 0, 40, 0, 0),
        "coco_object": (448, 0, 0, 40, 0.25, 0),
        "coco_stuff": (448, 0, 0, 40, 0, 0),
        "cityscapes": (688, 0, 0, 40, 0, 0),
        "ade20k": (576, 0, 0, 40, 0, 0),
    },
    "sc-clip": {
        "voc21": (336, 224, 112, 50, 0.15, 0.1),
        "voc20": (336, 224, 112, 40, 0, 0),
        "context60": (336, 224, 112, 40, 0.15, 0),
        "context59": (336, 224, 112, 40, 0, 0),
        "coco_object": (336, 224, 112, 55, 0.35, 0),
        "coco_stuff": (336, 224, 112, 40, 0, 0),
        "cityscapes": (560, 224, 112, 40, 0, 0),
        "ade20k": (336, 224, 112, 40, 0, 0),
    },
}
POINTS = {"points_per_side": 32, "least_iou": 0.7, "least_stability": 0.7}
FAMILY["resclip"] = FAMILY["naclip"]
FAMILY["sfp"] = {**FAMILY["sc-clip"], "ade20k": (384, 224, 112, 40, 0, 0)}
FAMILY["rf-clip"] = {**FAMILY["naclip"], "voc20": (336, 224, 112, 40, 0, 0)}
FAMILY["pearl"] = FAMILY["naclip"]
FAMILY["cass"] = FAMILY["rf-clip"]
FAMILY["lposs"] = dict.fromkeys(SETS, (448, 224, 112, 100, 0, 0))
FAMILY["corrclip"] = {key: FAMILY["proxyclip"][key] for key in SETS}


REFINED = {"naclip": "pamr", "rf-clip": "pamr", "trident": "sam", "pearl": "pearl"}


@pytest.mark.parametrize("name", FAMILY)
def test_settings_of_the_mmseg_family(name: str) -> None:
    protocol = load_protocol(name)
    assert set(protocol.dataset) == set(FAMILY[name])
    for key, values in FAMILY[name].items():
        found = protocol.setting(key)
        thresholds = (found.probability_threshold, found.area_threshold)
        geometry = (found.short_side_px, found.window_px, found.stride_px)
        assert (*geometry, found.logit_scale, *thresholds) == values, key
        assert (found.long_side_px, found.resize, found.columns) == (2048, "opencv-linear", 1)
        assert (found.size_multiple_px, found.templates, found.averaging) == (0, "openai80", "mmseg")
        assert found.average == ("probability" if name == "tcl" else "score")
        assert (found.refine, found.refine_steps) == (REFINED.get(name, "none"), 10)
        assert found.method_options == METHOD_OPTIONS.get(name, {})


def test_floss_is_naclip_with_another_scale_and_no_refinement() -> None:
    floss, naclip = load_protocol("floss"), load_protocol("naclip")
    assert set(floss.dataset) == {"voc20", "context59", "coco_stuff", "cityscapes", "ade20k"}
    for key in floss.dataset:
        assert floss.setting(key) == naclip.setting(key).model_copy(update={"refine": "none", "logit_scale": 100.0})


@pytest.mark.parametrize("key", SETS)
def test_constants_inside_pearl(key: str) -> None:
    found = load_protocol("pearl").setting(key)
    assert found.options_of == ({"pearl": {"alpha": 0.3}} if key in ("cityscapes", "ade20k") else {})
    assert found.refine_grid == (224 if key == "cityscapes" else 80)


TRIDENT = {  # window, stride, cosine factor, negative cosines kept, threshold of the refinement
    "voc21": (336, 224, 1.2, True, 0.2),
    "voc20": (336, 112, 0.0, True, 0.2),
    "context60": (336, 224, 1.2, True, 0.15),
    "context59": (336, 224, 1.2, True, 0.15),
    "coco_object": (336, 224, 1.2, True, 0.25),
    "coco_stuff": (336, 224, 1.2, True, 0.05),
    "cityscapes": (336, 224, 3.0, False, 0.1),
    "ade20k": (336, 224, 1.2, False, 0.05),
}


@pytest.mark.parametrize("key", TRIDENT)
def test_constants_inside_trident(key: str) -> None:
    setting = load_protocol("trident").setting(key)
    options = dict(setting.options_of["trident"])
    names = ("window_px", "stride_px", "cosine_factor", "refine_negative_cosine")
    assert (*(options.pop(name) for name in names), setting.refine_threshold) == TRIDENT[key]
    assert options == ({"halves": True} if key == "cityscapes" else {})
    assert setting.upsample == "direct"
    taken = TridentOptions(**setting.options_for("trident"))
    assert (taken.halves, taken.affinity) == (key == "cityscapes", True)


RESCLIP = {  # least probability, gain and share of earlier attention, gain and share of the feedback
    "voc21": (0.5, 2.0, 0.3, 2.2, 0.7),
    "voc20": (0.1, 2.0, 0.6, 2.1, 0.6),
    "context60": (0.3, 2.0, 0.3, 1.8, 0.7),
    "context59": (0.25, 2.0, 0.4, 1.8, 0.7),
    "coco_object": (0.11, 2.0, 0.4, 1.8, 0.7),
    "coco_stuff": (0.11, 2.0, 0.4, 1.8, 0.7),
    "cityscapes": (0.1, 2.0, 0.2, 2.1, 0.6),
    "ade20k": (0.25, 2.0, 0.3, 2.1, 0.7),
}


@pytest.mark.parametrize("key", RESCLIP)
def test_constants_inside_resclip(key: str) -> None:
    names = ("least_probability", "early_gain", "early_share", "feedback_gain", "feedback_share")
    setting = load_protocol("resclip").setting(key)
    assert setting.options_of == {"resclip": dict(zip(names, RESCLIP[key], strict=True))}
    assert setting.options_for("resclip") == {"logit_scale": 40, **setting.options_of["resclip"]}
    same = ResCLIPOptions(**setting.options_for("resclip")) == ResCLIPOptions()
    assert same == (key == "ade20k")


RF_CLIP = {  # weight of the overall score, of the image in the texts, distance of texts, what the overall score is of
    "voc21": (0.1, 0.03, 0.1, "image"),
    "voc20": (0.4, 0.02, 0.1, "image"),
    "context60": (0.25, 0.04, 0.09, "image"),
    "context59": (0.25, 0.04, 0.09, "image"),
    "coco_object": (0.25, 0.01, 0.1, "image"),
    "coco_stuff": (0.2, 0.02, 0.02, "image"),
    "cityscapes": (0.1, 0.03, 0.14, "window"),
    "ade20k": (0.3, 0.05, 0.06, "image"),
}


@pytest.mark.parametrize("key", RF_CLIP)
def test_constants_inside_rf_clip(key: str) -> None:
    found = RFCLIPOptions(**load_protocol("rf-clip").setting(key).options_of["rf-clip"])
    assert (found.overall_weight, found.image_weight, found.text_distance, found.overall) == RF_CLIP[key]
    assert load_protocol("rf-clip").setting("camvid").options_for("rf-clip") == {}


@pytest.mark.parametrize("key", [*SETS, "camvid"])
def test_corrclip_s_regions_vote_and_its_options_are_options(key: str) -> None:
    found = load_protocol("corrclip").setting(key)
    given = CorrCLIPOptions(**found.options_for("corrclip"))
    assert (given.proposer, given.of_proposer) == ("sam2", {**POINTS, "multimask": False})
    assert found.region_vote == "method" and load_protocol("proxyclip").setting(key).region_vote == "none"
    bare = load_protocol("corrclip").changed(region_vote="none", options_of={})
    assert bare.setting("coco_stuff").hash != found.hash
    other = load_protocol("corrclip").changed(options_of={"corrclip": {"proposer": "eomt"}}).setting(key)
    assert CorrCLIPOptions(**other.options_for("corrclip")).of_proposer == {}


@pytest.mark.parametrize("key", RF_CLIP)
def test_constants_inside_cass(key: str) -> None:
    """Those of RF-CLIP, which took them over."""
    found = CASSOptions(**load_protocol("cass").setting(key).options_of["cass"])
    assert (found.overall_weight, found.image_weight, found.text_distance, found.overall) == RF_CLIP[key]
    assert found.stretch == (key not in ("voc20", "cityscapes"))
    assert load_protocol("cass").setting("camvid").options_for("cass") == {}


def test_background_rules_of_tcl_and_clip_dinoiser() -> None:
    protocol = load_protocol("tcl")
    for key in SETS:
        rule = "head_delta" if key in ("voc21", "coco_object") else "none"
        assert protocol.setting(key).options_of["clip-dinoiser"] == {"background": rule}
        own = load_protocol("tcl-original").setting(key)
        scored = key in ("voc21", "context60", "coco_object")
        assert own.probability_threshold == (0.4 if scored else 0.0)
        assert own.background_words == ("none" if scored else "official")
        assert own.options_of == {"tcl": {"pamr": True}}
        assert protocol.setting(key).options_for("sclip") == METHOD_OPTIONS["tcl"]


def test_background_thresholds_of_groupvit_and_segclip() -> None:
    values = {"voc21": (0.95, 0.80), "context60": (0.35, 0.25), "coco_object": (0.95, 0.65)}
    geometry = {"groupvit": (448, 448, 224), "segclip": (224, 224, 224)}
    for number, name in enumerate(geometry):
        protocol = load_protocol(name)
        assert set(protocol.dataset) == set(values)
        for key, thresholds in values.items():
            found = protocol.setting(key)
            assert (found.short_side_px, found.window_px, found.stride_px) == geometry[name]
            assert found.options_for(name) == {"background_threshold": thresholds[number]}
            assert (found.background_words, found.probability_threshold, found.templates) == ("none", 0, "simple")
        assert protocol.setting("voc20").options_for(name) == {}


# --- CLIPer ---------------------------------------------------------------------------------------------------------

CLIPER_V2 = """
voc21       B car    336 0.1  -1 100 0.7  0.6    T 336
voc20       B car    336 0.1  -1 100 0.0  0.001  F 336
context60   B car    336 0.2  -1 100 0.45 0.45   F 224
context59   B car    336 0.2  -1 100 0.3  0.3    F 224
coco_object B openai 336 0.2  -1 50  0.3  0.3    F 224
coco_stuff  B car    336 0.2  -1 50  0.1  0.1    F 224
ade20k      B car    336 0.2  -1 100 0.3  0.3    F 224
cityscapes  B openai 560 0.35 -1 100 0    0.0001 F 224
voc21       L car    336 0.1  -2 50  0.5  0.4    T 336
voc20       L car    336 0.2  -1 70  0.1  0.0001 F 336
context60   L openai 336 0.2  -2 50  0.2  0.2    F 224
context59   L car    336 0.2  -2 100 0.45 0.45   F 224
coco_object L openai 336 0.1  -2 50  0.4  0.4    F 224
coco_stuff  L openai 336 0.2  -2 50  0.2  0.2    F 224
ade20k      L openai 336 0.2  -1 50  0.2  0.2    F 224
cityscapes  L car    448 0.35 -1 100 0    0.0001 F 224
"""
"""Data set, model, templates, size, attention threshold, layer, scale, gate, background, min-max, window."""
CLIPER_V1 = """
voc21       B car    100 0.7  0.6    F
voc20       B car    100 0.0  0.001  F
context60   B car    100 0.45 0.45   F
context59   B car    100 0.3  0.3    F
coco_object B openai 50  0.3  0.3    F
coco_stuff  B car    50  0.1  0.1    F
ade20k      B car    100 0.3  0.3    F
voc21       L car    50  0.5  0      T
voc20       L car    50  0    0.0001 F
context60   L openai 50  0.3  0.3    F
context59   L car    100 0.45 0.45   F
coco_object L openai 50  0.5  0.5    F
coco_stuff  L openai 50  0.2  0.2    F
ade20k      L openai 50  0.2  0.2    F
"""
"""Data set, model, templates, scale, gate, background, min-max; the rest is the same for all."""


def check_cliper(found: Setting, model: str, templates: str, decoding: list[str]) -> None:
    scale, gate, background, minmax = decoding
    assert found.templates == {"car": "cliper15", "openai": "openai80"}[templates]
    assert (found.logit_scale, found.class_gate) == (float(scale), float(gate))
    assert found.probability_threshold == float(background)
    assert found.complement == (float(background) == 0)
    assert found.class_scaling == {"T": "minmax", "F": "max"}[minmax]
    assert (found.resize, found.size_multiple_px) == ("pillow-bicubic", {"B": 16, "L": 14}[model])
    assert (found.vocabulary, found.vocabulary_form) == ("cliper", "background-first")
    assert (found.window_px, found.area_threshold, found.averaging) == (0, 0, "labelled")
    assert found.average == "probability"


@pytest.mark.parametrize("line", CLIPER_V2.strip().splitlines())
def test_cliper_v2(line: str) -> None:
    key, model, templates, size, attention, layer, *decoding, window = line.split()
    found = load_protocol("cliper-v2" if model == "B" else "cliper-v2-l14").setting(key)
    check_cliper(found, model, templates, decoding)
    assert (found.short_side_px, found.columns) == (int(size), 2 if key == "cityscapes" else 1)
    inside = {"attention_threshold": float(attention), "select_layer": int(layer), "window_px": int(window)}
    assert found.options_of["cliper"] == {"variant": "v2", **inside}
    assert (found.refine, found.refine_threshold) == ("sd21", float(attention))


@pytest.mark.parametrize("line", CLIPER_V1.strip().splitlines())
def test_cliper_v1(line: str) -> None:
    key, model, templates, *decoding = line.split()
    found = load_protocol("cliper-v1" if model == "B" else "cliper-v1-l14").setting(key)
    check_cliper(found, model, templates, decoding)
    assert (found.short_side_px, found.columns) == (336, 1)
    assert found.options_of["cliper"] == {"variant": "v1", "attention_threshold": 0.2}
    assert (found.refine, found.refine_threshold) == ("sd21", 0.1)


# --- other families -------------------------------------------------------------------------------------------------


def test_original_maskclip() -> None:
    protocol = load_protocol("maskclip")
    sizes = {"voc20": (512, 2048), "coco_stuff": (512, 2048), "ade20k": (512, 2048)}
    sizes |= {"context59": (520, 520), "cityscapes": (512, 1024)}
    assert {k: (protocol.setting(k).short_side_px, protocol.setting(k).long_side_px) for k in sizes} == sizes
    for key in sizes:
        found = protocol.setting(key)
        assert (found.window_px, found.templates, found.resize) == (0, "maskclip85", "opencv-linear")
    assert {key: protocol.setting(key).vocabulary for key in sizes} == {
        **dict.fromkeys(("voc20", "context59", "coco_stuff"), "maskclip"),
        **dict.fromkeys(("cityscapes", "ade20k"), "official"),
    }


ITACLIP = {  # short side, logit scale, probability and area threshold, weights of upright views and of second texts
    "voc21": (336, 60, 0.1, 0.1, 0.7, 0.05),
    "context60": (336, 55, 0.1, 0, 0.75, 0.15),
    "coco_object": (336, 50, 0.1, 0, 0.75, 0.1),
    "coco_stuff": (448, 40, 0, 0, 0.75, 0.2),
    "cityscapes": (560, 40, 0, 0, 0.7, 0.05),
}


def test_itaclip() -> None:
    protocol = load_protocol("itaclip")
    assert set(protocol.dataset) == set(ITACLIP)
    for key, values in ITACLIP.items():
        found = protocol.setting(key)
        weights = tuple(found.options_of["itaclip"][name] for name in ("upright_weight", "class_text_weight"))
        thresholds = (found.probability_threshold, found.area_threshold)
        assert (found.short_side_px, found.logit_scale, *thresholds, *weights) == values, key
        assert (found.window_px, found.stride_px, found.closing_px) == (224, 28, 3)
        assert (found.refine, found.refine_steps, found.vocabulary) == ("pamr", 10, "sclip")
        assert ITACLIPOptions(**found.options_of["itaclip"]).views


def test_ovseg() -> None:
    protocol = load_protocol("ovseg")
    weights = {"ade20k": 0.7, "ade847": 0.7, "context59": 0.6, "pc459": 0.6, "voc20": 0.45, "camvid": 0.7}
    for key, weight in weights.items():
        found = protocol.setting(key)
        assert found.options_of["ovseg"] == {"mask_threshold": 0.4, "ensemble_weight": weight}
        assert (found.short_side_px, found.long_side_px, found.window_px) == (640, 2560, 0)
        assert (found.resize, found.templates, found.logit_scale) == ("pillow-linear", "vild14", 100)
        assert found.vocabulary == ("detectron2" if key == "ade20k" else "official")


def test_catseg_and_mess() -> None:
    catseg = load_protocol("catseg").setting("voc20b")
    assert (catseg.short_side_px, catseg.window_px, catseg.stride_px) == (640, 384, 256)
    assert (catseg.vocabulary, catseg.vocabulary_form, catseg.templates) == ("catseg", "fold", "openai80")
    assert load_protocol("catseg").setting("context59").vocabulary == "catseg"
    mess, unified = load_protocol("mess").setting("mess_dram"), load_protocol("unified").base
    assert (mess.averaging, mess.resize, mess.vocabulary) == ("mmseg", "pillow-linear", "official")
    same = ("short_side_px", "window_px", "stride_px", "templates", "logit_scale")
    assert {name: getattr(mess, name) for name in same} == {name: unified[name] for name in same}


@pytest.mark.parametrize("name", ["ovseg", "catseg", "proxyclip"])
def test_names_with_commas_are_one_text(name: str) -> None:
    vocabulary = vocabulary_for(load_protocol(name).setting("ade847"), record_of("ade847"))
    assert len(vocabulary.queries) == 847
    assert sum("," in query for query in vocabulary.queries) == 217


# --- words ----------------------------------------------------------------------------------------------------------

LISTS = {  # the list of each paper on SETS; the background words of CLIPer's lists come first
    "tcl": (*("clip_dinoiser",) * 5, *("official",) * 3),
    "sclip": ("sclip",) * 8,
    "naclip": ("sclip",) * 8,
    "sc-clip": ("sclip",) * 8,
    "resclip": ("sclip",) * 8,
    "sfp": ("sclip",) * 8,
    "rf-clip": ("sclip",) * 8,
    "pearl": ("sclip",) * 8,
    "cass": ("sclip",) * 8,
    "corrclip": ("corrclip",) * 8,
    "clearclip": ("clearclip", "clearclip", "sclip", "sclip", "clearclip", "sclip", "sclip", "sclip"),
    "proxyclip": ("proxyclip", "proxyclip", "sclip", "sclip", "proxyclip", "sclip", "sclip", "sclip"),
    "trident": ("proxyclip", "proxyclip", "sclip", "sclip", "proxyclip", "sclip", "sclip", "sclip"),
    "lposs": ("proxyclip", "proxyclip", "sclip", "sclip", "proxyclip", "sclip", "sclip", "sclip"),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_words(name: str) -> None:
    protocol = load_protocol(name)
    assert tuple(protocol.setting(key).vocabulary for key in SETS) == LISTS[name]


@pytest.mark.parametrize(("name", "key"), NAMED, ids=lambda v: v)
def test_every_list_is_there_and_fits(name: str, key: str) -> None:
    setting, record = load_protocol(name).setting(key), record_of(key)
    classes = len(record.classes)
    if setting.vocabulary != "official":
        text = (WORDS / f"{key}.{setting.vocabulary}.txt").read_text(encoding="utf-8")
        foreground = classes - (record.background is not None)
        expected = {"synonyms": classes, "background-first": foreground + 1, "fold": 59}[setting.vocabulary_form]
        assert len(text.splitlines()) == expected
    vocabulary = vocabulary_for(setting, record)
    outside = setting.vocabulary_form == "background-first" and record.background is None
    assert len(vocabulary.classes) == classes + outside
    assert setting.rule(vocabulary.background)  # thresholds have a class to fall to


QUERIES = {  # number of texts on voc21 and coco_object, counted by hand in the papers' lists
    "sclip": (21 + 25 + 6 + 4, 81 + 25 + 7),
    "clearclip": (21, 81),
    "proxyclip": (21 + 25, 81 + 16),
    "corrclip": (21 + 25, 81 + 15),
    "cliper-v2": (20 + 25, 80 + 23),
    "tcl": (21, 81),
}


@pytest.mark.parametrize("name", QUERIES)
def test_numbers_of_texts(name: str) -> None:
    protocol = load_protocol(name)
    found = [vocabulary_for(protocol.setting(key), record_of(key)) for key in ("voc21", "coco_object")]
    assert tuple(len(vocabulary.queries) for vocabulary in found) == QUERIES[name]


DIGESTS = """
voc21       8524656ff1 28e3200d74 867e9ede3e 183aea2623
voc20       69c4062f0d 3e2f9cc54c 3e2f9cc54c b6a0966fa9
context60   5440a97c12 -          -          10b21f598f
context59   a184ab301a -          -          547e765fc4
coco_object 1bc0ed3dec a02d23e8e0 a3bb5dd2ad cfe8131d2c
coco_stuff  ed8c68d28b -          -          c882ca6c0d
cityscapes  187e025120 -          -          0585681ea5
ade20k      6f4b432981 -          -          c7bfa7472e
"""
"""First ten digits of the SHA-1 of the papers' files, lines stripped and joined; "-": the file is SCLIP's."""
SEPARATORS = {"sclip": ", ", "clearclip": ",", "proxyclip": "; ", "corrclip": "; "}
"""Theirs; ours is ", " everywhere.  It occurs in proxyclip and corrclip on voc21 and coco_object."""


@pytest.mark.parametrize("line", DIGESTS.strip().splitlines(), ids=lambda line: line.split()[0])
def test_lists_are_those_of_the_papers(line: str) -> None:
    key, *digests = line.split()
    for (name, separator), digest in zip(SEPARATORS.items(), digests, strict=True):
        path = WORDS / f"{key}.{name}.txt"
        assert path.is_file() == (digest != "-")
        if path.is_file():
            lines = [text.strip() for text in path.read_text(encoding="utf-8").splitlines()]
            theirs = "\n".join(lines).replace(", ", separator)
            assert hashlib.sha1(theirs.encode()).hexdigest()[:10] == digest, path.name


# --- templates ------------------------------------------------------------------------------------------------------

TEMPLATES = {
    "openai80": 80,
    "subset7": 7,
    "tcl7": 7,
    "tcl9": 9,
    "maskclip85": 85,
    "vild14": 14,
    "cliper15": 15,
    "photo": 1,
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates(name: str) -> None:
    templates = load_templates(name)
    assert len(templates) == TEMPLATES[name] == len(set(templates))
    assert all(template.count("{}") == 1 for template in templates)


def test_how_the_templates_differ() -> None:
    openai80 = load_templates("openai80")
    assert hashlib.sha256("\n".join(openai80).encode()).hexdigest().startswith("4f976686fb651bb5")
    assert set(load_templates("subset7")) <= set(openai80)
    assert set(load_templates("subset7")) ^ set(load_templates("tcl7")) == {
        "a bad photo of the {}.",
        "a bad photo of a {}.",
    }
    assert load_templates("tcl9") == (*load_templates("tcl7"), "a photo of many {}.", "a photo of {}s.")
    assert load_templates("maskclip85")[:80] == openai80
    assert all(template.endswith(" in the scene.") for template in load_templates("maskclip85")[80:])
    sizes = [f"{start} {size} {{}}{end}" for start, end in SIZED for size in ("small", "medium", "large")]
    assert load_templates("vild14") == (*PLAIN, *sizes)
    assert load_templates("cliper15") == ("a clean origami {}.", *PLAIN, *sizes)


PLAIN = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
)
SIZED = (("a photo of a", "."), ("This is a photo of a", "."), ("There is a", " in the scene."))
