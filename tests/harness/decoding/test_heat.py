"""Heat maps against full-size maps and a plain softmax."""

import pytest
import torch
import torch.nn.functional as F

from ovss.harness.decoding.decode import decode
from ovss.harness.decoding.heat import class_map
from ovss.harness.decoding.rule import DecodeRule
from ovss.methods import ScoreField, UserError
from ovss.methods.core.windows import Box

SIZE = (23, 31)


def field(query_to_class: tuple[int, ...]) -> ScoreField:
    torch.manual_seed(0)
    whole = Box(0, 0, 23, 31)
    return ScoreField(torch.randn(1, len(query_to_class), 5, 7), (whole,), (whole,), SIZE, query_to_class)


def maps(found: ScoreField) -> torch.Tensor:
    return F.interpolate(found.scores, SIZE, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize("refined", [False, True])
def test_probability_of_a_class(refined: bool) -> None:
    found, rule = field((0, 1, 1, 2)), DecodeRule(logit_scale=3.0)
    refine = (lambda m: m * 0.5) if refined else None
    plain = (3.0 * maps(found) * (0.5 if refined else 1.0)).softmax(dim=0)
    for k, wanted in enumerate((plain[0], plain[1:3].amax(dim=0), plain[3])):
        torch.testing.assert_close(class_map(found, SIZE, rule, refine, k), wanted, atol=1e-5, rtol=1e-4)


def test_what_is_below_the_threshold_is_background() -> None:
    """The same number that the decoder looks at."""
    found = field((0, 1, 2))
    rule = DecodeRule(logit_scale=3.0, probability_threshold=0.5, background=0)
    heat = torch.stack([class_map(found, SIZE, rule, None, k) for k in range(3)])
    best, labels = heat.max(dim=0)
    sure = (best - 0.5).abs() > 1e-4
    assert torch.equal(decode(found, SIZE, rule)[sure].long(), labels.masked_fill(best < 0.5, 0)[sure])


def test_scores_as_they_are() -> None:
    found, rule = field((0, 1, 1)), DecodeRule(activation="none")
    wanted = maps(found)[1:].amax(dim=0)
    torch.testing.assert_close(class_map(found, SIZE, rule, None, 1), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("activation", ["softmax", "none"])
def test_a_class_without_queries_is_nowhere(activation: str) -> None:
    rule = DecodeRule(activation=activation)  # type: ignore[arg-type]
    assert not class_map(field((0, 2)), SIZE, rule, None, 1).any()


def test_scores_that_are_no_numbers() -> None:
    found = field((0, 1))
    found.scores[0, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match="NaN"):
        class_map(found, SIZE, DecodeRule(), None, 0)
