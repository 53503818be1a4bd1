"""Conjugate gradients and the graph of patches against plain computations."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.methods.blocks import label_propagation
from ovss.methods.blocks.label_propagation import along, patch_graph, propagate


def plain_graph(unit: Tensor, places: Tensor, k: int, gamma: float, sigma: float) -> Tensor:
    count = len(unit)
    a = torch.zeros(count, count, dtype=torch.float64)
    for i in range(count):
        cosines = [float(unit[i] @ unit[j]) for j in range(count)]
        for j in sorted(range(count), key=lambda j: -cosines[j])[:k]:
            away = float(((places[i] - places[j]) ** 2).sum()) ** 0.5
            a[i, j] = max(cosines[j], 0) ** gamma * torch.tensor(-sigma * away).exp()
    w = a + a.T
    w.fill_diagonal_(0)
    root = torch.where(w.sum(1) > 0, w.sum(1), 1) ** -0.5
    return root[:, None] * w * root


@pytest.mark.parametrize(("count", "k"), [(9, 3), (9, 1), (4, 7), (1, 5)])
def test_graph(count: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(count)
    unit = F.normalize(torch.randn(count, 3, generator=generator), dim=1)
    places = 50 * torch.rand(count, 2, generator=generator)
    wanted = plain_graph(unit, places, min(k, count), 3.0, 0.01)
    torch.testing.assert_close(patch_graph(unit, places, k, 3.0, 0.01).to_dense(), wanted, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(label_propagation, "_CHUNK_BYTES", 2 * 4 * count)  # two rows at a time
    torch.testing.assert_close(patch_graph(unit, places, k, 3.0, 0.01).to_dense(), wanted, rtol=1e-5, atol=1e-6)


def test_many_steps_solve_the_system() -> None:
    generator = torch.Generator().manual_seed(0)
    unit = F.normalize(torch.randn(20, 4, generator=generator), dim=1)
    graph = patch_graph(unit, torch.zeros(20, 2), 6, 3.0, 0.01)
    y = torch.randn(3, 20, generator=generator)
    wanted = torch.linalg.solve(torch.eye(20, dtype=torch.float64) - 0.95 * graph.to_dense(), y.double().T).T
    z = propagate(along(graph), y, 0.95, 200)
    assert z.dtype == torch.float64
    torch.testing.assert_close(z, wanted, rtol=0, atol=1e-5)
    assert (propagate(along(graph), y, 0.95, 3) - wanted).abs().max() > 1e-3


def test_two_steps_by_hand() -> None:
    """``I - W / 2`` of a pair that is all of a graph: ((1, -1/2), (-1/2, 1)); y = (1, 0) needs two steps."""
    pair = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    assert propagate(lambda maps: maps @ pair, y, 0.5, 1)[0].tolist() == [1.0, 0.0]
    z = propagate(lambda maps: maps @ pair, y, 0.5, 2)
    torch.testing.assert_close(z, torch.tensor([[4 / 3, 2 / 3], [0, 0], [2, 2]], dtype=torch.float64))
    assert torch.equal(z, propagate(lambda maps: maps @ pair, y, 0.5, 9))  # nothing is left to do


def test_nobody_is_alike() -> None:
    graph = patch_graph(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.zeros(2, 2), 2, 3.0, 0.01)
    y = torch.tensor([[0.25, 0.5]])
    assert torch.equal(propagate(along(graph), y, 0.95, 10).float(), y)
