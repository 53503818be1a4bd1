"""LPOSS and LPOSS+ against outputs of the original program (tests/data/oracles), and what belongs to them here."""

from typing import Any

import pytest
import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor

from ovss.harness.decoding.decode import decode
from ovss.methods import Backbone, Picture, ScoreField, UserError, Vocabulary, WindowGeometry, create_method
from ovss.methods import lposs as lposs_module
from ovss.methods.blocks import label_propagation
from ovss.methods.blocks.clip_method import ClipWords
from ovss.methods.blocks.dense_clip import DenseClip
from ovss.methods.blocks.pixel_graph import lab, pixel_graph
from ovss.methods.blocks.stitching import stitch
from ovss.methods.clip_dinoiser import DINOPool, DINOPoolOptions
from ovss.methods.lposs import LPOSS, LPOSSOptions, LPOSSPlus, LPOSSPlusOptions
from ovss.methods.models import dino as dino_module
from ovss.methods.models.dino import Dino

from .models.test_dino import random_state
from .oracle_parts import TOLERANCE, error, load_oracle, oracle_backbone, oracle_dino

VOCABULARY = Vocabulary.from_texts([["a", "b"], ["c"], ["d"], ["e"], ["f"]], list("01234"), ["{}"])
CASES: dict[str, dict[str, Any]] = {
    "in0": {"neighbours": 40, "box_px": 5, "tau": 0.05},
    "in1": {"neighbours": 60, "box_px": 13, "tau": 0.01},
}
WINDOWS = WindowGeometry(80, 48)

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def oracle() -> dict[str, Tensor]:
    return load_oracle("lposs")


@pytest.fixture(scope="module")
def backbone(oracle: dict[str, Tensor]) -> Backbone:
    return oracle_backbone(oracle, 3, (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD), quick_gelu=False)


@pytest.fixture(scope="module")
def dino(oracle: dict[str, Tensor]) -> Dino:
    return oracle_dino(oracle)


def make(backbone: Backbone, dino: Dino, **options: Any) -> LPOSS:
    options = {name: value for name, value in options.items() if name in LPOSSOptions.model_fields}
    return LPOSS(backbone, LPOSSOptions(**options), dino=dino)


def field_of(method: LPOSS, oracle: dict[str, Tensor], case: str) -> ScoreField:
    seen = method.encode_image(Picture.of(oracle[f"{case}.image_u8"].permute(2, 0, 1)), WINDOWS)
    return method.score(seen, ClipWords(VOCABULARY, oracle["text"]))


def by_patch(field: ScoreField) -> Tensor:
    """``(N, Q)``, as the vectors have it."""
    return field.scores.permute(0, 2, 3, 1).flatten(0, 2)


@pytest.mark.parametrize("case", CASES)
def test_lposs(oracle: dict[str, Tensor], backbone: Backbone, dino: Dino, case: str) -> None:
    method = make(backbone, dino, **CASES[case])
    seen = method.encode_image(Picture.of(oracle[f"{case}.image_u8"].permute(2, 0, 1)), WINDOWS)
    words = ClipWords(VOCABULARY, oracle["text"])
    assert error(by_patch(DenseClip.score(method, seen, words)), oracle[f"{case}.clip_cos"]) <= TOLERANCE
    assert error(seen.graph.to_dense()[::16].float(), oracle[f"{case}.graph_rows"]) <= TOLERANCE
    found = method.score(seen, words)
    assert error(by_patch(found), oracle[f"{case}.z"]) <= TOLERANCE
    assert error(stitch(found)[None, :, ::4, ::4], oracle[f"{case}.logits_full_q"]) <= TOLERANCE
    labels = oracle[f"{case}.labels_lposs"]
    assert (decode(found, tuple(labels.shape)) != labels).float().mean() <= 1e-3


@pytest.mark.parametrize("case", CASES)
def test_lposs_plus(oracle: dict[str, Tensor], backbone: Backbone, dino: Dino, case: str) -> None:
    method = LPOSSPlus(backbone, LPOSSPlusOptions(**CASES[case]), dino=dino)
    found = field_of(method, oracle, case)
    assert found.boxes == found.covers == ((0, 0, *found.frame),) and found.frame == tuple(found.scores.shape[2:])
    assert error(found.scores[..., ::4, ::4], oracle[f"{case}.plus_full_q"]) <= TOLERANCE
    labels = oracle[f"{case}.labels_plus"]
    assert (decode(found, tuple(labels.shape)) != labels).float().mean() <= 1e-3


def test_row_of_the_pixel_graph(oracle: dict[str, Tensor]) -> None:
    for case, pixel in (("in0", 6309), ("in1", 6960)):
        image = oracle[f"{case}.image_u8"].permute(2, 0, 1)
        one = torch.zeros(1, *image.shape[1:], dtype=torch.float64)
        one.view(-1)[pixel] = 1
        graph = pixel_graph(lab(image / 255), CASES[case]["box_px"], CASES[case]["tau"])
        assert error(graph.product(one)[0].float(), oracle[f"{case}.plus_graph_row"]) <= TOLERANCE


