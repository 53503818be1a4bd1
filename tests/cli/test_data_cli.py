"""``bench data``: from a copy on disk, an archive or a download to a run, and what is said when files are missing."""

import functools
import json
import re
import shlex
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovss.datasets import DatasetRecord, checks, dataset_keys, find_record
from ovss.datasets.record import Download, HealthCheck, Lookalike, Prepare

from ..datasets.miniatures import MINIATURES, RAW, build, build_raw

Command = Callable[..., Any]
DRAWN = re.compile(r"\x1b|[\u2500-\u259f]")
RUN = ("--backbone", "tiny-clip", "--limit", "2", "--set", "templates=simple", "--set", "short_side_px=64", "--json")


@pytest.fixture(autouse=True)
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's prepared files go."""
    path = tmp_path / "prepared"
    monkeypatch.setenv("OVSS_PREPARED", str(path))
    return path


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of every file."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def assert_refused(ended: Any, *words: str) -> None:
    """One paragraph that holds the words, exit code 2, nothing on stdout."""
    assert ended.code == 2 and ended.out == "" and ended.err.startswith("error: "), ended
    assert "Traceback" not in ended.err and "\n\n" not in ended.err.strip()
    assert all(word in ended.err for word in words), ended.err


# From a copy to a number


@pytest.mark.parametrize("key", MINIATURES)
def test_a_copy_is_checked_and_run(bench: Command, tmp_path: Path, key: str) -> None:
    root = build(key, tmp_path / "data", 2)
    found = bench("data", "check", key, "--data-root", str(root), "--expect", "2", "--json").json()
    assert (found["problems"], found["warnings"], found["checked"], found["complete"]) == ([], [], 2, True)
    run = bench("run", "-m", "clip", "-d", key, "--data-root", str(root), *RUN).json()
    assert run["dataset"] == key and run["images"] == 2


@pytest.mark.parametrize("key", RAW)
def test_what_is_handed_out_is_prepared_checked_and_run(
    bench: Command, tmp_path: Path, prepared: Path, key: str
) -> None:
    pytest.importorskip("pycocotools")
    pytest.importorskip("scipy")
    root = build_raw(key, tmp_path / "raw", 2)
    before = content(root)
    said = bench("data", "prepare", key, "--data-root", str(root), "--json").json()
    assert Path(said["to"]).parent == prepared and Path(said["from"]).is_relative_to(root)
    made = content(prepared)
    assert bench("data", "prepare", key, "--data-root", str(root), "--json").json() == said
    assert content(prepared) == made  # nothing is made twice

    bench_word, *following = shlex.split(said["next"])
    assert (bench_word, following[:2], following[3:]) == ("bench", ["data", "check"], ["--data-root", str(root)])
    found = bench(*following, "--expect", "2", "--json").json()
    assert (found["problems"], found["warnings"]) == ([], [])
    run = bench("run", "-m", "clip", "-d", following[2], "--data-root", str(root), *RUN).json()
    assert run["images"] == 2
    assert content(root) == before


def test_the_printed_commands_lead_to_a_run(bench: Command, tmp_path: Path) -> None:
    root = build_raw("mess_deepcrack", tmp_path / "with a blank", 2)
    ended = bench("data", "prepare", "mess_deepcrack", "--data-root", str(root))
    for verb in ("prepare", "check"):
        assert ended.code == 0, ended.err
        (command,) = re.findall(r"^next: `(.+)`$", ended.out, re.MULTILINE)
        words = shlex.split(command.replace("METHOD", "clip"))[1:]
        assert verb == "check" or words[1] == "check"
        ended = bench(*words) if words[0] == "data" else bench(*words, *RUN)
    assert ended.json()["images"] == 2


# list


def test_list_without_a_root(bench: Command) -> None:
    ended = bench("data", "list")
    assert ended.code == 0 and not ended.err and not DRAWN.search(ended.out)
    lines = ended.out.splitlines()
    assert [line.split()[0] for line in lines[1 : len(dataset_keys()) + 1]] == dataset_keys()
    assert lines[1].endswith("built in") and all(
        line.endswith("missing") for line in lines[2 : len(dataset_keys()) + 1]
    )
    assert "no data root is known: pass --data-root DIR, set OVSS_DATA, or write data_roots into" in ended.out
    assert "missing: `bench data download KEY` says how to get it" in ended.out


