"""Rules of the bootstrap by hand: Holm's step-down, few images, replicates that draw nothing."""

from collections.abc import Sequence

import numpy as np
import pytest

from ovss.harness.metrics.bootstrap import Replicates, delta_standard_error, miou_interval
from ovss.harness.metrics.counting import Counts
from ovss.harness.metrics.groups import holm, indistinct_groups


@pytest.mark.parametrize(
    ("p_values", "different"),
    [
        ([0.01, 0.015, 0.02, 0.04], [0, 1, 2, 3]),  # 0.05 over 4, 3, 2, 1; Bonferroni would keep the first alone
        ([0.04, 0.02, 0.015, 0.01], [0, 1, 2, 3]),  # in whatever order they come
        ([0.02, 0.02, 0.02, 0.04], []),  # the smallest fails, so all do; a step up from 0.04 would keep all
        ([0.01, 0.03, 0.04], [0]),  # 0.03 > 0.05 / 2 ends it, although 0.04 <= 0.05 / 1
        ([0.03, 0.001], [0, 1]),
        ([0.05], [0]),  # on the line is significant
        ([0.051], []),
        ([], []),
    ],
)
def test_holm_steps_down(p_values: list[float], different: list[int]) -> None:
    """Holm (1979): the k-th smallest of m is compared with 0.05 / (m - k + 1), until one is larger."""
    adjusted = holm({str(k): p for k, p in enumerate(p_values)})
    assert {name for name, p in adjusted.items() if p <= 0.05} == {str(k) for k in different}


def test_adjusted_p_values_by_hand() -> None:
    """Times 3, 2 and 1 from the smallest; never below one before, never above 1."""
    assert holm({"a": 0.03, "b": 0.001, "c": 0.02}) == {"b": pytest.approx(0.003), "c": 0.04, "a": 0.04}
    assert holm({"a": 0.6, "b": 0.9}) == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize(
    ("p_values", "groups"),
    [
        ({"b": 0.03, "c": 0.04, "d": 0.04}, {"a": 1, "b": 1, "c": 1, "d": 1}),  # each below 0.05, none after Holm
        ({"b": 0.015, "c": 0.02, "d": 0.04}, {"a": 1, "b": 2, "c": 2, "d": 2}),
        ({"b": 0.9, "c": 0.001, "d": 0.9}, {"a": 1, "b": 1, "c": 2, "d": 2}),  # the first that differs ends the group
    ],
)
def test_groups_follow_holm(p_values: dict[str, float], groups: dict[str, int]) -> None:
    """Runs a > b > c > d by mIoU, and made-up p values against a; nobody else differs from anybody."""

    class Runs(Replicates):
        def p_values(self, a: str, others: Sequence[str]) -> dict[str, float]:
            return {b: p_values[b] if a == "a" else 1.0 for b in others}

    drawn = {name: np.zeros(99) for name in "abcd"}
    assert indistinct_groups(Runs(dict(zip("abcd", (0.9, 0.8, 0.7, 0.6), strict=True)), drawn, 12)) == groups


def test_delta_error_of_two_images_by_hand() -> None:
    counts = Counts(np.array([[2], [6]]), np.array([[10], [10]]), np.array([[2], [6]]))
    assert delta_standard_error(counts) == pytest.approx(np.std([0.2, 0.6], ddof=1) / np.sqrt(2))


def test_replicates_without_a_valid_pixel_are_left_out() -> None:
    """Eleven images of twelve are ignored as a whole, and a third of the replicates draw these alone."""
    tp, gt = np.zeros((12, 1), np.int64), np.zeros((12, 1), np.int64)
    tp[5], gt[5] = 3, 4
    found = miou_interval(Counts(tp, gt, tp))
    assert found is not None and (found.low, found.high) == (0.75, 0.75)
