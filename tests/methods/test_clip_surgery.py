"""CLIPSurgery against outputs of the original program (tests/data/oracles) and a plain recomputation of its formula."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.methods import Backbone, Picture, UserError, Vocabulary, WindowGeometry, create_method
from ovss.methods.blocks.clip_method import ClipWords
from ovss.methods.clip_surgery import CLIPSurgery, CLIPSurgeryOptions

from .oracle_parts import error, load_oracle
from .second_path_parts import TOLERANCE, oracle_clip, oracle_field

IMAGES = ("in0", "in1")  # 224 x 224, the stored grid, and 176 x 176 px

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def oracle() -> dict[str, Tensor]:
    return load_oracle("clip-surgery")


@pytest.fixture(scope="module")
def backbone(oracle: dict[str, Tensor]) -> Backbone:
    return oracle_clip(oracle)


def scores(oracle: dict[str, Tensor], backbone: Backbone, image: str, **options: Any) -> Tensor:
    return oracle_field(CLIPSurgery(backbone, CLIPSurgeryOptions(**options)), oracle, image).scores[0]


def surgery(oracle: dict[str, Tensor], image: str, kind: str) -> Tensor:
    """The original's feature surgery, ``(Q, h, w)``; its first row is the class token."""
    side = oracle[f"{image}.cos_grid"].shape[1]
    return oracle[f"{image}.surgery_{kind}"][1:].T.unflatten(1, (side, side))


@pytest.mark.parametrize("image", IMAGES)
def test_cosines_of_the_original(oracle: dict[str, Tensor], backbone: Backbone, image: str) -> None:
    assert error(scores(oracle, backbone, image), oracle[f"{image}.cos_grid"]) <= TOLERANCE


@pytest.mark.parametrize(("image", "moved"), [("in0", 0.2347), ("in1", 0.1157)])
def test_feature_surgery_of_the_original(
    oracle: dict[str, Tensor], backbone: Backbone, image: str, moved: float
) -> None:
    """It moves the best class, of as many patches as with the original."""
    found, plain = scores(oracle, backbone, image, feature_surgery=True), scores(oracle, backbone, image)
    assert error(found, surgery(oracle, image, "multi")) <= TOLERANCE
    assert float((found.argmax(0) != plain.argmax(0)).float().mean()) == pytest.approx(moved, abs=1e-4)


@pytest.mark.parametrize("image", IMAGES)
def test_surgery_for_a_single_class_moves_no_class(oracle: dict[str, Tensor], backbone: Backbone, image: str) -> None:
    """Which is why there is no option for it."""
    taken = scores(oracle, backbone, image) - surgery(oracle, image, "single")
    assert error(taken, taken.mean(0, keepdim=True).expand_as(taken)) <= TOLERANCE


@pytest.mark.parametrize(
    "wrong", [{"blocks": 7}, {"blocks": 5}, {"positions": "size"}, {"positions": "factor"}], ids=str
)
def test_other_options_are_told_apart(oracle: dict[str, Tensor], backbone: Backbone, wrong: dict[str, Any]) -> None:
    assert error(scores(oracle, backbone, "in1", **wrong), oracle["in1.cos_grid"]) > 1000 * TOLERANCE


def plain_streams(oracle: dict[str, Tensor], backbone: Backbone, mistake: str) -> Tensor:
    """The class token of the ordinary stream, then the patches of the other one: ``(T, 128)``, head by head."""
    visual = backbone.model.visual
    pixels = oracle["in1.image_u8"].permute(2, 0, 1).float()[None] / 255
    mean, std = (torch.tensor(s).view(3, 1, 1) for s in (backbone.mean, backbone.std))
    table = visual.positional_embedding[1:].T.reshape(1, 128, 14, 14)
    table = F.interpolate(table, (11, 11), mode="bilinear", align_corners=False).flatten(2)[0].T
    positions = torch.cat([visual.positional_embedding[:1], table])
    patches = visual.conv1((pixels - mean) / std).flatten(2)[0].T
    x = visual.ln_pre(torch.cat([visual.class_embedding[None], patches]) + positions)
    first, *others = visual.transformer.resblocks
    ordinary = path = first(x[None])[0]
    for block in others:
        u = block.ln_1(path if mistake == "its own stream" else ordinary)
        q, k, v = (u @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, dim=1)
        a, b = {"queries with keys": (q, k), "keys with keys": (k, k)}.get(mistake, (v, v))
        heads = [
            (one @ other.T / 8).softmax(dim=1) @ value
            for one, other, value in zip(*(part.split(64, dim=1) for part in (a, b, v)), strict=True)
        ]
        path = path + block.attn.out_proj(torch.cat(heads, dim=1))
        if mistake == "with the MLP":
            path = path + block.mlp(block.ln_2(path))
        ordinary = block(ordinary[None])[0]
    token = path if mistake == "class token of the path" else ordinary
    return torch.cat([token[:1], path[1:]])


def test_plain_formula(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    assert error(plain_streams(oracle, backbone, ""), oracle["in1.before_ln_post"]) <= TOLERANCE


@pytest.mark.parametrize(
    "mistake", ["its own stream", "queries with keys", "keys with keys", "with the MLP", "class token of the path"]
)
def test_the_vectors_notice_a_mistake(oracle: dict[str, Tensor], backbone: Backbone, mistake: str) -> None:
    assert error(plain_streams(oracle, backbone, mistake), oracle["in1.before_ln_post"]) > 50 * TOLERANCE


def test_each_window_is_weighted_by_its_own_class_token(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    """Two windows of one image are what each is alone; with one query nothing is left of it."""
    image = oracle["in0.image_u8"].permute(2, 0, 1)[:, :112].contiguous()
    method = CLIPSurgery(backbone, CLIPSurgeryOptions(feature_surgery=True))
    words = ClipWords(Vocabulary.from_names(list("abcdef"), templates=["{}"]), oracle["text"])
    field = method.score(method.encode_image(Picture.of(image), WindowGeometry(112, 112)), words)
    for found, window in zip(field.scores, image.split(112, dim=2), strict=True):
        alone = method.score(method.encode_image(Picture.of(window.contiguous()), WindowGeometry()), words)
        assert error(found, alone.scores[0]) <= TOLERANCE
    one = ClipWords(Vocabulary.from_names(["a"], templates=["{}"]), oracle["text"][:1])
    assert not method.score(method.encode_image(Picture.of(image), WindowGeometry()), one).scores.any()


def test_a_wide_image(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    """The original takes squares alone."""
    image = oracle["in0.image_u8"].permute(2, 0, 1)[:, :112].contiguous()
    assert CLIPSurgery(backbone).segment(image, Vocabulary.from_names(["a", "b"])).scores.shape == (1, 2, 7, 14)


def test_provenance_and_mistakes(backbone: Backbone) -> None:
    told = CLIPSurgery(backbone).provenance
    expected = {"pad": False, "positions": "bilinear", "blocks": 6, "feature_surgery": False}
    assert {name: told[name] for name in CLIPSurgeryOptions.model_fields} == expected
    with pytest.raises(UserError, match="option feature_surgery is 1: allowed is true or false"):
        create_method("clip-surgery", backbone, feature_surgery=1)
