"""Confusion tables: storage as cells, groups, and the soft metrics, on made-up data."""

import doctest

import numpy as np
import pytest
import torch

from ovss.harness.metrics import of_confusion as confusion_metrics
from ovss.harness.metrics.counting import Counts, Int64, confusion, count
from ovss.harness.metrics.of_confusion import (
    SparseConfusion,
    counts_of,
    dense,
    grouped,
    sg_iou,
    sg_miou,
    soft_iou,
    soft_miou,
    sparse,
    table_counts,
)
from ovss.harness.metrics.of_counts import iou, miou

# Rows are labels: class 0 has 5 right, 3 taken for 1, 2 for 3; class 1 has 6 right, 1 taken for 0; class 2 is in
# neither; class 3 is predicted only; class 4 is labelled only, 4 taken for 1.
HAND = np.array(
    [
        [5, 3, 0, 2, 0],
        [1, 6, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 4, 0, 0, 0],
    ]
)


def maps(images: int = 6, classes: int = 7, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Predictions and labels of several sizes with ignored pixels; the last label is ignored altogether."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(images):
        shape = (int(rng.integers(3, 20)), int(rng.integers(3, 20)))
        prediction, label = rng.integers(0, classes - 1, shape), rng.integers(0, classes, shape)
        label[rng.random(shape) < (1 if i == images - 1 else 0.2)] = 255
        out.append((torch.from_numpy(prediction), torch.from_numpy(label).to(torch.uint8)))
    return out


def random_table(classes: int, seed: int) -> Int64:
    """Some cells empty, the last class in neither labels nor predictions, the one before predicted only."""
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 50, (classes, classes)) * (rng.random((classes, classes)) < 0.6)
    table[-2:] = 0
    table[:, -1] = 0
    return table


def same(a: Counts, b: Counts) -> bool:
    return all(
        x.dtype == y.dtype == np.int64 and np.array_equal(x, y)
        for x, y in zip((a.tp, a.gt, a.pred), (b.tp, b.gt, b.pred), strict=True)
    )


def test_examples_in_the_docstrings() -> None:
    found = doctest.testmod(confusion_metrics)
    assert found.failed == 0
    assert found.attempted >= 15


def test_cells_by_hand() -> None:
    cells = sparse(HAND)
    assert cells.label.tolist() == [0, 0, 0, 1, 1, 4]
    assert cells.prediction.tolist() == [0, 1, 3, 0, 1, 1]
    assert cells.pixels.tolist() == [5, 3, 2, 1, 6, 4]
    assert cells.image.tolist() == [0] * 6
    assert {a.dtype for a in vars(cells).values()} == {np.dtype(np.int64)}


def test_tensor_and_array_give_the_same_cells() -> None:
    from_array, from_tensor = sparse(HAND), sparse(torch.from_numpy(HAND))
    assert all(np.array_equal(getattr(from_array, n), getattr(from_tensor, n)) for n in vars(from_array))


def test_read_only_table_needs_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    table = HAND.copy()
    table.flags.writeable = False
    assert sparse(table[::-1]).pixels.tolist() == [4, 1, 6, 5, 3, 2]
    assert not recwarn.list


def test_cells_and_back() -> None:
    for seed in range(5):
        table = random_table(8, seed)
        assert np.array_equal(dense(sparse(table), 8), table)
    assert not dense(sparse(np.zeros((3, 3), np.int64)), 3).any()


def test_cells_given_twice_add() -> None:
    twice = SparseConfusion(*(np.array(v) for v in ([0, 0], [1, 1], [0, 0], [2, 3])))
    assert dense(twice, 2).tolist() == [[0, 0], [5, 0]]
    assert counts_of(twice, 1, 2).gt.tolist() == [[0, 5]]


def test_stacked_images_keep_their_index_when_one_is_empty() -> None:
    empty = np.zeros((2, 2), np.int64)
    stacked = SparseConfusion.stack(
        [sparse(t) for t in (np.array([[1, 0], [0, 2]]), empty, np.array([[0, 3], [0, 0]]))]
    )
    assert stacked.image.tolist() == [0, 0, 2]
    assert stacked.pixels.tolist() == [1, 2, 3]


@pytest.mark.parametrize("seed", range(4))
def test_counts_of_cells_equal_counts_of_pixels(seed: int) -> None:
    images = maps(seed=seed)
    expected = Counts.stack([count(p, g, 7) for p, g in images])
    cells = SparseConfusion.stack([sparse(confusion(p, g, 7)) for p, g in images])
    assert same(counts_of(cells, len(images), 7), expected)
    assert not counts_of(cells, len(images), 7).gt[-1].any()  # the ignored image
    assert same(table_counts(dense(cells, 7)), expected.total())


