"""``bench sweep`` and ``bench time`` on the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ovss.harness.runs import swept

from ..things import write_things
from .conftest import Ended

Bench = Callable[..., Ended]
TINY = ("--backbone", "tiny-clip", "--set", "logit_scale=40", "--set", "templates=simple")
SWEPT = ("--set", "probability_threshold=0:0.9:0.3")


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_things(tmp_path_factory.mktemp("home") / "things", 4))


def test_a_sweep_says_what_runs_say(bench: Bench, things: str) -> None:
    found = bench("sweep", "-m", "maskclip", "-d", things, *TINY, *SWEPT, "--json").json()
    assert found["values"] == [0.0, 0.3, 0.6]
    for point in found["methods"][0]["points"]:
        changed = ("--set", f"probability_threshold={point['value']}")
        assert point["miou"] == bench("run", "-m", "maskclip", "-d", things, *TINY, *changed, "--json").json()["miou"]
    (path,) = Path("results/sweeps").glob("*/sweep.json")
    assert json.loads(path.read_text())["name"] == path.parent.name == found["name"]


def test_a_sweep_that_loads_ahead_finds_the_same(bench: Bench, things: str) -> None:
    command = ("sweep", "-m", "maskclip", "-d", things, *TINY, *SWEPT, "--json", "--results")
    here = bench(*command, "here").json()
    ahead = bench(*command, "ahead", "--loaders", "2", "--cache-decoded", "kept").json()
    moving = {"finished"}
    assert {k: v for k, v in here.items() if k not in moving} == {k: v for k, v in ahead.items() if k not in moving}
    assert len(list(Path("kept").glob("*.decoded"))) == 4


def test_tables_for_people(bench: Bench, things: str) -> None:
    out = bench("sweep", "-m", "maskclip,clip", "-d", things, *TINY, *SWEPT).out
    assert "maskclip on things all, 4 images" in out and "protocol tiny*" in out and "best on the tuning half" in out
    assert "chosen on 2 units, reported on the 2 others (2 images)" in out and "clip - maskclip" in out
    assert "no interval: 4 units, 10 are needed" in out and "no interval: 2 units, 10 are needed" in out
    assert "weights tiny-clip file:" in out and "code " in out and "###" in out
    assert "decoded by itself" not in out


def test_a_value_that_needs_its_own_decode_is_said(bench: Bench, things: str) -> None:
    out = bench("sweep", "-m", "maskclip", "-d", things, *TINY[:2], "--set", "area_threshold=0,0.2").out
    assert "every value was decoded by itself" in out and "area_threshold" in out


def test_stopped_by_the_user(bench: Bench, things: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(swept, "count_values", stop)
    ended = bench("sweep", "-m", "maskclip", "-d", things, *TINY, *SWEPT)
    assert ended.code == 130 and "keeps nothing" in ended.err and not Path("results/sweeps").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--set", "logit_scale=40"), "no --set names several values"),
        (("--set", "window_px=0:448:224"), "window_px cannot be swept"),
        (("--set", "probability_threshold=0:1:0"), "START:STOP:STEP"),
        (("--set", "probability_threshold=0.5,1.5"), "less than 1"),
        (("--set", "class_gate=0.1,0.2"), "no class_gate"),
    ],
)
def test_what_cannot_be_swept_is_a_paragraph(bench: Bench, things: str, words: tuple[str, ...], message: str) -> None:
    ended = bench("sweep", "-m", "maskclip", "-d", things, "--backbone", "tiny-clip", *words)
    assert ended.code == 2 and ended.err.startswith("error: ") and message in ended.err
    assert not Path("results").exists()


@pytest.mark.parametrize("verb", [("sweep", "-m", "maskclip", *SWEPT), ("time", "maskclip")])
def test_one_data_set_at_a_time(bench: Bench, verb: tuple[str, ...]) -> None:
    ended = bench(*verb, "-d", "voc21,voc20")
    assert ended.code == 2 and "names 2 data sets here" in ended.err


def test_methods_are_timed(bench: Bench) -> None:
    ended = bench("time", "maskclip,clip", "-d", "shapes", "--limit", "2", "--repeats", "2")
    assert ended.code == 0, ended.err
    for words in ("2 images, 2 passes", "clip / maskclip", "1 image at a time", "used by others", "governor", "thread"):
        assert words in ended.out
    (path,) = Path("results/timings").glob("*.json")
    assert str(path) in ended.out


def test_a_timing_as_json(bench: Bench) -> None:
    found = bench("time", "clip", "-d", "shapes", "--limit", "1", "--repeats", "3", "--json").json()
    (method,) = found["methods"]
    assert len(method["passes"]) == 3 and found["ratios"] == [] and found["machine"]["cores"] >= 1
