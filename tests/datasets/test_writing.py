"""A file gets its name when it is whole; what the dead left is removed."""

import errno
import os
import stat
import threading
import time
from pathlib import Path

import pytest

from ovss.datasets import writing as files

FULL = OSError(errno.ENOSPC, "No space left on device")


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_content_takes_the_name_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new/below/file.bin"
    with files.atomic_file(path) as file:
        file.write(b"first")
        assert not path.exists()
        (temporary,) = names(path.parent)
        assert files._TEMPORARY.fullmatch(temporary) and temporary.startswith(f".file.bin.{os.getpid()}-")
    assert path.read_bytes() == b"first"
    files.write_atomically(path, b"second")
    assert path.read_bytes() == b"second" and names(path.parent) == ["file.bin"]


@pytest.mark.parametrize("fails", ["block", "os.open", "os.fsync", "os.replace"])
def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    path = tmp_path / "file"
    files.write_atomically(path, b"old")

    def raises(*arguments: object, **named: object) -> None:
        raise FULL

    def write() -> None:
        with files.atomic_file(path) as file:
            file.write(b"new")
            if fails == "block":
                raise FULL

    with monkeypatch.context() as patch:
        if fails != "block":
            patch.setattr(os, fails.removeprefix("os."), raises)
        with pytest.raises(OSError, match="No space left"):
            write()
    assert path.read_bytes() == b"old" and names(tmp_path) == ["file"]


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), files.atomic_file(tmp_path / "file"):
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_the_folder_reaches_the_disk_after_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this order: the bytes, the name, the folder.  A system that cannot sync folders is no failure."""
    order: list[str] = []
    replace = os.replace

    def fsync(handle: int) -> None:
        order.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        if order[-1] == "folder":
            raise OSError(errno.EINVAL, "Invalid argument")

    def renamed(old: Path, new: Path) -> None:
        order.append("name")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", renamed)
    files.write_atomically(tmp_path / "file", b"x")
    assert order == ["file", "name", "folder"]
    files.write_atomically(tmp_path / "file", b"x", sync=False)
    assert order[3:] == ["name"]


def test_the_umask_decides_and_is_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", lambda mask: pytest.fail("the umask belongs to the whole process"))
            files.write_atomically(tmp_path / "file", b"x")
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(old)


def test_writers_of_one_name_do_not_meet(tmp_path: Path) -> None:
    contents = [bytes([65 + k]) * 50_000 for k in range(8)]
    writers = [threading.Thread(target=files.write_atomically, args=(tmp_path / "file", c)) for c in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert (tmp_path / "file").read_bytes() in contents and names(tmp_path) == ["file"]


def test_long_names_and_what_is_no_file(tmp_path: Path) -> None:
    files.write_atomically(tmp_path / ("ä" * 127), b"x")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(OSError, match="no plain file"):
            files.write_atomically(tmp_path / name, b"x")
    assert names(tmp_path) == ["folder", "pipe", "ä" * 127]


def test_temporaries_of_the_dead_are_removed(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    host, other = files._host(), "0" * 8
    made = {
        "mine": f".part.parquet.{os.getpid()}-{host}{'1' * 12}.tmp",
        "of the dead": f".part.parquet.{child}-{host}{'2' * 12}.tmp",
        "of another machine": f".part.parquet.{child}-{other}{'3' * 12}.tmp",
        "old, of another machine": f".part.parquet.{child}-{other}{'4' * 12}.tmp",
        "impossible": f".x.{'9' * 30}-{host}{'5' * 12}.tmp",
        "not ours": f".part.parquet.{child}.tmp",
        "user's": "notes.tmp",
    }
    for name in made.values():
        (tmp_path / name).write_bytes(b"half")
    hour_ago = time.time() - 3700
    os.utime(tmp_path / made["old, of another machine"], (hour_ago, hour_ago))
    os.utime(tmp_path / made["user's"], (hour_ago, hour_ago))
    files.clean_temporaries(tmp_path)
    assert names(tmp_path) == sorted(made[k] for k in ("mine", "of another machine", "not ours", "user's"))
    files.clean_temporaries(tmp_path / "absent")
