"""decode against decode_reference, against float64, and against what can be said by hand."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ovss.harness.decoding.assemble import interpolation, lay_out, operator_for
from ovss.harness.decoding.decode import decode, decode_reference
from ovss.harness.decoding.rule import DecodeRule
from ovss.methods import Box, ScoreField, UserError, WindowGeometry

from ...agreement import assert_same_labels

tiles_module = import_module("ovss.harness.decoding.tiles")

GAP = 1e-6
"""Scores that differ by less may swap places (scores below are cosines, at most 0.5)."""


pytestmark = pytest.mark.usefixtures("program")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_field(
    frame: tuple[int, int],
    geometry: WindowGeometry = WindowGeometry(),
    classes: int = 7,
    patch: int = 16,
    pad: bool = False,
    query_to_class: tuple[int, ...] | None = None,
    seed: int = 0,
) -> ScoreField:
    """Random cosines, smooth enough that classes win areas and rough enough that borders are everywhere."""
    boxes = geometry.boxes(*frame)
    height, width = boxes[0].bottom - boxes[0].top, boxes[0].right - boxes[0].left
    extra = [(-side % patch) if pad else 0 for side in (height, width)]
    covers = tuple(
        Box(b.top - extra[0] // 2, b.left - extra[1] // 2, b.bottom - extra[0] // 2 + extra[0],
            b.right - extra[1] // 2 + extra[1])
        for b in boxes
    )  # fmt: skip
    grid = ((height + extra[0]) // patch, (width + extra[1]) // patch)
    owners = query_to_class or tuple(range(classes))
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(len(boxes), len(owners), *grid, generator=generator) * 0.6 - 0.1
    return ScoreField(scores, boxes, covers, frame, owners)


def exact_scores(field: ScoreField, size: tuple[int, int]) -> Tensor:
    """Scores of the queries at output size, (Q, H, W) float64, window by window."""
    queries, (height, width) = field.scores.shape[1], field.frame
    total, visits = torch.zeros(queries, height, width).double(), torch.zeros(height, width).double()
    for grid, box, cover in zip(field.scores.double(), field.boxes, field.covers, strict=True):
        shape = (cover.bottom - cover.top, cover.right - cover.left)
        window = F.interpolate(grid[None], shape, mode="bilinear", align_corners=False)[0]
        inside = window[:, box.top - cover.top : box.bottom - cover.top, box.left - cover.left : box.right - cover.left]
        total[:, box.top : box.bottom, box.left : box.right] += inside
        visits[box.top : box.bottom, box.left : box.right] += 1
    return F.interpolate((total / visits)[None], size, mode="bilinear", align_corners=False)[0]


def wins(labels: Tensor) -> int:
    return len(labels.unique())


SLIDING = WindowGeometry(224, 112)
LARGE = WindowGeometry(448, 224)
FIELDS: list[Any] = [
    pytest.param({"frame": (112, 160)}, (112, 160), id="one window, size is frame"),
    pytest.param({"frame": (112, 160)}, (173, 251), id="up"),
    pytest.param({"frame": (112, 160)}, (50, 61), id="down"),
    pytest.param({"frame": (112, 160)}, (131, 40), id="up and down"),
    pytest.param({"frame": (112, 160)}, (1, 1), id="one pixel"),
    pytest.param({"frame": (117, 171)}, (120, 90), id="rest of a patch dropped"),
    pytest.param({"frame": (336, 448), "geometry": SLIDING}, (375, 500), id="224/112"),
    pytest.param({"frame": (336, 505), "geometry": SLIDING}, (336, 505), id="224/112, last window shifted"),
    pytest.param({"frame": (230, 449), "geometry": SLIDING}, (217, 333), id="224/112, shifted both ways"),
    pytest.param({"frame": (448, 597), "geometry": LARGE}, (300, 400), id="448/224, shifted"),
    pytest.param({"frame": (200, 300), "geometry": LARGE}, (211, 317), id="smaller than the window"),
    pytest.param({"frame": (117, 171), "pad": True}, (117, 171), id="padded cover"),
    pytest.param({"frame": (117, 171), "pad": True}, (208, 304), id="padded cover, up"),
    pytest.param(
        {"frame": (120, 215), "geometry": WindowGeometry(90, 50), "pad": True}, (170, 190), id="padded windows"
    ),
    pytest.param({"frame": (112, 160), "query_to_class": (3, 0, 2, 0, 1, 3, 2, 2)}, (90, 120), id="synonyms unsorted"),
    pytest.param({"frame": (64, 96), "classes": 171}, (97, 131), id="171 classes"),
    pytest.param({"frame": (48, 64), "classes": 847}, (61, 83), id="847 classes"),
]


@pytest.mark.parametrize(("made", "size"), FIELDS)
def test_equals_reference(made: dict[str, Any], size: tuple[int, int]) -> None:
    field = make_field(**made)
    labels, reference = decode(field, size), decode_reference(field, size)
    scores = exact_scores(field, size)
    assert size == (1, 1) or wins(reference) >= 4
    assert_same_labels(labels, reference, scores, field.query_to_class)
    best = torch.tensor(field.query_to_class)[scores.argmax(0)].to(labels.dtype)
    assert_same_labels(labels, best, scores, field.query_to_class)


@pytest.mark.parametrize(("made", "size"), FIELDS)
def test_score_values_equal_float64(made: dict[str, Any], size: tuple[int, int]) -> None:
    field = make_field(**made)
    operator, grids = operator_for(field, size), lay_out(field)
    scores = torch.einsum("yi,ijq,xj->qyx", operator.rows.matrix, grids, operator.columns.matrix)
    assert (scores - exact_scores(field, size)).abs().max() < GAP


RULES = [
    DecodeRule(40.0, probability_threshold=0.5, background=0),
    DecodeRule(100.0, probability_threshold=0.7, background=3),
    DecodeRule(1.0, probability_threshold=0.2, background=2),  # everything is background
    DecodeRule(40.0, area_threshold=0.25, background=0),
    DecodeRule(40.0, area_threshold=0.9, background=1),  # only the background is left
    DecodeRule(40.0, probability_threshold=0.4, area_threshold=0.3, background=0),
    DecodeRule(probability_threshold=0.38, background=0, activation="none"),
    DecodeRule(probability_threshold=0.38, area_threshold=0.3, background=2, activation="none"),
    DecodeRule(40.0, probability_threshold=0.5, background=4),  # a background that no query speaks for
    DecodeRule(probability_threshold=0.38, background=5, activation="none"),
    DecodeRule(40.0, area_threshold=0.3, background=4),
    DecodeRule(40.0, area_threshold=0.9, background=4),  # nothing is left
]
OWNERS = (3, 0, 2, 0, 1, 3, 2, 2)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("refined", [False, True])
@pytest.mark.parametrize(("frame", "geometry"), [((112, 160), WindowGeometry()), ((230, 300), SLIDING)])
def test_rules_equal_reference(
    rule: DecodeRule, frame: tuple[int, int], geometry: WindowGeometry, refined: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles_module, "_BLOCK_BYTES", 4 * 150 * 8 * 7)
    monkeypatch.setattr(tiles_module, "_EXPANDED_BYTES", 4 * 150 * 120 * 3)  # three queries at a time when refining
    refine: Callable[[Tensor], Tensor] | None = (lambda maps: maps**3 + 0.5 * maps) if refined else None
    field, size = make_field(frame, geometry, query_to_class=OWNERS), (120, 150)
    labels, reference = decode(field, size, rule, refine), decode_reference(field, size, rule, refine)
    if not refined:
        by_hand = labels_by_hand(exact_scores(field, size), rule)
        assert (labels != by_hand).float().mean() <= 2e-4
    assert (labels != reference).float().mean() <= 2e-4
    assert (decode(field, size) != labels).any()  # the rule does something


def labels_by_hand(scores: Tensor, rule: DecodeRule) -> Tensor:
    """The rule in float64 from its description, for owners ``OWNERS``."""
    assert rule.background is not None
    owner = torch.tensor(OWNERS)
    by_query = scores if rule.activation == "none" else (scores * rule.logit_scale).softmax(0)
    probability = torch.stack([by_query[owner == c].amax(0) for c in range(4)])
    labels = probability.argmax(0)
    if rule.area_threshold:
        foreground = (labels != rule.background).sum()
        for c in range(4):
            if c != rule.background and (labels == c).sum() <= rule.area_threshold * foreground:
                probability[c] = -1
        # A class that is taken away leaves its pixels to the best of the others, with their own probability.
        labels = probability.argmax(0)
    labels[probability.amax(0) < rule.probability_threshold] = rule.background
    labels[probability.amax(0) == -1] = rule.background
    return labels.to(torch.uint8)


def test_area_rule_removes_a_small_class() -> None:
    scores = torch.zeros(1, 3, 4, 4)
    scores[0, 0], scores[0, 1], scores[0, 2] = 0.1, 0.2, 0.15
    scores[0, 2, 0, 0] = 0.9
    box = (Box(0, 0, 4, 4),)
    field = ScoreField(scores, box, box, (4, 4), (0, 1, 2))
    assert decode(field, (4, 4))[0, 0] == 2
    labels = decode(field, (4, 4), DecodeRule(area_threshold=0.1, background=0))
    assert (labels == 1).all()  # one pixel of sixteen is 6 %: class 2 loses it to the next best


def test_probability_threshold_counts_all_queries() -> None:
    """Two equal synonyms share the softmax: each of them has 1/3, however many speak for the class."""
    field = ScoreField(torch.zeros(1, 3, 2, 2), (Box(0, 0, 2, 2),), (Box(0, 0, 2, 2),), (2, 2), (1, 1, 0))
    field.scores[:, :2] = 5.0
    assert (decode(field, (2, 2), DecodeRule(probability_threshold=0.45, background=0)) == 1).all()
    assert (decode(field, (2, 2), DecodeRule(probability_threshold=0.55, background=0)) == 0).all()


def pixel_field(scores: list[list[float]], owners: tuple[int, ...]) -> ScoreField:
    """One row of pixels, scores (query, pixel)."""
    box = (Box(0, 0, 1, len(scores[0])),)
    return ScoreField(torch.tensor(scores)[None, :, None], box, box, (1, len(scores[0])), owners)


@pytest.mark.parametrize("decoder", [decode, decode_reference])
def test_area_rule_on_the_line(decoder: Callable[..., Tensor]) -> None:
    """Of 16 pixels 8 are background, 6 class 1 and 2 class 2: a quarter of the *foreground*, and at most that loses."""
    winner = torch.tensor([0] * 8 + [1] * 6 + [2] * 2)
    scores = torch.where(winner == torch.arange(3)[:, None], 1.0, 0.0)
    scores[1, 14:] = 0.5  # who gets the pixels of class 2 when it loses
    field = pixel_field(scores.tolist(), (0, 1, 2))
    for threshold, kept in ((0.25, 1), (0.2, 2)):
        labels = decoder(field, (1, 16), DecodeRule(area_threshold=threshold, background=0))[0]
        assert labels.tolist() == [0] * 8 + [1] * 6 + [kept] * 2
    # The background never loses, however little of the picture it has.
    few = pixel_field([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0]], (0, 1))
    assert decoder(few, (1, 4), DecodeRule(area_threshold=0.9, background=0))[0].tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("decoder", [decode, decode_reference])
@pytest.mark.parametrize(("background", "expected"), [(0, [1, 1, 0, 0]), (1, [1, 1, 1, 1]), (2, [1, 1, 2, 2])])
def test_constant_background_channel(decoder: Callable[..., Tensor], background: int, expected: list[int]) -> None:
    """Masks compete with a constant of 0.5; what equals it stays (powers of two, so that nothing rounds)."""
    field = pixel_field([[0.25, 0.25, 0.25, 0.25], [0.75, 0.5, 0.4375, 0.125]], (0, 1))
    for scale in (1.0, 40.0):  # the scale of the softmax has no say
        rule = DecodeRule(scale, probability_threshold=0.5, background=background, activation="none")
        assert decoder(field, (1, 4), rule)[0].tolist() == expected
    assert decoder(field, (1, 4), DecodeRule(activation="none"))[0].tolist() == [1, 1, 1, 0]
    # The softmax of the same scores is at least 1/2 everywhere: the activation matters.
    softmax = DecodeRule(probability_threshold=0.5, background=background)
    assert decoder(field, (1, 4), softmax)[0].tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize("decoder", [decode, decode_reference])
def test_classes_without_queries(decoder: Callable[..., Tensor]) -> None:
    """Nobody speaks for classes 0 and 2: they never win, negative scores or not."""
    field = pixel_field([[-0.5, -0.25, 0.5], [-0.25, -0.5, 0.25]], (3, 1))
    assert decoder(field, (1, 3))[0].tolist() == [1, 3, 3]
    rule = DecodeRule(probability_threshold=0.5, background=2, activation="none")
    assert decoder(field, (1, 3), rule)[0].tolist() == [2, 2, 3]


@pytest.mark.parametrize("decoder", [decode, decode_reference])
@pytest.mark.parametrize("options", [{"area_threshold": 0.5}, {"probability_threshold": 2.0}])
@pytest.mark.parametrize(("background", "dtype"), [(2, torch.uint8), (255, torch.uint8), (256, torch.int32)])
def test_background_above_all_classes(
    decoder: Callable[..., Tensor], options: dict[str, float], background: int, dtype: torch.dtype
) -> None:
    """Each of two classes wins half of the pixels and loses all of them."""
    field = pixel_field([[0.5, 0.25], [0.25, 0.5]], (0, 1))
    labels = decoder(field, (1, 2), DecodeRule(background=background, **options))
    assert labels.dtype == dtype and (labels == background).all()


@pytest.mark.parametrize("classes", [1, 2, 19, 256, 257, 300])
def test_dtype(classes: int) -> None:
    labels = decode(make_field((32, 48), classes=classes), (40, 40))
    assert labels.dtype == (torch.uint8 if classes <= 256 else torch.int32)
    assert int(labels.max()) < classes
    assert classes == 1 or wins(labels) > 1


def test_high_labels_survive_the_dtype() -> None:
    field = make_field((32, 48), classes=300)
    field.scores[:, 299] = 1.0
    assert (decode(field, (20, 20)) == 299).all()
    field = make_field((32, 48), classes=256)
    field.scores[:, 255] = 1.0
    assert (decode(field, (20, 20)) == 255).all()


CLASS_COUNTS = [2, 3, 5, 16, 17, 19, 21, 33, 59, 64, 65, 150, 171, 256, 257, 847]


@pytest.mark.parametrize("classes", CLASS_COUNTS)
@pytest.mark.parametrize("blocks", [None, (1, 1), (50_000, 90_000)])
def test_equal_planes_go_to_the_lowest_class(
    classes: int, blocks: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if blocks:
        monkeypatch.setattr(tiles_module, "_BLOCK_BYTES", blocks[0])
        monkeypatch.setattr(tiles_module, "_EXPANDED_BYTES", blocks[1])
    for frame, size in (((48, 64), (48, 64)), ((48, 64), (61, 83)), ((96, 128), (37, 33)), ((32, 48), (1, 37))):
        field = with_equal_planes(make_field(frame, classes=classes), first=0)
        assert (decode(field, size) == 0).all()


@pytest.mark.parametrize("classes", [3, 21, 59, 150, 171])
@pytest.mark.parametrize("size", [(230, 300), (131, 173)])
def test_equal_planes_in_windows(classes: int, size: tuple[int, int]) -> None:
    field = with_equal_planes(make_field((230, 300), SLIDING, classes=classes), first=1)
    assert (decode(field, size) == 1).all()


def with_equal_planes(field: ScoreField, first: int) -> ScoreField:
    """The planes ``first``, the middle and the last become equal and better than all others."""
    classes = field.scores.shape[1]
    field.scores[:, first] += 1.0
    for copy in {max(first, classes // 2), classes - 1}:
        field.scores[:, copy] = field.scores[:, first]
    return field


TIES_ANYWHERE = """
import torch
from ovss.harness.decoding.decode import decode
from ovss.methods import ScoreField, WindowGeometry
for classes in (3, 19, 21, 60, 150):
    windows, whole = WindowGeometry(224, 112), WindowGeometry()
    for geometry, refine in ((windows, None), (whole, None), (windows, lambda maps: maps)):
        boxes = geometry.boxes(230, 300)
        torch.manual_seed(0)
        scores = torch.rand(len(boxes), classes, 14, 14)
        scores[:, 0] += 1
        scores[:, -1] = scores[:, 0]
        labels = decode(ScoreField(scores, boxes, boxes, (230, 300), tuple(range(classes))), (251, 333), refine=refine)
        assert (labels == 0).all(), (classes, geometry, (labels != 0).float().mean())
