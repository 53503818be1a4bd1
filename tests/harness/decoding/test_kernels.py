"""The GPU kernels against the plain protocol: compiled where there is a GPU, elsewhere under Triton's interpreter."""

import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ovss.harness.decoding.assemble import lay_out, operator_for
from ovss.harness.decoding.decode import decode_reference
from ovss.harness.decoding.rule import DecodeRule
from ovss.harness.metrics.counting import Counts, count_reference
from ovss.methods import Box, ScoreField, UserError, WindowGeometry

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
gpu_only = pytest.mark.skipif(not ON_GPU, reason="needs a CUDA device")
HALF_OVERLAP = WindowGeometry(24, 12)
THRESHOLD = DecodeRule(logit_scale=3.0, probability_threshold=0.55, background=0)


@pytest.fixture(scope="module")
def fused() -> Iterator[ModuleType]:
    pytest.importorskip("triton", reason="Triton is not installed")
    with pytest.MonkeyPatch.context() as patch:
        if not ON_GPU:
            patch.setenv("TRITON_INTERPRET", "1")
        # The variable is read when kernels are decorated, and another test may have imported the module before.
        yield importlib.reload(importlib.import_module("ovss.harness.decoding.kernels"))


def make(
    query_to_class: tuple[int, ...] = (0, 1, 2, 3),
    frame: tuple[int, int] = (40, 52),
    geometry: WindowGeometry = HALF_OVERLAP,
    grid: tuple[int, int] = (3, 3),
    seed: int = 0,
) -> ScoreField:
    """Random scores of deviation 1."""
    boxes = geometry.boxes(*frame)
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(len(boxes), len(query_to_class), *grid, generator=generator).to(DEVICE)
    return ScoreField(scores, boxes, boxes, frame, query_to_class)


def with_scores(field: ScoreField, scores: Tensor) -> ScoreField:
    return ScoreField(scores.to(DEVICE), field.boxes, field.covers, field.frame, field.query_to_class)


def unclear(field: ScoreField, size: tuple[int, int], rule: DecodeRule) -> Tensor:
    """Pixels ``(H, W)`` whose decision hangs on less than 1e-5, in float64."""
    operator, grids = operator_for(field, size), lay_out(field).cpu().double().permute(2, 0, 1)
    scores = operator.rows.matrix.double() @ grids @ operator.columns.matrix.double().T
    owner = torch.tensor(field.query_to_class)
    first, second = torch.stack([scores[owner == c].amax(0) for c in owner.unique()]).topk(2, dim=0).values
    probability = (scores * rule.logit_scale).softmax(dim=0).amax(dim=0)
    return (first - second < 1e-5) | ((probability - rule.probability_threshold).abs() < 1e-5)


def check(labels: Tensor, field: ScoreField, size: tuple[int, int], rule: DecodeRule) -> None:
    reference, skip = decode_reference(field, size, rule), unclear(field, size, rule)
    assert labels.shape == reference.shape and labels.dtype == reference.dtype
    assert labels.device.type == DEVICE
    assert skip.float().mean() < 0.01
    assert torch.equal(labels.cpu()[~skip], reference[~skip])


def assert_same(counts: Counts, expected: Counts) -> None:
    for name in ("tp", "gt", "pred"):
        assert getattr(counts, name).dtype == np.int64
        np.testing.assert_array_equal(getattr(counts, name), getattr(expected, name))


def some_labels(size: tuple[int, int], num_classes: int, dtype: torch.dtype = torch.uint8, ignore: int = 255) -> Tensor:
    """Random labels, about a fifth of them ignored, the last class absent."""
    generator = torch.Generator().manual_seed(9)
    label = torch.randint(0, num_classes - 1, size, generator=generator).to(dtype)
    label[torch.rand(size, generator=generator) < 0.2] = ignore
    return label.to(DEVICE)


@pytest.mark.parametrize("rule", [DecodeRule(), THRESHOLD], ids=["best", "threshold"])
@pytest.mark.parametrize(
    ("frame", "geometry", "grid", "size"),
    [
        ((40, 52), WindowGeometry(), (3, 4), (40, 52)),  # one window, the whole image
        ((40, 52), HALF_OVERLAP, (3, 3), (40, 52)),
        ((40, 52), HALF_OVERLAP, (3, 3), (47, 130)),  # larger than the frame, not a whole number of tiles
        ((52, 40), WindowGeometry(24, 16), (6, 6), (17, 65)),  # smaller than the frame
        ((24, 24), WindowGeometry(8, 4), (1, 1), (31, 5)),  # one patch per window: many windows, many taps
    ],
)
def test_equals_reference(
    fused: ModuleType,
    frame: tuple[int, int],
    geometry: WindowGeometry,
    grid: tuple[int, int],
    size: tuple[int, int],
    rule: DecodeRule,
) -> None:
    field = make(frame=frame, geometry=geometry, grid=grid)
    labels = fused.decode_cuda(field, size, rule)
    assert len(labels.unique()) == 4
    check(labels, field, size, rule)


