"""``bench run -d A,B``: one pass, two reports."""

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ovss.datasets.shapes import CLASS_NAMES, make_scene

Command = Callable[..., Any]
IMAGES = 4
STUFF = 8
RECORD = 'key = "{key}"\ntitle = "{key}"\nimages = "{images}"\nimage_suffix = ".png"\nprotocol = "{protocol}"\n'
PROTOCOL = """
summary = "made up"
source = "nowhere"
version = 1
family = "paper"

[base]
templates = "simple"
short_side_px = 64
window_px = 48
stride_px = 32

[dataset.ground]
logit_scale = 40.0
probability_threshold = 0.15
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """``ground`` (with a background), ``plain`` and ``deep/all`` have the same images; ``other`` has its own."""
    for folder in ("images", "labels", "deep/labels", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
    for number in range(IMAGES):
        scene = make_scene("val", 40 + number, size=96)
        size = (slice(0, 60 + 7 * number), slice(0, 90 - 5 * number))
        image, label = Image.fromarray(scene.image[size]), scene.label[size].astype(int)
        image.save(tmp_path / "images" / f"{number}.png")
        image.save(tmp_path / "elsewhere" / f"{number}.png")
        things = np.where(label < STUFF, 0, label - STUFF + 1).astype(np.uint8)
        Image.fromarray(things).save(tmp_path / "labels" / f"{number}.png")
        Image.fromarray(label.astype(np.uint8)).save(tmp_path / "deep" / "labels" / f"{number}.png")
    names, protocol = json.dumps(CLASS_NAMES[STUFF:]), tmp_path / "own.toml"
    protocol.write_text(PROTOCOL)
    ground = f'labels = "labels"\nclasses = ["background", {names[1:]}\nbackground = 0\n'
    ground += f'words = ["grass, sky, sand", {names[1:]}\n'
    everything = f"classes = {json.dumps(CLASS_NAMES)}\ngroups = {[0] * STUFF + [1] * 14}\nparents = {{0 = [2]}}\n"
    records = {
        "ground": ("images", ground),
        "plain": ("images", f'labels = "labels"\nclasses = {names}\nfirst_label = 1\n'),
        "deep/all": ("../images", 'labels = "labels"\n' + everything),
        "other": ("elsewhere", 'labels = "labels"\n' + everything),
    }
    for path, (images, fields) in records.items():
        record = RECORD.format(key=Path(path).name, images=images, protocol=protocol)
        (tmp_path / f"{path}.toml").write_text(record + fields)
    return tmp_path


COMMAND = ("run", "-m", "maskclip", "--backbone", "tiny-clip")
BOTH = ("-d", "ground.toml,plain.toml")


def outputs(report: dict[str, Any]) -> tuple[bytes, bytes]:
    folder = Path(report["run_dir"])
    return (folder / "counts.parquet").read_bytes(), (folder / "metrics.json").read_bytes()


def test_two_reports_are_those_of_two_runs(bench: Command, home: Path) -> None:
    shared = bench(*COMMAND, *BOTH, "--json").json()
    assert [r["dataset"] for r in shared] == ["ground", "plain"]
    assert [r["shared_with"] for r in shared] == [["maskclip on plain"], ["maskclip on ground"]]
    assert [(r["images"], r["complete"], len(r["per_class"])) for r in shared] == [(4, True, 15), (4, True, 14)]
    for report in shared:
        manifest = json.loads((Path(report["run_dir"]) / "manifest.json").read_text())
        assert manifest["shared_with"] == report["shared_with"] and manifest["workers"] == 1
    for report in shared:
        alone = bench(*COMMAND, "-d", f"{report['dataset']}.toml", "--results", "apart", "--json").json()
        assert isinstance(alone, dict) and alone["shared_with"] == []
        assert outputs(alone) == outputs(report)
        assert Path(alone["run_dir"]).name == Path(report["run_dir"]).name
        assert [alone[k] for k in ("miou", "interval", "protocol_hash")] == [
            report[k] for k in ("miou", "interval", "protocol_hash")
        ]
    assert shared[0]["protocol_hash"] != shared[1]["protocol_hash"]


def test_one_table_with_a_row_for_each(bench: Command, home: Path) -> None:
    ended = bench(*COMMAND, "-d", "ground.toml, plain.toml", "--picture", "seen.png")
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    rows = [line for line in lines if line.split()[:1] == ["maskclip"]]
    assert len(rows) == 2 and " ground all " in rows[0] and " plain all " in rows[1]
    assert sum("mIoU [95 %]" in line for line in lines) == 1 and lines.index(rows[1]) == lines.index(rows[0]) + 1
    assert "one pass over the images for all" in ended.out
    found = [line.removeprefix("run ").partition(",")[0] for line in lines if line.startswith("run ")]
    assert len(found) == 2 and all((home / f / "manifest.json").is_file() for f in found)
    assert ended.out.count("ranks do not transfer") == 1 and ended.out.count("seen.png") == 1
    assert (home / "seen.png").is_file()
    single = bench(*COMMAND, "-d", "plain.toml")
    assert "one pass" not in single.out


def test_limit_then_all_with_more_images_in_one_than_in_the_other(bench: Command, home: Path) -> None:
    whole = [bench(*COMMAND, "-d", n, "--results", "apart", "--json").json() for n in ("ground.toml", "plain.toml")]
    part = bench(*COMMAND, "-d", "plain.toml", "--limit", "3", "--json").json()
    some = bench(*COMMAND, *BOTH, "--limit", "2", "--json").json()
    assert [r["images"] for r in some] == [2, 2] and [r["complete"] for r in some] == [False, False]
    assert some[1]["run_dir"] == part["run_dir"]
    done = bench(*COMMAND, *BOTH, "--json").json()
    assert list(map(outputs, done)) == list(map(outputs, whole))
    parts = {p: p.stat().st_mtime_ns for p in home.glob("results/runs/*/parts/*")}
    images = sorted(int(p.stem.split("-")[2]) for p in parts)
    assert images == [1, 2, 2, 3]  # plain 3 + 1, ground 2 + 2: nothing was done twice
    assert list(map(outputs, bench(*COMMAND, *BOTH, "--json").json())) == list(map(outputs, whole))
    assert parts == {p: p.stat().st_mtime_ns for p in home.glob("results/runs/*/parts/*")}
    fresh = bench(*COMMAND, *BOTH, "--fresh", "--json").json()
    assert list(map(outputs, fresh)) == list(map(outputs, whole))
    assert not set(parts) & set(home.glob("results/runs/*/parts/*"))


def test_workers(bench: Command, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records in different folders, one given by its full path: they name the same images.

    Workers are forked here, which saves ten seconds; the console script has a fork server for them (test_kill).
    """
    forked = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: forked)
    names = f"plain.toml,{home / 'deep' / 'all.toml'}"
    shared = bench(*COMMAND, "-d", names, "--workers", "2", "--json").json()
    assert [r["shared_with"] for r in shared] == [["maskclip on all"], ["maskclip on plain"]]
    alone = [bench(*COMMAND, "-d", n, "--results", "apart", "--json").json() for n in names.split(",")]
    assert list(map(outputs, shared)) == list(map(outputs, alone))
    manifest = json.loads((Path(shared[0]["run_dir"]) / "manifest.json").read_text())
    assert manifest["workers"] == 2