def test_list_says_what_is_here_and_what_helps(bench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("voc21", "ade20k"):
        build(key, tmp_path / "data", 1)
    build_raw("camvid", tmp_path / "data", 1)
    build_raw("context59", tmp_path / "data", 1)
    labels = tmp_path / "data/ade/ADEChallengeData2016/annotations"
    labels.rename(labels.with_name("elsewhere"))
    monkeypatch.setenv("OVSS_DATA", str(tmp_path / "data"))
    rows = {row["dataset"]: row for row in bench("data", "list", "--json").json()}
    status = {key: row["status"] for key, row in rows.items() if row["status"] != "missing"}
    pascal, context = (str(tmp_path / "data/VOCdevkit" / year) for year in ("VOC2012", "VOC2010"))
    assert status == {
        **dict.fromkeys(("voc21", "voc20", "voc20b"), "found"),
        **dict.fromkeys(("context59", "context60", "camvid@original"), "to prepare"),
        **dict.fromkeys(("ade20k", "pc459"), "no labels"),
        "shapes": "built in",
    }
    assert rows["voc20"]["where"] == pascal and rows["voc20"]["labels"] == f"{pascal}/SegmentationClass"
    assert rows["context59"]["where"] == context and rows["context59"]["labels"] is None
    assert rows["voc21"]["images"] == 1449 and rows["ade847"]["where"] is None
    assert set(rows["voc21"]["shares_images_with"]) == {"voc20", "voc20b", "context60", "context59", "pc459"}

    plain = bench("data", "list").out
    for words in (
        f"looked below {tmp_path / 'data'}",
        "to prepare: `bench data prepare KEY` makes the labels",
        "no labels: there are images; `bench data check KEY` says which labels are missing",
        "images in common, so results are not independent:\n  ade20k, ade847\n",
        "  coco_object, coco_stuff, coco_stuff27\n",
        "  context59, context60, pc459, voc20, voc20b, voc21\n",
    ):
        assert words in plain
    assert bench("data", "prepare", "camvid").code == 0
    rows = {row["dataset"]: row for row in bench("data", "list", "--json").json()}
    assert rows["camvid@original"]["status"] == "found" and rows["camvid"]["status"] == "missing"
    assert rows["camvid@original"]["labels"] == str(tmp_path / "prepared/camvid/labels")


def test_list_on_a_terminal_of_100_columns(
    bench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = build("voc21", tmp_path / "data", 1)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    drawn = bench("data", "list", "--data-root", str(root)).out
    table = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", drawn).splitlines() if re.search(r"[\u2500-\u259f]", line)]
    assert len(table) > len(dataset_keys()) and max(map(len, table)) <= 100
    assert any("mess_isprs_potsdam_irrg │" in line for line in table)


def test_a_wrong_configuration_is_no_missing_data(
    bench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.toml").write_text('data_root = "/data"\n')
    monkeypatch.setenv("OVSS_CONFIG", str(tmp_path / "config.toml"))
    for verb in (["list"], ["check", "voc21"], ["prepare", "camvid"]):
        assert_refused(bench("data", *verb), "config.toml is not usable", "data_root")


# check


def test_check_prints_problems_with_their_fixes(bench: Command, tmp_path: Path) -> None:
    root = build("voc21", tmp_path / "data", 3)
    labels = root / "VOCdevkit/VOC2012/SegmentationClass"
    (labels / "2007_000034.png").unlink()
    Image.fromarray(np.full((40, 48), 21, np.uint8)).save(labels / "2007_000035.png")
    ended = bench("data", "check", "voc21", "--data-root", str(root))
    assert ended.code == 1 and "Traceback" not in ended.err and not DRAWN.search(ended.out)
    lines = ended.out.splitlines()
    assert lines[0] == f"problem: {labels}/2007_000034.png: the file does not exist. Check the data root"
    assert lines[1].startswith(f"problem: {labels}/2007_000035.png: label values 21 are neither a class (0 to 20)")
    assert lines[1].endswith("check that this is SegmentationClass, not SegmentationObject")
    assert lines[2].startswith("warning: ") and "there are 3 images, 1449 are expected" in lines[2]
    assert lines[3].split() == ["class", "pixels", "images"]
    listed = "3 images, named by ImageSets/Segmentation/val.txt, checked"
    assert lines[-1] == f"voc21: {listed}, 2 problems, 1 warning; labels from {labels}"
    assert "next:" not in ended.out
    told = bench("data", "check", "voc21", "--data-root", str(root), "--json")
    report = json.loads(told.out)
    assert told.code == 1 and [p["file"] for p in report["problems"]] == [f"{labels}/2007_00003{k}.png" for k in (4, 5)]
    assert all(p["fix"] for p in (*report["problems"], *report["warnings"]))


def test_a_long_list_of_problems_is_cut(bench: Command, tmp_path: Path) -> None:
    root = build("voc21", tmp_path / "data", 26)
    labels = sorted((root / "VOCdevkit/VOC2012/SegmentationClass").iterdir())
    for path in labels[1:]:
        path.unlink()
    command = ("data", "check", "voc21", "--data-root", str(root))
    plain = bench(*command).out
    assert plain.count("problem: ") == 20 and "... and 5 problems more; --json lists them all" in plain
    assert len(json.loads(bench(*command, "--json").out)["problems"]) == 25


def test_a_number_of_images(bench: Command, tmp_path: Path) -> None:
    root = build("voc21", tmp_path / "data", 3)
    command = ("data", "check", "voc21", "--data-root", str(root))
    catalogued = bench(*command, "--json").json()
    assert catalogued["problems"] == [] and len(catalogued["warnings"]) == 1
    assert catalogued["warnings"][0]["what"] == "there are 3 images, 1449 are expected"
    assert "--expect N" in catalogued["warnings"][0]["fix"]
    clean = bench(*command, "--expect", "3")
    assert clean.code == 0 and "0 problems, 0 warnings" in clean.out
    assert f"next: `bench run --method METHOD --dataset voc21 --data-root {root}`" in clean.out
    other = bench(*command, "--expect", "4")
    assert other.code == 1 and "problem: " in other.out and "there are 3 images, 4 are expected" in other.out


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stems of the labels that are read from now on."""
    seen: list[str] = []
    read = checks.label_facts

    def counted(path: Path, record: DatasetRecord) -> Any:
        seen.append(path.stem)
        return read(path, record)

    monkeypatch.setattr(checks, "label_facts", counted)
    return seen


def test_a_second_check_reads_nothing(bench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = build("camvid", tmp_path / "data", 3)
    seen = count_reads(monkeypatch)
    command = ("data", "check", "camvid", "--data-root", str(root), "--json")
    first = bench(*command).json()
    assert len(seen) == 3
    assert bench(*command).json() == first and len(seen) == 3
    assert bench(*command, "--fast").json() == first and len(seen) == 3
    label = root / "CamVid/testannot/0001TP_008580.png"
    Image.fromarray(np.full((40, 48), 12, np.uint8)).save(label)
    assert bench(*command).code == 1 and seen[3:] == ["0001TP_008580"]


def test_a_fast_check_says_that_it_is_a_sample(bench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ovss.harness.cli import data

    monkeypatch.setattr(data, "_FAST", 3)
    root = build("voc21", tmp_path / "data", 8)
    (root / "VOCdevkit/VOC2012/SegmentationClass/2007_000034.png").unlink()
    seen = count_reads(monkeypatch)
    command = ("data", "check", "voc21", "--data-root", str(root), "--expect", "8")
    fast = bench(*command, "--fast")
    assert fast.code == 0 and sorted(seen) == ["2007_000033", "2007_000036", "2007_000039"]
    assert "voc21: a sample of 3 of 8 images (without --fast: all) checked, 0 problems" in fast.out
    report = bench(*command, "--fast", "--json").json()
    assert (report["checked"], report["listed"], report["complete"]) == (3, 8, False)
    assert bench(*command).code == 1


def test_progress_goes_to_stderr(bench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ovss.harness.show import progress

    monkeypatch.setattr(progress, "_PLAIN_EVERY_SECONDS", 0.0)
    root = build_raw("mess_deepcrack", tmp_path / "data", 2)
    ended = bench("data", "prepare", "mess_deepcrack", "--data-root", str(root), "--json")
    assert "preparing mess_deepcrack: 3/3" in ended.err and ended.json()["dataset"] == "mess_deepcrack"
    ended = bench("data", "check", "mess_deepcrack", "--data-root", str(root), "--json")
    assert "checking mess_deepcrack: 2/2" in ended.err and ended.json()["checked"] == 2


def test_other_names(bench: Command, tmp_path: Path) -> None:
    assert bench("data", "check", "shapes", "--fast", "--json").json()["checked"] == 100
    root = build("coco_object", tmp_path / "data", 2, "instances")
    found = bench("data", "check", "coco_object@instances", "--data-root", str(root), "--json").json()
    assert found["dataset"] == "coco_object@instances" and found["labels"].endswith("coco_seg_anno")
    own = Path(__file__).parents[1] / "data/mini/mini.toml"
    (warning,) = bench("data", "check", str(own), "--json").json()["warnings"]
    assert warning["what"].startswith("no label holds water, wood, tiles, ring, house and 4 more (9 of 22 classes)")


REFUSED = {
    "check voc22": ["unknown data set 'voc22'", "did you mean voc21?"],
    "check voc21": ["--data-root DIR", "OVSS_DATA"],
    "check voc21 --data-root gone": ["'voc21' is not there", "below gone", "`bench data download voc21`"],
    "check voc21@x --data-root gone": ["no ground truth 'x'", "aug"],
    "check gone.toml": ["gone.toml does not exist"],
    "prepare voc22": ["did you mean voc21?"],
    "prepare camvid": ["preparing 'camvid' needs the folder of the data: pass --data-root DIR, set OVSS_DATA"],
    "prepare camvid --data-root gone": [
        "no 'LabeledApproved_full' in gone, nor below it in CamVid",
        "data download camvid",
    ],
    "prepare own.toml": ["only listed ones are prepared"],
    "prepare voc21 --data-root gone": ["'voc21' is read as it is found", "is not there", "data download voc21"],
    "prepare camvid --archive gone.zip": ["gone.zip"],
    "download voc22": ["did you mean voc21?"],
    "download own.toml": ["only listed ones are prepared and downloaded"],
}


@pytest.mark.parametrize("line", REFUSED)
def test_mistakes(bench: Command, line: str) -> None:
    for extra in ([], ["--json"]):
        assert_refused(bench("data", *line.split(), *extra), *REFUSED[line])


# prepare


def test_nothing_to_prepare(bench: Command, tmp_path: Path, prepared: Path) -> None:
    root = build("voc21", tmp_path / "data", 1)
    ended = bench("data", "prepare", "voc21", "--data-root", str(root))
    assert ended.code == 0 and "voc21: nothing to prepare, labels are read as they are from" in ended.out
    assert f"next: `bench data check voc21 --data-root {root}`" in ended.out
    found = bench("data", "prepare", "shapes", "--json").json()
    assert (found["to"], found["next"]) == (None, "bench data check shapes")
    assert not prepared.exists()


def test_copies_of_what_is_read_as_it_is(bench: Command, tmp_path: Path) -> None:
    root = build_raw("coco_stuff", tmp_path / "data", 1)
    plain = bench("data", "prepare", "coco_stuff", "--data-root", str(root)).out
    folder = root / "coco_stuff164k/annotations/val2017"
    assert f"they are spare copies as long as labels are read as they are from {folder}\n" in plain


def test_preparing_without_the_images_says_so(bench: Command, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    root = build_raw("context59", tmp_path / "data", 1)
    images = root / "VOCdevkit/VOC2010/JPEGImages"
    images.rename(images.with_name("elsewhere"))
    ended = bench("data", "prepare", "context59", "--data-root", str(root))
    assert ended.code == 0 and "not complete yet: data set 'context59' is not there: no images" in ended.out
    assert "next: `bench data download context59`" in ended.out


def test_bad_originals_are_named(bench: Command, tmp_path: Path, prepared: Path) -> None:
    root = build_raw("mess_deepcrack", tmp_path / "data", 3)
    bad = root / "DeepCrack/test_lab/11215-2.png"
    bad.write_bytes(b"no picture")
    ended = bench("data", "prepare", "mess_deepcrack", "--data-root", str(root))
    assert_refused(ended, "1 file(s) cannot be converted", f"{bad}: the file cannot be read", "download it again")
    assert len(list((prepared / "mess_deepcrack/labels").iterdir())) == 2
    Image.fromarray(np.zeros((40, 48), np.uint8)).save(bad)
    assert bench("data", "prepare", "mess_deepcrack", "--data-root", str(root)).code == 0


@pytest.mark.parametrize("place", ["DeepCrack", "DeepCrack/test_lab/made"])
def test_originals_are_never_written_to(
    bench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    root = build_raw("mess_deepcrack", tmp_path / "data", 1)
    before = content(root)
    monkeypatch.setenv("OVSS_PREPARED", str(root / place))
    ended = bench("data", "prepare", "mess_deepcrack", "--data-root", str(root))
    assert_refused(ended, "is never written to: set OVSS_PREPARED to a folder of its own")
    assert content(root) == before


KILLED = """
import os, signal, sys
from ovss.datasets.prepare import driver
from ovss.harness.cli.main import main

written, write, driver._THREADS = [], driver._write, 1

def write_some(output, target, content):
    if len(written) == 5:
        (output / "labels" / f".{target}.1.tmp".replace("/", "_")).write_bytes(content[:9])
        os.kill(os.getpid(), signal.SIGKILL)
    write(output, target, content)
    written.append(target)

driver._write = write_some
sys.argv = ["bench", *sys.argv[1:]]
main()
"""


def test_killed_and_resumed(
    bench: Command, tmp_path: Path, prepared: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = build_raw("mess_deepcrack", tmp_path / "data", 12)
    before = content(root)
    command = ["data", "prepare", "mess_deepcrack", "--data-root", str(root)]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *command],
        env={**environment, "OVSS_PREPARED": str(prepared)},
        check=False,
        timeout=60,
    )
    assert killed.returncode == -9
    half = content(prepared / "mess_deepcrack")
    assert sum(name.endswith(".png") for name in half) == 5 and "prepared.json" not in half
    unfinished = bench("data", "check", "mess_deepcrack", "--data-root", str(root), "--expect", "12")
    assert unfinished.code in (1, 2)  # with problems, or refused if a label that is looked for first is not made yet
    assert bench(*command).code == 0
    found = bench("data", "check", "mess_deepcrack", "--data-root", str(root), "--expect", "12", "--json").json()
    assert found["problems"] == found["warnings"] == [] and found["checked"] == 12
    resumed = {
        name: data for name, (data, _) in content(prepared / "mess_deepcrack/labels").items() if ".tmp" not in name
    }
    monkeypatch.setenv("OVSS_PREPARED", str(tmp_path / "at once"))
    assert bench(*command).code == 0
    at_once = {name: data for name, (data, _) in content(tmp_path / "at once/mess_deepcrack/labels").items()}
    assert resumed == at_once and content(root) == before


def test_an_archive_is_unpacked_and_prepared(bench: Command, tmp_path: Path, prepared: Path) -> None:
    folder = build_raw("mess_deepcrack", tmp_path / "data", 2) / "DeepCrack"
    with zipfile.ZipFile(tmp_path / "DeepCrack.zip", "w") as archive:
        for path in sorted(folder.rglob("*.*")):
            archive.write(path, path.relative_to(folder))
    command = ("data", "prepare", "mess_deepcrack", "--archive", str(tmp_path / "DeepCrack.zip"), "--json")
    said = bench(*command).json()
    unpacked = prepared / "unpacked/mess_deepcrack"
    assert said["from"] == str(unpacked) and said["next"] == f"bench data check mess_deepcrack --data-root {unpacked}"
    before = content(prepared)
    assert bench(*command).json() == said and content(prepared) == before
    found = bench(*shlex.split(said["next"])[1:], "--expect", "2", "--json").json()
    assert found["problems"] == found["warnings"] == []


def hostile_tar(path: Path, name: str, link: str = "") -> Path:
    with tarfile.open(path, "w") as archive:
        entry = tarfile.TarInfo(name)
        if link:
            entry.type, entry.linkname = tarfile.SYMTYPE, link
        archive.addfile(entry)
    return path


@pytest.mark.parametrize(("name", "link"), [("../../outside.png", ""), ("/outside.png", ""), ("test_lab", "/etc")])
def test_a_hostile_archive_is_refused(bench: Command, tmp_path: Path, prepared: Path, name: str, link: str) -> None:
    archive = hostile_tar(tmp_path / "bad.tar", name, link)
    ended = bench("data", "prepare", "mess_deepcrack", "--archive", str(archive))
    assert_refused(ended, "bad.tar was not unpacked", repr(name), "Use an archive from the official source")
    assert not prepared.exists() and not (tmp_path / "outside.png").exists()


# download


def test_download_says_how(bench: Command) -> None:
    for key in dataset_keys():
        record = find_record(key)
        plain, told = bench("data", "download", key), bench("data", "download", key, "--json").json()
        assert plain.code == 0 and record.title in plain.out and record.licence in plain.out
        assert (record.steps.strip() or "It needs no files.") in plain.out
        assert all(f"public file: {item.url}" in plain.out for item in record.downloads)
        assert ("--into DIR" in plain.out) == bool(record.downloads)
        assert told["downloads"] == [item.url for item in record.downloads] and told["steps"]


def test_nothing_is_public(bench: Command, tmp_path: Path) -> None:
    ended = bench("data", "download", "cityscapes", "--into", "data")
    assert ended.code == 0 and "nothing of it has a plain public address: nothing was fetched" in ended.out
    assert not (tmp_path / "data").exists()


class Quiet(SimpleHTTPRequestHandler):
    asked: list[str]

    def log_message(self, *arguments: object) -> None:
        self.asked.append(self.path)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str, list[str]]]:
    """A folder, the address where it is served, and what was asked for."""
    folder, asked = tmp_path / "served", list[str]()
    folder.mkdir()
    handler = functools.partial(type("Handler", (Quiet,), {"asked": asked}), directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()
        thread.join()


def with_downloads(monkeypatch: pytest.MonkeyPatch, key: str, *downloads: dict[str, Any]) -> None:
    """The data set with other addresses."""
    from ovss.harness.cli import data

    fields = {**find_record(key).model_dump(), "downloads": downloads}
    record = DatasetRecord.model_validate(fields)
    monkeypatch.setattr(data, "find_record", lambda name: record if name == key else find_record(name))


def test_download_unpacks_and_goes_on(
    bench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: tuple[Path, str, list[str]]
) -> None:
    folder, address, asked = served
    root = build("voc21", tmp_path / "data", 2)
    (root / "VOCdevkit/VOC2012/Annotations.xml").write_text("not wanted")
    with tarfile.open(folder / "voc.tar", "w") as archive:
        archive.add(root / "VOCdevkit", "VOCdevkit")
    only = ["*.jpg", "*.png", "*.txt"]
    with_downloads(monkeypatch, "voc21", {"url": f"{address}/voc.tar", "only": only})
    command = ("data", "download", "voc21", "--into", "my data")
    said = bench(*command, "--json").json()
    assert said["next"] == "bench data check voc21 --data-root 'my data'" and list(said["sha256"]) == said["downloads"]
    assert not (tmp_path / "my data/VOCdevkit/VOC2012/Annotations.xml").exists()
    assert bench(*shlex.split(said["next"])[1:], "--expect", "2").code == 0
    assert asked == ["/voc.tar"]
    plain = bench(*command)
    assert plain.code == 0 and f"next: `{said['next']}`" in plain.out and "sha256" in plain.out
    assert asked == ["/voc.tar"]  # it is there already


def test_download_of_a_part_says_what_is_left(
    bench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: tuple[Path, str, list[str]]
) -> None:
    pytest.importorskip("pycocotools")
    folder, address, _ = served
    root = build_raw("context59", tmp_path / "data", 1)
    source = root / "VOCdevkit/VOC2010"
    (source / "trainval_merged.json").rename(folder / "trainval_merged.json")
    with tarfile.open(folder / "images.tar", "w") as archive:
        archive.add(source / "JPEGImages", "VOCdevkit/VOC2010/JPEGImages")
    images: dict[str, Any] = {"url": f"{address}/images.tar"}
    with_downloads(monkeypatch, "context59", images)
    part = bench("data", "download", "context59", "--into", "in")
    assert part.code == 0 and "not complete yet:\n1. Download" in part.out and "next:" not in part.out
    labels = {"url": f"{address}/trainval_merged.json", "into": "VOCdevkit/VOC2010", "archive": False}
    with_downloads(monkeypatch, "context59", images, labels)
    whole = bench("data", "download", "context59", "--into", "in", "--json").json()
    assert whole["next"] == "bench data prepare context59 --data-root in"
    assert bench(*shlex.split(whole["next"])[1:]).code == 0
    assert bench("data", "check", "context59", "--data-root", "in", "--expect", "1").code == 0


def test_a_download_that_fails_says_what_to_do(
    bench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: tuple[Path, str, list[str]]
) -> None:
    folder, address, _ = served
    with_downloads(monkeypatch, "voc21", {"url": f"{address}/gone.tar"})
    ended = bench("data", "download", "voc21", "--into", "in")
    assert_refused(ended, "answered 404", "in a browser, save the file as in/downloads/gone.tar")
    hostile_tar(folder / "bad.tar", "../out.png")
    with_downloads(monkeypatch, "voc21", {"url": f"{address}/bad.tar"})
    ended = bench("data", "download", "voc21", "--into", "in")
    assert_refused(ended, "was not unpacked", "would be written outside the folder")
    with_downloads(monkeypatch, "voc21", {"url": f"{address}/bad.tar", "md5": "0" * 32})
    assert_refused(bench("data", "download", "voc21", "--into", "in"), "its md5 is", "Move it away or delete it")
    assert not (tmp_path / "out.png").exists()


# The page about data sets

DOCUMENT = Path(__file__).parents[2] / "docs/datasets.md"


def catalogue_row(record: DatasetRecord) -> str:
    """Row of the catalogue's table."""
    if record.key == "shapes":
        labels = "built in"
    elif "Nothing has to be converted" in record.steps:
        labels = "as they are"
    else:
        labels = "`prepare`" if record.prepare else "MESS toolkit"
    sources = sorted({a.source for a in record.alternatives if a.source} - {record.source})
    background = "" if record.background is None else record.background
    cells = (f"`{record.key}`", record.title, record.split, record.expected_images, len(record.classes), background)
    return "| " + " | ".join(map(str, (*cells, labels, " ".join(f"`@{s}`" for s in sources)))) + " |"


def layout_row(record: DatasetRecord) -> str:
    """Row of the table of layouts."""
    listing = "folder of labels" if record.list_file == record.labels else f"`{record.list_file}`"
    cells = (
        f"`{record.key}`",
        ", ".join(f"`{place}`" for place in record.places),
        f"`{record.images}/*{record.image_suffix}`",
        f"`{record.labels}/*{record.label_suffix}`",
        "" if record.list_file is None else listing,
    )
    return "| " + " | ".join(cells) + " |"


def test_the_page_agrees_with_the_records() -> None:
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    records = [find_record(key) for key in dataset_keys()]
    wanted = {catalogue_row(r) for r in records} | {layout_row(r) for r in records if r.key != "shapes"}
    keys = "|".join(dataset_keys())
    written = {line for line in lines if re.match(rf"\| `({keys})` \| .*\| .*\| .*\|", line)}
    assert written == wanted
    for record in records:
        for alternative in record.alternatives:
            if alternative.source not in (None, record.source):
                assert f"`{record.key}@{alternative.source}`" in DOCUMENT.read_text(encoding="utf-8")


def test_the_page_names_every_field() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for model in (DatasetRecord, HealthCheck, Lookalike, Prepare, Download):
        assert [field for field in model.model_fields if f"`{field}`" not in text] == []