def test_padded_window(fused: ModuleType) -> None:
    scores = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    field = ScoreField(scores, (Box(0, 0, 28, 21),), (Box(-2, -5, 30, 27),), (28, 21), (0, 1, 2, 3))
    check(fused.decode_cuda(field, (30, 40), DecodeRule()), field, (30, 40), DecodeRule())


def test_threshold_writes_background(fused: ModuleType) -> None:
    field, size = make(), (40, 52)
    best, kept = fused.decode_cuda(field, size, DecodeRule()), fused.decode_cuda(field, size, THRESHOLD)
    changed = best != kept
    assert 0.1 < changed.float().mean() < 0.7 and not kept[changed].any()
    every = fused.decode_cuda(field, size, DecodeRule(probability_threshold=1.5, background=2))
    assert (every == 2).all()


@pytest.mark.parametrize("rule", [DecodeRule(), THRESHOLD], ids=["best", "threshold"])
def test_synonyms_in_any_order(fused: ModuleType, rule: DecodeRule) -> None:
    field, size = make((2, 0, 3, 0, 1, 2, 2), seed=2), (40, 52)
    check(fused.decode_cuda(field, size, rule), field, size, rule)


def test_threshold_with_large_scores(fused: ModuleType) -> None:
    field, size = make(), (40, 52)
    field = with_scores(field, field.scores * 40)
    rule = DecodeRule(logit_scale=100.0, probability_threshold=0.999, background=1)
    check(fused.decode_cuda(field, size, rule), field, size, rule)


def test_lowest_class_wins_ties(fused: ModuleType) -> None:
    field, size = make((3, 1, 2, 1, 0)), (47, 61)
    equal = with_scores(field, field.scores[:, :1].expand_as(field.scores))
    assert not fused.decode_cuda(equal, size, DecodeRule()).any()
    assert not fused.decode_cuda(with_scores(field, torch.full(field.scores.shape, -0.3)), size, DecodeRule()).any()
    # Class 1 twins class 3 everywhere, class 2 wins elsewhere, class 0 never.
    twins = field.scores.clone()
    twins[:, 3], twins[:, 1], twins[:, 4] = twins[:, 0], -9, -9
    labels = fused.decode_cuda(with_scores(field, twins), size, DecodeRule())
    assert labels.unique().tolist() == [1, 2]


def test_more_than_256_classes(fused: ModuleType) -> None:
    field, size = make(tuple(range(257)), frame=(12, 20), geometry=WindowGeometry(), grid=(2, 3)), (12, 20)
    top = field.scores.clone()
    top[:, 256] = 2.0
    field = with_scores(field, top)
    labels = fused.decode_cuda(field, size, DecodeRule())
    assert labels.dtype == torch.int32 and 256 in labels
    check(labels, field, size, DecodeRule())
    truth = some_labels(size, 257, torch.int32, 65535)
    assert_same(fused.count_cuda(field, truth, DecodeRule(), 257, 65535), count_reference(labels, truth, 257, 65535))


