"""ITACLIP against outputs of the original program (tests/data/oracles), and what belongs to it here."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.harness import decode
from ovss.harness.decoding.closing import closed
from ovss.harness.decoding.refinement import on_grid
from ovss.harness.decoding.rule import DecodeRule
from ovss.methods import Backbone, Picture, UserError, Vocabulary, WindowGeometry, Windows, create_method, load_backbone
from ovss.methods import itaclip as itaclip_module
from ovss.methods.blocks.clip_method import ClipWords
from ovss.methods.blocks.dense_clip import LastBlock
from ovss.methods.blocks.image_views import blurred
from ovss.methods.blocks.patch_cosines import attention
from ovss.methods.itaclip import ITACLIP, ITACLIPOptions
from ovss.methods.refine.pamr import Pamr

from .oracle_parts import TOLERANCE, VOCABULARY, error, load_oracle, oracle_backbone, scores_of

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def oracle() -> dict[str, Tensor]:
    return load_oracle("itaclip")


@pytest.fixture(scope="module")
def backbone(oracle: dict[str, Tensor]) -> Backbone:
    return oracle_backbone(oracle)


@pytest.fixture(scope="module")
def tiny() -> Backbone:
    return load_backbone("tiny-clip")


def wanted_views(oracle: dict[str, Tensor], image: str, c: float = 0.75) -> Tensor:
    """The vectors hold the five views apart, the mirrored ones not turned back."""
    three, down, side = (oracle[f"{image}.views.scores_{name}"] for name in ("three", "vflip", "hflip"))
    return c * three + (1 - c) * (down.flip(1) + side.flip(2)) / 2


@pytest.mark.parametrize("image", ["w224", "w112", "nonsquare"])
def test_scores_of_a_window(oracle: dict[str, Tensor], backbone: Backbone, image: str) -> None:
    alone = ITACLIP(backbone, ITACLIPOptions(views=False))
    assert error(scores_of(alone, oracle, image)[0], oracle[f"{image}.scores"]) <= TOLERANCE
    assert error(scores_of(ITACLIP(backbone), oracle, image)[0], wanted_views(oracle, image)) <= TOLERANCE


def make(backbone: Backbone, c: float = 0.75, d: float = 0.2, **options: Any) -> ITACLIP:
    return ITACLIP(backbone, ITACLIPOptions(upright_weight=c, class_text_weight=d, **options))


def words(method: ITACLIP, oracle: dict[str, Tensor], background: bool) -> ClipWords:
    """The vectors' texts with their second ones, whose row of the background is not used."""
    vocabulary = replace(VOCABULARY, background=0 if background else None)
    return method.mixed(ClipWords(vocabulary, oracle["text"]), oracle["aux_text"][int(background) :])


