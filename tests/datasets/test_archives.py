"""Unpacking: every format, selection, a second call; and archives that are hostile, damaged or too large."""

import bz2
import errno
import io
import logging
import os
import random
import stat
import struct
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest

from ovss.datasets.archives import extract
from ovss.datasets.errors import DataError

MODULE = sys.modules["ovss.datasets.archives"]
FILES = {
    "set/val/a.png": b"a" * 5000,
    "set/val/b.png": bytes(range(256)),
    "set/train/c.png": b"c",
    "set/empty.txt": b"",
}
FORMATS = ["x.zip", "x.tar", "x.tar.gz", "x.tgz", "x.tar.bz2", "x.tar.xz", "X.TAR"]
LINKS = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]


def pack(path: Path, files: Iterable[tuple[str, bytes]] = tuple(FILES.items())) -> Path:
    """An archive of ``files`` in their order, by the suffix of ``path``."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files:
                archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
        return path
    mode = {".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}.get(path.suffix, "w")
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def pack_member(path: Path, member: tarfile.TarInfo, *more: tuple[str, bytes]) -> Path:
    """A tar with ``member`` (without content), then the files ``more``."""
    with tarfile.open(path, "w") as tar:
        tar.addfile(member)
        for name, content in more:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_and_second_call(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    archive, folder, told = pack(tmp_path / name), tmp_path / "out", []
    written = extract(archive, folder, advance=lambda done, total: told.append((done, total)))
    assert written == [folder / n for n in FILES] and content(folder) == FILES
    assert told == [(5000, 5257), (5256, 5257), (5257, 5257)]  # 5000 + 256 + 1 + 0 bytes
    times = {p: p.stat().st_mtime_ns for p in written}
    with caplog.at_level(logging.INFO):
        assert extract(archive, folder) == []
    assert "all 4 files are in" in caplog.text
    assert {p: p.stat().st_mtime_ns for p in written} == times and content(folder) == FILES


def test_an_interrupted_call_is_continued(tmp_path: Path) -> None:
    archive, folder, told = pack(tmp_path / "x.zip"), tmp_path / "out", []

    def stop(done: int, total: int) -> None:
        if done > 5000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(archive, folder, advance=stop)
    assert content(folder) == {"set/val/a.png": FILES["set/val/a.png"]}  # and no temporary file
    written = extract(archive, folder, advance=lambda done, total: told.append((done, total)))
    assert [p.name for p in written] == ["b.png", "c.png", "empty.txt"] and content(folder) == FILES
    assert told == [(5256, 5257), (5257, 5257)]


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
def test_wanted_selects_files(tmp_path: Path, name: str) -> None:
    asked: list[str] = []
    archive = pack(tmp_path / name, [("./set/val/", b""), *((f"./{n}", c) for n, c in FILES.items())])
    written = extract(archive, tmp_path / "out", lambda n: asked.append(n) or n.startswith("set/val/"))  # type: ignore[func-returns-value]
    assert [p.name for p in written] == ["a.png", "b.png"]
    assert content(tmp_path / "out") == {n: c for n, c in FILES.items() if "val" in n}
    assert [n for n in asked if n != "set/val"] == list(FILES)


def test_nothing_wanted_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of the wanted files, but set/val/a\.png, set/val/b\.png"):
        extract(pack(tmp_path / "x.zip"), tmp_path / "out", lambda name: False)
    with pytest.raises(DataError, match="holds no files"):
        extract(pack(tmp_path / "y.zip", []), tmp_path / "out")
    assert not (tmp_path / "out").exists()


HOSTILE = [
    "../x",
    "a/../../x",
    "a/..",
    "/x",
    "//host/share/x",
    "C:x",
    "c:/x",
    "..\\x",
    "a\\..\\..\\x",
    "C:\\x",
    "a\nb",
    "",
]


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.parametrize("name", [*HOSTILE, "n" * 256])
def test_hostile_names(tmp_path: Path, name: str, suffix: str) -> None:
    archive = pack(tmp_path / f"x{suffix}", [("good.png", b"g"), (name, b"bad")])
    with pytest.raises(DataError, match="was not unpacked"):
        extract(archive, tmp_path / "in" / "out")
    assert os.listdir(tmp_path) == [archive.name]  # noqa: PTH208 - not even the good file
    assert extract(archive, tmp_path / "out", lambda n: n == "good.png") == [tmp_path / "out" / "good.png"]


def test_every_hostile_name_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        extract(pack(tmp_path / "x.tar", [("../one", b""), ("ok", b""), ("/two", b"")]), tmp_path / "out")
    assert len(caught.value.problems) == 2 and "'../one'" in str(caught.value) and "'/two'" in str(caught.value)


def test_a_name_with_nul_is_not_cut(tmp_path: Path) -> None:
    archive = pack(tmp_path / "x.zip", [("a.pngZ.exe", b"x")])
    archive.write_bytes(archive.read_bytes().replace(b"a.pngZ", b"a.png\0"))
    with pytest.raises(DataError, match="control character"):
        extract(archive, tmp_path / "out")


@pytest.mark.parametrize("kind", LINKS)
def test_links_and_devices_in_a_tar(tmp_path: Path, kind: bytes) -> None:
    """The classic: a link to the outside, then a file through it."""
    (tmp_path / "outside").mkdir()
    member = tarfile.TarInfo("link")
    member.type, member.linkname = kind, str(tmp_path / "outside")
    archive = pack_member(tmp_path / "x.tar", member, ("link/evil", b"evil"))
    with pytest.raises(DataError, match="'link' is a link or device"):
        extract(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists() and content(tmp_path / "outside") == {}


def test_links_in_a_zip(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, "/etc")
    with pytest.raises(DataError, match="a link or device"):
        extract(tmp_path / "x.zip", tmp_path / "out")


def test_links_on_the_disk(tmp_path: Path) -> None:
    """A link that leads out of the folder is not followed; one that stays inside is."""
    archive, folder = pack(tmp_path / "x.zip"), tmp_path / "out"
    (tmp_path / "outside").mkdir()
    (folder / "elsewhere").mkdir(parents=True)
    (folder / "set").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match="a link leads out"):
        extract(archive, folder)
    assert content(tmp_path / "outside") == {}
    (folder / "set").unlink()
    (folder / "set").symlink_to("elsewhere")
    assert len(extract(archive, folder)) == 4
    assert (folder / "elsewhere" / "val" / "b.png").read_bytes() == FILES["set/val/b.png"]
    (folder / "set" / "empty.txt").unlink()
    (folder / "set" / "empty.txt").symlink_to(tmp_path / "outside" / "new")
    with pytest.raises(DataError, match="a link leads out"):
        extract(archive, folder)
    assert content(tmp_path / "outside") == {}
    (tmp_path / "link").symlink_to(folder)  # the folder itself may be reached by a link
    assert len(extract(archive, tmp_path / "link", lambda n: n.endswith("a.png"))) == 0


def test_files_in_the_way(tmp_path: Path) -> None:
    archive, folder = pack(tmp_path / "x.zip"), tmp_path / "out"
    (folder / "set" / "val" / "b.png").mkdir(parents=True)
    (folder / "set" / "val" / "a.png").write_bytes(b"mine")
    with pytest.raises(DataError) as caught:
        extract(archive, folder)
    assert [p.file.name for p in caught.value.problems] == ["a.png", "b.png"]
    assert "it has 4 bytes, the file in the archive 5000" in str(caught.value)
    assert content(folder) == {"set/val/a.png": b"mine"}


def test_a_file_that_is_also_a_folder(tmp_path: Path) -> None:
    archive = pack(tmp_path / "x.tar", [("a", b"file"), ("a/b", b"below")])
    with pytest.raises(DataError, match="could not be written"):
        extract(archive, tmp_path / "out")
    assert content(tmp_path / "out") == {"a": b"file"}


def test_the_later_of_two_entries_counts(tmp_path: Path) -> None:
    archive = pack(tmp_path / "x.tar.gz", [("a", b"old"), ("b", b"other"), ("./a", b"newer")])
    assert [p.name for p in extract(archive, tmp_path / "out")] == ["b", "a"]
    assert content(tmp_path / "out") == {"a": b"newer", "b": b"other"}
    assert extract(archive, tmp_path / "out") == []


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.tar.bz2", "x.tar.xz"])
def test_bombs_by_ratio(tmp_path: Path, name: str) -> None:
    """Four million zeros take less than 1/500 of their size in each format; small ones below the floor are no bomb."""
    archive = pack(tmp_path / name, [("zeros", bytes(4_000_000))])
    with pytest.raises(DataError, match="looks like a bomb"):
        extract(archive, tmp_path / "out", ratio_floor_bytes=1_000_000)
    assert not (tmp_path / "out").exists()
    assert len(extract(archive, tmp_path / "out")) == 1


def test_bombs_by_total_and_number(tmp_path: Path) -> None:
    archive = pack(tmp_path / "x.tar")
    with pytest.raises(DataError, match="more than 5256 bytes"):
        extract(archive, tmp_path / "out", max_total_bytes=5256)
    with pytest.raises(DataError, match="more than 3 entries"):
        extract(archive, tmp_path / "out", max_entries=3)
    assert not (tmp_path / "out").exists()
    assert len(extract(archive, tmp_path / "out", max_total_bytes=5257, max_entries=4)) == 4


def test_many_small_bombs_in_one_archive(tmp_path: Path) -> None:
    archive = pack(tmp_path / "x.zip", [(str(i), bytes(900_000)) for i in range(3)])
    with pytest.raises(DataError, match="the archive unpacks to more than"):
        extract(archive, tmp_path / "out", ratio_floor_bytes=1_000_000)


def test_bytes_are_counted_and_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that yields more than the archive declares is stopped at once, and nothing stays."""
    archive, endless = pack(tmp_path / "x.zip", [("a", b"12345")]), io.BytesIO(bytes(8 << 20))
    monkeypatch.setattr(endless, "close", lambda: None, raising=False)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda self, info: endless)
    told: list[int] = []
    with pytest.raises(DataError, match="does not have the 5 bytes that it declares"):
        extract(archive, tmp_path / "out", advance=lambda done, total: told.append(done))
    assert content(tmp_path / "out") == {} and told == [] and endless.tell() <= 1 << 20


