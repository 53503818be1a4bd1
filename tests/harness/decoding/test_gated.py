"""Rules that rate every class by the image: by hand, against decode_reference and against float64."""

import dataclasses
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.harness.decoding.decode import decode, decode_reference
from ovss.harness.decoding.rule import DecodeRule
from ovss.methods import Box, ScoreField, UserError, WindowGeometry

tiles_module = import_module("ovss.harness.decoding.tiles")
both = pytest.mark.parametrize("decoder", [decode, decode_reference])
Decoder = Callable[..., Tensor]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rule(background: int = 0, threshold: float = 0.0, **options: Any) -> DecodeRule:
    return DecodeRule(probability_threshold=threshold, background=background, activation="none", **options)


def pixels(
    scores: list[list[float]], owners: tuple[int, ...] | None = None, class_scores: list[float] | None = None
) -> ScoreField:
    """One row of pixels, scores (query, pixel); queries speak for classes 1, 2, ... unless ``owners`` says other."""
    owners = owners or tuple(range(1, len(scores) + 1))
    box = (Box(0, 0, 1, len(scores[0])),)
    level = None if class_scores is None else torch.tensor(class_scores)
    return ScoreField(torch.tensor(scores)[None, :, None], box, box, (1, len(scores[0])), owners, level)


def labels_of(decoder: Decoder, field: ScoreField, rule: DecodeRule) -> list[int]:
    labels = decoder(field, field.frame, rule)
    assert labels.dtype == torch.uint8
    return labels[0].tolist()


@both
def test_max_scaling_by_hand(decoder: Decoder) -> None:
    """Maps become (0.9, 0.45, 0) and (0.125, 0.5, 0.375): their maxima are the image-level scores 0.9 and 0.5."""
    field = pixels([[0.2, 0.1, 0.0], [0.1, 0.4, 0.3]], class_scores=[0.0, 0.9, 0.5])
    assert labels_of(decoder, field, rule(threshold=0.4, class_scaling="max")) == [1, 2, 0]
    assert labels_of(decoder, field, rule(threshold=0.3, class_scaling="max")) == [1, 2, 2]
    assert labels_of(decoder, field, rule(threshold=0.48, class_scaling="max")) == [1, 2, 0]
    assert labels_of(decoder, field, rule(threshold=0.6, class_scaling="max")) == [1, 0, 0]
    assert labels_of(decoder, field, rule(threshold=0.4)) == [0, 2, 0]  # without scaling


@both
def test_max_scaling_without_image_level_scores_keeps_the_maps(decoder: Decoder) -> None:
    """A map divided and multiplied by its own maximum: 1e-5 is all that changes."""
    field = pixels([[0.2, 0.1, 0.0], [0.1, 0.4, 0.3]])
    assert labels_of(decoder, field, rule(threshold=0.19, class_scaling="max")) == [1, 2, 2]
    # 0.2 / (0.2 + 1e-5) * 0.2 = 0.19999
    assert labels_of(decoder, field, rule(threshold=0.199995)) == [1, 2, 2]
    assert labels_of(decoder, field, rule(threshold=0.199995, class_scaling="max")) == [0, 2, 2]


@both
def test_minmax_scaling_by_hand(decoder: Decoder) -> None:
    """Maps become (1, 0.5, 0) and (0, 1, 0.5), whatever the image-level scores."""
    for level in (None, [0.0, 0.9, 0.2]):
        field = pixels([[0.3, 0.2, 0.1], [0.25, 0.35, 0.3]], class_scores=level)
        assert labels_of(decoder, field, rule(threshold=0.6, class_scaling="minmax")) == [1, 2, 0]
        assert labels_of(decoder, field, rule(threshold=0.4, class_scaling="minmax")) == [1, 2, 2]
        # 0.3 / (0.3 + 1e-6) stays below 1.
        assert labels_of(decoder, field, rule(threshold=1.0, class_scaling="minmax")) == [0, 0, 0]
    assert labels_of(decoder, field, rule(threshold=0.24)) == [1, 2, 2]
    assert labels_of(decoder, field, rule(threshold=0.24, class_scaling="max")) == [1, 1, 1]