def test_texts_of_queries_and_classes(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    with_background = words(make(backbone, d=0.05), oracle, True).text
    assert error(with_background, oracle["full_bg.mixed_text"]) <= TOLERANCE
    without = words(make(backbone), oracle, False).text
    assert error(without, oracle["full_nobg.mixed_text"]) <= TOLERANCE
    assert error(F.normalize(without, dim=-1), oracle["full_nobg.mixed_text"]) > 20 * TOLERANCE


def test_a_window_at_its_own_size(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    method = make(backbone)
    seen = method.encode_image(Picture.of(oracle["w112.image"].permute(2, 0, 1)), WindowGeometry())
    field = method.score(seen, ClipWords(VOCABULARY, oracle["text"]))
    assert error(on_grid(field, (112, 112))[:, ::4, ::4], oracle["w112.views.logits"]) <= TOLERANCE
    found = blurred(method.normalised(oracle["w112.image"].permute(2, 0, 1)[None]))
    assert error(found[0, :, ::4, ::4], oracle["w112.views.blur"]) <= TOLERANCE


@pytest.mark.parametrize(
    ("case", "options", "rule", "refined"),
    [
        ("plain", {"views": False}, {}, False),
        ("full_bg", {"c": 0.7, "d": 0.05}, {"probability_threshold": 0.3, "area_threshold": 0.1}, True),
        ("full_nobg", {}, {}, True),
    ],
)
def test_labels_of_an_image_in_windows(
    oracle: dict[str, Tensor],
    backbone: Backbone,
    case: str,
    options: dict[str, Any],
    rule: dict[str, Any],
    refined: bool,
) -> None:
    method, background = make(backbone, **options), case == "full_bg"
    picture = Picture.of(oracle["slide.image"].permute(2, 0, 1))
    said = ClipWords(VOCABULARY, oracle["text"]) if case == "plain" else words(method, oracle, background)
    field = method.score(method.encode_image(picture, WindowGeometry(112, 28)), said)
    if case != "full_nobg":
        assert error(on_grid(field, field.frame)[:, ::4, ::4], oracle[f"slide.{case}.stitched"]) <= TOLERANCE
    how = DecodeRule(logit_scale=60 if background else 40, background=0 if background else None, **rule)
    statistics = (method.statistics[0], method.statistics[1])
    labels = decode(field, (150, 170), how, Pamr(picture.pixels, (150, 170), *statistics) if refined else None)
    wanted = oracle[f"slide.{case}.labels"]
    assert (labels != wanted).float().mean() > 1e-3  # closing is part of it
    assert (closed(labels, 3) != wanted).float().mean() <= 1e-4


@pytest.mark.parametrize(
    ("where", "name", "mistake"),
    [
        (itaclip_module, "MIDDLE_OF_TWELVE", (7, 8, 10)),
        (itaclip_module, "attention", lambda a, b: attention(a, b) / 2),
        (itaclip_module, "gray", lambda x: x.mean(dim=1, keepdim=True).expand_as(x)),
        (itaclip_module, "blurred", lambda x: blurred(x, sigma=3.0)),
        (ITACLIP, "last_block", LastBlock(("qq", "kk"), residual=False, ffn=False)),
        (ITACLIP, "last_block", LastBlock(("qq", "kk"), residual=True, ffn=True)),
    ],
    ids=["blocks 7, 8, 10 from 0", "half of the sum", "plain mean", "narrow blur", "no skip", "MLP"],
)
def test_misreadings_are_noticed(
    oracle: dict[str, Tensor],
    backbone: Backbone,
    monkeypatch: pytest.MonkeyPatch,
    where: object,
    name: str,
    mistake: object,
) -> None:
    monkeypatch.setattr(where, name, mistake)
    assert error(scores_of(make(backbone), oracle, "w112")[0], wanted_views(oracle, "w112")) > 20 * TOLERANCE


def test_a_batch_is_its_windows(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    method = make(backbone)
    images = torch.stack([oracle["w112.image"], oracle["w112.image"].flip(0)]).permute(0, 3, 1, 2)
    together = method.encode_windows(Windows.of(images)).features
    for i in range(2):
        alone = method.encode_windows(Windows.of(images[i : i + 1])).features
        assert error(together[i : i + 1], alone) <= TOLERANCE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(oracle: dict[str, Tensor], backbone: Backbone, dtype: torch.dtype) -> None:
    found = scores_of(ITACLIP(backbone, dtype=dtype), oracle, "w112")[0]
    assert found.dtype == torch.float32 and error(found, wanted_views(oracle, "w112")) < 0.1


def test_blur_by_hand() -> None:
    """A row of one channel under (1, 2, 1) / 4, nearly: mirrored without the pixel at the border."""
    row = torch.tensor([0.0, 4, 8, 0]).expand(1, 1, 4, 4)
    side = float(torch.exp(torch.tensor(-0.5 / 0.85**2)))
    a, b = side / (1 + 2 * side), 1 / (1 + 2 * side)
    wanted = torch.tensor([2 * a * 4, b * 4 + a * 8, b * 8 + a * 4, 2 * a * 8])
    torch.testing.assert_close(blurred(row, 3, 0.85)[0, 0], wanted.expand(4, 4))
    with pytest.raises(ValueError, match="5 px cannot be mirrored over 5 px"):
        blurred(torch.zeros(1, 3, 5, 9))


def test_a_file_of_class_texts(tmp_path: Path, tiny: Backbone) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("a domestic animal\n\nwhat one drives\n")
    vocabulary = Vocabulary.from_texts(
        [["sky", "sea"], ["cat"], ["car"]], ["back", "cat", "car"], ["a {}", "the {}"], 0
    )
    method = create_method("itaclip", tiny, class_texts=str(path), class_text_weight=0.5)
    found, names = method.encode_text(vocabulary).text, create_method("itaclip", tiny).encode_text(vocabulary).text
    second = create_method("itaclip", tiny).encode_text(
        Vocabulary.from_texts([["a domestic animal"], ["what one drives"]], ["1", "2"], ["a {}", "the {}"])
    )
    assert found[:2].equal(names[:2])
    torch.testing.assert_close(found[2:], (names[2:] + second.text) / 2)
    told = method.provenance["class_texts"]
    assert told["source"] == "file texts.txt" and told["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert str(tmp_path) not in str(method.provenance)
    with pytest.raises(UserError, match=r"texts\.txt has 2 lines, the vocabulary 3 classes beside the background"):
        method.encode_text(replace(vocabulary, background=None))
    with pytest.raises(UserError, match="cannot be read as UTF-8"):
        create_method("itaclip", tiny, class_texts=str(tmp_path / "absent.txt"))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as UTF-8"):
        create_method("itaclip", tiny, class_texts=str(path))
