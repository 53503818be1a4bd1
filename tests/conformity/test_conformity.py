"""Every listed method keeps the contract, and each broken one fails exactly the check that is about its fault."""

import contextlib
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import open_clip
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from ovss.harness.runs.conformity import CHECKS, check_method
from ovss.methods import Backbone, Box, Method, MethodInfo, Vocabulary, list_methods
from ovss.methods.blocks.clip_method import ClipWords
from ovss.methods.blocks.dense_clip import DenseClipOptions, SeenPatches
from ovss.methods.clip import CLIP
from ovss.methods.core.picture import Windows

from ..methods.random_parts import make_with_random_parts


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVSS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=32,
        vision_cfg={"image_size": 64, "layers": 3, "width": 64, "head_width": 32, "patch_size": 16},
        text_cfg={"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
        quick_gelu=True,
    ).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim >= 2:
                p.normal_(std=(0.5 if "embedding" in name else 1.3 / p[0].numel() ** 0.5))
    return Backbone.from_module(model, SimpleTokenizer(context_length=32))


PADDED = (
    *("clip", "maskclip", "maskclip-value", "sclip", "clearclip", "naclip", "clip-surgery", "gem"),
    *("maskclip-original", "clip-dinoiser", "sc-clip", "itaclip"),
)


def failures(factory: Callable[[], Method]) -> dict[str, str]:
    results = list(check_method(factory))
    assert [r.name for r in results] == list(CHECKS)
    assert all(bool(r.detail) != r.passed for r in results)
    return {r.name: r.detail for r in results if not r.passed}


@pytest.mark.parametrize("name", list_methods())
@pytest.mark.parametrize("pad", [False, True])
def test_listed_methods(backbone: Backbone, name: str, pad: bool) -> None:
    if pad and name not in PADDED:
        pytest.skip("pad is an option of the dense-CLIP family")
    options = {"pad": True} if pad else {}
    assert failures(lambda: make_with_random_parts(name, backbone, **options)) == {}


class Sound(CLIP):
    """A correct method under test conditions; the broken ones change one thing each."""

    info = MethodInfo("sound", "Sound", "none")


class WrongDtype(Sound):
    def score_windows(self, seen: SeenPatches, words: ClipWords) -> Tensor:
        return super().score_windows(seen, words).double()


class WrongShape(Sound):
    def score_windows(self, seen: SeenPatches, words: ClipWords) -> Tensor:
        return super().score_windows(seen, words).flatten(2)


class NonDeterministic(Sound):
    def score_windows(self, seen: SeenPatches, words: ClipWords) -> Tensor:
        scores = super().score_windows(seen, words)
        return scores * (1 + 1e-6 * torch.rand(scores.shape))


class LeavesHook(Sound):
    def score_windows(self, seen: SeenPatches, words: ClipWords) -> Tensor:
        self.backbone.model.visual.ln_post.register_forward_hook(lambda *args: None)
        return super().score_windows(seen, words)


class ChangesWeights(Sound):
    def score_windows(self, seen: SeenPatches, words: ClipWords) -> Tensor:
        scores = super().score_windows(seen, words)
        self.backbone.model.logit_scale.data += 1
        return scores


class PatchesModule(Sound):
    def score_windows(self, seen: SeenPatches, words: ClipWords) -> Tensor:
        visual = self.backbone.model.visual
        visual.forward = visual.forward
        return super().score_windows(seen, words)


class BatchDependent(Sound):
    def score_windows(self, seen: SeenPatches, words: ClipWords) -> Tensor:
        return super().score_windows(seen, words) + 0.01 * len(seen.features)


class SeesImage(BatchDependent):
    """Its windows are no images of their own, and it says so."""

    sees_whole_image = True


class OpensSocket(Sound):
    def score_windows(self, seen: SeenPatches, words: ClipWords) -> Tensor:
        socket.socket().close()
        return super().score_windows(seen, words)


class HidesSocket(Sound):
    def score_windows(self, seen: SeenPatches, words: ClipWords) -> Tensor:
        with contextlib.suppress(OSError):
            socket.socket().close()
        return super().score_windows(seen, words)


class SquareOnly(Sound):
    def score_windows(self, seen: SeenPatches, words: ClipWords) -> Tensor:
        scores = super().score_windows(seen, words)
        tall = scores.shape[2] > scores.shape[3]
        return scores.flatten(2) if tall else scores


class WholePatchesOnly(Sound):
    def encode_windows(self, windows: Windows) -> SeenPatches:
        if windows.pixels.shape[2] % 16 or windows.pixels.shape[3] % 16:
            raise RuntimeError("height and width must be multiples of 16")
        return super().encode_windows(windows)