@both
def test_minmax_of_a_class_is_that_of_its_best_query(decoder: Decoder) -> None:
    """Synonyms (0.5, 0, 0.25) and (0, 0.5, 0.25) make (0.5, 0.5, 0.25), hence (1, 1, 0); each alone would reach 0."""
    field = pixels([[0.5, 0.0, 0.25], [0.0, 0.5, 0.25]], owners=(1, 1))
    assert labels_of(decoder, field, rule(threshold=0.01, class_scaling="minmax")) == [1, 1, 0]


@both
def test_constant_and_empty_maps(decoder: Decoder) -> None:
    field = pixels([[0.5, 0.5], [0.0, 0.0]])
    assert labels_of(decoder, field, rule(class_scaling="max")) == [1, 1]
    assert labels_of(decoder, field, rule(class_scaling="minmax")) == [0, 0]  # nothing stands out
    assert labels_of(decoder, pixels([[0.0, 0.0]]), rule(class_scaling="max")) == [0, 0]


@both
def test_gate_is_strict(decoder: Decoder) -> None:
    field = pixels([[0.7, 0.6, 0.1], [0.1, 0.5, 0.1]], class_scores=[9.0, 0.5, 0.500001])
    assert labels_of(decoder, field, rule(threshold=0.05)) == [1, 1, 1]
    assert labels_of(decoder, field, rule(threshold=0.05, class_gate=0.5)) == [2, 2, 2]
    assert labels_of(decoder, field, rule(threshold=0.05, class_gate=0.4999)) == [1, 1, 1]
    assert labels_of(decoder, field, rule(threshold=0.05, class_gate=0.6)) == [0, 0, 0]


@both
def test_image_level_score_is_the_largest_of_all_windows_and_queries(decoder: Decoder) -> None:
    """Class 1 reaches 0.625 in the second window, by its second query; class 2 nowhere more than 0.5."""
    boxes = (Box(0, 0, 1, 2), Box(0, 2, 1, 4))
    scores = torch.tensor([[[0.125, 0.25], [0.25, 0.0], [0.5, 0.5]], [[0.0, 0.5], [0.625, 0.0], [0.5, 0.5]]])
    field = ScoreField(scores[:, :, None], boxes, boxes, (1, 4), (1, 1, 2))
    assert labels_of(decoder, field, rule()) == [2, 2, 1, 1]
    assert labels_of(decoder, field, rule(class_gate=0.5)) == [1, 1, 1, 1]
    assert labels_of(decoder, field, rule(class_gate=0.625)) == [0, 0, 0, 0]
    assert labels_of(decoder, field, rule(class_gate=0.0, threshold=0.51)) == [0, 0, 1, 0]


@both
def test_threshold_keeps_what_equals_it(decoder: Decoder) -> None:
    field = pixels([[0.5, 0.4375, 0.0]])
    assert labels_of(decoder, field, rule(threshold=0.5, class_gate=0.0)) == [1, 0, 0]
    assert labels_of(decoder, field, rule(threshold=0.4375, class_gate=0.0)) == [1, 1, 0]


@both
def test_background_is_where_every_class_is_exactly_zero(decoder: Decoder) -> None:
    field = pixels([[0.5, 0.0, 1e-30, -0.5], [0.25, 0.0, 0.0, -0.25]])
    assert labels_of(decoder, field, rule(class_gate=0.0)) == [1, 0, 1, 0]


@both
def test_complement_by_hand(decoder: Decoder) -> None:
    """(1 - m)^2 = m at m = 0.381966 (and above m = 2.618 the square wins once more)."""
    field = pixels([[0.38, 0.384, 0.1, 2.61, 2.63], [0.0, 0.0, 0.39, 0.0, 0.0]])
    assert labels_of(decoder, field, rule(complement=True)) == [0, 1, 2, 1, 0]
    assert labels_of(decoder, field, rule(complement=True, class_gate=0.4)) == [0, 1, 0, 1, 0]
    assert labels_of(decoder, field, rule(class_gate=-1.0)) == [1, 1, 2, 1, 1]
    assert labels_of(decoder, pixels([[-0.5, -2.0]]), rule(complement=True)) == [0, 0]


@both
@pytest.mark.parametrize("background", [0, 2])
def test_complement_wins_ties(decoder: Decoder, background: int) -> None:
    tie = torch.tensor(0.3819660246372223)
    assert (1 - tie) ** 2 == tie
    values = [float(tie), float(torch.nextafter(tie, torch.tensor(1.0)))]
    assert labels_of(decoder, pixels([values]), rule(background, complement=True)) == [background, 1]


