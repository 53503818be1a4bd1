"""A finished run is answered from a record, while everything that it is about is provably the same."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovss.harness import RunSpec, every_pair, run
from ovss.harness.runs import answered, provenance
from ovss.harness.use import run as use
from ovss.methods.models import backbone


class BuiltError(Exception):
    """A method was about to be built."""


class World:
    """Two images, a copy of the embedded weights, and a finished run over both."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, monkeypatch
        for kind, high in (("images", 255), ("labels", 2)):
            (folder / kind).mkdir()
            for name in ("a", "b"):
                pixels = np.random.default_rng(len(name + kind)).integers(0, high, (40, 48, 3), np.uint8)
                Image.fromarray(pixels if kind == "images" else pixels[..., 0]).save(folder / kind / f"{name}.png")
        fields = 'images = "images"\nimage_suffix = ".png"\nlabels = "labels"\nclasses = ["sky", "grass"]\n'
        self.record = folder / "mini.toml"
        self.record.write_text(f'key = "mini"\ntitle = "Mini"\n{fields}protocol = "tiny"\n')
        self.weights = folder / "tiny_clip"
        shutil.copytree(backbone.TINY_CLIP_FOLDER, self.weights)
        monkeypatch.setattr(backbone, "TINY_CLIP_FOLDER", self.weights)
        monkeypatch.setenv("OVSS_CACHE", str(folder / "cache"))

    def pair(self, method: str = "clip", **asked: object) -> RunSpec:
        (pair,) = every_pair([method], [str(self.record)], backbone="tiny-clip", **asked)  # type: ignore[arg-type]
        return pair

    def forbid_building(self) -> None:
        def build(*given: object) -> None:
            raise BuiltError

        self.patch.setattr(use, "build_pipelines", build)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def rewrite(path: Path) -> None:
    """Other content of the same size and date."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def repaint(path: Path) -> None:
    pixels = np.asarray(Image.open(path)).copy()
    pixels[0, 0] = 1 - pixels[0, 0] % 2
    Image.fromarray(pixels).save(path)


def test_it_is_what_the_run_said(world: World) -> None:
    first = run(world.pair(), world.folder)[0]
    world.forbid_building()
    told: list[str] = []
    again = run(world.pair(), world.folder, say=told.append)[0]
    assert again.folder == first.folder and again.summary == first.summary and again.manifest == first.manifest
    assert run(world.pair(), world.folder, limit=1)[0].summary["images"] == 1


def test_warnings_about_words_are_said_again(world: World) -> None:
    world.record.write_text(world.record.read_text().replace('"grass"', f'"{"grass " * 30}"'))
    said: list[list[str]] = [[], []]
    run(world.pair(), world.folder, say=said[0].append)
    world.forbid_building()
    run(world.pair(), world.folder, say=said[1].append)
    assert said[0] and sorted(said[0]) == sorted(said[1])


KINDS = ("images", "labels")
CHANGED: dict[str, Callable[[World], object]] = {
    "weights": lambda w: rewrite(w.weights / "open_clip_model.safetensors"),
    "tokenizer": lambda w: rewrite(w.weights / "bpe.txt.gz"),
    "weights that are gone": lambda w: (w.weights / "open_clip_model.safetensors").unlink(),
    "image": lambda w: repaint(w.folder / "images" / "a.png"),
    "label": lambda w: repaint(w.folder / "labels" / "b.png"),
    "one image more": lambda w: [
        shutil.copy(w.folder / k / "a.png", w.folder / k / "c.png") for k in ("images", "labels")
    ],
    "record of the data set": lambda w: w.record.write_text(w.record.read_text().replace("grass", "meadow")),
    "code": lambda w: w.patch.setattr(answered, "source_hash", lambda: "0" * 16),
    "torch": lambda w: w.patch.setattr(provenance, "version", lambda name: "0" if name == "torch" else "1"),
    "open_clip": lambda w: w.patch.setattr(provenance, "version", lambda name: "0" if "open_clip" in name else "1"),
    "where weights are looked for": lambda w: w.patch.setenv("HF_HOME", str(w.folder / "hub")),
    "counts": lambda w: [rewrite(path) for path in w.folder.glob("runs/*/counts.parquet")],
    "plan": lambda w: [rewrite(path) for path in w.folder.glob("runs/*/plan.json")],
    "a part": lambda w: [path.unlink() for path in w.folder.glob("runs/*/parts/*")],
    "no run": lambda w: shutil.rmtree(w.folder / "runs"),
    "a damaged record": lambda w: [rewrite(path) for path in w.folder.glob("cache/answered/*")],
}


@pytest.mark.parametrize("what", CHANGED)
def test_what_is_not_provably_the_same_is_built(world: World, what: str) -> None:
    if what in ("torch", "open_clip"):
        world.patch.setattr(provenance, "version", lambda name: "1")
    run(world.pair(), world.folder)
    world.forbid_building()
    run(world.pair(), world.folder)
    CHANGED[what](world)
    with pytest.raises(BuiltError):
        run(world.pair(), world.folder)


ASKED: dict[str, dict[str, object]] = {
    "method": {"method": "maskclip"},
    "protocol": {"changes": {"short_side_px": 64}},
    "counts of boundaries": {"boundary": True},
}


@pytest.mark.parametrize("what", ASKED)
def test_what_was_not_asked_before_is_built(world: World, what: str) -> None:
    run(world.pair(), world.folder)
    world.forbid_building()
    with pytest.raises(BuiltError):
        run(world.pair(**ASKED[what]), world.folder)  # type: ignore[arg-type]


def test_an_option_is_another_question(world: World) -> None:
    run(world.pair("sclip"), world.folder)
    world.forbid_building()
    with pytest.raises(BuiltError):
        run(world.pair("sclip", options={"pad": True}), world.folder)


@pytest.mark.parametrize("asked", [{"fresh": True}, {"allow_download": True}, {"results": Path("elsewhere")}])
def test_other_ways_to_run_are_not_answered(world: World, asked: dict[str, object]) -> None:
    run(world.pair(), world.folder)
    world.forbid_building()
    with pytest.raises(BuiltError):
        run(world.pair(), **{"results": world.folder, **asked})  # type: ignore[arg-type]


def test_an_option_that_names_a_file_leaves_no_record(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.weights)
    run(world.pair("clip-dinoiser", options={"heads": "dinoiser_heads.safetensors"}), world.folder)
    assert not list(world.folder.glob("cache/answered/*"))


@pytest.mark.parametrize("place", ["hub", "own file", "elsewhere"])
def test_which_files_decide_what_is_loaded(world: World, place: str) -> None:
    """In the hub's cache also which snapshot is read and what else is in it; nothing is sure in an unknown place."""
    snapshot = world.folder / "models--a--b" / ("snapshots" if place == "hub" else "other") / "0123"
    snapshot.mkdir(parents=True)
    file = snapshot / "open_clip_model.safetensors"
    found = run(world.pair(), world.folder)[0]
    spec = found.plan.spec.model_copy(update={"weights": str(file) if place == "own file" else None})
    tiny = backbone.load_backbone("tiny-clip")
    made = SimpleNamespace(backbone=replace(tiny, file=file), loaded=())
    pipeline: Any = SimpleNamespace(method=made, guide=None, voter=None)
    expected = {
        "hub": [file, snapshot, world.folder / "models--a--b" / "refs" / "main"],
        "own file": [file, file, snapshot / "config.json"],
        "elsewhere": None,
    }
    plan = found.plan.model_copy(update={"spec": spec})
    assert answered._files(plan, pipeline) == expected[place]
    made.loaded = ("a second model",)
    assert answered._files(plan, pipeline) is None