def test_confusion(bench: Command, home: Path) -> None:
    command = (*COMMAND, "-d", "deep/all.toml,plain.toml", "--json")
    without, stored = bench(*command).json(), bench(*command, "--confusion").json()
    assert len({r["run_dir"] for r in (*without, *stored)}) == 4
    for a, b in zip(without, stored, strict=True):
        assert (a["miou"], a["per_class"]) == (b["miou"], b["per_class"])
    assert {"group_miou", "sg_miou"} <= set(stored[0]) and not {"group_miou", "sg_miou"} & {*without[0], *stored[1]}
    assert stored[0]["group_miou"] > stored[0]["miou"] and stored[0]["sg_miou"] >= stored[0]["miou"]
    frame = pd.read_parquet(Path(stored[0]["run_dir"]) / "counts.parquet")
    for row in frame.itertuples():
        gt, pred, tp = np.zeros(22, int), np.zeros(22, int), np.zeros(22, int)
        np.add.at(gt, row.confusion_label, row.confusion_pixels)
        np.add.at(pred, row.confusion_prediction, row.confusion_pixels)
        right = row.confusion_label == row.confusion_prediction
        np.add.at(tp, row.confusion_label[right], row.confusion_pixels[right])
        assert [list(v) for v in (tp, gt, pred)] == [list(row.tp), list(row.gt), list(row.pred)]
        assert (row.confusion_pixels > 0).all()  # only cells that are not empty


