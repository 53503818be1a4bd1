"""What a leaderboard of very many runs costs: draws and comparisons."""

import numpy as np
import pytest

from ovss.datasets import DatasetRecord
from ovss.harness.metrics import draws
from ovss.harness.metrics.bootstrap import Replicates, replicates_of
from ovss.harness.metrics.counts import Counts
from ovss.harness.metrics.groups import indistinct_groups
from ovss.harness.metrics.result import EvalResult, replicates_of_results
from ovss.methods import UserError

IMAGES, CLASSES = 40, 3
RECORD = DatasetRecord(key="madeup", title="", images="", labels="", classes=tuple(f"c{k}" for k in range(CLASSES)))


def result(seed: int, labels: int = 0) -> EvalResult:
    """Of images whose labels are the same for all seeds."""
    gt = np.random.default_rng(labels).integers(1, 1000, (IMAGES, CLASSES))
    tp = (gt * np.random.default_rng(seed).random(gt.shape)).astype(np.int64)
    ids = tuple(f"{k:02d}" for k in range(IMAGES))
    return EvalResult(RECORD, ids, Counts(tp, gt, gt), np.arange(IMAGES), IMAGES)


def test_intervals_and_comparisons_share_their_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    results = {f"run {seed}": result(seed) for seed in (1, 2, 3)}
    plain = replicates_of({name: r.counts for name, r in results.items()})
    calls: list[int] = []
    drawn = draws._drawn_in_blocks
    monkeypatch.setattr(draws, "_drawn_in_blocks", lambda *given: (calls.append(1), drawn(*given))[1])
    assert all(r.interval is not None for r in results.values())
    found = replicates_of_results(results)
    assert len(calls) == len(results)
    assert found.estimates == plain.estimates and found.units == plain.units
    assert all(np.array_equal(found.drawn[name], plain.drawn[name]) for name in results)


def test_results_on_other_labels_are_refused() -> None:
    with pytest.raises(UserError, match="not scored on the same labels"):
        replicates_of_results({"a": result(1), "b": result(2, labels=7)})


def test_p_values_of_many_are_those_of_pairs() -> None:
    """More runs than are compared at once; the p value of a pair is counted by hand."""
    rng = np.random.default_rng(0)
    names = [f"run {k}" for k in range(40)]
    estimates = {name: 0.5 - 0.001 * k for k, name in enumerate(names)}
    runs = Replicates(estimates, {name: estimates[name] + 0.02 * rng.standard_normal(99) for name in names}, 12)
    found = runs.p_values(names[0], names[1:])
    for name in names[1:]:
        delta = estimates[names[0]] - estimates[name]
        far = sum(abs(d - delta) >= abs(delta) for d in runs.drawn[names[0]] - runs.drawn[name])
        assert found[name] == (1 + far) / 100 == runs.difference(names[0], name).p_value
    assert runs.p_values(names[0], []) == {}


@pytest.mark.parametrize(("count", "groups"), [(101, 101), (102, 0)])
def test_groups_of_clearly_different_runs(count: int, groups: int) -> None:
    """Each is a group of its own, up to 100 comparisons: 0.05 * 2001."""
    names = [f"run {k:03d}" for k in range(count)]
    estimates = {name: 0.9 - 0.007 * k for k, name in enumerate(names)}
    runs = Replicates(estimates, {name: np.full(2000, value) for name, value in estimates.items()}, 12)
    assert indistinct_groups(runs) == {name: k + 1 for k, name in enumerate(names[:groups])}
