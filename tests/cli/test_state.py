"""What lies on disk is checked before it is believed: content of images and labels, parts, summaries, old folders."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovss.harness.runs import engine
from ovss.harness.runs.run import COUNTS, MANIFEST, METRICS, PLAN, Run
from ovss.harness.runs.sealed import seal

Command = Callable[..., Any]
MINI = Path(__file__).parents[1] / "data" / "mini"
SUMMARY = (COUNTS, METRICS, MANIFEST)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six scenes as files, to be changed at will."""
    return Path(shutil.copytree(MINI, tmp_path / "data"))


def run(bench: Command, data: Path, *more: str) -> Any:
    return bench("run", "-m", "maskclip", "-d", str(data / "mini.toml"), "--backbone", "tiny-clip", *more)


def folder_of(ended: Any) -> Path:
    return Path(ended.json()["run_dir"])


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in SUMMARY}


def change_a_pixel(path: Path) -> None:
    pixels = np.array(Image.open(path))
    pixels.reshape(-1)[0] ^= 1
    Image.fromarray(pixels).save(path)


# --- content of images and labels -------------------------------------------------------------------------------------


def test_the_same_data_in_two_places_is_one_run(bench: Command, data: Path, tmp_path: Path) -> None:
    first = folder_of(run(bench, data, "--json"))
    before = contents(first)
    elsewhere = Path(shutil.copytree(data, tmp_path / "elsewhere"))
    assert folder_of(run(bench, elsewhere, "--json")).name == first.name
    assert contents(first) == before  # answered, not done again


@pytest.mark.parametrize("changed", ["images", "labels"])
def test_another_pixel_is_another_run(bench: Command, data: Path, changed: str) -> None:
    first = run(bench, data, "--json")
    change_a_pixel(sorted((data / changed).iterdir())[-1])
    second = run(bench, data, "--json")
    assert folder_of(first) != folder_of(second)
    assert folder_of(second).is_dir() and len(list(folder_of(first).parent.iterdir())) == 2


def test_other_photos_under_the_same_names_get_their_own_number(bench: Command, data: Path) -> None:
    """Their negatives, under the old names."""
    right = run(bench, data, "--json").json()["miou"]
    for path in (data / "images").iterdir():
        Image.fromarray(255 - np.array(Image.open(path))).save(path)
    assert run(bench, data, "--json").json()["miou"] < right - 5


def test_an_image_beyond_the_limit_counts_too(bench: Command, data: Path) -> None:
    first = folder_of(run(bench, data, "--limit", "2", "--json"))
    change_a_pixel(sorted((data / "images").iterdir())[-1])
    assert folder_of(run(bench, data, "--limit", "2", "--json")) != first


