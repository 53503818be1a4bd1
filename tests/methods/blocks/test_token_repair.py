"""Outliers and repair against loops and small cases by hand."""

import pytest
import torch
from torch import Tensor

from ovss.methods.blocks.token_repair import local_outliers, repair


def factors(tokens: Tensor) -> list[float]:
    """One token after the other, in float64."""
    distances = ((tokens[:, None] - tokens[None]).double() ** 2).sum(-1)
    order = distances.argsort(dim=1)[:, 1:31]
    reach = [distances[i, order[i, -1]] for i in range(len(tokens))]
    return [float(sum(reach[i] / reach[j] for j in order[i]) / 30) for i in range(len(tokens))]


@pytest.mark.parametrize(("count", "apart"), [(60, 3), (41, 2), (31, 2)])
def test_outliers_against_a_loop(count: int, apart: int) -> None:
    tokens = torch.randn(2, count, 8, generator=torch.Generator().manual_seed(count))
    tokens[1, 5] *= 9
    found = local_outliers(tokens)
    for window, said in zip(tokens, found, strict=True):
        values = torch.tensor(factors(window))
        assert set(said.nonzero()[:, 0].tolist()) == set(values.topk(apart).indices.tolist())
    assert found[1, 5]


@pytest.mark.parametrize("tokens", [torch.ones(1, 40, 4), torch.arange(30.0).exp().view(1, 30, 1)])
def test_equal_tokens_and_few_ones_have_no_outlier(tokens: Tensor) -> None:
    assert not local_outliers(tokens).any()


def test_repair_by_hand() -> None:
    """A grid of 2 x 3: the corner has three neighbours, two of them sound; the last is left alone."""
    tokens = torch.tensor([[[100.0], [2.0], [3.0], [4.0], [200.0], [6.0]]])
    outliers = torch.tensor([[True, False, False, False, True, False]])
    assert repair(tokens, outliers, (2, 3)).flatten().tolist() == [3.0, 2.0, 3.0, 4.0, 3.75, 6.0]
    assert repair(tokens, outliers, (3, 2)).flatten().tolist() == [3.0, 2.0, 3.0, 4.0, pytest.approx(13 / 3), 6.0]
    assert torch.equal(repair(tokens, torch.ones_like(outliers), (2, 3)), tokens)
    assert torch.equal(repair(tokens, torch.zeros_like(outliers), (2, 3)), tokens)