def test_order_of_cells_changes_nothing() -> None:
    images = maps()
    cells = SparseConfusion.stack([sparse(confusion(p, g, 7)) for p, g in images])
    order = np.random.default_rng(3).permutation(len(cells.pixels))
    shuffled = SparseConfusion(*(getattr(cells, n)[order] for n in ("image", "label", "prediction", "pixels")))
    assert np.array_equal(dense(shuffled, 7), dense(cells, 7))
    assert same(counts_of(shuffled, 6, 7), counts_of(cells, 6, 7))


def test_totals_are_exact_beyond_float64() -> None:
    table = np.array([[2**60 + 1, 0], [0, 1]])
    assert dense(SparseConfusion.stack([sparse(table), sparse(table)]), 2)[0, 0] == 2**61 + 2
    assert counts_of(sparse(table), 1, 2).tp[0, 0] == 2**60 + 1


@pytest.mark.parametrize(("label", "prediction"), [(-1, 0), (0, -1), (2, 0), (0, 2)])
def test_class_ids_out_of_range_are_refused(label: int, prediction: int) -> None:
    cells = SparseConfusion(*(np.array([v]) for v in (0, label, prediction, 1)))
    with pytest.raises(ValueError, match="out of range"):
        dense(cells, 2)
    with pytest.raises(ValueError, match="out of range"):
        counts_of(cells, 1, 2)


@pytest.mark.parametrize("image", [-1, 2])
def test_image_index_out_of_range_is_refused(image: int) -> None:
    with pytest.raises(ValueError, match="allowed is 0 to 1"):
        counts_of(SparseConfusion(*(np.array([v]) for v in (image, 0, 0, 1))), 2, 3)


def test_groups_by_hand() -> None:
    # 0 and 3 are one group, 1 and 4 another, 2 a third.
    table = grouped(HAND, [0, 1, 2, 0, 1])
    assert table.tolist() == [[7, 3, 0], [1, 10, 0], [0, 0, 0]]
    assert iou(table_counts(table)) == pytest.approx([7 / 11, 10 / 14, np.nan], nan_ok=True)
    assert float(miou(table_counts(table))) == pytest.approx((7 / 11 + 10 / 14) / 2)


@pytest.mark.parametrize("seed", range(4))
def test_groups_equal_the_matrix_product_and_counting_grouped_maps(seed: int) -> None:
    groups = np.random.default_rng(seed).integers(0, 3, 7).tolist()
    membership = np.eye(max(groups) + 1, dtype=np.int64)[groups]
    (prediction, label), *_ = maps(seed=seed)
    table = confusion(prediction, label, 7).numpy()
    assert np.array_equal(grouped(table, groups), membership.T @ table @ membership)
    to_group = torch.tensor([*groups, *[255] * 249])
    regrouped = confusion(to_group[prediction], to_group[label.long()], max(groups) + 1)
    assert np.array_equal(grouped(table, groups), regrouped.numpy())


def test_each_class_its_own_group_changes_nothing() -> None:
    assert np.array_equal(grouped(HAND, range(5)), HAND)


@pytest.mark.parametrize("groups", [[0, 1], [0, 1, 2, 0, -1]])
def test_wrong_groups_are_refused(groups: list[int]) -> None:
    with pytest.raises(ValueError, match="each of 5 classes"):
        grouped(HAND, groups)


def test_sg_iou_by_hand() -> None:
    """Parents: 0 has 1, 4 has 1, 3 (predicted only) has 0, 1 has 2 (never predicted)."""
    values = sg_iou(HAND, {0: [1], 4: [1], 3: [0], 1: [2]})
    # 13 pixels are predicted 1.  Label 0: 3 of them, weight (3 + 6) / 13.  Label 4: 4 of them, weight (4 + 6) / 13.
    expected = [(5 + 3 * 9 / 13) / 11, 6 / 14, np.nan, 0, (4 * 10 / 13) / 4]
    assert values == pytest.approx(expected, nan_ok=True)
    assert float(sg_miou(HAND, {0: [1], 4: [1], 3: [0], 1: [2]})) == pytest.approx(np.nansum(expected) / 4)


def test_sg_iou_gives_credit_for_the_parent_not_for_the_child() -> None:
    """The direction matters: labelled sea, predicted water earns; labelled water, predicted sea does not."""
    sea_as_water = np.array([[2, 2], [0, 6]])
    assert sg_iou(sea_as_water, {0: [1]})[0] > iou(table_counts(sea_as_water))[0]
    water_as_sea = np.array([[4, 0], [2, 4]])
    assert np.array_equal(sg_iou(water_as_sea, {0: [1]}), iou(table_counts(water_as_sea)))