"""


@pytest.mark.parametrize("instructions", ["AVX2", "SSE4_2"])
def test_ties_do_not_depend_on_the_processor(instructions: str) -> None:
    """Matrix kernels of other processors treat columns at the edge of a block differently."""
    environment = os.environ | {"MKL_ENABLE_INSTRUCTIONS": instructions, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", TIES_ANYWHERE], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-500:]


def test_ties_between_synonyms_go_to_the_lowest_class() -> None:
    """The better query of class 2 equals that of class 1; queries are listed the other way round."""
    scores = torch.rand(1, 4, 3, 4) * 0.1
    scores[0, 0] = scores[0, 3] = torch.rand(3, 4) + 1
    box = (Box(0, 0, 48, 64),)
    labels = decode(ScoreField(scores, box, box, (48, 64), (2, 0, 2, 1)), (57, 71))
    assert (labels == 1).all()


@pytest.mark.parametrize("classes", [2, 19, 150, 171])
def test_locally_equal_regions(classes: int) -> None:
    """Two classes that are equal on the right half only: the lower one wins there, to the last pixel."""
    field = make_field((64, 160), classes=classes)
    low, high = 0, classes - 1
    field.scores[:, low, :, 5:] += 1.0
    field.scores[:, high] += 2.0
    field.scores[:, high, :, 5:] = field.scores[:, low, :, 5:]
    labels = decode(field, (64, 160))
    assert (labels[:, 88:] == low).all()  # the centre of column 5 is 88 px
    assert (labels[:, :72] == high).all()
    reference, scores = decode_reference(field, (64, 160)), exact_scores(field, (64, 160))
    assert_same_labels(labels, reference, scores, field.query_to_class)
    assert torch.equal(labels[:, 88:], reference[:, 88:])  # equal scores are equal in both


@pytest.mark.parametrize("classes", [1, 2, 150, 171, 847])
@pytest.mark.parametrize("value", [0.0, 0.1, -3.7])
def test_constant_field_is_class_zero(classes: int, value: float) -> None:
    field = make_field((64, 80), WindowGeometry(48, 16), classes=classes)
    field.scores.fill_(value)
    assert (decode(field, (57, 91)) == 0).all()


@pytest.mark.parametrize("size", [(336, 505), (375, 500)])
def test_constant_score_survives(size: tuple[int, int]) -> None:
    field = make_field((336, 505), SLIDING, classes=2)
    field.scores[:, 0], field.scores[:, 1] = 0.25, 0.25 + 1e-5
    assert (decode(field, size) == 1).all()
    operator = operator_for(field, size)
    for matrix in (operator.rows.matrix, operator.columns.matrix):
        assert (matrix.sum(1) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("geometry", [WindowGeometry(), WindowGeometry(64, 32), WindowGeometry(64, 20)])
def test_score_equal_to_the_x_coordinate_survives(geometry: WindowGeometry) -> None:
    """Scores ``2 c x - c^2`` are best for ``c = x``: every column must get its own number."""
    height, width = 70, 150
    boxes = geometry.boxes(height, width)
    classes = torch.arange(width).float().view(-1, 1, 1)
    x = torch.arange(width).float().expand(height, width)
    whole = 2 * classes * x - classes**2
    scores = torch.stack([whole[:, b.top : b.bottom, b.left : b.right] for b in boxes])
    labels = decode(ScoreField(scores, boxes, boxes, (height, width), tuple(range(width))), (height, width))
    assert torch.equal(labels.float(), x)


@pytest.mark.parametrize("made", [{"frame": (112, 160), "classes": 21}, {"frame": (230, 300), "geometry": SLIDING}])
@pytest.mark.parametrize("rule", [DecodeRule(), DecodeRule(40.0, probability_threshold=0.3, background=0)], ids=str)
def test_block_sizes_do_not_matter(made: dict[str, Any], rule: DecodeRule, monkeypatch: pytest.MonkeyPatch) -> None:
    field, size = make_field(**made), (61, 83)
    scores, labels = exact_scores(field, size), decode(field, size, rule)
    for block, expanded in ((1, 1), (1, 24 << 20), (4 * 83 * 21 * 5, 1), (4 * 83 * 21 * 7, 4 * 83 * 21 * 9)):
        monkeypatch.setattr(tiles_module, "_BLOCK_BYTES", block)
        monkeypatch.setattr(tiles_module, "_EXPANDED_BYTES", expanded)
        other = decode(field, size, rule)
        if rule.probability_threshold:
            assert (other != labels).float().mean() <= 2e-4
        else:
            assert_same_labels(other, labels, scores, field.query_to_class)


@pytest.mark.parametrize("made", [{"frame": (112, 160), "classes": 21}, {"frame": (230, 300), "geometry": SLIDING}])
@pytest.mark.parametrize("expanded", [1, 4 * 119 * 163 * 5, 24 << 20])
def test_identity_refinement_changes_nothing(
    made: dict[str, Any], expanded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    field, size = make_field(**made), (119, 163)
    plain = decode(field, size)
    monkeypatch.setattr(tiles_module, "_EXPANDED_BYTES", expanded)
    refined = decode(field, size, refine=lambda maps: maps)
    assert_same_labels(refined, plain, exact_scores(field, size), field.query_to_class)


def test_refiner_sees_every_query_once_at_output_size(monkeypatch: pytest.MonkeyPatch) -> None:
    field, size, seen = make_field((112, 160), query_to_class=OWNERS), (40, 50), []
    monkeypatch.setattr(tiles_module, "_EXPANDED_BYTES", 4 * 40 * 50 * 3)

    def refine(maps: Tensor) -> Tensor:
        seen.append(maps.clone())
        return maps

    decode(field, size, refine=refine)
    maps = torch.cat(seen)
    order = torch.tensor(OWNERS).argsort(stable=True)
    assert (maps - exact_scores(field, size)[order]).abs().max() < GAP
    assert max(len(m) for m in seen) == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("decoder", [decode, decode_reference])
def test_not_finite_is_an_error(value: float, decoder: Callable[..., Tensor]) -> None:
    field = make_field((32, 48))
    field.scores[0, 3, 1, 2] = value
    with pytest.raises(UserError, match="1 of 42 scores are NaN or infinite"):
        decoder(field, (32, 48))


@pytest.mark.parametrize("thresholds", [{"probability_threshold": 0.1}, {"area_threshold": 0.1}])
def test_threshold_without_background_is_an_error(thresholds: dict[str, float]) -> None:
    with pytest.raises(UserError, match="background"):
        DecodeRule(**thresholds)
    DecodeRule(**thresholds, background=0)


def test_scores_are_left_alone() -> None:
    field = make_field((112, 160), query_to_class=OWNERS)
    before = field.scores.clone()
    decode(field, (61, 83), DecodeRule(40.0, 0.3, 0.1, background=0))
    assert torch.equal(field.scores, before)


def test_windows_that_are_no_grid_are_refused() -> None:
    boxes = (Box(0, 0, 32, 32), Box(0, 32, 32, 64), Box(32, 0, 64, 32))
    field = ScoreField(torch.zeros(3, 2, 2, 2), boxes, boxes, (64, 64), (0, 1))
    with pytest.raises(ValueError, match="not a grid"):
        decode(field, (64, 64))


def test_uncovered_pixels_are_refused() -> None:
    boxes = (Box(0, 0, 32, 30),)
    with pytest.raises(ValueError, match="uncovered"):
        decode(ScoreField(torch.zeros(1, 2, 2, 2), boxes, boxes, (32, 32), (0, 1)), (32, 32))


class LargestOutput(TorchDispatchMode):
    """Remembers the number of bytes of the largest tensor that any operation has made."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for item in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(item, Tensor):
                self.bytes = max(self.bytes, item.untyped_storage().nbytes())
        return out


