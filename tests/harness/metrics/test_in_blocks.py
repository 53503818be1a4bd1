"""Counts that are read in blocks give the numbers of counts in memory, to the last bit."""

import numpy as np
import pytest

from ovss.harness.metrics import draws
from ovss.harness.metrics.bootstrap import class_differences, paired_difference
from ovss.harness.metrics.counts import Counts
from ovss.harness.metrics.draws import cluster_counts, draw_weights, drawn_miou, replicate_miou
from ovss.harness.metrics.of_counts import Averaging, miou_per_class, miou_per_image, worst_case_miou_per_class
from ovss.harness.metrics.over_images import over_classes, per_image

SIZES = [(1, 3, 7), (40, 1, 7), (40, 2, 7), (300, 7, 64), (3000, 5, 777)]


def made_up(images: int, classes: int, seed: int = 0) -> Counts:
    rng = np.random.default_rng(seed)
    gt = rng.integers(0, 1000, (images, classes)) * (rng.random((images, classes)) < 0.4)
    tp = (gt * rng.random(gt.shape)).astype(np.int64)
    return Counts(tp, gt, tp + rng.integers(0, 50, gt.shape) * (rng.random(gt.shape) < 0.5))


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> tuple[int, int]:
    images, classes, block = request.param
    monkeypatch.setattr("ovss.harness.metrics.counts.BLOCK", block)
    monkeypatch.setattr("ovss.harness.metrics.over_images._VALUES", images)
    monkeypatch.setattr(draws, "_WEIGHT_BYTES", 70 * images)
    return images, classes


@pytest.mark.parametrize("few_at_once", SIZES, indirect=True)
@pytest.mark.parametrize("averaging", ["mmseg", "labelled"])
def test_means_over_images(few_at_once: tuple[int, int], averaging: Averaging) -> None:
    counts = made_up(*few_at_once)
    assert np.array_equal(per_image(counts, averaging), miou_per_image(counts, averaging), equal_nan=True)
    found = over_classes(counts, 0.05, averaging)
    expected = [miou_per_class(counts, averaging), worst_case_miou_per_class(counts, 0.05, averaging)]
    assert np.array_equal([found.mean, found.worst], expected, equal_nan=True)


@pytest.mark.parametrize("few_at_once", SIZES, indirect=True)
@pytest.mark.parametrize("clustered", [False, True])
def test_draws(few_at_once: tuple[int, int], clustered: bool) -> None:
    images, classes = few_at_once
    both = [made_up(images, classes, seed) for seed in (0, 1)]
    clusters = np.random.default_rng(5).permutation(np.arange(images) // 3) if clustered else None
    units = [cluster_counts(counts, clusters) for counts in both]
    weights = draw_weights(len(units[0]), 200)
    found = drawn_miou(both, clusters, "labelled", replicates=200)
    expected = np.stack([replicate_miou(counts, weights, "labelled") for counts in units])
    assert np.array_equal(found, expected, equal_nan=True)


def test_differences_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    a = made_up(60, 4)
    b = Counts(a.tp // 2, a.gt, a.pred)
    whole, (estimate, bounds) = paired_difference(a, b), class_differences(a, b)
    monkeypatch.setattr("ovss.harness.metrics.counts.BLOCK", 7)
    monkeypatch.setattr(draws, "_MOST_AT_ONCE", 33)
    monkeypatch.setattr(draws, "_SUM_BYTES", 3 * 8 * 4 * 50)  # sums of 50 replicates
    assert paired_difference(a, b) == whole
    again, bounds_again = class_differences(a, b)
    assert np.array_equal(again, estimate) and np.array_equal(bounds_again, bounds)


def test_weights_are_drawn_once_for_all_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody can change them."""
    calls: list[int] = []
    plain = draws._draw
    draws._all_weights.cache_clear()
    monkeypatch.setattr(draws, "_draw", lambda rng, room: calls.append(len(room[0])) or plain(rng, room))
    first, again = (drawn_miou([made_up(40, 3, seed)], None, replicates=50) for seed in (0, 0))
    assert calls == [40] and np.array_equal(first, again)
    assert not draws._all_weights(40, 50, draws.SEED).flags.writeable
    assert np.array_equal(draws._all_weights(40, 50, draws.SEED), draw_weights(40, 50))
