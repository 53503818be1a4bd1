"""The lint of words and the number of units as a user meets them: run, segment, data check, protocol."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovss.datasets import dataset_keys, find_record
from ovss.harness.protocol.protocol import load_protocol

Command = Callable[..., Any]
LONG = " ".join(["cat"] * 80)
TINY = ("-m", "clip", "--backbone", "tiny-clip")


def data_set(folder: Path, *classes: str, images: int = 2, **fields: Any) -> str:
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
        for k in range(images):
            size, top = ((32, 32, 3), 256) if name == "images" else ((32, 32), len(classes))
            Image.fromarray(rng.integers(0, top, size, np.uint8)).save(folder / name / f"{k:02}.png")
    values = {"key": "own", "title": "t", "images": "images", "labels": "labels", "image_suffix": ".png"}
    values |= {"protocol": "tiny", "classes": classes, **fields}
    (folder / "own.toml").write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items()))
    return str(folder / "own.toml")


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        (("cat", "sofa, cat"), "'cat' speaks for 'cat' and 'sofa, cat'"),
        (("dining-table", "dining - table"), "are the same tokens"),
        ((f"{LONG} left", f"{LONG} right"), "are the same tokens"),
    ],
)
def test_classes_that_are_one_are_refused_everywhere(
    bench: Command, tmp_path: Path, classes: tuple[str, ...], says: str
) -> None:
    name = data_set(tmp_path / "set", *classes)
    run = bench("run", *TINY, "-d", name)
    assert run.code == 2 and says in run.err and "allow_shared_texts=true" in run.err and run.out == ""
    check = bench("data", "check", name)
    assert check.code == 1 and "problem:" in check.out and says in check.out
    lint = bench("protocol", "lint", "tiny", "--dataset", name, "--json")
    assert lint.code == 1 and json.loads(lint.out)[0]["level"] == "error"
    meant = bench("run", *TINY, "-d", name, "--set", "allow_shared_texts=true", "--json")
    assert meant.code == 0 and says in meant.err and json.loads(meant.out)["protocol"] == "tiny*"


def test_a_cut_text_is_said_with_its_tokens(bench: Command, tmp_path: Path, photo: Path) -> None:
    name = data_set(tmp_path / "set", LONG, "sofa")
    run = bench("run", *TINY, "-d", name)
    assert run.code == 0 and run.err.count("texts are cut, 32 tokens are read (1)") == 1
    assert "texts are cut, 77 tokens are read (1)" in bench("data", "check", name).out
    segment = bench("segment", str(photo), "--classes", f"{LONG}, sofa", *TINY, "-o", "out.png")
    assert segment.code == 0 and "texts are cut, 32 tokens are read (1)" in segment.err
    words = bench("protocol", "words", "tiny", "--dataset", name)
    assert words.code == 0 and "cut to 77" in words.out and "as OpenAI's CLIP does" in words.out


def test_a_photo_and_two_spellings_of_one_class(bench: Command, photo: Path) -> None:
    ended = bench("segment", str(photo), "--classes", "dining-table, dining - table", *TINY, "-o", "out.png")
    assert ended.code == 2 and "are the same tokens" in ended.err and not Path("out.png").exists()


def test_lint_goes_through_every_data_set_of_a_protocol(bench: Command, tmp_path: Path) -> None:
    found = bench("protocol", "lint", "proxyclip", "--json").json()
    assert {row["dataset"] for row in found} == {"ade20k", "cityscapes", "coco_object", "coco_stuff"}  # joined words
    plain = bench("protocol", "lint", "proxyclip").out
    assert "'bed' speaks for" in plain and "nothing found" in plain
    for key in load_protocol("proxyclip").dataset:
        assert key in plain
    path = tmp_path / "mine.toml"
    path.write_text('summary = "s"\nsource = "s"\nversion = 1\nfamily = "paper"\n[base]\n[dataset.cityscape]\n')
    (row,) = bench("protocol", "lint", str(path), "--json").json()
    assert row["level"] == "warning" and "did you mean cityscapes?" in row["text"]
    assert "protocol tiny on shapes: nothing found" in bench("protocol", "lint", "tiny").out


def test_words_of_a_protocol(bench: Command) -> None:
    found = bench("protocol", "words", "sclip/voc21", "--json").json()
    assert (found["protocol"], found["dataset"], found["context"], len(found["templates"])) == (
        "sclip",
        "voc21",
        77,
        80,
    )
    person = [row for row in found["texts"] if row["class"] == "person"]
    assert len(person) == 7 and {row["text"] for row in person} >= {"person", "person in jeans"}
    assert all(row["prompt"] == f"a bad photo of a {row['text']}." and not row["cut"] for row in found["texts"])
    assert all(8 < row["tokens"] < 30 for row in found["texts"])
    plain = bench("protocol", "words", "sclip", "--dataset", "voc21").out
    assert "a bad photo of a person in jeans." in plain and "each text stands in 80 prompts" in plain
    assert "no text: wins by threshold alone" in bench("protocol", "words", "groupvit/voc21").out
    for arguments, says in ((("sclip",), "needs a data set"), (("sclip/voc22",), "unknown data set 'voc22'")):
        ended = bench("protocol", "words", *arguments)
        assert ended.code == 2 and says in ended.err and ended.out == ""


def test_every_shipped_data_set_can_be_checked_for_words() -> None:
    """What `bench data check` adds is no problem on any data set of the catalogue, and no warning but for a few."""
    from ovss.harness.cli.protocol_words import lint_data

    for key in dataset_keys():
        record = find_record(key)
        assert [f for f in lint_data(record.protocol, record) if f[0] != "info"] == [], key


# --- units ------------------------------------------------------------------------------------------------------------


def test_few_units_are_told_everywhere(bench: Command, tmp_path: Path) -> None:
    """Twelve frames in blocks of six are two units."""
    name = data_set(tmp_path / "set", "cat", "sofa", images=12, block_frames=6)
    reason = "no interval: 2 units, 10 are needed"
    run = bench("run", *TINY, "-d", name)
    assert run.code == 0 and "12, 2 units" in run.out and reason in run.out and "[" not in run.out.splitlines()[1]
    found = bench("run", *TINY, "-d", name, "--json").json()
    assert (found["images"], found["units"], found["interval"]) == (12, 2, None)
    bench("run", "-m", "maskclip", "--backbone", "tiny-clip", "-d", name)
    assert reason in bench("show", "own-clip-tiny").out
    compared = bench("compare", "own-clip-tiny", "own-maskclip-tiny")
    assert compared.code == 0 and f"{reason}; so there is no p value" in compared.out
    value = bench("compare", "own-clip-tiny", "own-maskclip-tiny", "--json").json()
    (pair,) = value["differences"]
    assert (value["images"], value["units"], pair["interval"], pair["p_value"]) == (12, 2, None, None)
    rows = bench("leaderboard", "--json").json()
    assert all((r["units"], r["low"], r["group"], r["behind_low"]) == (2, None, None, None) for r in rows)
    assert sorted(r["behind"] == 0 for r in rows) == [False, True]  # the difference itself is told
    assert "12 images, 2 units" in bench("leaderboard").out and reason in bench("leaderboard").out
    page = Path("results/LEADERBOARD.md").read_text()
    assert "own, all, 12 images, 2 units" in page and "No interval: 2 units, 10 are needed." in page
    assert "units" in Path("results/LEADERBOARD.csv").read_text().partition("\n")[0]
    ceiling = bench("ceiling", "-d", name)
    assert ceiling.code == 0 and "12 of 12, 2 units" in ceiling.out and reason in ceiling.out
