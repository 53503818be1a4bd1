"""One door: the same file is read once for all who ask, a changed one again, and licences are told to each."""

import gc
import os
from pathlib import Path

import pytest

from ovss.methods import UserError
from ovss.methods.core.loaded import recorded
from ovss.methods.models import weights
from ovss.methods.models.open_model import open_model


class Model:
    """What a reader returns."""

    def __init__(self, text: str, size: int) -> None:
        self.text, self.size = text, size


read_paths: list[Path] = []


def read(path: Path, size: int = 1) -> Model:
    read_paths.append(path)
    if "broken" in path.read_text():
        raise UserError(f"{path.name} does not fit")
    return Model(path.read_text(), size)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    read_paths.clear()
    path = tmp_path / "head.pt"
    path.write_text("first")
    return path


def test_the_same_file_is_read_once(file: Path) -> None:
    first = open_model(read, "found-head", file)
    with recorded() as found:
        assert open_model(read, "found-head", str(file)) is first
    assert read_paths == [file] and [w.name for w in found] == ["file head.pt"]
    assert open_model(read, "found-head", file, 2) is not first  # in another way


def test_a_changed_file_is_read_again(file: Path) -> None:
    first = open_model(read, "found-head", file)
    file.write_text("second")
    second = open_model(read, "found-head", file)
    assert (first.text, second.text) == ("first", "second")
    before = file.stat()
    file.write_text("third!")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert open_model(read, "found-head", file).text == "third!"


def test_what_nobody_holds_is_forgotten(file: Path) -> None:
    open_model(read, "found-head", file)
    gc.collect()
    open_model(read, "found-head", file)
    assert len(read_paths) == 2


def test_what_does_not_fit_says_what_would(file: Path) -> None:
    file.write_text("broken")
    message = r"head\.pt does not fit\.\nThe released file: bench weights fetch found-head"
    for _ in range(2):
        with pytest.raises(UserError, match=message):
            open_model(read, "found-head", file)
    with pytest.raises(UserError, match="bench weights fetch found-head"):
        open_model(read, "found-head")


def test_another_listed_name_may_be_given(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr("ovss.methods.models.open_model.find_weights", lambda *given: asked.append(given) or file)
    assert "found-head" in weights.list_weights()
    open_model(read, "dino-vitb16", "found-head")
    assert asked == [("found-head", None)]
