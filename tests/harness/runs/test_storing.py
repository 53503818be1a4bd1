"""Files that a user asked for, and the cache: told with the fix, and cleaned of what the dead left."""

import os
from pathlib import Path

import pytest

from ovss.datasets import writing
from ovss.harness.runs.storing import clean_cache, store
from ovss.methods import UserError
from ovss.methods.core import files


def test_a_file_that_was_asked_for_is_told_with_its_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"could not be written: .*run the same command again"):
        store(tmp_path / "file/below", b"x")


def test_the_cache_is_cleaned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what a process left that died between writing and renaming."""
    monkeypatch.setenv("OVSS_CACHE", str(tmp_path))
    clean_cache()
    path = tmp_path / "text" / "a.safetensors"
    child = os.fork()
    if child == 0:
        Path.replace = lambda *given: os._exit(1)  # type: ignore[method-assign, assignment]
        files.write_to_cache(path, b"half")
    os.waitpid(child, 0)
    (left,) = path.parent.iterdir()
    assert writing._TEMPORARY.fullmatch(left.name)
    clean_cache()
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("fails", ["write_bytes", "replace"])
def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    path = tmp_path / "below/file"
    files.write_to_cache(path, b"old")

    def full(*given: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, fails, full)
        with pytest.raises(OSError, match="No space"):
            files.write_to_cache(path, b"new")
    assert path.read_bytes() == b"old" and [p.name for p in path.parent.iterdir()] == ["file"]
