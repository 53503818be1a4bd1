"""``bench show --worst`` and ``--confusion``, and label maps from ``bench run``, as a person calls them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Command = Callable[..., Any]


@pytest.fixture
def done(bench: Command) -> Any:
    """A small run with everything stored."""
    return bench(
        "run", "-m", "maskclip", "-d", "shapes", "--limit", "4", "--confusion", "--save-labels", "maps", "--json"
    ).json()


def test_worst_images_are_listed_and_drawn(bench: Command, done: Any, tmp_path: Path) -> None:
    name = Path(done["run_dir"]).name
    assert done["labels"] == f"maps/{name}" and len(list((tmp_path / "maps" / name).glob("*.png"))) == 4
    value = bench("show", name, "--worst", "2", "--labels", "maps", "--json").json()
    assert value["picture"] == f"results/{name}-worst.png" and len(value["worst"]) == 2
    assert value["worst"][0]["miou"] <= value["worst"][1]["miou"]
    with Image.open(value["picture"]) as picture:
        assert picture.width > 500
    shown = bench("show", name, "--worst", "2", "-o", "w.png", "--confusion")
    assert shown.code == 0 and "wrote w.png" in shown.out and value["worst"][0]["image"] in shown.out
    assert "said to be" in shown.out and (tmp_path / "w.png").is_file() and shown.err == ""
    assert max(map(len, shown.out.splitlines())) <= 80


def test_label_maps_that_are_not_those_of_the_run_are_told(bench: Command, done: Any, tmp_path: Path) -> None:
    name = Path(done["run_dir"]).name
    (first, second, *_) = sorted((tmp_path / "maps" / name).glob("*.png"))
    first.write_bytes(second.read_bytes())
    shown = bench("show", name, "--worst", "4", "--labels", "maps")
    assert shown.code == 0 and "not those that the run has counted" in shown.err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--worst", "2", "-o", "out.jpg"), ["--output writes a PNG"]),
        (("--worst", "2", "-o", "file/out.png"), ["is no folder"]),
    ],
)
def test_what_is_refused(bench: Command, done: Any, tmp_path: Path, more: tuple[str, ...], words: list[str]) -> None:
    (tmp_path / "file").write_text("")
    ended = bench("show", Path(done["run_dir"]).name, *more)
    assert ended.code == 2 and all(word in ended.err for word in words), ended.err


def test_a_folder_for_label_maps_that_cannot_be_one(bench: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = bench("run", "-m", "clip", "-d", "shapes", "--limit", "1", "--save-labels", "file/maps")
    assert ended.code == 2 and "--save-labels file/maps: " in ended.err and "is no folder" in ended.err
    assert not (tmp_path / "results").exists()
