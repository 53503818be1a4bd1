"""Groups of texts and moved texts, by hand."""

import math

import torch
from torch import Tensor

from ovss.methods.blocks.text_groups import group_texts, move_texts


def directions(*degrees: float) -> Tensor:
    return torch.tensor([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees])


def partition(groups: Tensor) -> set[frozenset[int]]:
    return {frozenset((groups == g).nonzero()[:, 0].tolist()) for g in groups.unique()}


def test_linkage_is_complete() -> None:
    """In a chain of 20 degrees each, neighbours are near enough and ends are not: single linkage would join all."""
    limit = 1 - math.cos(math.radians(25))
    assert partition(group_texts(directions(0, 20, 41, 61), limit)) == {frozenset({0, 1}), frozenset({2, 3})}
    assert partition(group_texts(directions(0, 20, 41, 61), 0.0)) == {frozenset({i}) for i in range(4)}
    assert partition(group_texts(directions(0, 20, 41, 61), 2.0)) == {frozenset(range(4))}
    assert partition(group_texts(directions(30, 0, 30), 0.0001)) == {frozenset({0, 2}), frozenset({1})}
    assert group_texts(directions(7), 0.1).tolist() == [0]


def test_linkage_of_ward() -> None:
    """Three texts 20 degrees apart: ends are 0.234 apart, and the pair and the third sqrt(0.1131 / 3) = 0.194."""
    texts = directions(0, 20, 40)
    assert len(partition(group_texts(texts, 0.21, "complete"))) == 2
    assert len(partition(group_texts(texts, 0.21, "ward"))) == 1
    assert len(partition(group_texts(texts, 0.19, "ward"))) == 2


def test_the_most_relevant_of_a_group_is_moved() -> None:
    text, groups = directions(0, 10, 90), torch.tensor([0, 0, 1])
    features = directions(20, 40, 180)[None]
    relevance = torch.tensor([[0.1, 0.5, 0.0]])
    found = move_texts(text, groups, relevance, features, 0.5)[0]
    assert found[0].equal(text[0])
    torch.testing.assert_close(found[1], directions(20)[0])  # half way from 10 to 30 degrees
    torch.testing.assert_close(found[2], directions(60)[0])  # its two nearest are those at 40 and 20
    both = move_texts(text, groups, torch.tensor([[0.5, 0.5, 0.0]]), features, 0.5)[0]
    assert both[1].equal(text[1]) and not both[0].equal(text[0])


def test_windows_are_moved_by_themselves_and_one_patch_is_enough() -> None:
    text, groups = directions(0, 90), torch.tensor([0, 1])
    features, relevance = torch.stack([directions(30), directions(60)]), torch.zeros(2, 2)
    found = move_texts(text, groups, relevance, features, 1.0)
    torch.testing.assert_close(found, features.expand(-1, 2, -1))
    assert move_texts(text, groups, relevance, features, 0.0).allclose(text)
