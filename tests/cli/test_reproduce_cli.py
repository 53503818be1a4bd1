"""``bench reproduce``: what is missing, exit codes, and reported values run to their end with random weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ovss.datasets.dataset import FolderDataset
from ovss.harness.report import claims

from ..datasets.miniatures import build
from .conftest import Ended

Bench = Callable[..., Ended]
Save = Callable[[str], Path]
SMALL = """
[lines.sclip]
method = "sclip"
published = "SCLIP"
weights = "openai ViT-B/16"
backbone = "ViT-S-32-alt/openai"
checkpoints = [["clip-vit-b-16-openai"]]
protocol = "quick.toml"
reasons = ["small"]

[lines.clearclip]
method = "clearclip"
published = "ClearCLIP"
weights = "openai ViT-B/16"
backbone = "ViT-S-32-alt/openai"
checkpoints = [["clip-vit-b-16-openai"], ["dino-vitb8"]]
protocol = "quick.toml"

[reasons]
small = "the backbone is another one"
"""
QUICK = """
summary = "small and with one template"
source = "made up"
version = 1
family = "paper"
base = { short_side_px = 32, templates = "simple", vocabulary = "official" }
dataset = { voc21 = {}, voc20 = {} }
"""


@pytest.fixture(autouse=True)
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches; returns the folder of the hub's."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("OVSS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "hub"


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, random_weights: Save) -> None:
    """Claims of a small backbone, random weights in the place of its released ones, three images of VOC."""
    (tmp_path / "quick.toml").write_text(QUICK)
    (tmp_path / "claims.toml").write_text(SMALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(claims, "TABLE", tmp_path / "claims.toml")
    mirror = tmp_path / "mirror"
    (mirror / "clip-vit-b-16-openai").mkdir(parents=True)
    shutil.copy(random_weights("ViT-S-32-alt"), mirror / "clip-vit-b-16-openai" / "open_clip_model.safetensors")
    monkeypatch.setenv("OVSS_WEIGHTS", str(mirror))
    monkeypatch.setenv("OVSS_DATA", str(build("voc21", tmp_path / "data")))


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The images that are there are all that there should be."""
    monkeypatch.setattr(FolderDataset, "planned", property(lambda self: len(self.ids)))


# ---- nothing is here


def test_what_is_missing_is_told_with_its_commands(bench: Bench) -> None:
    done = bench("reproduce", "sclip/voc21")
    assert done.code == 2 and done.err == ""
    for words in (
        "reported 59.63 (github.com/wangf3014/SCLIP README table)",
        "`bench weights fetch clip-vit-b-16-openai`",
        "`bench data download voc21 --into DIR`",
        "expected time: unknown until the first images",
        "needs clip-vit-b-16-openai, voc21",
        "float16",
        "what else differs is unknown",
    ):
        assert words in done.out, words
    assert bench("reproduce", "sclip/voc21", "--dry-run").code == 0


def test_a_table_of_all_claims(bench: Bench) -> None:
    done = bench("reproduce", "--all")
    assert done.code == 2
    lines = {line.split()[0]: line for line in done.out.splitlines() if line}
    assert lines["sclip/voc21"].split()[1:] == ["59.63", "clip-vit-b-16-openai,", "voc21", "unknown", "needs"]
    assert lines["clearclip/voc21"].split() == ["clearclip/voc21", "not", "reported"]
    prepare = "`bench data prepare context60 --data-root DIR`"
    assert f"  context60: `bench data download context60 --into DIR`, then {prepare}" in done.out
    assert "a value reproduces within 0.5 mIoU on all images" in done.out
    assert bench("reproduce", "--all", "--dry-run").code == 0