@pytest.mark.parametrize(
    "wrong",
    [{"neighbours": 61}, {"gamma": 2.0}, {"sigma": 0.011}, {"alpha": 0.94}, {"steps": 9}, {"positions": "factor"}],
    ids=str,
)
def test_other_options_are_told_apart(
    oracle: dict[str, Tensor], backbone: Backbone, dino: Dino, wrong: dict[str, Any]
) -> None:
    method = make(backbone, dino, **{**CASES["in1"], **wrong})
    assert error(by_patch(field_of(method, oracle, "in1")), oracle["in1.z"]) > 20 * TOLERANCE


def _exactly(product: Any, y: Tensor, alpha: float, steps: int) -> Tensor:
    return label_propagation.propagate(product, y, alpha, 50 * steps)


def _places_of_windows(*given: Any) -> Tensor:
    """Each window starts at 0."""
    boxes, *rest = given
    return lposs_module_places([box._replace(top=0, left=0) for box in boxes], *rest)


lposs_module_places = lposs_module._places_px


@pytest.mark.parametrize(
    ("name", "mistake"), [("propagate", _exactly), ("_places_px", _places_of_windows)], ids=["solved", "places"]
)
def test_misreadings_are_noticed(
    oracle: dict[str, Tensor],
    backbone: Backbone,
    dino: Dino,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    mistake: object,
) -> None:
    monkeypatch.setattr(lposs_module, name, mistake)
    method = make(backbone, dino, **CASES["in1"])
    assert error(by_patch(field_of(method, oracle, "in1")), oracle["in1.z"]) > 20 * TOLERANCE


def test_other_constants_of_pixels_are_told_apart(
    oracle: dict[str, Tensor], backbone: Backbone, dino: Dino, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wrong in ({"box_px": 11}, {"tau": 0.011}):
        method = LPOSSPlus(backbone, LPOSSPlusOptions(**{**CASES["in1"], **wrong}), dino=dino)
        scores = field_of(method, oracle, "in1").scores
        assert error(scores[..., ::4, ::4], oracle["in1.plus_full_q"]) > 20 * TOLERANCE, wrong
    monkeypatch.setattr(lposs_module, "lab", lambda rgb: rgb)
    method = LPOSSPlus(backbone, LPOSSPlusOptions(**CASES["in1"]), dino=dino)
    scores = field_of(method, oracle, "in1").scores
    assert error(scores[..., ::4, ::4], oracle["in1.plus_full_q"]) > 20 * TOLERANCE


def test_one_query_does_not_move_another(oracle: dict[str, Tensor], backbone: Backbone, dino: Dino) -> None:
    """Also where queries are more than go over pixels together."""
    method = LPOSSPlus(backbone, LPOSSPlusOptions(**CASES["in0"]), dino=dino)
    seen = method.encode_image(Picture.of(oracle["in0.image_u8"].permute(2, 0, 1)), WINDOWS)
    many = Vocabulary.from_names([str(k) for k in range(18)], ["{}"])
    three = method.score(seen, ClipWords(many, oracle["text"].repeat(3, 1))).scores
    assert error(three[:, 12:, ::4, ::4], oracle["in0.plus_full_q"]) <= TOLERANCE


def test_fewer_patches_than_neighbours(oracle: dict[str, Tensor], backbone: Backbone, dino: Dino) -> None:
    all_ = [field_of(make(backbone, dino, neighbours=k), oracle, "in0").scores for k in (100, 400)]
    assert torch.equal(*all_)


def test_dino_with_other_patches(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    """Features are brought to DINO's grid, at unit length."""
    method = make(backbone, Dino(random_state(128, 1, 8, 4)))
    picture = Picture.of(oracle["in0.image_u8"].permute(2, 0, 1))
    seen = method.encode_image(picture, WINDOWS)
    assert seen.batches[0].features.shape == (4, 10, 10, 64) and seen.graph.shape == (400, 400)
    assert error(seen.batches[0].features.norm(dim=-1), torch.ones(4, 10, 10)) <= TOLERANCE


def test_dino_looks_once_for_all(
    oracle: dict[str, Tensor], backbone: Backbone, dino: Dino, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, calls, qkv = Picture.of(oracle["in0.image_u8"].permute(2, 0, 1)), [], Dino.qkv
    monkeypatch.setattr(dino_module.Dino, "qkv", lambda *given: (calls.append(1), qkv(*given))[1])
    make(backbone, dino).encode_image(picture, WINDOWS)
    LPOSSPlus(backbone, dino=dino).encode_image(picture, WINDOWS)
    DINOPool(backbone, DINOPoolOptions(pad=False), dino=dino).encode_image(picture, WINDOWS)
    DINOPool(backbone, dino=dino).encode_image(picture, WINDOWS)
    assert calls == [1]


def test_provenance_and_mistakes(backbone: Backbone, dino: Dino) -> None:
    with pytest.raises(UserError, match="bench weights fetch dino-vitb16"):
        create_method("lposs", backbone)
    with pytest.raises(UserError, match="there is no option 'pad'"):
        create_method("lposs", backbone, pad=False)
    with pytest.raises(UserError, match=r"option alpha is 1\.0: allowed is a number from 0"):
        create_method("lposs", backbone, alpha=1.0)
    with pytest.raises(UserError, match="box_px is 4: a box around a pixel has an odd side"):
        create_method("lposs-plus", backbone, box_px=4)
    told = LPOSSPlus(backbone, dino=dino).provenance
    assert (told["neighbours"], told["steps"], told["box_px"]) == (400, 10, 13)
    assert told["dino"]["sha256"].startswith("state:")