REFUSED = {
    "other images": (
        "ground.toml,other.toml",
        (),
        ["ground and other cannot share a pass", "the same images"],
    ),
    "another number": ("plain.toml,fewer.toml", (), ["plain and fewer cannot share a pass", "the same images"]),
    "third": ("ground.toml,plain.toml,other.toml", (), ["ground and other cannot share a pass"]),
    "twice": ("plain.toml,plain.toml", (), ["plain.toml twice"]),
    "twice, not first": ("ground.toml,plain.toml,plain.toml", (), ["plain.toml twice"]),
    "same key": ("plain.toml,copy.toml", (), ["names plain twice", "key of its own"]),
    "procedural": ("shapes,shapes:val", (), ["names shapes twice"]),
    "unknown": ("ground.toml,camvit", (), ["unknown data set 'camvit'", "did you mean camvid?"]),
    "empty": ("ground.toml,", (), ["unknown data set ''"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(bench: Command, home: Path, what: str) -> None:
    names, more, words = REFUSED[what]
    (home / "list.txt").write_text("0\n1\n")
    plain = (home / "plain.toml").read_text()
    (home / "fewer.toml").write_text(plain.replace('key = "plain"', 'key = "fewer"\nlist_file = "list.txt"'))
    (home / "copy.toml").write_text(plain.replace('labels = "labels"', 'labels = "deep/labels"'))
    ended = bench(*COMMAND, "-d", names, *more)
    assert ended.code == 2 and ended.out == "", ended
    assert all(word in ended.err for word in words), ended.err
    assert "Traceback" not in ended.err and ended.err.startswith("error: ")
    assert not (home / "results").exists()


def test_broken_labels_of_the_second_stop_both(bench: Command, home: Path) -> None:
    Image.new("L", (90, 60), 99).save(home / "deep" / "labels" / "0.png")
    ended = bench(*COMMAND, "-d", "plain.toml,deep/all.toml")
    assert ended.code == 2 and "data set 'all' has 1 problem(s); nothing was run" in ended.err
    assert not (home / "results").exists()


def test_two_methods_on_two_data_sets(bench: Command, home: Path) -> None:
    """A row and a document for every pair, methods first; each is the run that it is alone."""
    command = ("run", "-m", "clip, maskclip", "--backbone", "tiny-clip", *BOTH, "--option", "maskclip.pad=true")
    reports = bench(*command, "--json").json()
    pairs = [(m, d) for m in ("clip", "maskclip") for d in ("ground", "plain")]
    assert [(r["method"], r["dataset"]) for r in reports] == pairs and len({r["run_dir"] for r in reports}) == 4
    rows = [line.split()[:2] for line in bench(*command).out.splitlines() if line.startswith(("clip ", "maskclip "))]
    assert [tuple(row) for row in rows] == pairs
    for report, (method, dataset) in zip(reports, pairs, strict=True):
        options = ("--option", "pad=true") if method == "maskclip" else ()
        rest = ("--backbone", "tiny-clip", "-d", f"{dataset}.toml", *options, "--results", "apart", "--json")
        alone = bench("run", "-m", method, *rest).json()
        assert outputs(alone) == outputs(report)
        assert Path(alone["run_dir"]).name == Path(report["run_dir"]).name