CASES = [
    None,
    DecodeRule(40.0, 0.3, 0.01, background=0),
    DecodeRule(1.0, 0.6, background=0, activation="none", class_scaling="minmax", class_gate=0.99),
]


@pytest.mark.parametrize("rule", CASES, ids=str)
@pytest.mark.parametrize("refined", [False, True])
def test_never_holds_classes_by_height_by_width(rule: DecodeRule | None, refined: bool) -> None:
    field = make_field((480, 640), classes=171)
    field = ScoreField(torch.rand(1, 171, 28, 37), field.boxes, field.covers, field.frame, field.query_to_class)
    with LargestOutput() as largest:
        decode(field, (480, 640), rule or DecodeRule(), (lambda maps: maps) if refined else None)
    assert largest.bytes <= 24 << 20


def test_the_recorder_would_notice() -> None:
    with LargestOutput() as largest:
        decode_reference(make_field((120, 160), classes=50), (120, 160))
    assert largest.bytes >= 4 * 50 * 120 * 160


def test_peak_memory_of_all_live_tensors() -> None:
    field = make_field((480, 640), classes=171)
    field = ScoreField(torch.rand(1, 171, 28, 37), field.boxes, field.covers, field.frame, field.query_to_class)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        decode(field, (480, 640))
    live = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    assert 1 << 19 < peak < 64e6


