"""Every listed method keeps the contract, and each broken one fails exactly the check that is about its fault."""

import contextlib
import inspect
import socket
from collections.abc import Callable
from typing import Any

import open_clip
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from ovss.harness.runs.conformity import CHECKS, check_method
from ovss.methods import Backbone, Box, Method, MethodInfo, Vocabulary, find_method, list_methods
from ovss.methods.clip import CLIP

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


def failures(factory: Callable[[], Method]) -> dict[str, str]:
    results = list(check_method(factory))
    assert [r.name for r in results] == list(CHECKS)
    assert all(bool(r.detail) != r.passed for r in results)
    return {r.name: r.detail for r in results if not r.passed}


@pytest.mark.parametrize("name", list_methods())
@pytest.mark.parametrize("pad", [False, True])
def test_listed_methods(backbone: Backbone, name: str, pad: bool) -> None:
    if pad and "pad" not in inspect.signature(find_method(name)).parameters:
        pytest.skip("pad is an option of the dense-CLIP family")
    options = {"pad": True} if pad else {}
    assert failures(lambda: make_with_random_parts(name, backbone, **options)) == {}


class Sound(CLIP):
    """A correct method under test conditions; the broken ones change one thing each."""

    info = MethodInfo("sound", "Sound", "none")


class WrongDtype(Sound):
    def score_windows(self, windows: Tensor) -> Tensor:
        return super().score_windows(windows).double()


class WrongShape(Sound):
    def score_windows(self, windows: Tensor) -> Tensor:
        return super().score_windows(windows).flatten(2)


class NonDeterministic(Sound):
    def score_windows(self, windows: Tensor) -> Tensor:
        scores = super().score_windows(windows)
        return scores * (1 + 1e-6 * torch.rand(scores.shape))


class LeavesHook(Sound):
    def score_windows(self, windows: Tensor) -> Tensor:
        self.backbone.model.visual.ln_post.register_forward_hook(lambda *args: None)
        return super().score_windows(windows)


class ChangesWeights(Sound):
    def score_windows(self, windows: Tensor) -> Tensor:
        scores = super().score_windows(windows)
        self.backbone.model.logit_scale.data += 1
        return scores


class PatchesModule(Sound):
    def score_windows(self, windows: Tensor) -> Tensor:
        visual = self.backbone.model.visual
        visual.forward = visual.forward
        return super().score_windows(windows)


class BatchDependent(Sound):
    def score_windows(self, windows: Tensor) -> Tensor:
        return super().score_windows(windows) + 0.01 * len(windows)


class OpensSocket(Sound):
    def score_windows(self, windows: Tensor) -> Tensor:
        socket.socket().close()
        return super().score_windows(windows)


class HidesSocket(Sound):
    def score_windows(self, windows: Tensor) -> Tensor:
        with contextlib.suppress(OSError):
            socket.socket().close()
        return super().score_windows(windows)


class SquareOnly(Sound):
    def score_windows(self, windows: Tensor) -> Tensor:
        scores = super().score_windows(windows)
        tall = windows.shape[2] > windows.shape[3]
        return scores.flatten(2) if tall else scores


class WholePatchesOnly(Sound):
    def score_windows(self, windows: Tensor) -> Tensor:
        if windows.shape[2] % 16 or windows.shape[3] % 16:
            raise RuntimeError("height and width must be multiples of 16")
        return super().score_windows(windows)


class EmptyCover(Sound):
    def cover(self, height: int, width: int) -> Box:
        return Box(0, 0, height - height % 16, 0 if width % 16 else width)


class NeedsTwoClasses(Sound):
    def score_windows(self, windows: Tensor) -> Tensor:
        scores = super().score_windows(windows)
        return scores if scores.shape[1] > 1 else scores[:, 1:]


class FewClasses(Sound):
    def score_windows(self, windows: Tensor) -> Tensor:
        return super().score_windows(windows)[:, :255]


class InfiniteOnFlat(Sound):
    def score_windows(self, windows: Tensor) -> Tensor:
        return super().score_windows(windows) / (windows.float().std() > 0)


class UnwritableProvenance(Sound):
    @property
    def provenance(self) -> dict[str, Any]:
        return {**super().provenance, "device": torch.device("cpu")}


class KeepsFirstText(Sound):
    def encode(self, vocabulary: Vocabulary) -> None:
        first = self._text
        super().encode(vocabulary)
        if first is not None:
            self._text = first[torch.arange(len(vocabulary.queries)) % len(first)]


class CrashesBeforeEncode(Sound):
    def score_windows(self, windows: Tensor) -> Tensor:
        assert self._text is not None
        return super().score_windows(windows)


def test_sound(backbone: Backbone) -> None:
    assert failures(lambda: Sound(backbone)) == {}


@pytest.mark.parametrize(
    ("broken", "check", "detail"),
    [
        (WrongDtype, "shapes and dtypes", "float64"),
        (NonDeterministic, "same result twice", "differ in"),
        (LeavesHook, "parts untouched", "backbone.model changed in use: hooks"),
        (ChangesWeights, "parts untouched", "backbone.model changed in use: weights"),
        (PatchesModule, "parts untouched", "backbone.model changed in use: patched methods"),
        (BatchDependent, "batch equals singles", "differs from two of one"),
        (OpensSocket, "no network", "opened 1 sockets"),
        (HidesSocket, "no network", "test_conformity"),
        (SquareOnly, "non-square images", "do not fit 1 windows"),
        (WholePatchesOnly, "sizes off the patch grid", "RuntimeError: height and width must be multiples of 16"),
        (EmptyCover, "sizes off the patch grid", "cover"),
        (NeedsTwoClasses, "one class", "0 planes for 1 queries"),
        (FewClasses, "847 classes", "255"),
        (InfiniteOnFlat, "finite scores", "flat image are not finite"),
        (UnwritableProvenance, "provenance", "TypeError"),
        (KeepsFirstText, "encode again", "fresh method"),
        (CrashesBeforeEncode, "encode comes first", "AssertionError"),
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
    assert "wanted (1, 4, h, w)" in failed["shapes and dtypes"]
