"""Votes and feedback against loops and small cases by hand."""

import math
from fractions import Fraction

import pytest
import torch

from ovss.methods.blocks.label_feedback import feedback_matrix, vote, weight_of_paths


def test_votes_by_hand() -> None:
    """Of equals the smallest wins; the last row and column fill no patch."""
    labels = torch.tensor([[3, 1, 2, 2, 0], [1, 3, 2, 0, 0], [0, 0, 0, 0, 0]])
    assert vote(labels, 2, 4).tolist() == [[1, 2]]


def weight(labels: list[list[int]], start: tuple[int, int], end: tuple[int, int]) -> float:
    """One way, cell by cell, with fractions."""
    steps = max(len(labels), len(labels[0])) - 1
    distance = max(abs(e - s) for s, e in zip(start, end, strict=True))
    for step in range(min(steps, distance) + 1):
        row, column = (round(s + Fraction(step, steps) * (e - s)) for s, e in zip(start, end, strict=True))
        if labels[row][column] != labels[start[0]][start[1]]:
            return math.exp(-distance / steps)
    return 1.0


@pytest.mark.parametrize("shape", [(5, 7), (6, 3), (1, 4)])
def test_ways_against_a_loop(shape: tuple[int, int]) -> None:
    labels = torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(shape[0]))
    cells = [(row, column) for row in range(shape[0]) for column in range(shape[1])]
    wanted = torch.tensor([[weight(labels.tolist(), a, b) for b in cells] for a in cells])
    found = weight_of_paths(labels)
    assert torch.allclose(found, wanted, rtol=1e-6, atol=0)
    assert 0 < (found == 1).float().mean() < 1


def test_only_the_beginning_of_a_way_is_looked_at() -> None:
    """Column 1 has another label.  From 0 to 3 the steps are 0.5, 1 and 1.5, from 3 to 0 they are 2.5, 2 and 1.5."""
    found = weight_of_paths(torch.tensor([[0, 1, 0, 0, 0, 0, 0]]))
    assert found[0, 3] == pytest.approx(math.exp(-3 / 6))
    assert found[3, 0] == 1
    assert found[0, 6] == found[6, 0] == pytest.approx(math.exp(-1))


def test_feedback_by_hand() -> None:
    """Three patches and a kernel of three, w 1 w: rows are blurred, 0 beyond the ends, over their sums."""
    w = math.exp(-0.5 / 25)
    row = torch.tensor([[1.0, 2 * w, 1.0], [w, 1, w], [1, 2 * w, 1]])
    found = feedback_matrix(torch.tensor([[4, 0, 4]]), paths=False, sigma=5.0)
    assert torch.allclose(found, row / row.sum(dim=1, keepdim=True), rtol=1e-5)


def test_one_patch() -> None:
    assert feedback_matrix(torch.tensor([[2]]), paths=True, sigma=5.0).item() == pytest.approx(1)


def test_ways_and_blur_move_numbers() -> None:
    labels = torch.randint(0, 2, (6, 8), generator=torch.Generator().manual_seed(1))
    straight, blurred = (feedback_matrix(labels, paths=True, sigma=sigma) for sigma in (1e-3, 5.0))
    assert straight.std() > 2 * blurred.std()
    assert (feedback_matrix(labels, paths=False, sigma=5.0) - blurred).abs().max() > 1e-3