@pytest.mark.parametrize("declared", [4, 6])
def test_a_zip_that_declares_another_size(tmp_path: Path, declared: int) -> None:
    archive = pack(tmp_path / "x.zip", [("a", b"12345")])
    packed = archive.read_bytes()
    sizes = [packed.index(b"PK\x03\x04") + 22, packed.index(b"PK\x01\x02") + 24]
    for at in sizes:
        assert packed[at : at + 4] == struct.pack("<I", 5)
        packed = packed[:at] + struct.pack("<I", declared) + packed[at + 4 :]
    archive.write_bytes(packed)
    with pytest.raises(DataError, match="damaged or cut short"):
        extract(archive, tmp_path / "out")
    assert content(tmp_path / "out") == {}


def test_huge_extended_header_is_not_read(tmp_path: Path) -> None:
    """A header that declares two megabytes of attributes would be read into memory whole."""
    member = tarfile.TarInfo("a")
    member.pax_headers = {"comment": "x" * 2_000_000}
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member)
    with pytest.raises(DataError, match="damaged"):
        extract(tmp_path / "x.tar.gz", tmp_path / "out")


def test_padding_without_end(tmp_path: Path) -> None:
    archive = pack(tmp_path / "x.tar.bz2")
    archive.write_bytes(bz2.compress(bz2.decompress(archive.read_bytes()) + bytes(8_000_000)))
    with pytest.raises(DataError, match="what follows the last entry"):
        extract(archive, tmp_path / "out", ratio_floor_bytes=1_000_000)