def test_claims_as_json(bench: Bench) -> None:
    values = bench("reproduce", "--all", "--dry-run", "--json").json()
    assert [value["claim"] for value in values] == list(claims.list_claims())
    (one,) = [value for value in values if value["claim"] == "cliper-whole/voc21"]
    assert {k: one[k] for k in ("method", "options", "protocol", "backbone", "postprocessing", "reported")} == {
        "method": "cliper",
        "options": {"window_px": 0},
        "protocol": "cliper-v2",
        "backbone": "ViT-B-16-quickgelu/openai",
        "postprocessing": "SD-refine",
        "reported": 66.4,
    }
    assert [need["present"] for need in one["needs"]] == [False] * 3 and one["verdict"] == "needs"
    assert one["ours"] is one["expected"] is one["difference"] is None
    alone = bench("reproduce", "sclip/voc21", "--dry-run", "--json").json()
    assert alone["claim"] == "sclip/voc21"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "name claims as METHOD/DATASET"),
        (["sclip/voc21", "--all"], "name claims as METHOD/DATASET"),
        (["sclp/voc21"], "did you mean sclip"),
        (["sclip"], "write sclip/DATASET, or 'sclip/*' for all"),
        (["sclip/camvid"], "sclip/camvid is not reported: github.com/wangf3014/SCLIP README table has no value"),
        (["clearclip/voc21"], "has no value for it, but for voc20, context59, coco_stuff, cityscapes, ade20k"),
        (["sclip/voc21", "nothing/*"], "'nothing/*' is no reported line"),
        (["sclip/voc21", "--tolerance", "inf"], "--tolerance is inf"),
        (["sclip/voc21", "--device", "gpu"], "unknown device 'gpu'"),
    ],
)
def test_what_is_refused(bench: Bench, words: list[str], says: str) -> None:
    done = bench("reproduce", *words)
    assert done.code == 2 and says in done.err and done.out == ""


# ---- random weights in the place of the released ones


@pytest.mark.usefixtures("small", "whole")
def test_a_reported_value_is_run_to_its_end(bench: Bench) -> None:
    done = bench("reproduce", "sclip/voc21")
    assert done.code == 1, done.err
    assert "does not reproduce: not within 0.5 mIoU, on all 3 images" in done.out
    assert "reported 59.63" in done.out and "difference -" in done.out
    assert "weights are not known to be the released ones" in done.out
    assert "the backbone is another one" in done.out
    assert "s per image, all take about" in done.err and "warning: sclip/voc21" not in done.err
    again = json.loads(bench("reproduce", "sclip/voc21", "--json").out)
    assert again["verdict"] == "does not reproduce" and again["ours"]["images"] == again["ours"]["planned"] == 3
    assert again["difference"] == pytest.approx(again["ours"]["miou"] - 59.63)
    assert again["expected"]["run"] == Path(again["ours"]["run_dir"]).name
    assert bench("reproduce", "sclip/voc21", "--tolerance", "100").code == 0


@pytest.mark.usefixtures("small", "whole")
def test_of_many_those_are_run_that_miss_nothing(bench: Bench) -> None:
    assert bench("reproduce", "*/voc2*", "--dry-run").out.count("not run") == 3  # two claims, and their sum
    done = bench("reproduce", "*/voc2*")
    lines = {line.split()[0]: line for line in done.out.splitlines() if "/" in line.split()[0]}
    assert lines["sclip/voc21"].endswith("does not reproduce") and lines["sclip/voc20"].endswith("does not reproduce")
    assert lines["clearclip/voc20"].endswith("needs") and "dino-vitb8" in lines["clearclip/voc20"]
    assert done.code == 1 and done.out.count("weights are not known to be the released ones") == 1
    known = bench("reproduce", "--all", "--dry-run")
    assert known.code == 1 and known.out.count("does not reproduce") == 3


@pytest.mark.usefixtures("small")
def test_fewer_images_are_no_verdict(bench: Bench) -> None:
    """Asked for with --limit it is as it should be; else images are missing."""
    limited = bench("reproduce", "sclip/voc21", "--limit", "2")
    assert limited.code == 0 and "partial: 2 of 1449 images, which is no verdict" in limited.out
    found = bench("reproduce", "sclip/voc21")
    assert found.code == 2 and "partial: 3 of 1449 images" in found.out
    assert "3 of 1449 images: a result would be partial" in found.out


@pytest.mark.slow
@pytest.mark.usefixtures("whole")
def test_vit_b_16_as_it_is_released(
    bench: Bench, nothing_here: Path, tmp_path: Path, random_weights: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shipped claim, weights in the hub's cache, and the same verdict in the leaderboard."""
    home = nothing_here / "models--timm--vit_base_patch16_clip_224.openai"
    for folder in ("refs", "snapshots/0123"):
        (home / folder).mkdir(parents=True)
    (home / "refs" / "main").write_text("0123")
    shutil.copy(random_weights("ViT-B-16-quickgelu"), home / "snapshots" / "0123" / "open_clip_model.safetensors")
    monkeypatch.setenv("OVSS_DATA", str(build("voc21", tmp_path / "data")))
    done = bench("reproduce", "sclip/voc21")
    assert done.code == 1 and "does not reproduce: not within 0.5 mIoU, on all 3 images" in done.out
    assert "weights are not known to be the released ones" in done.out
    assert bench("leaderboard").code == 0
    assert "README table): does not reproduce |" in Path("results/LEADERBOARD.md").read_text()