@pytest.mark.parametrize("rule", [DecodeRule(), THRESHOLD], ids=["best", "threshold"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_counts(fused: ModuleType, rule: DecodeRule, dtype: torch.dtype) -> None:
    field, size = make((0, 1, 2, 2, 3)), (47, 70)
    truth = some_labels(size, 5, dtype)
    labels = fused.decode_cuda(field, size, rule)
    counts = fused.count_cuda(field, truth, rule, 5)
    assert counts.gt.sum() == (truth != 255).sum() and counts.tp.sum() > 0
    assert_same(counts, count_reference(labels, truth, 5))


@pytest.mark.parametrize(("dtype", "ignore"), [(torch.int32, -1), (torch.uint8, 1)])
def test_counts_with_other_ignore_values(fused: ModuleType, dtype: torch.dtype, ignore: int) -> None:
    field, size = make(), (20, 33)
    truth = some_labels(size, 4, dtype, ignore)
    labels = fused.decode_cuda(field, size, DecodeRule())
    counts = fused.count_cuda(field, truth.T.contiguous().T, DecodeRule(), 4, ignore)  # strides are not row by row
    assert_same(counts, count_reference(labels, truth, 4, ignore))


def test_counts_of_ignored_image(fused: ModuleType) -> None:
    counts = fused.count_cuda(make(), torch.full((20, 33), 255, dtype=torch.uint8, device=DEVICE), DecodeRule(), 4)
    assert not (counts.tp.any() or counts.gt.any() or counts.pred.any())


@pytest.mark.parametrize(("dtype", "value"), [(torch.uint8, 4), (torch.uint8, 200), (torch.int32, -1)])
def test_counts_refuse_unknown_labels(fused: ModuleType, dtype: torch.dtype, value: int) -> None:
    truth = torch.zeros(20, 33, dtype=dtype, device=DEVICE)
    truth[3, 4] = value
    with pytest.raises(UserError, match=f"label values {value} are neither a class"):
        fused.count_cuda(make(), truth, DecodeRule(), 4)


@pytest.mark.parametrize("rule", [DecodeRule(), DecodeRule(probability_threshold=0.5, background=7)])
def test_counts_refuse_too_few_classes(fused: ModuleType, rule: DecodeRule) -> None:
    enough = 4 if rule.background else 3
    with pytest.raises(ValueError, match="predictions can reach"):
        fused.count_cuda(make(), torch.zeros(20, 33, dtype=torch.uint8, device=DEVICE), rule, enough)


def test_counts_refuse_label_elsewhere(fused: ModuleType) -> None:
    with pytest.raises(ValueError, match="on meta"):
        fused.count_cuda(make(), torch.zeros(20, 33, dtype=torch.uint8, device="meta"), DecodeRule(), 4)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_refuses_scores_that_are_not_finite(fused: ModuleType, value: float) -> None:
    field = make()
    field.scores[0, 1, 2, 0] = value
    with pytest.raises(UserError, match="1 of 432 scores"):
        fused.decode_cuda(field, (20, 33), DecodeRule())


def test_supports(fused: ModuleType) -> None:
    def refine(maps: Tensor) -> Tensor:
        return maps

    area: dict[str, Any] = {"area_threshold": 0.1, "background": 0}
    assert fused.supports(DecodeRule(), None) and fused.supports(THRESHOLD, None)
    assert not fused.supports(DecodeRule(), refine)
    assert not fused.supports(DecodeRule(**area), None)
    assert not fused.supports(DecodeRule(logit_scale=0.0), None)
    with pytest.raises(ValueError, match="do not support"):
        fused.decode_cuda(make(), (20, 33), DecodeRule(**area))


def ade_like() -> ScoreField:
    """150 classes, six windows of 224 px on a frame of 336 x 448."""
    return make(tuple(range(150)), (336, 448), WindowGeometry(224, 112), (14, 14), seed=3)


@gpu_only
@pytest.mark.parametrize("rule", [DecodeRule(), THRESHOLD], ids=["best", "threshold"])
def test_ade_size(fused: ModuleType, rule: DecodeRule) -> None:
    field, size = ade_like(), (512, 683)
    labels = fused.decode_cuda(field, size, rule)
    check(labels, field, size, rule)
    truth = some_labels(size, 150)
    assert_same(fused.count_cuda(field, truth, rule, 150), count_reference(labels, truth, 150))


@gpu_only
def test_no_tf32(fused: ModuleType) -> None:
    field, size, before = ade_like(), (512, 683), torch.get_float32_matmul_precision()
    labels = fused.decode_cuda(field, size, DecodeRule())
    try:
        torch.set_float32_matmul_precision("high")
        assert torch.equal(fused.decode_cuda(field, size, DecodeRule()), labels)
    finally:
        torch.set_float32_matmul_precision(before)


@gpu_only
def test_never_holds_the_full_maps(fused: ModuleType) -> None:
    field, size = ade_like(), (512, 683)
    fused.decode_cuda(field, size, DecodeRule())
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    fused.decode_cuda(field, size, DecodeRule())
    # 28 rows of 150 x 704 values are 11.8 MB; the full maps would take 210 MB.
    assert torch.cuda.max_memory_allocated() - before < 40e6


@gpu_only
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_on_a_device_that_is_not_current(fused: ModuleType) -> None:
    field = make()
    elsewhere = ScoreField(field.scores.to("cuda:1"), field.boxes, field.covers, field.frame, field.query_to_class)
    expected = fused.decode_cuda(field, (47, 61), DecodeRule())
    assert torch.equal(fused.decode_cuda(elsewhere, (47, 61), DecodeRule()).cpu(), expected.cpu())