def test_sg_iou_with_several_parents_by_hand() -> None:
    table = np.array([[1, 2, 3], [0, 4, 0], [0, 2, 5]])
    # P_1 = 8 and P_2 = 8: weights (2 + 4) / 8 and (3 + 5) / 8
    assert sg_iou(table, {0: [1, 2]})[0] == pytest.approx((1 + 2 * 6 / 8 + 3 * 8 / 8) / 6)


def test_sg_iou_is_not_clipped() -> None:
    """A class that is its own parent counts its hits more than once."""
    assert sg_iou(np.array([[4, 0], [0, 1]]), {0: [0]})[0] == pytest.approx((4 + 4 * (4 + 4) / 4) / 4)


@pytest.mark.parametrize("seed", range(6))
def test_sg_iou_equals_a_loop_in_the_notation_of_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = random_table(9, seed)
    parents = {
        c: rng.choice([f for f in range(9) if f != c], rng.integers(0, 4), replace=False).tolist() for c in range(8)
    }
    C = table.T  # C[p, g]: predictions as rows
    P, G = C.sum(axis=1), C.sum(axis=0)
    expected = []
    for c in range(9):
        hits = float(C[c, c])
        for f in parents.get(c, []):
            beta = (C[f, c] + C[f, f]) / P[f] if P[f] else 1.0
            hits += beta * C[f, c]
        union = P[c] + G[c] - C[c, c]
        expected.append(hits / union if union else np.nan)
    values = sg_iou(table, parents)
    assert values == pytest.approx(expected, nan_ok=True)
    assert np.nanmax(values) <= 1  # distinct parents, none its own
    assert (values >= iou(table_counts(table)))[:-1].all()
    valid = [c for c in range(9) if P[c] + G[c] > 0]
    assert float(sg_miou(table, parents)) == pytest.approx(sum(expected[c] for c in valid if G[c]) / len(valid))


@pytest.mark.parametrize("parents", [{5: [0]}, {0: [5]}, {0: [-1]}])
def test_parents_out_of_range_are_refused(parents: dict[int, list[int]]) -> None:
    with pytest.raises(ValueError, match="out of range"):
        sg_iou(HAND, parents)


def test_without_credit_the_soft_metrics_are_miou() -> None:
    for table in (HAND, random_table(8, 1)):
        expected = iou(table_counts(table))
        assert np.array_equal(sg_iou(table, {}), expected, equal_nan=True)
        assert np.array_equal(soft_iou(table, np.eye(len(table))), expected, equal_nan=True)
        assert (
            float(sg_miou(table, {})) == float(soft_miou(table, np.eye(len(table)))) == float(miou(table_counts(table)))
        )


def test_soft_iou_by_hand() -> None:
    similarity = np.eye(5)
    similarity[0, 1], similarity[1, 0], similarity[4, 1] = 0.5, 0.25, 0.1
    # class 0: 3 taken for 1; class 1: 1 taken for 0; class 3 predicted only; class 4: 4 taken for 1
    expected = [(5 + 0.5 * 3) / 11, (6 + 0.25 * 1) / 14, np.nan, 0, 0.1 * 4 / 4]
    assert soft_iou(HAND, similarity) == pytest.approx(expected, nan_ok=True)
    assert float(soft_miou(HAND, similarity)) == pytest.approx(np.nansum(expected) / 4)


@pytest.mark.parametrize("seed", range(4))
def test_soft_iou_equals_a_loop(seed: int) -> None:
    table = random_table(8, seed)
    similarity = np.random.default_rng(seed).random((8, 8))
    np.fill_diagonal(similarity, 1)
    for g, value in enumerate(soft_iou(table, similarity)):
        hits = sum(similarity[g, p] * table[g, p] for p in range(8))
        union = table[g].sum() + table[:, g].sum() - table[g, g]
        assert value == pytest.approx(hits / union if union else np.nan, nan_ok=True)


@pytest.mark.parametrize("similarity", [np.eye(4), np.ones((5, 4)), np.zeros((5, 5))])
def test_wrong_similarity_is_refused(similarity: np.ndarray) -> None:
    with pytest.raises(ValueError, match="ones on its diagonal"):
        soft_iou(HAND, similarity)


def test_nothing_counted_is_nan_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    nothing = np.zeros((3, 3), np.int64)
    assert np.isnan(sg_iou(nothing, {0: [1]})).all() and np.isnan(soft_iou(nothing, np.eye(3))).all()
    assert np.isnan(sg_miou(nothing, {0: [1]})) and np.isnan(soft_miou(nothing, np.eye(3)))
    assert not recwarn.list
