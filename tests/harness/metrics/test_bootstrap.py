"""Bootstrap: intervals, p values and groups on made-up data whose truth is known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ovss.harness.metrics import draws
from ovss.harness.metrics.bootstrap import (
    MIN_UNITS,
    delta_standard_error,
    miou_interval,
    paired_difference,
    replicates_of,
    why_no_interval,
)
from ovss.harness.metrics.counting import Counts
from ovss.harness.metrics.draws import cluster_counts, draw_weights, replicate_miou
from ovss.harness.metrics.groups import indistinct_groups
from ovss.harness.metrics.of_counts import miou
from ovss.methods import UserError

CLASSES = 6


def simulate(images: int, skill: tuple[float, ...], seed: int, classes: int = CLASSES) -> list[Counts]:
    """Several methods on the same images: some images are hard for all of them, class sizes vary, classes are absent.

    A method finds a class's pixels with a probability around its ``skill``; what it misses goes to other classes.
    """
    rng = np.random.default_rng(seed)
    present = rng.random((images, classes)) < np.linspace(0.9, 0.4, classes)
    gt = (rng.gamma(2.0, 500.0, (images, classes)) * present).astype(np.int64)
    ease = rng.normal(0, 0.8, (images, 1)) + rng.normal(0, 0.4, (images, classes))
    runs = []
    for level in skill:
        rate = 1 / (1 + np.exp(-(level + ease + rng.normal(0, 0.5, (images, classes)))))
        tp = (gt * rate).astype(np.int64)
        missed = (gt - tp).sum(1)
        share = rng.dirichlet(np.ones(classes), images)
        wrong = (missed[:, None] * share).astype(np.int64)
        wrong[:, 0] += missed - wrong.sum(1)
        runs.append(Counts(tp, gt, tp + wrong))
    return runs


def pick(counts: Counts, rows: NDArray[np.int64]) -> Counts:
    return Counts(counts.tp[rows], counts.gt[rows], counts.pred[rows])


def test_delta_error_agrees_with_bootstrap() -> None:
    a, b = simulate(1500, (0.3, 0.0), seed=1)
    weights = draw_weights(1500, 4000, seed=2)
    deltas = replicate_miou(a, weights) - replicate_miou(b, weights)
    assert delta_standard_error(a, b) == pytest.approx(float(deltas.std()), rel=0.03)
    assert delta_standard_error(a) == pytest.approx(float(replicate_miou(a, weights).std()), rel=0.03)
    assert delta_standard_error(a, b) < 0.8 * np.hypot(delta_standard_error(a), delta_standard_error(b))  # pairing


def test_delta_error_shrinks_with_the_root_of_images() -> None:
    (large,) = simulate(4000, (0.3,), seed=3)
    small = pick(large, np.arange(1000))
    assert delta_standard_error(small) / delta_standard_error(large) == pytest.approx(2.0, rel=0.15)


def test_delta_error_of_a_mean_by_hand() -> None:
    """One class, equal unions: mIoU is a plain mean, and the formula its textbook standard error."""
    tp = np.array([[3], [5], [8], [1], [7]])
    whole = np.full((5, 1), 10)
    counts = Counts(tp, whole, tp)  # union is 10 in every image
    expected = (tp[:, 0] / 10).std(ddof=1) / np.sqrt(5)
    assert delta_standard_error(counts) == pytest.approx(float(expected))


def test_equal_runs_do_not_differ() -> None:
    (a,) = simulate(80, (0.2,), seed=4)
    found = paired_difference(a, a, replicates=500)
    assert (found.estimate, found.interval.low, found.interval.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert delta_standard_error(a, a) == 0.0


def test_true_difference_is_found_and_signed() -> None:
    a, b = simulate(400, (0.4, 0.0), seed=5)
    found, back = paired_difference(a, b), paired_difference(b, a)
    assert found.estimate == float(miou(a.total()) - miou(b.total())) > 0.02
    assert 0 < found.interval.low < found.estimate < found.interval.high
    assert found.p_value == pytest.approx(1 / 2001)
    assert back.estimate == -found.estimate and back.p_value == found.p_value
    assert back.interval.low == pytest.approx(-found.interval.high, abs=1e-12)


def test_p_value_is_the_formula() -> None:
    a, b = simulate(60, (0.1, 0.0), seed=6)
    found = paired_difference(a, b, replicates=700, seed=11)
    weights = draw_weights(60, 700, seed=11)
    beyond = 0
    for w in weights:
        drawn = [Counts(*((w[:, None] * x).sum(0) for x in (c.tp, c.gt, c.pred))) for c in (a, b)]
        beyond += abs(float(miou(drawn[0]) - miou(drawn[1])) - found.estimate) >= abs(found.estimate)
    assert found.p_value == pytest.approx((1 + beyond) / 701)
    assert 0.01 < found.p_value < 1


def test_p_values_of_equal_methods_are_spread_out() -> None:
    """Two methods of the same skill: about 5 % of the p values lie below 5 %, and half above one half."""
    p = np.array([paired_difference(*simulate(60, (0.0, 0.0), s), replicates=200).p_value for s in range(300)])
    assert 0.02 <= (p < 0.05).mean() <= 0.09
    assert 0.42 <= (p > 0.5).mean() <= 0.58


def test_intervals_cover_the_truth() -> None:
    """800 pairs of runs on 100 images each, from a population whose difference is known."""
    population_a, population_b = simulate(80_000, (0.25, 0.0), seed=7)
    truth = float(miou(population_a.total()) - miou(population_b.total()))
    hits = 0
    for rows in np.arange(80_000).reshape(800, 100):
        found = paired_difference(pick(population_a, rows), pick(population_b, rows), replicates=400, seed=int(rows[0]))
        hits += found.interval.low <= truth <= found.interval.high
    assert 0.93 <= hits / 800 <= 0.97


def test_single_interval_covers_the_truth() -> None:
    (population,) = simulate(60_000, (0.2,), seed=8)
    truth = float(miou(population.total()))
    hits = 0
    for rows in np.arange(60_000).reshape(400, 150):
        found = miou_interval(pick(population, rows), replicates=400, seed=int(rows[0]))
        assert found is not None
        hits += found.low <= truth <= found.high
    assert 0.92 <= hits / 400 <= 0.98


def test_order_of_images_changes_no_estimate() -> None:
    a, b = simulate(70, (0.2, 0.0), seed=9)
    order = np.random.default_rng(0).permutation(70)
    plain, shuffled = paired_difference(a, b), paired_difference(pick(a, order), pick(b, order))
    assert plain.estimate == shuffled.estimate
    assert delta_standard_error(a, b) == pytest.approx(delta_standard_error(pick(a, order), pick(b, order)))
    assert plain.interval.low == pytest.approx(shuffled.interval.low, abs=0.2 * delta_standard_error(a, b))


def test_runs_on_different_labels_are_refused() -> None:
    a, b = simulate(20, (0.2, 0.0), seed=10)
    (other,) = simulate(20, (0.0,), seed=11)
    for wrong in (other, pick(b, np.arange(19)), pick(b, np.arange(20)[::-1])):
        with pytest.raises(UserError, match="not scored on the same labels"):
            paired_difference(a, wrong)


def test_same_seed_same_numbers() -> None:
    a, b = simulate(50, (0.2, 0.0), seed=12)
    assert paired_difference(a, b) == paired_difference(a, b)
    assert paired_difference(a, b, seed=1) != paired_difference(a, b, seed=2)
    assert miou_interval(a) == miou_interval(a)


def test_weights() -> None:
    weights = draw_weights(37, 500, seed=3)
    assert weights.shape == (500, 37) and (weights.sum(1) == 37).all()
    assert weights.mean() == 1.0 and weights.var() == pytest.approx(1 - 1 / 37, abs=0.05)


def test_replicates_are_exact() -> None:
    """Counts above 2^24, where float32 products would round."""
    rng = np.random.default_rng(0)
    tp = rng.integers(2**28, 2**29, (7, 3))
    counts = Counts(tp, tp + rng.integers(0, 9, (7, 3)), tp + rng.integers(0, 9, (7, 3)))
    weights = draw_weights(7, 50)
    drawn = Counts(*(np.stack([(w[:, None] * x).sum(0) for w in weights]) for x in (counts.tp, counts.gt, counts.pred)))
    assert np.array_equal(replicate_miou(counts, weights), miou(drawn))


def test_class_that_vanishes_from_a_replicate_leaves_its_mean() -> None:
    tp = np.array([[4, 0], [4, 0], [4, 9]])
    counts = Counts(tp, np.array([[8, 0], [8, 0], [8, 9]]), tp)
    values = replicate_miou(counts, np.array([[2, 1, 0], [1, 1, 1]]))
    assert values.tolist() == [0.5, 0.75]
    labelled_nowhere = replicate_miou(Counts(tp * 0, tp * 0, tp * 0), np.array([[1, 1, 1]]))
    assert np.isnan(labelled_nowhere).all()


def test_clusters_add_up() -> None:
    (a,) = simulate(12, (0.2,), seed=13)
    clusters = np.array([2, 0, 1, 2, 2, 0, 1, 1, 0, 3, 3, 3])
    summed = cluster_counts(a, clusters)
    for k in range(4):
        assert summed.gt[k].tolist() == a.gt[clusters == k].sum(0).tolist()
    assert summed.total().tp.tolist() == a.total().tp.tolist()
    assert cluster_counts(a, None) is a


def test_dependent_images_widen_the_interval_when_clustered() -> None:
    """Every photo is there four times: only clustering shows that 400 tiles are 100 photos."""
    a, b = (pick(c, np.repeat(np.arange(100), 4)) for c in simulate(100, (0.2, 0.0), seed=14))
    clusters = np.repeat(np.arange(100), 4)
    naive, honest = paired_difference(a, b), paired_difference(a, b, clusters)
    assert honest.estimate == naive.estimate
    widths = [d.interval.high - d.interval.low for d in (honest, naive)]
    assert widths[0] / widths[1] == pytest.approx(2.0, rel=0.1)  # the square root of four
    single = [miou_interval(a, clusters), miou_interval(a)]
    assert single[0] is not None and single[1] is not None
    assert (single[0].high - single[0].low) / (single[1].high - single[1].low) == pytest.approx(2.0, rel=0.1)


def test_clusters_of_one_are_no_clusters() -> None:
    a, b = simulate(40, (0.2, 0.0), seed=15)
    assert paired_difference(a, b, np.arange(40)) == paired_difference(a, b)


@pytest.mark.parametrize("units", [1, 2, 9])
def test_few_units_have_no_interval(units: int) -> None:
    (a,) = simulate(units, (0.2,), seed=16)
    assert miou_interval(a) is None
    (a,) = simulate(30, (0.2,), seed=16)
    assert miou_interval(a, np.arange(30) % units) is None  # many images, few clusters
    assert why_no_interval(units) == f"no interval: {units} unit{'s' if units > 1 else ''}, 10 are needed"


def test_ten_units_have_one() -> None:
    assert MIN_UNITS == 10
    a, b = simulate(30, (0.2, 0.2), seed=16)
    tens = np.arange(30) % 10
    found = paired_difference(a, b, tens)
    assert miou_interval(a, tens) is not None and found.interval is not None and found.p_value is not None
    assert found.units == 10 and why_no_interval(10) == ""
    assert set(indistinct_groups(replicates_of({"a": a, "b": b}, tens))) == {"a", "b"}


@pytest.mark.parametrize("units", [1, 9])
def test_few_units_prove_no_difference(units: int) -> None:
    """Nor do they prove that runs cannot be told apart: no group at all."""
    a, b = simulate(units, (1.0, 0.0), seed=20)
    found = paired_difference(a, b)
    assert found.estimate != 0 and found.units == units
    assert found.interval is None and found.p_value is None
    assert np.isnan(delta_standard_error(a, b)) == (units == 1)
    assert indistinct_groups(replicates_of({"a": a, "b": b})) == {} == indistinct_groups(replicates_of({"a": a}))


def test_why_ten() -> None:
    """What a 95 % interval covers: with 2 units far less than with 10, which is not yet all (docs/protocols.md)."""
    (population,) = simulate(20_000, (0.2,), seed=8)
    truth, covered = float(miou(population.total())), {}
    for units in (2, 10, 50):
        rows = np.arange(250 * units).reshape(250, units)
        drawn = [replicate_miou(pick(population, r), draw_weights(units, 300, seed=int(r[0]))) for r in rows]
        bounds = np.nanpercentile(np.array(drawn), [2.5, 97.5], axis=1)
        covered[units] = ((bounds[0] <= truth) & (truth <= bounds[1])).mean()
    assert covered[2] < 0.6 and 0.8 < covered[10] < covered[50] and covered[50] > 0.9


def test_groups_of_made_up_runs() -> None:
    """Two strong runs that hardly differ, two in the middle, one far behind."""
    runs = dict(zip("abcde", simulate(500, (1.2, 1.2, 0.5, 0.5, -1.0), seed=17), strict=True))
    groups = indistinct_groups(replicates_of(runs))
    assert groups["a"] == groups["b"] == 1
    assert groups["c"] == groups["d"] == 2
    assert groups["e"] == 3


def test_groups_of_equal_runs_and_of_one_run() -> None:
    (a,) = simulate(50, (0.3,), seed=18)
    assert indistinct_groups(replicates_of({"x": a, "y": a, "z": a})) == {"x": 1, "y": 1, "z": 1}
    assert indistinct_groups(replicates_of({"only": a})) == {"only": 1}


def test_groups_do_not_depend_on_the_order_of_runs() -> None:
    runs = dict(zip("abcd", simulate(200, (0.6, 0.5, 0.1, -0.5), seed=19), strict=True))
    groups = indistinct_groups(replicates_of(runs))
    assert indistinct_groups(replicates_of(dict(reversed(runs.items())))) == groups
    scores = {name: float(miou(run.total())) for name, run in runs.items()}
    by_score = [groups[name] for name in sorted(runs, key=lambda name: -scores[name])]
    assert by_score == sorted(by_score) and by_score[0] == 1 and by_score[-1] > 1


def test_many_compared_are_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Differences of replicates are those of each pair alone; M runs take M products, not one for each pair."""
    runs = dict(zip("abcd", simulate(60, (1.0, 0.6, 0.5, 0.0), seed=3), strict=True))
    alone = {(x, y): paired_difference(runs[x], runs[y]) for x in runs for y in runs}
    calls: list[int] = []
    drawn = draws._drawn_in_blocks
    monkeypatch.setattr(draws, "_drawn_in_blocks", lambda *given: (calls.append(1), drawn(*given))[1])
    together = replicates_of(runs)
    products = len(calls)
    assert {pair: together.difference(*pair) for pair in alone} == alone
    assert len(calls) == products > 0 and products % len(runs) == 0
    with pytest.raises(UserError, match="not scored on the same labels"):
        replicates_of({"a": runs["a"], "z": simulate(60, (1.0,), seed=4)[0]})