@pytest.mark.parametrize("name", FORMATS)
def test_truncated_anywhere(tmp_path: Path, name: str) -> None:
    """Cut at 40 places, each before the end marker: always named as damaged, and nothing is written."""
    noise = [(f"{i}.bin", random.Random(i).randbytes(700)) for i in range(4)]
    archive = pack(tmp_path / name, noise)
    whole = archive.read_bytes()
    end = 4 * (512 + 1024) + 511 if name.lower().endswith(".tar") else len(whole) - 1
    for cut in sorted({*(end * i // 40 for i in range(40)), end}):
        archive.write_bytes(whole[:cut])
        with pytest.raises(DataError, match="download it again"):
            extract(archive, tmp_path / "out")
        assert not (tmp_path / "out").exists(), cut


@pytest.mark.parametrize("name", FORMATS)
def test_one_wrong_byte_anywhere(tmp_path: Path, name: str) -> None:
    """Only ``DataError`` comes out, no temporary file stays, and nothing leaves the folder."""
    chance = random.Random(0)
    archive = pack(tmp_path / name)
    whole = archive.read_bytes()
    for number in range(60):
        at = chance.randrange(min(len(whole), 9000))
        archive.write_bytes(whole[:at] + bytes([whole[at] ^ chance.randrange(1, 256)]) + whole[at + 1 :])
        folder = tmp_path / f"out{number}"
        with suppress(DataError):
            extract(archive, folder, max_total_bytes=10_000_000)
        assert not [n for n in content(tmp_path) if ".tmp" in n]
    assert {p.name for p in tmp_path.iterdir() if not p.name.startswith("out")} == {name}


def test_bad_checksum_inside_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr("first", b"first")
        file.writestr("second", b"second content")
    (tmp_path / "x.zip").write_bytes((tmp_path / "x.zip").read_bytes().replace(b"second content", b"SECOND content"))
    with pytest.raises(DataError, match="Bad CRC-32"):
        extract(tmp_path / "x.zip", tmp_path / "out")
    assert content(tmp_path / "out") == {"first": b"first"}


def test_what_is_no_archive(tmp_path: Path) -> None:
    for name, raw, what in [
        ("page.zip", b"\n<!DOCTYPE html><title>Log in</title>", "web page"),
        ("page.tar.gz", b"<html>", "web page"),
        ("text.zip", b"text", "damaged"),
        ("empty.tar", b"", "damaged"),
        ("x.rar", b"Rar!", "format is not known"),
    ]:
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(DataError, match=what):
            extract(tmp_path / name, tmp_path / "out")
    with pytest.raises(DataError, match="does not exist"):
        extract(tmp_path / "absent.zip", tmp_path / "out")
    (tmp_path / "folder.tar").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        extract(tmp_path / "folder.tar", tmp_path / "out")


def test_methods_and_encryption_of_zips(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a", b"a")
    with pytest.raises(DataError, match="zip method 14"):
        extract(tmp_path / "x.zip", tmp_path / "out")
    packed = bytearray(pack(tmp_path / "y.zip", [("a", b"a")]).read_bytes())
    packed[packed.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "y.zip").write_bytes(packed)
    with pytest.raises(DataError, match="is encrypted"):
        extract(tmp_path / "y.zip", tmp_path / "out")


def test_space_is_checked_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """5000 + 256 + 1 + 0 bytes take two, one, one and no blocks of 4096."""
    usage = {"free": 4 * 4096 - 1}
    monkeypatch.setattr(MODULE.shutil, "disk_usage", lambda path: type("Usage", (), usage))
    with pytest.raises(DataError, match="Make room"):
        extract(pack(tmp_path / "x.tar.xz"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    usage["free"] += 1
    assert len(extract(tmp_path / "x.tar.xz", tmp_path / "out")) == 4


def test_a_disk_that_becomes_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.FileIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    archive = pack(tmp_path / "x.zip")
    monkeypatch.setattr("ovss.datasets.writing.os.fdopen", Full)
    with pytest.raises(DataError, match=r"No space left on device\)\. Make room"):
        extract(archive, tmp_path / "out")
    monkeypatch.undo()
    assert content(tmp_path / "out") == {}
