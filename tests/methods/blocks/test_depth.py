"""Blocks of other depths."""

from types import SimpleNamespace
from typing import Any

import pytest

from ovss.methods import UserError
from ovss.methods.blocks.depth import block_at


def tower(blocks: int) -> Any:
    return SimpleNamespace(blocks=(None,) * blocks)


@pytest.mark.parametrize(
    ("blocks", "found"),
    [(12, [3, 5, 8, 9, 10]), (24, [7, 11, 18, 20, 22]), (6, [1, 2, 3, 4, 4]), (3, [0, 1, 1, 1, 1]), (2, [0] * 5)],
)
def test_as_deep_as_in_twelve(blocks: int, found: list[int]) -> None:
    assert [block_at(tower(blocks), "block", None, k) for k in (3, 5, 8, 9, 10)] == found


def test_chosen_blocks() -> None:
    assert block_at(tower(12), "block", 10, 3) == 10
    with pytest.raises(UserError, match="block is 11: the backbone has 12 blocks, and those before the last are 0 to"):
        block_at(tower(12), "block", 11, 3)
    with pytest.raises(UserError, match="the backbone has one block"):
        block_at(tower(1), "block", None, 3)
