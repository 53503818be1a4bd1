"""ResCLIP against outputs of the original program (tests/data/oracles), over its three bases, and misreadings."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ovss.harness.decoding.decode import decode
from ovss.harness.decoding.rule import DecodeRule
from ovss.methods import Backbone, Picture, ScoreField, UserError, WindowGeometry
from ovss.methods import resclip as module
from ovss.methods.blocks import label_feedback
from ovss.methods.blocks.clip_method import ClipWords
from ovss.methods.resclip import ResCLIP, ResCLIPOptions

from .oracle_parts import VOCABULARY, error, load_oracle, oracle_backbone

TOLERANCE = 2e-5
CASES: dict[str, dict[str, Any]] = {
    "w112": {},
    "w224": {},
    "nonsquare": {},
    "w112.strict": {"least_probability": 0.75, "feedback_gain": 2.2},
    "w112.nodecay": {"paths": False},
    "w112.clearclip": {"base": "clearclip"},
    "w112.sclip": {"base": "sclip"},
    "w112.rcs_only": {"feedback": False},
    "w112.sfr_only": {"early": False},
}

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def oracle() -> dict[str, Tensor]:
    return load_oracle("resclip")


@pytest.fixture(scope="module")
def backbone(oracle: dict[str, Tensor]) -> Backbone:
    return oracle_backbone(oracle)


def scored(oracle: dict[str, Tensor], method: ResCLIP, case: str) -> ScoreField:
    geometry = WindowGeometry(112, 56) if case == "slide" else WindowGeometry()
    seen = method.encode_image(Picture.of(oracle[f"{case}.image"].permute(2, 0, 1)), geometry)
    return method.score(seen, ClipWords(VOCABULARY, oracle["text"]))


@pytest.mark.parametrize("case", CASES)
def test_scores_of_a_window(oracle: dict[str, Tensor], backbone: Backbone, case: str) -> None:
    method = ResCLIP(backbone, ResCLIPOptions(**CASES[case]))
    assert error(scored(oracle, method, case.split(".")[0]).scores[0], oracle[f"{case}.scores"]) <= TOLERANCE


@pytest.mark.parametrize(("case", "threshold"), [("slide", 0.0), ("odd", 0.35)])
def test_images(oracle: dict[str, Tensor], backbone: Backbone, case: str, threshold: float) -> None:
    """Four windows in one batch; and 118 x 150 px, whose grid of whole patches stretches over the image."""
    field = scored(oracle, ResCLIP(backbone), case)
    assert error(field.scores, oracle[f"{case}.window_scores"]) <= TOLERANCE
    rule = DecodeRule(logit_scale=40, probability_threshold=threshold, background=0)
    wanted = oracle[f"{case}.thresholded.labels" if threshold else f"{case}.plain.labels"]
    assert torch.equal(decode(field, (150, 170), rule), wanted)


def test_labels_and_feedback_of_the_first_pass(
    oracle: dict[str, Tensor], backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Tensor, Tensor]] = []

    def spy(labels: Tensor, paths: bool, sigma: float) -> Tensor:
        calls.append((labels, label_feedback.feedback_matrix(labels, paths, sigma)))
        return calls[-1][1]

    monkeypatch.setattr(module, "feedback_matrix", spy)
    for case in ("w112", "w112.strict", "w112.sclip"):
        scored(oracle, ResCLIP(backbone, ResCLIPOptions(**CASES[case])), "w112")
        assert torch.equal(calls[-1][0], oracle[f"{case}.patch_labels"].long())
    assert error(calls[0][1], oracle["w112.sfr"][1:, 1:]) <= 1e-6


@pytest.mark.parametrize(
    "options",
    [
        {"first_early": 6},
        {"last_early": 9},
        {"early_share": 0.4},
        {"feedback_share": 0.6},
        {"feedback_gain": 1.8},
        {"least_probability": 0.75},
        {"logit_scale": 5.0},
        {"base": "clearclip"},
    ],
    ids=str,
)
def test_other_options_are_noticed(oracle: dict[str, Tensor], backbone: Backbone, options: dict[str, Any]) -> None:
    other = ResCLIP(backbone, ResCLIPOptions(**options))
    assert error(scored(oracle, other, "w112").scores[0], oracle["w112.scores"]) > 20 * TOLERANCE


def unrefined(*given: Any) -> Callable[[Tensor], Tensor]:
    def same(maps: Tensor) -> Tensor:
        return maps

    same.size = given[1]  # type: ignore[attr-defined]
    return same


def not_blurred(labels: Tensor, paths: bool, sigma: float) -> Tensor:
    return label_feedback.feedback_matrix(labels, paths, 1e-3)


def the_other_way(labels: Tensor, paths: bool, sigma: float) -> Tensor:
    return label_feedback.feedback_matrix(labels, paths, sigma).mT


def corner_pixels(labels: Tensor, patch_px: int, count: int) -> Tensor:
    return labels[::patch_px, ::patch_px]


MISREADINGS: dict[str, tuple[str, Callable[..., Any]]] = {
    "no PAMR": ("Pamr", unrefined),
    "no blur": ("feedback_matrix", not_blurred),
    "columns blurred": ("feedback_matrix", the_other_way),
    "a pixel speaks for its patch": ("vote", corner_pixels),
}


@pytest.mark.parametrize("name", MISREADINGS)
def test_misreadings_are_noticed(
    oracle: dict[str, Tensor], backbone: Backbone, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(module, *MISREADINGS[name])
    assert error(scored(oracle, ResCLIP(backbone), "w112").scores[0], oracle["w112.scores"]) > 20 * TOLERANCE


def test_half_precision_is_near(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    half = scored(oracle, ResCLIP(backbone, dtype=torch.bfloat16), "w112").scores[0]
    assert half.dtype == torch.float32
    assert 1e-4 < (half - oracle["w112.scores"]).abs().mean() < 0.02


def test_what_is_told(backbone: Backbone) -> None:
    assert ResCLIP(backbone).described.published == "ResCLIP"
    for options in ({"base": "sclip"}, {"feedback": False}, {"early": False}):
        assert ResCLIP(backbone, ResCLIPOptions(**options)).described.published is None, options
    told = ResCLIP(backbone, ResCLIPOptions(base="sclip")).provenance
    assert told["last_block"]["attention"] == ("qq", "kk") and told["last_block"]["residual"]
    with pytest.raises(UserError, match="first_early is block 9, after last_early, block 8"):
        ResCLIP(backbone, ResCLIPOptions(first_early=9))