@pytest.mark.parametrize("place", ["images", "labels"])
def test_files_replaced_in_mid_run_stop_it(
    bench: Command, data: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The fourth image of six changes after three were scored; its size and date stay."""
    victim = sorted((data / place).iterdir())[3]
    load, seen = engine._loaded, []

    def replacing(*given: Any, **named: Any) -> Any:
        seen.append(1)
        if len(seen) == 4:
            status = victim.stat()
            change_a_pixel(victim)
            os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
        return load(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_loaded", replacing)
        ended = run(bench, data)
    assert ended.code == 2 and "has changed since this run was planned" in ended.err and str(victim) in ended.err
    (first,) = (Path("results") / "runs").iterdir()
    assert len(Run(first).done()) == 3
    again = run(bench, data, "--json")  # the new content has a run of its own, from the first image on
    assert folder_of(again).name != first.name and again.json()["images"] == 6


# --- summaries --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SUMMARY)
@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "edited"])
def test_bench_run_mends_a_summary(bench: Command, data: Path, name: str, damage: str) -> None:
    """By merging anew: the same bytes, provenance and date included."""
    folder = folder_of(run(bench, data, "--json"))
    before, path = contents(folder), folder / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": content[:-20], "edited": content.replace(b"1", b"2", 1)}[damage])
    assert run(bench, data, "--json").code == 0
    assert contents(folder) == before


def test_a_plan_is_mended_too(bench: Command, data: Path) -> None:
    folder = folder_of(run(bench, data, "--json"))
    before, plan = contents(folder), (folder / PLAN).read_bytes()
    for damaged in (b"", plan.replace(b"mini", b"maxi", 1)):
        (folder / PLAN).write_bytes(damaged)
        assert run(bench, data, "--json").code == 0
        assert contents(folder) == before and (folder / PLAN).read_bytes() == plan


def test_metrics_are_never_believed(bench: Command, data: Path) -> None:
    """An edited number is shown nowhere, not even until the next ``bench run``."""
    ended = run(bench, data, "--json")
    folder, miou = folder_of(ended), ended.json()["miou"]
    edited = json.loads((folder / METRICS).read_text())
    (folder / METRICS).write_text(json.dumps({**edited, "miou": 99.9}))
    assert bench("show", str(folder), "--json").json()["metrics"]["miou"] == pytest.approx(miou)
    assert bench("leaderboard", "--json").json()[0]["miou"] == pytest.approx(miou)
    assert "99.9" not in Path("results/LEADERBOARD.md").read_text()


def test_a_finished_run_is_answered_without_writing(
    bench: Command, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full or read-only disk."""
    first = run(bench, data, "--json")
    folder = folder_of(first)
    stamps = {p: p.stat().st_mtime_ns for p in (folder, *folder.rglob("*"))}

    def refused(*given: Any, **named: Any) -> None:
        raise AssertionError("something was written")

    for name in ("lock", "begin", "merge"):
        monkeypatch.setattr(Run, name, refused)
    again = run(bench, data, "--json")
    assert again.json()["miou"] == first.json()["miou"] and folder_of(again) == folder
    assert stamps == {p: p.stat().st_mtime_ns for p in (folder, *folder.rglob("*"))}


# --- parts ------------------------------------------------------------------------------------------------------------


def test_a_damaged_part_is_done_again(bench: Command, data: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = folder_of(run(bench, data, "--json"))
    before = (folder / COUNTS).read_bytes()
    (part,) = (folder / "parts").iterdir()
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 16
    part.write_bytes(content)
    ended = run(bench, data, "--json")
    assert ended.code == 0 and "its images are done again" in caplog.text
    assert (folder / COUNTS).read_bytes() == before
    names = sorted(p.name for p in (folder / "parts").iterdir())
    assert names[0] == f"damaged-{part.name}" and len(names) == 2


def test_parts_of_another_run_are_not_reported_as_this_one(bench: Command, data: Path) -> None:
    ours = folder_of(run(bench, data, "--json"))
    other = folder_of(run(bench, data, "--set", "logit_scale=1", "--json"))
    (stranger,) = (other / "parts").iterdir()
    shutil.copy(stranger, ours / "parts")
    ended = run(bench, data)
    assert ended.code == 2 and "belongs to another run" in ended.err and stranger.name in ended.err
    shutil.rmtree(ours / "parts")
    shutil.copytree(other / "parts", ours / "parts")
    assert run(bench, data).code == 2


# --- the leaderboard and old folders ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["manifest", "counts", "old", "plan"])
def test_one_bad_folder_does_not_take_the_leaderboard_down(bench: Command, data: Path, fault: str) -> None:
    good = run(bench, data, "--json")
    bad = folder_of(run(bench, data, "--set", "logit_scale=1", "--json"))
    if fault == "old":
        (bad / MANIFEST).write_text('{"run": "of an older version", "images": 6}')
    else:
        path = bad / {"manifest": MANIFEST, "counts": COUNTS, "plan": PLAN}[fault]
        path.write_bytes(path.read_bytes()[:-30])
    ended = bench("leaderboard", "--json")
    assert ended.code == 1 and "Traceback" not in ended.err
    assert "left out:" in ended.err and bad.name in ended.err
    rows = json.loads(ended.out)
    assert [r["run"] for r in rows] == [folder_of(good).name]
    assert "older version" in ended.err or fault != "old"


def test_a_file_of_another_version_says_so(bench: Command, data: Path) -> None:
    folder = folder_of(run(bench, data, "--json"))
    (folder / MANIFEST).write_bytes(seal({"schema_version": 99}))
    ended = bench("show", str(folder))
    assert ended.code == 2 and "schema version 99" in ended.err
