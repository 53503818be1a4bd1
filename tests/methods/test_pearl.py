"""PEARL against outputs of the original program (tests/data/oracles)."""

import pytest
import torch
from torch import Tensor

from ovss.methods import Backbone, Windows
from ovss.methods import pearl as pearl_module
from ovss.methods.pearl import PEARL, PEARLOptions, orthogonal_factor, rotation

from .oracle_parts import TOLERANCE, error, load_oracle, oracle_backbone

CASES = {"default": {}, "svd_nokk": {"alpha": 0.0, "rotation": "svd"}}

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def oracle() -> dict[str, Tensor]:
    return load_oracle("pearl")


@pytest.fixture(scope="module")
def backbone(oracle: dict[str, Tensor]) -> Backbone:
    return oracle_backbone(oracle, layers=3)


def cosines(method: PEARL, oracle: dict[str, Tensor], window: str) -> Tensor:
    """``(Q, h, w)``."""
    seen = method.encode_windows(Windows.of(oracle[f"{window}.image"].permute(2, 0, 1)[None]))
    return (seen.features[0] @ oracle["text"].T).permute(2, 0, 1)


@pytest.mark.parametrize("window", ["win0", "win1"])
@pytest.mark.parametrize("case", CASES)
def test_scores_of_a_window(oracle: dict[str, Tensor], backbone: Backbone, window: str, case: str) -> None:
    found = cosines(PEARL(backbone, PEARLOptions(**CASES[case])), oracle, window)
    assert error(found, oracle[f"{window}.{case}.cos_grid"]) <= TOLERANCE


def test_the_turn_is_that_of_the_original(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    method = PEARL(backbone)
    q, k, _ = method.last_heads(Windows.of(oracle["win0.image"].permute(2, 0, 1)[None]))
    weights = q.norm(dim=-1, keepdim=True)
    weights[:, :, 0] = 0
    weights /= weights.sum(dim=2, keepdim=True) + 1e-6
    m = (k - (weights * k).sum(2, keepdim=True)).mT @ (q - (weights * q).sum(2, keepdim=True))
    turn = rotation(m)[0, 0]
    assert error(turn, oracle["win0.default.R_head0"]) <= TOLERANCE
    singular = torch.linalg.svdvals(turn)
    assert singular.max() < 1.01 and singular.min() < 1e-2  # no rotation after five steps


def test_many_steps_lead_to_the_orthogonal_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    m = torch.eye(5) + 0.2 * torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0))
    exact = orthogonal_factor(m)
    assert torch.allclose(exact @ exact.mT, torch.eye(5).expand(2, 5, 5), atol=1e-5)
    few = error(rotation(m), exact)
    monkeypatch.setattr(pearl_module, "STEPS", 30)
    assert error(rotation(m), exact) < 1e-3 < few


MISREADINGS = {
    "the orthogonal factor": {"rotation": "svd"},
    "no similarity of the keys": {"alpha": 0.0},
    "alpha of Cityscapes": {"alpha": 0.3},
}


@pytest.mark.parametrize("wrong", MISREADINGS)
def test_other_options_are_noticed(oracle: dict[str, Tensor], backbone: Backbone, wrong: str) -> None:
    found = cosines(PEARL(backbone, PEARLOptions(**MISREADINGS[wrong])), oracle, "win0")
    assert error(found, oracle["win0.default.cos_grid"]) > 20 * TOLERANCE


def test_other_steps_are_noticed(
    oracle: dict[str, Tensor], backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pearl_module, "STEPS", 6)
    assert error(cosines(PEARL(backbone), oracle, "win0"), oracle["win0.default.cos_grid"]) > 20 * TOLERANCE


def test_half_precision_is_near(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    found = cosines(PEARL(backbone, dtype=torch.bfloat16), oracle, "win0")
    assert found.dtype == torch.float32 and error(found, oracle["win0.default.cos_grid"]) < 0.2
