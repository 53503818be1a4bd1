"""Methods of other distributions: entry points, and ``package.module:Class``."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer

from ovss.methods import Method, UserError, Vocabulary, create_method, find_method, list_methods

MODULE = """
from typing import Any

import torch
from pydantic import Field
from ovss.methods import MethodInfo, Options, WindowMethod, Words


class BrightnessOptions(Options):
    gain: float = Field(1.0, description="what brightness is multiplied by")


class Brightness(WindowMethod):
    info = MethodInfo("brightness", "Brightness", "nobody, never")
    options: BrightnessOptions

    def __init__(self, backbone, options=None, device="cpu", dtype=torch.float32) -> None:
        super().__init__(options)

    def encode_text(self, vocabulary):
        return Words(vocabulary)

    def encode_windows(self, windows):
        return torch.nn.functional.avg_pool2d(windows.pixels.float().mean(1, keepdim=True), 8)

    def score_windows(self, seen: torch.Tensor, words: Words) -> torch.Tensor:
        return (seen * self.options.gain).expand(-1, len(words.vocabulary.queries), -1, -1).contiguous()


class NotAMethod:
    pass
"""


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An installed distribution, as far as Python can tell.  Gives the name of its module."""
    (tmp_path / "ovss_bright_plugin.py").write_text(MODULE)
    info = tmp_path / "ovss_bright-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ovss-bright\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        "[ovss.methods]\n"
        "brightness = ovss_bright_plugin:Brightness\n"
        "not-a-method = ovss_bright_plugin:NotAMethod\n"
        "gone = ovss_bright_plugin:Gone\n"
        "no-module = ovss_no_such_module:Gone\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield "ovss_bright_plugin"
    sys.modules.pop("ovss_bright_plugin", None)


@pytest.fixture(scope="module")
def model() -> open_clip.CLIP:
    torch.manual_seed(0)
    return open_clip.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 32, "layers": 1, "width": 64, "head_width": 64, "patch_size": 16},
        text_cfg={"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
    ).eval()


def test_it_is_listed_only_while_installed(distribution: str) -> None:
    assert list_methods()[:6] == ["clip", "maskclip", "maskclip-value", "sclip", "clearclip", "naclip"]
    assert "brightness" in list_methods()


def test_it_is_gone_afterwards() -> None:
    assert "brightness" not in list_methods()
    with pytest.raises(UserError, match="unknown method 'brightness'"):
        find_method("brightness")


@pytest.mark.parametrize("name", ["brightness", "ovss_bright_plugin:Brightness"])
def test_found_and_made(distribution: str, model: open_clip.CLIP, name: str) -> None:
    found = find_method(name)
    assert issubclass(found, Method)
    assert (found.__module__, found.__name__) == (distribution, "Brightness")
    method = create_method(name, backbone=model, tokenizer=SimpleTokenizer(context_length=16), gain=2.0)
    assert isinstance(method, found)
    assert method.provenance == {"method": "brightness", "gain": 2.0}
    field = method.segment(torch.full((3, 16, 24), 10, dtype=torch.uint8), Vocabulary.from_names(["dark", "light"]))
    assert torch.equal(field.scores, torch.full((1, 2, 2, 3), 20.0))


def test_it_keeps_the_contract(distribution: str, model: open_clip.CLIP) -> None:
    from ovss.harness.runs.conformity import check_method

    def factory() -> Method:
        return create_method("brightness", backbone=model, tokenizer=SimpleTokenizer(context_length=16))

    assert [check for check in check_method(factory) if not check.passed] == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("brightnes", "did you mean brightness"),
        ("not-a-method", "not a subclass of ovss.methods.Method"),
        ("ovss_bright_plugin:NotAMethod", "not a subclass of ovss.methods.Method"),
        ("ovss_bright_plugin:Gone", "cannot be imported"),
        ("ovss_no_such_module:Gone", "cannot be imported"),
        ("gone", "ovss_bright_plugin:Gone.* cannot be imported"),
        ("no-module", "ovss_no_such_module:Gone.* cannot be imported"),
        (":Gone", "Gone"),
        ("ovss_bright_plugin:", "ovss_bright_plugin"),
    ],
)
def test_what_cannot_be_found_is_told(distribution: str, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_method(name)


def test_unknown_options_and_a_missing_tokenizer_are_told(distribution: str, model: open_clip.CLIP) -> None:
    with pytest.raises(UserError, match="gian"):
        create_method("brightness", backbone=model, tokenizer=SimpleTokenizer(context_length=16), gian=2.0)
    with pytest.raises(UserError, match="tokenizer"):
        create_method("brightness", backbone=model)
