"""Suites as data: shipped ones are whole, and every mistake in a file is told with its key."""

from pathlib import Path

import pytest

from ovss.datasets import dataset_keys
from ovss.harness.use.suite_file import list_suites, protocol_of, read_suite
from ovss.methods import UserError


def written(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", list(list_suites()))
def test_shipped_suites_are_whole(name: str) -> None:
    suite = read_suite(name)
    assert suite.name == name and suite.title and suite.runs


def test_the_eight_benchmarks_and_all_of_mess() -> None:
    (eight,) = read_suite("eight-benchmarks").runs
    assert eight.datasets == (
        *("voc21", "voc20", "context60", "context59", "coco_object", "coco_stuff", "cityscapes", "ade20k"),
    )
    (mess,) = read_suite("mess").runs
    assert sorted(mess.datasets) == [key for key in dataset_keys() if key.startswith("mess_")]
    assert mess.protocols == ("mess",)


HOUSE = """
summary = "ours"
source = "ours"
version = 1
family = "paper"
[base]
short_side_px = 96
[sources]
short_side_px = "ours"
"""


def test_every_key(tmp_path: Path) -> None:
    (tmp_path / "house.toml").write_text(HOUSE)
    (tmp_path / "vit.safetensors").write_bytes(b"")
    text = """
title = "A trial"
[[runs]]
methods = ["sclip", "naclip"]
datasets = ["shapes:val", "voc21", "coco_object@instances"]
protocols = ["own", "house.toml"]
backbone = "ViT-B-16"
weights = "vit.safetensors"
set = { short_side_px = 112, refine = "pamr" }
options = { "naclip.positions" = "antialias", pad = true }
limit = 8
boundary = true
confusion = true
"""
    (block,) = read_suite(written(tmp_path, text)).runs
    assert block.methods == ("sclip", "naclip") and block.limit == 8 and block.boundary and block.confusion
    assert block.protocols == ("own", str(tmp_path / "house.toml"))  # files are found from the suite's own folder
    assert block.weights == tmp_path / "vit.safetensors"
    assert block.set == {"short_side_px": 112, "refine": "pamr"} and block.options["pad"] is True


def test_a_protocol_is_the_data_sets_the_methods_or_the_one_that_is_named() -> None:
    assert protocol_of("sclip", "shapes", None).name == "tiny"
    assert protocol_of("sclip", "shapes", "own").name == "sclip"
    assert protocol_of("sclip", "shapes", "unified").name == "unified"


GOOD = 'methods = ["sclip"]\ndatasets = ["voc21"]\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"  runs: is missing"),
        ("runs = []", r"  runs: .*at least 1"),
        ("runs = 3", r"  runs: "),
        ("runs = [3]", r"  runs\[1\]: "),
        ('titel = "x"\n[[runs]]\n' + GOOD, r"  titel: there is no such key; did you mean title\?"),
        ('name = "x"\n[[runs]]\n' + GOOD, r"its name is that of its file"),
        ("[[runs]]\n" + GOOD + "[[runs]]\n" + GOOD + "limt = 3", r"  runs\[2\]\.limt: .* did you mean limit\?"),
        ('[[runs]]\ndatasets = ["voc21"]', r"  runs\[1\]\.methods: is missing"),
        ('[[runs]]\nmethods = []\ndatasets = ["voc21"]', r"  runs\[1\]\.methods: .*at least 1"),
        ('[[runs]]\nmethods = "sclip"\ndatasets = ["voc21"]', r"  runs\[1\]\.methods: "),
        ("[[runs]]\n" + GOOD.replace("sclip", "sclpi"), r"  runs\[1\]\.methods: .*did you mean sclip\?"),
        (
            "[[runs]]\n" + GOOD.replace("voc21", "voc12"),
            r"  runs\[1\]\.datasets: unknown data set 'voc12'.*mean voc21\?",
        ),
        ("[[runs]]\n" + GOOD + 'protocols = ["unifed"]', r"  runs\[1\]\.protocols: .*did you mean unified\?"),
        ("[[runs]]\n" + GOOD.replace('["sclip"]', '["sclip", "sclip"]'), r"\.methods: 'sclip' stands there twice"),
        ("[[runs]]\n" + GOOD + "limit = 0", r"  runs\[1\]\.limit: .*greater than or equal to 1"),
        ("[[runs]]\n" + GOOD + "limit = true", r"  runs\[1\]\.limit: .*valid integer"),
        ("[[runs]]\n" + GOOD + 'limit = "8"', r"  runs\[1\]\.limit: .*valid integer"),
        ("[[runs]]\n" + GOOD + 'boundary = "yes"', r"  runs\[1\]\.boundary: "),
        (
            "[[runs]]\n" + GOOD + "set = { short_side = 3 }",
            r"  runs\[1\]: changing short_side of protocol 'unified' does not work:\n.*did you mean short_side_px\?",
        ),
        ("[[runs]]\n" + GOOD + "set = { short_side_px = -3 }", r"  runs\[1\]: .*short_side_px"),
        ("[[runs]]\n" + GOOD + 'options = { "naclip.x" = 1 }', r"option 'naclip\.x' is for none of the methods sclip"),
        ("[[runs]]\n" + GOOD + 'backbone = "ViT-B-61/openai"', r"  runs\[1\]: unknown backbone .*did you mean"),
        ("[[runs]]\n" + GOOD + 'weights = "absent.pt"', r"  runs\[1\]: weights file .*absent\.pt does not exist"),
        ("[[runs]]\n" + GOOD.replace("sclip", "tcl-x:X") + 'protocols = ["own"]', r"no preset of the name 'tcl-x:X'"),
        ('[[runs]]\nmethods = ["sclip"]\ndatasets = ["mine/absent.toml"]', r"  runs\[1\]\.datasets: .*absent\.toml"),
        ("[[runs\n", r"is no valid TOML"),
    ],
)
def test_mistakes_are_told_with_their_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    from ovss.datasets import DataError

    with pytest.raises((UserError, DataError), match=said) as told:
        read_suite(written(tmp_path, text))
    assert str(tmp_path / "mine.toml") in str(told.value)


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    text = 'titel = "x"\n[[runs]]\n' + GOOD.replace("sclip", "sclpi") + "limit = 0\n[[runs]]\n" + GOOD + "limt = 1"
    with pytest.raises(UserError) as told:
        read_suite(written(tmp_path, text))
    assert "at least 1" not in str(told.value)  # the tables are there
    for key in ("titel: ", "runs[1].methods: ", "runs[1].limit: ", "runs[2].limt: "):
        assert key in str(told.value)


def test_an_unknown_suite_is_told_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown suite 'eight'; did you mean|unknown suite 'eight'\."):
        read_suite("eight")
    with pytest.raises(
        UserError, match=r"unknown suite 'shaeps'; did you mean shapes\? Known: .*the path of a \.toml file"
    ):
        read_suite("shaeps")
