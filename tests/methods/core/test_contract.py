"""One picture, several vocabularies and several methods: the same fields as each alone, and every trunk runs once."""

from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from ovss.methods import Backbone, Method, MethodInfo, ScoreField, Vocabulary, WindowGeometry, list_methods
from ovss.methods.blocks.dense_clip import DenseClip, LastBlock
from ovss.methods.core.method import Words
from ovss.methods.core.options import options_type
from ovss.methods.core.picture import Picture, Windows
from ovss.methods.core.window_method import WindowMethod
from ovss.methods.maskclip import MaskCLIP
from ovss.methods.models import vit
from ovss.methods.registry import find_method

from ..random_parts import make_with_random_parts

VOCABULARIES = [
    Vocabulary.from_names(names, templates=["a {}."])
    for names in (["cat", "sofa, couch", "sky"], ["dog", "a red car", "tree", "road, street, lane", "moon"])
]
GEOMETRY = WindowGeometry(48, 32)
IMAGE = torch.randint(0, 256, (3, 64, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
DENSE = ("clip", "maskclip", "sclip", "naclip", "clearclip")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 32, "layers": 3, "width": 64, "head_width": 64, "patch_size": 16},
        text_cfg={"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
    )
    return Backbone.from_module(model.eval(), SimpleTokenizer(context_length=16))


@torch.inference_mode()
def fields(method: Method, picture: Picture, geometry: WindowGeometry) -> list[ScoreField]:
    """What a method says about a picture in the words of both vocabularies; words first, as a pipeline does."""
    words = [method.encode_text(vocabulary) for vocabulary in VOCABULARIES]
    seen = method.encode_image(picture, geometry)
    return [method.score(seen, said).dense() for said in words]


def assert_same(found: list[ScoreField], alone: list[ScoreField]) -> None:
    for ours, theirs in zip(found, alone, strict=True):
        assert torch.equal(ours.scores, theirs.scores)  # bit for bit
        assert (ours.boxes, ours.covers, ours.frame) == (theirs.boxes, theirs.covers, theirs.frame)
        assert ours.query_to_class == theirs.query_to_class


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
def test_together_is_the_same_as_alone(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, name: str, place: str, pad: bool
) -> None:
    size, geometry, batch = PLACES[place]
    monkeypatch.setattr(WindowMethod, "batch_size", batch)
    if pad and not takes_pad(name):
        pytest.skip("pad=true is an option of the dense-CLIP family")
    if (name, place) == ("trident", "odd windows"):
        pytest.skip("trident refuses windows that are no whole patches: tests/methods/test_trident.py")
    options = {"pad": True} if pad else {}
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    alone = [
        make_with_random_parts(name, backbone, **options).segment(image, vocabulary, geometry).dense()
        for vocabulary in VOCABULARIES
    ]
    found = fields(make_with_random_parts(name, backbone, **options), Picture.of(image), geometry)
    assert_same(found, alone)
    assert found[0].scores.shape[1] == 4 and found[1].scores.shape[1] == 7
    assert not torch.equal(found[0].scores[:, 0], found[1].scores[:, 0])


def takes_pad(name: str) -> bool:
    """DINO's patches are not padded with a colour, so its methods do not take it."""
    fields = options_type(find_method(name)).model_fields
    return "pad" in fields and name in (*DENSE, "maskclip-value", "maskclip-original")


def counted(monkeypatch: pytest.MonkeyPatch, home: Any, name: str) -> list[int]:
    """Calls of a function while the test lasts: the batch of each."""
    calls: list[int] = []
    original = getattr(home, name)

    def call(*given: Any, **named: Any) -> Any:
        calls.append(len(given[1]))
        return original(*given, **named)

    monkeypatch.setattr(home, name, call)
    return calls


@pytest.mark.parametrize("geometry", [WindowGeometry(), GEOMETRY], ids=["whole", "windows"])
def test_methods_on_one_tower_share_its_trunk(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, geometry: WindowGeometry
) -> None:
    """Five methods, two vocabularies: the trunk runs once per batch of windows, and nothing moves by a bit."""
    methods = [make_with_random_parts(name, backbone) for name in DENSE]
    alone = [fields(method, Picture.of(IMAGE), geometry) for method in methods]
    calls = counted(monkeypatch, vit, "run_trunk")
    picture = Picture.of(IMAGE)
    together = [fields(method, picture, geometry) for method in methods]
    assert len(calls) == 1
    for found, expected in zip(together, alone, strict=True):
        assert_same(found, expected)
    assert not torch.equal(together[0][0].scores, together[1][0].scores)


def test_what_moves_the_trunk_is_in_its_key(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding (where it matters), positions, statistics, another tower: each has its own trunk."""
    odd, whole = IMAGE[:, :61, :75], IMAGE
    other = Backbone(backbone.model, backbone.tokenizer, "other", "", (0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    variants: list[tuple[Backbone, dict[str, Any]]] = [
        (backbone, {}),
        (backbone, {"pad": True}),
        (backbone, {"pad": "end"}),
        (backbone, {"positions": "size"}),
        (other, {}),
    ]
    for image, runs in ((odd, 5), (whole, 3)):
        methods = [make_with_random_parts("sclip", b, **options) for b, options in variants]
        alone = [fields(method, Picture.of(image), WindowGeometry()) for method in methods]
        with monkeypatch.context() as patch:
            calls = counted(patch, vit, "run_trunk")
            picture = Picture.of(image)
            for method, expected in zip(methods, alone, strict=True):
                assert_same(fields(method, picture, WindowGeometry()), expected)
            assert len(calls) == runs


def test_methods_on_one_backbone_have_one_tower(backbone: Backbone) -> None:
    first, second = MaskCLIP(backbone), MaskCLIP(backbone, dtype=torch.bfloat16)
    assert MaskCLIP(backbone).tower is first.tower  # no second copy in memory
    assert first.tower is not second.tower


# --- methods of others ------------------------------------------------------------------------------------------------


class Inverted(MaskCLIP):
    """Looks at something else."""

    calls: ClassVar[Counter[str]] = Counter()

    def encode_windows(self, windows: Windows) -> Any:
        self.calls["encode"] += 1
        return super().encode_windows(Windows(255 - windows.pixels, windows.picture, (windows.place, "inverted")))


class Scaled(MaskCLIP):
    """Scores otherwise."""

    calls: ClassVar[Counter[str]] = Counter()

    def score_windows(self, seen: Any, words: Any) -> Tensor:
        self.calls["score"] += 1
        return -2 * super().score_windows(seen, words)


@pytest.mark.parametrize(("kind", "calls"), [(Inverted, {"encode": 2}), (Scaled, {"score": 4})])
def test_what_a_subclass_replaces_is_called(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, kind: type[MaskCLIP], calls: dict[str, int]
) -> None:
    """Four windows in two batches, two vocabularies."""
    monkeypatch.setattr(WindowMethod, "batch_size", 2)
    plain = fields(MaskCLIP(backbone), Picture.of(IMAGE), GEOMETRY)
    kind.calls.clear()  # type: ignore[attr-defined]
    found = fields(kind(backbone), Picture.of(IMAGE), GEOMETRY)
    assert kind.calls == calls  # type: ignore[attr-defined]
    assert not any(torch.allclose(a.scores, b.scores) for a, b in zip(found, plain, strict=True))
    if kind is Scaled:
        assert all(torch.equal(a.scores, -2 * b.scores) for a, b in zip(found, plain, strict=True))


class Plain(WindowMethod[Tensor, Words]):
    """A method without CLIP: distance of the mean colour from one made-up colour per query."""

    info = MethodInfo("made-up", "Made up", "nobody, never")

    def encode_text(self, vocabulary: Vocabulary) -> Words:
        return Words(vocabulary)

    def encode_windows(self, windows: Windows) -> Tensor:
        return F.avg_pool2d(windows.pixels.float().mean(1, keepdim=True), 8) / 255

    def score_windows(self, seen: Tensor, words: Words) -> Tensor:
        colours = torch.tensor([sum(q.encode()) % 255 for q in words.vocabulary.queries]).view(1, -1, 1, 1) / 255
        return -(seen - colours).abs()


class WholeImage(Method[Tensor, Words]):
    """The same, for the whole image at once, at its original size."""

    info = MethodInfo("made-up-whole", "Made up", "nobody, never")
    encode_text = Plain.encode_text

    def encode_image(self, picture: Picture, geometry: WindowGeometry) -> Tensor:
        return F.interpolate(picture.original[None].float().mean(1, keepdim=True), picture.size) / 255

    def score(self, seen: Tensor, words: Words) -> ScoreField:
        whole = WindowGeometry().boxes(*seen.shape[2:])
        scores = Plain.score_windows(self, seen, words)  # type: ignore[arg-type]
        return ScoreField(scores, whole, whole, (seen.shape[2], seen.shape[3]), words.query_to_class)


@pytest.mark.parametrize("kind", [Plain, WholeImage])
def test_methods_without_clip(kind: Callable[[], Method]) -> None:
    alone = [kind().segment(IMAGE, vocabulary, GEOMETRY) for vocabulary in VOCABULARIES]
    assert_same(fields(kind(), Picture.of(IMAGE), GEOMETRY), alone)
    assert kind().provenance["method"].startswith("made-up")
    assert kind().size_multiple_px is None


def test_a_method_of_the_family_is_its_last_block(backbone: Backbone) -> None:
    class Own(DenseClip):
        info = MethodInfo("own", "Own", "nobody, never")
        last_block = LastBlock(("qq", "kk"), residual=True, ffn=True)

    sclip = fields(make_with_random_parts("sclip", backbone), Picture.of(IMAGE), GEOMETRY)
    assert_same(fields(Own(backbone), Picture.of(IMAGE), GEOMETRY), sclip)