@pytest.mark.parametrize("seed", range(30))
def test_interpolation_equals_torch(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    source, target = (int(n) for n in torch.randint(1, 400, (2,), generator=generator))
    signal = torch.randn(3, 1, source, generator=generator, dtype=torch.float64)
    expected = F.interpolate(signal, target, mode="linear", align_corners=False)
    assert (signal @ interpolation(source, target).T - expected).abs().max() < 1e-12
    single = F.interpolate(signal.float(), target, mode="linear", align_corners=False)
    # Half of what is allowed comes from positions, which torch computes in float32.
    assert (signal @ interpolation(source, target).T - single).abs().max() < 3e-7 * max(source, 8) * 2


@pytest.mark.parametrize(("source", "target"), [(1, 1), (1, 9), (9, 1), (14, 14), (2, 3), (28, 480), (683, 512)])
def test_interpolation_by_hand(source: int, target: int) -> None:
    matrix = interpolation(source, target)
    assert matrix.shape == (target, source)
    assert torch.allclose(matrix.sum(1), torch.ones(target).double())
    assert matrix.min() >= 0 and ((matrix > 0).sum(1) <= 2).all()
    if source == target:
        assert torch.equal(matrix, torch.eye(source).double())


def test_operators_are_shared_by_geometry() -> None:
    first, second = (operator_for(make_field((336, 448), SLIDING, seed=s), (375, 500)) for s in (1, 2))
    assert first.rows is second.rows and first.columns is second.columns


def test_windows_out_of_order_are_refused() -> None:
    field = make_field((336, 448), SLIDING)
    turned = dataclasses.replace(field, boxes=field.boxes[::-1], covers=field.covers[::-1])
    with pytest.raises(ValueError, match="row by row"):
        decode(turned, (336, 448))
