"""``run`` from Python: typed results, callbacks, every pair of methods and data sets, and stopping and going on."""

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovss.datasets import DataError
from ovss.harness import RunSpec, every_pair, find_run, run
from ovss.harness.runs.run import Finished
from ovss.harness.use.pairs import options_of
from ovss.methods import UserError

METHODS = ["clip", "maskclip"]


def files(found: list[Finished]) -> list[tuple[str, bytes, bytes]]:
    return [(f.name, *((f.folder / n).read_bytes() for n in ("counts.parquet", "metrics.json"))) for f in found]


def test_every_pair_is_a_run_of_its_own(tmp_path: Path) -> None:
    """In the order given, with the bytes of runs done one by one."""
    pairs = every_pair(METHODS, ["shapes"])
    together = run(pairs, tmp_path / "together", limit=3)
    assert [f.plan.spec.method for f in together] == METHODS
    assert len({f.folder for f in together}) == 2
    apart = [f for pair in pairs for f in run(pair, tmp_path / "apart", limit=3)]
    assert files(together) == files(apart)
    for found in together:
        assert found.summary["images"] == 3 and not found.result.complete
        assert found.manifest.run == found.name and found.manifest.images == 3
        assert find_run(found.name, tmp_path / "together").folder == found.folder


def test_results_are_over_what_was_asked_for(tmp_path: Path) -> None:
    (pair,) = every_pair(["clip"], ["shapes"])
    (all_four,) = run(pair, tmp_path, limit=4)
    (two,) = run(pair, tmp_path, limit=2)
    assert len(all_four.frame) == 4 and len(two.frame) == two.summary["images"] == 2
    assert two.manifest.images == 4 and two.folder == all_four.folder


@pytest.mark.parametrize("stop_at", ["checking shapes", "clip, maskclip on shapes"])
def test_what_was_interrupted_goes_on(tmp_path: Path, stop_at: str) -> None:
    pairs = every_pair(METHODS, ["shapes"])
    undisturbed = run(pairs, tmp_path / "undisturbed", limit=4)

    def interrupt(title: str, done: int, total: int) -> None:
        if title == stop_at and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(pairs, tmp_path / "disturbed", limit=4, progress=interrupt)
    seen: list[tuple[str, int, int]] = []
    again = run(pairs, tmp_path / "disturbed", limit=4, progress=lambda *told: seen.append(told))
    assert files(again) == files(undisturbed)
    kept = {"checking shapes": 0, "clip, maskclip on shapes": 2}[stop_at]  # one image for both
    assert [(done, total) for title, done, total in seen if " on " in title] == [(k, 8) for k in range(kept, 9, 2)]
    titles = list(dict.fromkeys(title for title, *_ in seen))
    loading = ["loading PyTorch", "loading clip with tiny-clip", "encoding 22 classes of shapes for clip"]
    assert [title for title in titles if title in loading] == loading and titles[-1] == "clip, maskclip on shapes"


def test_processes_are_interrupted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are forked here, which saves ten seconds."""
    forked = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: forked)
    pairs = every_pair(["clip"], ["shapes"])
    undisturbed = run(pairs, tmp_path / "undisturbed", limit=12)

    def interrupt(title: str, done: int, total: int) -> None:
        if title == "clip on shapes" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(pairs, tmp_path / "disturbed", limit=12, workers=2, progress=interrupt)
    assert files(run(pairs, tmp_path / "disturbed", limit=12, workers=2)) == files(undisturbed)


def test_warnings_are_told_once_and_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for folder, high in (("images", 255), ("labels", 2)):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            pixels = np.random.default_rng(1).integers(0, high, (40, 48, 3), np.uint8)
            Image.fromarray(pixels if folder == "images" else pixels[..., 0]).save(tmp_path / folder / f"{name}.png")
    fields = 'images = "images"\nimage_suffix = ".png"\nlabels = "labels"\nclasses = ["sky", "grass"]\n'
    record = tmp_path / "mini.toml"
    record.write_text(f'key = "mini"\ntitle = "Mini"\n{fields}protocol = "tiny"\nexpected_images = 5\n')
    told: list[str] = []
    found = run(every_pair(METHODS, [str(record)], backbone="tiny-clip"), tmp_path, say=told.append)
    assert [f.manifest.images for f in found] == [2, 2]
    assert told.count("mini has 2 images here, 5 are expected") == 1 and len(told) == len(set(told))
    assert capfd.readouterr() == ("", "")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "twice": ({"methods": ["clip", "clip"]}, "--method names clip twice"),
    "none": ({"methods": []}, "no method was named"),
    "unknown": ({"methods": ["clip", "sclp"], "backbone": "tiny-clip"}, "did you mean sclip"),
    "unknown data": ({"datasets": ["shapez"]}, "unknown data set 'shapez'"),
    "option of none": ({"options": {"colour": 3}}, "none of the methods clip, maskclip takes an option 'colour'"),
    "option of another": ({"options": {"sclip.pad": True}}, "is for 'sclip', which is none of the methods"),
    "protocol": ({"protocol": "unifed"}, "did you mean unified"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_pairs_that_cannot_be(what: str) -> None:
    asked, words = REFUSED[what]
    with pytest.raises((UserError, DataError), match=words):
        every_pair(**{"methods": METHODS, "datasets": ["shapes"], **asked})


def test_options_find_their_method() -> None:
    methods = ["clip-dinoiser", "sclip", "clip"]
    assert options_of(methods, {"clip_dinoiser.gamma": 0.3, "clip-dinoiser.delta": 0.9, "layer": -2}) == {
        "clip-dinoiser": {"gamma": 0.3, "delta": 0.9, "layer": -2},
        "sclip": {},
        "clip": {},
    }
    assert options_of(methods[1:], {"sclip.pad": False, "pad": True}) == {
        "sclip": {"pad": False},
        "clip": {"pad": True},
    }
    assert options_of(["sclip"], {"sclip.pad": True, "any": 1}) == {"sclip": {"pad": True, "any": 1}}


def test_a_backbone_goes_to_those_that_take_one() -> None:
    pairs = every_pair(["clip", "groupvit"], ["shapes"], backbone="ViT-B-16/openai")
    assert [p.backbone for p in pairs] == ["ViT-B-16/openai", None]
    with pytest.raises(UserError, match="takes a backbone"):
        every_pair(["groupvit", "segclip"], ["shapes"], backbone="ViT-B-16/openai")


def test_one_run_twice_is_refused(tmp_path: Path) -> None:
    (pair,) = every_pair(["clip"], ["shapes"])
    spelled_out = pair.model_copy(update={"options": {"pad": False}})
    with pytest.raises(UserError, match="asked for twice: shapes-clip-tiny"):
        run([pair, spelled_out], tmp_path, limit=1)
    with pytest.raises(UserError, match="asked for twice"):
        run([pair, pair], tmp_path, limit=1)
    with pytest.raises(UserError, match="one device"):
        run([pair, RunSpec(**{**dict(pair), "method": "sclip", "device": "cuda"})], tmp_path)
    assert not list(tmp_path.iterdir())