@both
def test_complement_after_minmax(decoder: Decoder) -> None:
    """Maps become (1, 0.5, 0.25, 0) and 0 for the gated class: 0.5 > 0.25, but 0.25 < 0.5625."""
    field = pixels([[0.5, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])
    assert labels_of(decoder, field, rule(complement=True, class_scaling="minmax", class_gate=0.4)) == [1, 1, 0, 0]


@both
def test_queries_of_the_background_take_no_part(decoder: Decoder) -> None:
    field = pixels([[0.9, 0.9], [0.5, 0.25]], owners=(0, 1))
    assert labels_of(decoder, field, rule(threshold=0.3)) == [0, 0]
    assert labels_of(decoder, field, rule(threshold=0.3, class_gate=0.1)) == [1, 0]
    assert labels_of(decoder, field, rule(complement=True)) == [1, 0]
    assert labels_of(decoder, field, rule(background=1, class_gate=0.1)) == [0, 0]
    only = pixels([[0.9, 0.9]], owners=(0,))
    assert labels_of(decoder, only, rule(class_gate=0.1)) == labels_of(decoder, only, rule(complement=True)) == [0, 0]


@both
@pytest.mark.parametrize("background", [3, 255])
def test_background_that_no_query_speaks_for(decoder: Decoder, background: int) -> None:
    field = pixels([[0.5, 0.1, 0.0], [0.0, 0.3, 0.1]], owners=(0, 1))
    assert labels_of(decoder, field, rule(background, 0.2, class_scaling="max")) == [0, 1, background]
    assert labels_of(decoder, field, rule(background, complement=True)) == [0, background, background]


@both
def test_background_beyond_uint8(decoder: Decoder) -> None:
    field = pixels([[0.0, 0.5 if c == 255 else 0.0] for c in range(256)], owners=tuple(range(256)))
    labels = decoder(field, (1, 2), rule(256, 0.25, class_gate=0.0))
    assert labels.dtype == torch.int32 and labels[0].tolist() == [256, 255]


@both
def test_ties_go_to_the_lowest_class(decoder: Decoder) -> None:
    field = pixels([[0.5, 0.25], [0.5, 0.25], [0.5, 0.25]], owners=(3, 1, 2))
    for options in ({"class_scaling": "max"}, {"class_gate": 0.25}, {"complement": True}):
        assert labels_of(decoder, field, rule(**options))[0] == 1


OWNERS = (3, 0, 2, 0, 1, 3, 2, 2)
EXTRA = (5, 4, 1, 4, 4, 0, 2, 5)


def make(
    frame: tuple[int, int], geometry: WindowGeometry, owners: tuple[int, ...], given: bool, seed: int = 1
) -> ScoreField:
    """Scores from 0 to 1.3, as CLIPer makes them, and lowest in the upper part of the frame.

    ``given``: with image-level scores that rank classes differently, and no score of exactly 0.
    """
    generator = torch.Generator().manual_seed(seed)
    boxes = geometry.boxes(*frame)
    height, width = boxes[0].bottom - boxes[0].top, boxes[0].right - boxes[0].left
    scores = torch.rand(len(boxes), len(owners), height // 16, width // 16, generator=generator)
    scores *= torch.tensor([0.7, 1.3, 0.9, 1.1, 0.8, 1.0])[list(owners)][None, :, None, None]
    for box, window in zip(boxes, scores, strict=True):
        window[:, : max(0, int(0.4 * frame[0]) - box.top) // 16] = 0
    if not given:
        return ScoreField(scores, boxes, boxes, frame, owners)
    level = torch.tensor([0.95, 0.35, 0.8, 0.55, 1.1, 0.65])[: max(owners) + 1]
    scores += torch.rand(scores.shape, generator=generator) * 0.1
    return ScoreField(scores, boxes, boxes, frame, owners, level)


def maps_of(field: ScoreField, size: tuple[int, int], refine: Callable[[Tensor], Tensor] | None) -> Tensor:
    """(Q, H, W) float64."""
    total = torch.zeros(len(field.query_to_class), *field.frame).double()
    visits = torch.zeros(field.frame).double()
    for grid, box in zip(field.scores.double(), field.boxes, strict=True):
        shape = (box.bottom - box.top, box.right - box.left)
        window = F.interpolate(grid[None], shape, mode="bilinear", align_corners=False)[0]
        total[:, box.top : box.bottom, box.left : box.right] += window
        visits[box.top : box.bottom, box.left : box.right] += 1
    maps = F.interpolate((total / visits)[None], size, mode="bilinear", align_corners=False)[0]
    return refine(maps) if refine else maps


def by_hand(maps: Tensor, field: ScoreField, rule: DecodeRule) -> Tensor:
    """The rule from its description at ``DecodeRule``: an argmax with the background as channel 0."""
    assert rule.background is not None
    owner = torch.tensor(field.query_to_class)
    classes = [c for c in sorted(set(field.query_to_class)) if c != rule.background]
    maps = torch.stack([maps[owner == c].amax(0) for c in classes])
    level = torch.stack([field.scores[:, owner == c].max() for c in classes])
    if field.class_scores is not None:
        level = field.class_scores[classes]
    if rule.class_scaling != "none":
        maps = maps / (maps.amax((1, 2), keepdim=True) + 1e-5) * level[:, None, None]
    if rule.class_scaling == "minmax":
        maps = maps - maps.amin((1, 2), keepdim=True)
        maps = maps / (maps.amax((1, 2), keepdim=True) + 1e-6)
    maps = torch.where(maps < rule.probability_threshold, 0.0, maps)
    maps = maps * (level > (float("-inf") if rule.class_gate is None else rule.class_gate))[:, None, None]
    channel = (1 - maps.amax(0)) ** 2 if rule.complement else torch.zeros_like(maps[0])
    return torch.tensor([rule.background, *classes])[torch.cat([channel[None], maps]).argmax(0)]


RULES = [
    rule(0, 0.6, class_scaling="minmax", class_gate=0.7),
    rule(0, 0.3, class_scaling="max", class_gate=0.7),
    rule(2, 0.1, class_scaling="max", class_gate=0.0),
    rule(0, class_scaling="minmax", class_gate=0.75, complement=True),
    rule(6, class_scaling="max", class_gate=0.9, complement=True),
    rule(6, 0.45, class_scaling="minmax"),
    rule(1, 0.4, class_gate=0.6),
    rule(6, complement=True),
]
"""Scaling, threshold and gate, most of them as CLIPer combines them."""
REFINERS: list[Any] = [pytest.param(None, id="plain"), pytest.param(lambda m: m**2 + 0.1 * m, id="refined")]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("refine", REFINERS)
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(
    ("frame", "geometry", "owners", "size"),
    [
        ((112, 160), WindowGeometry(), OWNERS, (91, 133)),
        ((131, 197), WindowGeometry(80, 48), EXTRA, (120, 83)),
        ((96, 128), WindowGeometry(64, 32), tuple(range(6)), (97, 129)),
    ],
)
def test_equals_reference_and_float64(
    rule: DecodeRule, refine: Callable[[Tensor], Tensor] | None, given: bool,
    frame: tuple[int, int], geometry: WindowGeometry, owners: tuple[int, ...], size: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    field = make(frame, geometry, owners, given)
    reference = decode_reference(field, size, rule, refine)
    expected = by_hand(maps_of(field, size, refine), field, rule)
    assert len(reference.unique()) >= 2 and (reference == rule.background).any()
    assert (reference != expected).float().mean() <= 2e-4
    # Blocks of one row of few columns or one query, of a few (classes are cut between tiles), and of all.
    for block, expanded in ((1, 8000), (4 * 7 * size[1] * 5, 4 * 2 * size[0] * size[1]), (4 << 20, 24 << 20)):
        monkeypatch.setattr(tiles_module, "_BLOCK_BYTES", block)
        monkeypatch.setattr(tiles_module, "_EXPANDED_BYTES", expanded)
        labels = decode(field, size, rule, refine)
        assert labels.dtype == reference.dtype and labels.shape == size
        assert (labels != reference).float().mean() <= 2e-4


OFF: list[tuple[int, dict[str, Any]]] = [
    (number, {option: off})
    for number, one in enumerate(RULES)
    for option, off in (("class_scaling", "none"), ("class_gate", None), ("complement", False))
    if getattr(one, option) not in (off, 0.0)
]


@pytest.mark.parametrize(("number", "off"), [*OFF, (0, {"class_scaling": "max"}), (3, {"class_scaling": "max"})])
@both
def test_every_option_moves_labels(decoder: Decoder, number: int, off: dict[str, Any]) -> None:
    field = make((112, 160), WindowGeometry(), tuple(range(6)), given=True)
    less = dataclasses.replace(RULES[number], **off)
    changed = decoder(field, (91, 133), RULES[number]) != decoder(field, (91, 133), less)
    assert changed.float().mean() > 0.01


@pytest.mark.parametrize("number", range(len(RULES)))
def test_image_level_scores_are_used(number: int) -> None:
    field = make((112, 160), WindowGeometry(), tuple(range(6)), given=True)
    without = dataclasses.replace(field, class_scores=None)
    same = torch.equal(decode(field, (91, 133), RULES[number]), decode(without, (91, 133), RULES[number]))
    scales = RULES[number].class_scaling == "max"
    assert same == (not scales and not RULES[number].class_gate)


def test_refiner_sees_only_what_can_win() -> None:
    """Neither queries of the background nor classes that the gate shuts out."""
    field = make((112, 160), WindowGeometry(), OWNERS, given=False)
    field = dataclasses.replace(field, class_scores=torch.tensor([0.9, 0.9, 0.1, 0.9]))
    seen = []

    def refine(maps: Tensor) -> Tensor:
        seen.append(len(maps))
        return maps

    assert set(decode(field, (40, 50), rule(0, class_gate=0.5), refine).unique().tolist()) <= {0, 1, 3}
    assert sum(seen) == 3
    assert (decode(field, (40, 50), rule(0, class_gate=0.9), refine) == 0).all() and sum(seen) == 3


def test_fields_are_left_alone() -> None:
    field = make((112, 160), WindowGeometry(64, 32), OWNERS, given=True)
    assert field.class_scores is not None
    before = field.scores.clone(), field.class_scores.clone()
    decode(field, (61, 83), RULES[0])
    decode_reference(field, (61, 83), RULES[0])
    assert torch.equal(field.scores, before[0]) and torch.equal(field.class_scores, before[1])


@both
def test_negative_scores_cannot_be_scaled(decoder: Decoder) -> None:
    for field in (pixels([[0.5, -0.25]]), pixels([[0.5, 0.25]], class_scores=[0.0, -0.25])):
        with pytest.raises(UserError, match=r"the lowest score is -0\.25"):
            decoder(field, (1, 2), rule(class_scaling="max"))
        assert labels_of(decoder, field, rule(class_gate=-0.5))[0] == 1
    # What the method says of classes that nobody speaks for is of no interest.
    assert labels_of(decoder, pixels([[0.5, 0.25]], class_scores=[-1.0, 0.5]), rule(class_scaling="max")) == [1, 1]


@both
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_image_level_scores_must_be_finite(decoder: Decoder, value: float) -> None:
    with pytest.raises(UserError, match="1 of 2 image-level scores are NaN or infinite"):
        decoder(pixels([[0.5, 0.25]], class_scores=[0.0, value]), (1, 2), rule(class_gate=0.1))


def test_image_level_scores_must_fit_the_classes() -> None:
    with pytest.raises(ValueError, match=r"class scores \(1,\) for 2 classes"):
        pixels([[0.5, 0.25]], class_scores=[0.5])


@pytest.mark.parametrize("option", [{"class_scaling": "max"}, {"class_gate": 0.0}, {"complement": True}])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"background": None}, "need a background class"),
        ({"activation": "softmax"}, "activation"),
        ({"area_threshold": 0.1}, "area threshold"),
    ],
)
def test_combinations_without_meaning(option: dict[str, Any], change: dict[str, Any], message: str) -> None:
    fields = {"background": 0, "activation": "none", **option}
    assert DecodeRule(**fields).gated
    with pytest.raises(UserError, match=message):
        DecodeRule(**{**fields, **change})


def test_complement_and_threshold_exclude_each_other() -> None:
    with pytest.raises(UserError, match="two rules for the background"):
        rule(threshold=0.1, complement=True)


def test_plain_rules_are_not_gated() -> None:
    assert not DecodeRule().gated and not rule(threshold=0.5).gated


def test_kernels_leave_these_rules_alone() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    from ovss.harness.decoding.kernels import supports

    assert not any(supports(one, None) for one in [*RULES, rule(threshold=0.5)])
    assert supports(DecodeRule(activation="none"), None)  # a plain argmax
