"""Entropies of classes: against the ranking of FLOSS's original program, and by hand."""

import math

import pytest
import torch
from torch import Tensor

from ovss.harness.decoding.decode import decode
from ovss.harness.decoding.entropy import Entropy, entropy_of
from ovss.harness.decoding.rule import DecodeRule
from ovss.methods import ScoreField, load_backbone
from ovss.methods.blocks.experts import choose
from ovss.methods.core.windows import Box

from ...methods.floss_parts import RANKED, SIZES, Tabled, field_of_template
from ...methods.oracle_parts import TOLERANCE, error, load_oracle

RULE = DecodeRule(100)

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def oracle() -> dict[str, Tensor]:
    return load_oracle("floss")


def ranked(oracle: dict[str, Tensor], rule: DecodeRule = RULE) -> list[Entropy]:
    """Every template over both images."""
    Tabled.table = {name: oracle[f"{name}.window_features"] for name in SIZES}
    base = Tabled(load_backbone("tiny-clip"))
    found = []
    for template in range(RANKED):
        fields = [(field_of_template(base, oracle, name, template), SIZES[name][1]) for name in SIZES]
        first, second = (entropy_of(field, size, rule, 5) for field, size in fields)
        found.append(first + second)
    return found


def test_ranking_of_the_original(oracle: dict[str, Tensor]) -> None:
    found = ranked(oracle)
    pixels = torch.stack([one.pixels for one in found], dim=1)
    assert error(100 * pixels / (120 * 120 + 50 * 90), oracle["pixel_percentage"]) <= TOLERANCE
    means = torch.stack([one.total for one in found], dim=1) / pixels
    seen = oracle["pixel_percentage"] > 0
    assert not seen.all()  # one template never gives a pixel to one class
    assert error(means[seen].float(), oracle["entropy"][seen]) <= TOLERANCE
    rows = tuple(
        tuple(e if n else None for e, n in zip(*row, strict=True))
        for row in zip(means.tolist(), pixels.tolist(), strict=True)
    )
    assert choose(rows, 4) == tuple(tuple(t for t in row if t >= 0) for row in oracle["experts"].tolist())


def test_another_scale_is_noticed(oracle: dict[str, Tensor]) -> None:
    found = ranked(oracle, DecodeRule(90))
    means = torch.stack([one.total for one in found], dim=1) / torch.stack([one.pixels for one in found], dim=1)
    seen = oracle["pixel_percentage"] > 0
    assert error(means[seen].float(), oracle["entropy"][seen]) > 100 * TOLERANCE


def test_pixels_are_those_of_the_labels(oracle: dict[str, Tensor]) -> None:
    Tabled.table = {name: oracle[f"{name}.window_features"] for name in SIZES}
    field = field_of_template(Tabled(load_backbone("tiny-clip")), oracle, "img1", 0)
    labels = decode(field, (50, 90), RULE)
    assert entropy_of(field, (50, 90), RULE, 5).pixels.equal(labels.flatten().long().bincount(minlength=5))


def test_by_hand() -> None:
    """Three queries of two classes, two pixels: maxima over synonyms are not divided by their sum."""
    scores = torch.tensor([[0.6, 0.1], [0.3, 0.1], [0.1, 0.8]])[None, :, None]
    box = (Box(0, 0, 1, 2),)
    field = ScoreField(scores, box, box, (1, 2), (0, 0, 1), activated=True)
    found = entropy_of(field, (1, 2), DecodeRule(activation="none"), 3)
    wanted = [-(p * math.log(p) + q * math.log(q)) for p, q in ((0.6, 0.1), (0.1, 0.8))]
    assert found.pixels.tolist() == [1, 1, 0]
    assert found.total.tolist() == pytest.approx([*wanted, 0.0], rel=1e-5)
    logs = ScoreField(scores.log() / 7, box, box, (1, 2), (0, 0, 1))
    assert entropy_of(logs, (1, 2), DecodeRule(7), 3).total.tolist() == pytest.approx([*wanted, 0.0], rel=1e-5)
