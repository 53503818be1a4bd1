"""Graphs of heads against plain computations."""

import itertools

import pytest
import torch
from torch import Tensor

from ovss.methods.blocks.head_graphs import distances, into, partners, rough, spectra, start_matrix


def keys(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize(("patches", "size"), [(30, 64), (90, 32), (30, 8), (7, 16), (1, 4)])
def test_spectra_are_those_of_the_graph(patches: int, size: int) -> None:
    k = keys(2, 3, patches, size)
    values = torch.linalg.eigvalsh((k @ k.mT).double())[..., -20:].clamp(min=0)
    values = values / values.norm(dim=-1, keepdim=True)
    found = spectra(k)
    assert found.shape == (2, 3, min(patches, 20)) and found.dtype == torch.float64
    torch.testing.assert_close(found, values / values.sum(dim=-1, keepdim=True), rtol=1e-4, atol=1e-6)
    assert spectra(torch.zeros(1, 1, 5, 4)).tolist() == [[[0.0] * 5]]


def test_distances() -> None:
    a, b = torch.tensor([[[0.2, 0.8], [0.5, 0.5]]]), torch.tensor([[[0.0, 1.0], [0.4, 0.6]]])
    torch.testing.assert_close(distances(a, b), torch.tensor([[[0.4, 0.4], [1.0, 0.2]]]))


def test_partners_are_the_most_different() -> None:
    for seed in range(5):
        w = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(seed))
        best = max(itertools.permutations(range(4)), key=lambda p: float(sum(w[0, m, p[m]] for m in range(4))))
        assert tuple(partners(w)[0].tolist()) == best


def test_where_all_pairings_cost_the_same_heads_keep_their_number() -> None:
    """Sums ``a_i + b_j``, with noise as of rounding."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        a, b = torch.rand(2, 12, generator=generator)
        noise = 1e-7 * torch.randn(12, 12, generator=generator)
        assert partners((a[:, None] + b + noise)[None])[0].tolist() == list(range(12))


def test_rounding_does_not_choose_partners() -> None:
    """Spectra of keys with few large channels are steeper than those of others, and many pairings cost the same."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        a, b, noise = (torch.randn(1, 12, 40, 64, generator=generator) for _ in range(3))
        a *= torch.rand(1, 12, 1, 64, generator=generator) ** 3
        found = [partners(distances(spectra(x), spectra(b))) for x in (a, a * (1 + 1e-7 * noise))]
        assert torch.equal(*found)


def test_rough_form_of_a_graph_of_low_rank() -> None:
    """Ten components are all that there is; singular values are stretched about their range."""
    k = keys(2, 40, 10)
    graph, start = k @ k.mT, start_matrix(40, 0)
    torch.testing.assert_close(rough(graph, start, scaled=False), graph.double(), rtol=1e-4, atol=1e-4)
    values = torch.linalg.svdvals(graph.double())[:, :10]
    low, high = values.amin(dim=1, keepdim=True), values.amax(dim=1, keepdim=True)
    wanted = 0.5 * low + (values - low) / (high - low) * (1.5 * high - 0.5 * low)
    found = torch.linalg.svdvals(rough(graph, start, scaled=True))[:, :10]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert torch.linalg.matrix_rank(rough(keys(30, 30), start_matrix(30, 0), scaled=False)) == 10


def test_start_matrix() -> None:
    assert start_matrix(30, 0).shape == (30, 10) and start_matrix(4, 0).shape == (4, 4)
    assert torch.equal(start_matrix(30, 7), start_matrix(30, 7))
    assert not torch.equal(start_matrix(30, 7), start_matrix(30, 8))


def test_into() -> None:
    low, high, new_low, new_high = (torch.tensor(v) for v in (0.0, 2.0, -1.0, 3.0))
    assert into(torch.tensor([0.0, 1.0, 2.0]), low, high, new_low, new_high).tolist() == [-1.0, 1.0, 3.0]
    assert into(torch.tensor([5.0]), torch.tensor(5.0), torch.tensor(5.0), new_low, new_high).tolist() == [-1.0]
