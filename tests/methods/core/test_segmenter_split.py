"""One image, several vocabularies: the same fields as one call each, and no override is passed by."""

import inspect
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from ovss.methods import (
    Backbone,
    Method,
    MethodInfo,
    ScoreField,
    UserError,
    Vocabulary,
    WindowGeometry,
    find_method,
    list_methods,
)
from ovss.methods.blocks.dense_clip import SeenPatches
from ovss.methods.clip_dinoiser import CLIPDINOiser
from ovss.methods.maskclip import MaskCLIP

from ..random_parts import make_with_random_parts

INFO = MethodInfo("made-up", "Made up", "nobody, never")
WORDS = (["cat", "sofa, couch", "sky"], ["dog", "a red car", "tree", "road, street, lane", "moon"])
GEOMETRY = WindowGeometry(48, 32)
IMAGE = torch.randint(0, 256, (3, 64, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 32, "layers": 3, "width": 64, "head_width": 64, "patch_size": 16},
        text_cfg={"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
    )
    return Backbone.from_module(model.eval(), SimpleTokenizer(context_length=16))


def encoded(method: Method, which: int) -> Method:
    method.encode(Vocabulary.from_names(WORDS[which], templates=["a {}."]))
    return method


def together(make: Callable[[], Method], *image: Any, **more: Any) -> list[ScoreField]:
    """Fields of both vocabularies in one go; both are encoded before anything is scored, as a pipeline does."""
    first = make()
    pair = [encoded(method, k) for k, method in enumerate((first, first.twin()))]
    return first.segment_with(pair, *image, **more)


def assert_same(found: list[ScoreField], alone: list[ScoreField]) -> None:
    assert len(found) == len(alone) == 2
    found, alone = ([field.dense() for field in fields] for fields in (found, alone))
    for ours, theirs in zip(found, alone, strict=True):
        assert torch.equal(ours.scores, theirs.scores)  # bit for bit
        assert (ours.boxes, ours.covers, ours.frame) == (theirs.boxes, theirs.covers, theirs.frame)
        assert ours.query_to_class == theirs.query_to_class
    assert found[0].scores.shape[1] == 4 and found[1].scores.shape[1] == 7
    assert not torch.equal(found[0].scores[:, 0], found[1].scores[:, 0])


def check(make: Callable[[], Method]) -> None:
    """What holds for every method."""
    alone = [encoded(make(), k).segment(IMAGE, GEOMETRY, 2) for k in (0, 1)]
    assert_same(together(make, IMAGE, GEOMETRY, batch_size=2), alone)


# --- built-in methods -------------------------------------------------------------------------------------------------

PLACES = {
    "whole": ((64, 80), WindowGeometry(), 8),
    "odd": ((67, 51), WindowGeometry(), 1),
    "windows": ((64, 80), GEOMETRY, 8),
    "odd windows": ((71, 93), WindowGeometry(41, 23), 3),
    "one by one": ((49, 95), WindowGeometry(48, 48), 1),
}


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", list_methods(plugins=False))
def test_together_is_the_same_as_alone(backbone: Backbone, name: str, place: str, pad: bool) -> None:
    size, geometry, batch = PLACES[place]
    if pad and not takes_pad(name):
        pytest.skip("pad=true is an option of the dense-CLIP family")

    def make() -> Method:
        return make_with_random_parts(name, backbone, **({"pad": True} if pad else {}))

    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    alone = [encoded(make(), k).segment(image, geometry, batch) for k in (0, 1)]
    assert_same(together(make, image, geometry, batch), alone)


def takes_pad(name: str) -> bool:
    method = find_method(name)
    return "pad" in inspect.signature(method).parameters and not issubclass(method, CLIPDINOiser)


@pytest.mark.parametrize("name", list_methods(plugins=False))
def test_windows_are_encoded_once(backbone: Backbone, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    calls = {"encode_windows": 0, "score_features": 0}
    kind = find_method(name)
    if not kind._is_split() or kind.segment is not Method.segment:
        pytest.skip("this method has no halves, or sees an image in its own way")
    for called in calls:
        home: Any = next(c for c in kind.__mro__ if called in vars(c))
        original = getattr(home, called)

        def call(self: Method, given: Any, called: str = called, original: Any = original) -> Any:
            calls[called] += 1
            return original(self, given)

        monkeypatch.setattr(home, called, call)
    together(lambda: make_with_random_parts(name, backbone), IMAGE, GEOMETRY, batch_size=3)
    assert calls == {"encode_windows": 2, "score_features": 4}  # four windows in two chunks, two vocabularies


# --- methods of others ------------------------------------------------------------------------------------------------


class OnlyScore(MaskCLIP):
    """Replaces the whole of ``score_windows`` and nothing else."""

    calls: ClassVar[Counter[str]] = Counter()

    def score_windows(self, windows: Tensor) -> Tensor:
        self.calls["score"] += 1
        return -2 * super().score_windows(windows)


class BelowOnlyScore(OnlyScore):
    """Replaces a half below a class that has replaced the whole."""

    def encode_windows(self, windows: Tensor) -> SeenPatches:
        self.calls["encode"] += 1
        return super().encode_windows(255 - windows)


class ScoreAndEncode(MaskCLIP):
    """Replaces the whole and one of its halves in one class."""

    calls: ClassVar[Counter[str]] = Counter()

    def encode_windows(self, windows: Tensor) -> SeenPatches:
        self.calls["encode"] += 1
        return super().encode_windows(255 - windows)

    def score_windows(self, windows: Tensor) -> Tensor:
        self.calls["score"] += 1
        return -2 * super().score_windows(windows)


class Doubling:
    """A mix-in, which is no Method."""

    calls: ClassVar[Counter[str]] = Counter()

    def score_windows(self, windows: Tensor) -> Tensor:
        self.calls["score"] += 1
        return -2 * super().score_windows(windows)  # type: ignore[misc]


class MixedIn(Doubling, MaskCLIP):
    """``score_windows`` of the mix-in goes first."""


class OwnSegment(MaskCLIP):
    """Needs the whole image besides its windows (design: windows in methods)."""

    calls: ClassVar[Counter[str]] = Counter()

    def segment(self, image: Tensor, *more: Any, **named: Any) -> ScoreField:
        self.calls["segment"] += 1
        return super().segment(255 - image, *more, **named)


OVERRIDES = {
    OnlyScore: {"score": 4},
    BelowOnlyScore: {"score": 4, "encode": 4},
    ScoreAndEncode: {"score": 4, "encode": 4},
    MixedIn: {"score": 4},
    OwnSegment: {"segment": 2},
}


@pytest.mark.parametrize("kind", OVERRIDES)
def test_what_replaces_the_whole_is_called(backbone: Backbone, kind: type[MaskCLIP]) -> None:
    check(lambda: kind(backbone))
    plain = together(lambda: MaskCLIP(backbone), IMAGE, GEOMETRY)
    kind.calls.clear()  # type: ignore[attr-defined]
    found = together(lambda: kind(backbone), IMAGE, GEOMETRY, batch_size=2)
    assert kind.calls == OVERRIDES[kind]  # type: ignore[attr-defined]  # two batches, two vocabularies
    assert not any(torch.allclose(a.scores, b.scores) for a, b in zip(found, plain, strict=True))
    if kind is OnlyScore:
        assert all(torch.equal(a.scores, -2 * b.scores) for a, b in zip(found, plain, strict=True))


class OnlyEncode(MaskCLIP):
    """Replaces the first half."""

    calls: ClassVar[Counter[str]] = Counter()

    def encode_windows(self, windows: Tensor) -> SeenPatches:
        self.calls["encode"] += 1
        return super().encode_windows(255 - windows)


class OnlyFeatures(MaskCLIP):
    """Replaces the second half."""

    calls: ClassVar[Counter[str]] = Counter()

    def score_features(self, features: SeenPatches) -> Tensor:
        self.calls["score"] += 1
        return -2 * super().score_features(features)


@pytest.mark.parametrize(("kind", "calls"), [(OnlyEncode, {"encode": 2}), (OnlyFeatures, {"score": 4})])
def test_a_replaced_half_is_called_and_the_image_still_encoded_once(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, kind: type[MaskCLIP], calls: dict[str, int]
) -> None:
    check(lambda: kind(backbone))
    plain = together(lambda: MaskCLIP(backbone), IMAGE, GEOMETRY)
    kind.calls.clear()  # type: ignore[attr-defined]
    batches = []
    patch_features = MaskCLIP.patch_features
    monkeypatch.setattr(MaskCLIP, "patch_features", lambda *a: batches.append(1) or patch_features(*a))
    found = together(lambda: kind(backbone), IMAGE, GEOMETRY, batch_size=2)
    assert kind.calls == calls and len(batches) == 2  # type: ignore[attr-defined]
    assert not any(torch.allclose(a.scores, b.scores) for a, b in zip(found, plain, strict=True))


class Plain(Method):
    """A method without CLIP: distance of the mean colour from one made-up colour per query."""

    info = INFO
    calls: ClassVar[Counter[str]] = Counter()

    @property
    def provenance(self) -> dict[str, Any]:
        return {"method": "plain"}

    def colours(self) -> Tensor:
        self.calls["colours"] += 1
        words = [sum(q.encode()) % 255 for q in self.vocabulary.queries]
        return torch.tensor(words).view(1, -1, 1, 1) / 255

    def grey(self, windows: Tensor) -> Tensor:
        self.calls["grey"] += 1
        return F.avg_pool2d(windows.float().mean(1, keepdim=True), 8) / 255

    def score_windows(self, windows: Tensor) -> Tensor:
        return -(self.grey(windows) - self.colours()).abs()


class Halved(Plain):
    """The same, divided."""

    def encode_windows(self, windows: Tensor) -> Tensor:
        return self.grey(windows)

    def score_features(self, features: Tensor) -> Tensor:
        return -(features - self.colours()).abs()

    def score_windows(self, windows: Tensor) -> Tensor:
        return self.score_features(self.encode_windows(windows))


class SameNameByChance(Plain):
    """Has a function of its own that happens to be called like the first half."""

    def encode_windows(self, windows: Tensor, gain: float) -> Tensor:  # type: ignore[override]
        return gain * self.grey(windows)

    def score_windows(self, windows: Tensor) -> Tensor:
        return -(self.encode_windows(windows, 1.0) - self.colours()).abs()


@pytest.mark.parametrize(("kind", "grey"), [(Plain, 4), (Halved, 2), (SameNameByChance, 4)])
def test_methods_without_clip(kind: type[Plain], grey: int) -> None:
    check(kind)
    Plain.calls.clear()
    found = together(kind, IMAGE, GEOMETRY, batch_size=2)
    assert Plain.calls == {"grey": grey, "colours": 4}
    assert all(torch.equal(a.scores, b.scores) for a, b in zip(found, together(Plain, IMAGE, GEOMETRY), strict=True))


# --- twins ------------------------------------------------------------------------------------------------------------


class Module(Plain, nn.Module):
    """Keeps its texts in a buffer, as modules do."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        Plain.__init__(self)
        self.head = nn.Conv2d(1, 1, 1)

    def encode(self, vocabulary: Vocabulary) -> None:
        super().encode(vocabulary)
        self.register_buffer("texts", Plain.colours(self))

    def colours(self) -> Tensor:
        return self.texts


class Containers(Plain):
    """Fills containers that it was born with."""

    def __init__(self) -> None:
        super().__init__()
        self.bank: dict[str, Tensor] = {}
        self.queries: list[str] = []

    def encode(self, vocabulary: Vocabulary) -> None:
        super().encode(vocabulary)
        self.bank["texts"] = Plain.colours(self)
        self.queries[:] = vocabulary.queries

    def colours(self) -> Tensor:
        assert len(self.queries) == self.bank["texts"].shape[1]
        return self.bank["texts"]


@pytest.mark.parametrize("kind", [Module, Containers])
def test_a_twin_leaves_the_texts_of_the_other_alone(kind: type[Plain]) -> None:
    check(kind)
    assert_same(together(kind, IMAGE, GEOMETRY), together(Plain, IMAGE, GEOMETRY))


def test_a_twin_has_the_same_parts_and_its_own_vocabulary(backbone: Backbone) -> None:
    method = encoded(MaskCLIP(backbone), 0)
    before = method.segment(IMAGE, GEOMETRY).scores
    twin = encoded(method.twin(), 1)
    assert isinstance(twin, MaskCLIP) and isinstance(method, MaskCLIP)
    assert twin.backbone is method.backbone and twin.tower is method.tower  # no second copy in memory
    assert twin.provenance == method.provenance
    assert method.vocabulary.classes[0] == "cat" and twin.vocabulary.classes[0] == "dog"
    assert torch.equal(method.segment(IMAGE, GEOMETRY).scores, before)
    module = Module()
    assert module.twin().head is module.head  # type: ignore[attr-defined]


def test_mistakes_are_told(backbone: Backbone) -> None:
    method = encoded(MaskCLIP(backbone), 0)
    with pytest.raises(UserError, match=r"no vocabulary yet: call encode\(Vocabulary\) first"):
        method.segment_with([method, MaskCLIP(backbone)], IMAGE, GEOMETRY)
    for wrong in (IMAGE.float(), IMAGE[:1], IMAGE[0]):
        with pytest.raises(ValueError, match="uint8"):
            method.segment_with([method, method.twin()], wrong, GEOMETRY)
