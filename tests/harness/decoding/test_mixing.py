"""Fields of masks: decoding them equals decoding the field with one plane per query."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.harness.decoding.assemble import lay_out
from ovss.harness.decoding.decode import decode, decode_reference
from ovss.harness.decoding.refinement import without_class
from ovss.harness.decoding.rule import DecodeRule
from ovss.methods import ScoreField, UserError
from ovss.methods.core.windows import Box, WindowGeometry

from ...agreement import assert_best, settled

OWNERS = (0, 2, 1, 2, 0)


def masks(seed: int, windows: bool = False) -> ScoreField:
    generator = torch.Generator().manual_seed(seed)
    frame = (20, 28)
    boxes = tuple(WindowGeometry(16, 12).boxes(*frame)) if windows else (Box(0, 0, *frame),)
    planes = torch.rand(len(boxes), 7, 5, 6, generator=generator)
    mixing = torch.rand(7, len(OWNERS), generator=generator)
    return ScoreField(planes, boxes, boxes, frame, OWNERS, activated=True, mixing=mixing)


def test_by_hand() -> None:
    planes = torch.tensor([[[[1.0, 0.0]], [[0.5, 0.5]]]])
    mixing = torch.tensor([[1.0, 0.0, 2.0], [0.0, 4.0, 0.0]])
    whole = (Box(0, 0, 4, 8),)
    field = ScoreField(planes, whole, whole, (4, 8), (0, 1, 2), mixing=mixing)
    assert field.dense().scores.tolist() == [[[[1.0, 0.0]], [[2.0, 2.0]], [[2.0, 0.0]]]]
    dense = field.dense()
    assert dense.mixing is None and dense.dense() is dense
    assert decode(field, (1, 2)).tolist() == [[1, 1]]  # class 1 ties with class 2 at the left and wins as the lower one


RULES: dict[str, dict[str, Any]] = {
    "argmax": {},
    "threshold": {"probability_threshold": 0.4, "background": 0, "activation": "none"},
    "softmax threshold": {"probability_threshold": 0.4, "background": 0, "logit_scale": 3.0},
    "area": {"area_threshold": 0.3, "background": 0, "activation": "none"},
    "gated": {"class_scaling": "max", "class_gate": 0.2, "background": 0, "activation": "none"},
}


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_equals_the_dense_field(name: str, windows: bool) -> None:
    rule = DecodeRule(**RULES[name])
    for seed in range(3):
        field = masks(seed, windows)
        for size in ((20, 28), (33, 41)):
            sure = settled(field, size, rule)
            assert sure.float().mean() > 0.99
            labels = decode(field, size, rule)[sure]
            assert torch.equal(labels, decode(field.dense(), size, rule)[sure])
            assert torch.equal(labels, decode_reference(field, size, rule)[sure])


def test_with_a_refiner() -> None:
    def blur(maps: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(maps, 15, stride=1, padding=7)

    field = masks(0)
    labels, dense = (decode(one, (33, 41), refine=blur) for one in (field, field.dense()))
    assert (labels != dense).float().mean() < 1e-3  # sums in another order
    assert (labels != decode(field, (33, 41))).float().mean() > 1e-2


def test_planes_of_one_window_are_laid_out_in_memory() -> None:
    """Columns are gathered again and again: each would copy the whole grid."""
    assert lay_out(masks(0)).is_contiguous() and lay_out(masks(0, windows=True)).is_contiguous()


def test_many_queries_of_few_masks() -> None:
    field = masks(1)
    generator = torch.Generator().manual_seed(2)
    wide = replace(field, query_to_class=tuple(range(500)), mixing=torch.rand(7, 500, generator=generator))
    maps = F.interpolate(wide.dense().scores.double(), (20, 28), mode="bilinear", align_corners=False)
    maps = F.interpolate(maps, (60, 80), mode="bilinear", align_corners=False)[0]
    for decoder in (decode, decode_reference):
        assert_best(decoder(wide, (60, 80)), maps, gap=1e-5)


def test_queries_are_left_out() -> None:
    field = masks(0)
    left = without_class(field, 0)
    assert left.query_to_class == (2, 1, 2)
    assert torch.equal(left.scores, field.dense().scores[:, [1, 2, 3]])


def bad_fields() -> Iterator[Any]:
    field = masks(0)
    yield pytest.param(field, {"mixing": torch.zeros(6, 5)}, "does not mix 7 planes into 5", id="planes")
    yield pytest.param(field, {"mixing": torch.zeros(7, 4)}, "does not mix 7 planes into 5", id="queries")
    yield pytest.param(field, {"mixing": None}, "7 planes for 5 queries", id="none")


@pytest.mark.parametrize(("field", "change", "text"), bad_fields())
def test_a_mixing_that_does_not_fit(field: ScoreField, change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        replace(field, **change)


def test_weights_that_are_not_finite() -> None:
    field = masks(0)
    assert field.mixing is not None
    broken = replace(field, mixing=field.mixing.clone().fill_(float("inf")))
    with pytest.raises(UserError, match="35 of 35 weights of masks are NaN or infinite"):
        decode(broken, (20, 28))
