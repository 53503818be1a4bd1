"""Which patches are alike, by hand."""

import math

import torch

from ovss.methods.blocks.patch_cosines import attention, pull, similar, smooth

TOKENS = torch.tensor([[[2.0, 0.0], [3.0, 4.0], [0.0, 1.0]]])
"""Cosines: 0.6 of the first two, 0.8 of the last two, 0 of the first and last."""


def test_cosines_below_the_limit_are_left_out() -> None:
    wanted = torch.tensor([[[1, 0.6, 0], [0.6, 1, 0.8], [0, 0.8, 1]]])
    torch.testing.assert_close(similar(TOKENS), wanted)
    leaning = torch.tensor([[[1.0, 0.0], [0.39, math.sqrt(1 - 0.39**2)], [0.41, math.sqrt(1 - 0.41**2)]]])
    torch.testing.assert_close(similar(leaning)[0, 0], torch.tensor([1, 0, 0.41]))


def test_smoothing_is_a_weighted_mean() -> None:
    found = smooth(similar(TOKENS), torch.tensor([[[8.0], [16.0], [0.0]]]))[0, :, 0]
    torch.testing.assert_close(found, torch.tensor([17.6 / 1.6, 20.8 / 2.4, 12.8 / 1.8]))


def test_pull_leaves_out_what_is_below_the_mean() -> None:
    """The mean of all nine is 5.8 / 9 = 0.644, which 0.6 is below."""
    found = pull(similar(TOKENS))[0]
    near = math.exp(3 * 0.8) / (math.exp(3 * 0.8) + math.exp(3))
    torch.testing.assert_close(found[0], torch.tensor([1.0, 0, 0]))
    torch.testing.assert_close(found[2], torch.tensor([0, near, 1 - near]))


def test_equal_patches_keep_at_least_themselves() -> None:
    for value in (0.1, 1 / 3, 0.7):
        found = pull(similar(torch.full((2, 50, 7), value)))
        assert found.isfinite().all() and (found.diagonal(dim1=1, dim2=2) > 0).all()
    kept = pull(torch.tensor([[[0.5, 1.0], [1.0, 0.5]]]))[0, 0]  # 0.5 is below the mean, and stays with E = 0
    torch.testing.assert_close(kept, torch.tensor([0, 0.75]).softmax(0))


def test_attention_of_one_head() -> None:
    a = torch.tensor([[2.0, 0, 0, 0], [0, 2, 0, 0]])
    wanted = torch.tensor([[math.exp(2), 1], [1, math.exp(2)]]) / (math.exp(2) + 1)
    torch.testing.assert_close(attention(a, a), wanted)
