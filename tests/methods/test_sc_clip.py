"""SC-CLIP against outputs of the original program (tests/data/oracles), and what is ours."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.harness.decoding.decode import decode
from ovss.harness.protocol.protocol import load_protocol
from ovss.methods import Backbone, Picture, ScoreField, UserError, WindowGeometry
from ovss.methods import sc_clip as module
from ovss.methods.blocks.clip_method import ClipWords
from ovss.methods.blocks.similar_blocks import SimilarBlocksOptions
from ovss.methods.blocks.token_repair import local_outliers
from ovss.methods.sc_clip import SCCLIP

from .oracle_parts import VOCABULARY, error, load_oracle, oracle_backbone

TOLERANCE = 2e-5

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def oracle() -> dict[str, Tensor]:
    return load_oracle("scclip")


@pytest.fixture(scope="module")
def backbone(oracle: dict[str, Tensor]) -> Backbone:
    return oracle_backbone(oracle)


def scored(oracle: dict[str, Tensor], method: SCCLIP, case: str) -> ScoreField:
    geometry = WindowGeometry(112, 56) if case == "slide" else WindowGeometry()
    seen = method.encode_image(Picture.of(oracle[f"{case}.image"].permute(2, 0, 1)), geometry)
    return method.score(seen, ClipWords(VOCABULARY, oracle["text"]))


@pytest.mark.parametrize("case", ["w112", "w224"])
def test_scores_of_a_window(oracle: dict[str, Tensor], backbone: Backbone, case: str) -> None:
    assert error(scored(oracle, SCCLIP(backbone), case).scores[0], oracle[f"{case}.scores"]) <= TOLERANCE


@pytest.mark.parametrize(("case", "weight"), [("slide", 0.3), ("slide.nocls", 0.0)])
def test_windows_in_one_batch(oracle: dict[str, Tensor], backbone: Backbone, case: str, weight: float) -> None:
    method = SCCLIP(backbone, SimilarBlocksOptions(class_weight=weight))
    assert error(scored(oracle, method, "slide").scores, oracle[f"{case}.window_scores"]) <= TOLERANCE


def test_labels_under_the_preset(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    """Scale 50, threshold 0.15 and the area rule of VOC21."""
    rule = load_protocol("sc-clip").setting("voc21").rule(background=0)
    assert (rule.logit_scale, rule.probability_threshold, rule.area_threshold) == (50, 0.15, 0.1)
    labels = decode(scored(oracle, SCCLIP(backbone), "slide"), (150, 170), rule)
    assert torch.equal(labels, oracle["slide.voc21.labels"])


def test_which_patches_stand_apart(
    oracle: dict[str, Tensor], backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Tensor] = []
    monkeypatch.setattr(module, "local_outliers", lambda tokens: (found.append(local_outliers(tokens)), found[-1])[1])
    for case, count in (("w112", 3), ("w224", 10)):
        scored(oracle, SCCLIP(backbone), case)
        assert torch.equal(found[-1][0], oracle[f"{case}.outliers"].bool()) and found[-1].sum() == count


@pytest.mark.parametrize(
    "options",
    [
        {"class_weight": 0.0},
        *({name: block} for name, block in (("similarity_block", 7), ("smoothing_block", 2))),
        *({name: block} for name, block in (("first_summed", 2), ("last_summed", 8))),
    ],
    ids=str,
)
def test_other_blocks_are_noticed(oracle: dict[str, Tensor], backbone: Backbone, options: dict[str, Any]) -> None:
    other = SCCLIP(backbone, SimilarBlocksOptions(**options))
    assert error(scored(oracle, other, "w112").scores[0], oracle["w112.scores"]) > 20 * TOLERANCE


def largest_norms(tokens: Tensor) -> Tensor:
    """The ten that an earlier commit of the original took for outliers."""
    norms = tokens.norm(dim=-1)
    return norms >= norms.topk(10).values[:, -1:]


def without_threshold_in_attention(tokens: Tensor, **_: float) -> tuple[Tensor, int]:
    unit = F.normalize(tokens, dim=-1)
    return (3 * unit @ unit.T).softmax(dim=-1), 0


MISREADINGS: dict[str, tuple[str, Callable[..., Any]]] = {
    "outliers by their norms": ("local_outliers", largest_norms),
    "nothing is repaired": ("repair", lambda tokens, *_: tokens),
    "every place attends to every place": ("similarity_matrix", without_threshold_in_attention),
}


@pytest.mark.parametrize("name", MISREADINGS)
def test_misreadings_are_noticed(
    oracle: dict[str, Tensor], backbone: Backbone, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(module, *MISREADINGS[name])
    assert error(scored(oracle, SCCLIP(backbone), "w112").scores[0], oracle["w112.scores"]) > 20 * TOLERANCE


def test_class_tokens_take_no_part_in_attention(
    oracle: dict[str, Tensor], backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    split = module.vit.split_heads
    monkeypatch.setattr(module.vit, "split_heads", lambda block, x: (calls.append(x.shape[1]), split(block, x))[1])
    scored(oracle, SCCLIP(backbone), "w112")
    assert calls[-2:] == [49, 49]


def test_half_precision_is_near(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    half = scored(oracle, SCCLIP(backbone, dtype=torch.bfloat16), "w224").scores[0]
    assert half.dtype == torch.float32
    assert 1e-4 < (half - oracle["w224.scores"]).abs().mean() < 0.02


def test_blocks_that_are_not_there(backbone: Backbone) -> None:
    with pytest.raises(UserError, match=r"smoothing_block is 11: the backbone has 12 blocks, .* before .* are 0 to 10"):
        SCCLIP(backbone, SimilarBlocksOptions(smoothing_block=11))
    with pytest.raises(
        UserError, match=r"first_summed is 10 and last_summed 9: .* --option sc-clip.first_summed=NUMBER"
    ):
        SCCLIP(backbone, SimilarBlocksOptions(first_summed=10))