class EmptyCover(Sound):
    def cover(self, height: int, width: int) -> Box:
        return Box(0, 0, height - height % 16, 0 if width % 16 else width)


class NeedsTwoClasses(Sound):
    def score_windows(self, seen: SeenPatches, words: ClipWords) -> Tensor:
        scores = super().score_windows(seen, words)
        return scores if scores.shape[1] > 1 else scores[:, 1:]


class FewClasses(Sound):
    def score_windows(self, seen: SeenPatches, words: ClipWords) -> Tensor:
        return super().score_windows(seen, words)[:, :255]


class InfiniteOnFlat(Sound):
    def encode_windows(self, windows: Windows) -> SeenPatches:
        seen = super().encode_windows(windows)
        return SeenPatches(seen.features / (windows.pixels.float().std() > 0))


class UnwritableProvenance(Sound):
    @property
    def provenance(self) -> dict[str, Any]:
        return {**super().provenance, "device": torch.device("cpu")}


class KeepsLastWords(Sound):
    """Scores what it was told last, whatever it is given."""

    def encode_text(self, vocabulary: Vocabulary) -> ClipWords:
        self.last = super().encode_text(vocabulary)
        return self.last

    def score_windows(self, seen: SeenPatches, words: ClipWords) -> Tensor:
        text = self.last.text[torch.arange(len(words.text)) % len(self.last.text)]
        return super().score_windows(seen, replace(words, text=text))


class KeepsFirstImage(Sound):
    """Remembers what it saw on a picture under a key that does not say which."""

    def encode_windows(self, windows: Windows) -> SeenPatches:
        seen = super().encode_windows(windows)
        kept = windows.picture.once("seen", lambda: replace(seen, features=seen.features.clone()))
        if kept.features is not seen.features:
            kept.features.mul_(1.001)  # what is shared must not be written to
        return SeenPatches(kept.features if kept.features.shape == seen.features.shape else seen.features)


class SilentOption(Sound):
    class Quiet(DenseClipOptions):
        gain: float = 1.0

    options: Quiet


def test_sound(backbone: Backbone) -> None:
    assert failures(lambda: Sound(backbone)) == {}
    assert failures(lambda: SeesImage(backbone)) == {}


@pytest.mark.parametrize(
    ("broken", "check", "detail"),
    [
        (WrongDtype, "shapes and dtypes", "float64"),
        (NonDeterministic, "same result twice", "differ in"),
        (LeavesHook, "parts untouched", "backbone.model changed in use: hooks"),
        (ChangesWeights, "parts untouched", "backbone.model changed in use: weights"),
        (PatchesModule, "parts untouched", "backbone.model changed in use: patched methods"),
        (BatchDependent, "windows are independent", "two windows differ from two images"),
        (OpensSocket, "no network", "opened 1 sockets"),
        (HidesSocket, "no network", "test_conformity"),
        (SquareOnly, "non-square images", "do not fit 1 windows"),
        (WholePatchesOnly, "sizes off the patch grid", "RuntimeError: height and width must be multiples of 16"),
        (EmptyCover, "sizes off the patch grid", "stretch over nothing"),
        (NeedsTwoClasses, "one class", "0 planes for 1 queries"),
        (FewClasses, "847 classes", "255"),
        (InfiniteOnFlat, "finite scores", "flat image are not finite"),
        (UnwritableProvenance, "provenance", "TypeError"),
        (KeepsLastWords, "no state", "fresh method"),
        (KeepsFirstImage, "a shared picture", "looked at before"),
        (SilentOption, "options", "without a description: gain"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_broken_methods_fail_exactly_their_check(
    backbone: Backbone, broken: type[Sound], check: str, detail: str
) -> None:
    model = backbone.model
    before = {k: v.clone() for k, v in model.state_dict().items()}
    try:
        failed = failures(lambda: broken(backbone))
    finally:  # the backbone is shared, and some of these leave things on it
        model.load_state_dict(before)
        model.visual.__dict__.pop("forward", None)
        model.visual.ln_post._forward_hooks.clear()
    assert list(failed) == [check], failed
    assert detail in failed[check]


def test_a_factory_that_raises_fails_every_check() -> None:
    def factory() -> Method:
        raise RuntimeError("no weights here")

    failed = failures(factory)
    assert list(failed) == list(CHECKS)
    assert set(failed.values()) == {"RuntimeError: no weights here"}


def test_sockets_work_again_afterwards(backbone: Backbone) -> None:
    original = socket.socket
    list(check_method(lambda: OpensSocket(backbone)))
    assert socket.socket is original


def test_wrong_shape_is_told(backbone: Backbone) -> None:
    failed = failures(lambda: WrongShape(backbone))
    assert "(1, 4, 24)" in failed["shapes and dtypes"]
