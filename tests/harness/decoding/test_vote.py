"""The vote of regions after the decision: by hand, against plain loops, and against the original's map correction."""

import pytest
import torch
from torch import Tensor

from ovss.harness.decoding.decode import decode, decode_reference
from ovss.harness.decoding.rule import DecodeRule
from ovss.harness.decoding.vote import vote
from ovss.methods import Box, ScoreField


def plain_vote(labels: Tensor, regions: Tensor) -> Tensor:
    found = labels.clone()
    for region in range(1, int(regions.max()) + 1):
        inside = labels[regions == region].tolist()
        counts = {label: inside.count(label) for label in inside}
        if counts:
            found[regions == region] = min(counts, key=lambda label: (-counts[label], label))
    return found


def test_a_case_by_hand() -> None:
    """Region 1 has 3, 1, 1, 3, 2, 2: a tie of three labels takes the smallest.  Region 0 keeps what it has."""
    labels = torch.tensor([[3, 1, 1, 3, 2, 2], [5, 4, 4, 0, 7, 7]], dtype=torch.uint8)
    regions = torch.tensor([[1, 1, 1, 1, 1, 1], [3, 3, 3, 0, 0, 2]])
    found = vote(labels, regions)
    assert found.tolist() == [[1, 1, 1, 1, 1, 1], [4, 4, 4, 0, 7, 7]] and found.dtype == torch.uint8
    assert labels[0].tolist() == [3, 1, 1, 3, 2, 2], "the label map that came in is left alone"


@pytest.mark.parametrize("classes", [1, 2, 19, 300])
def test_plain_loops_agree(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    for _ in range(10):
        labels = torch.randint(0, classes, (17, 23), generator=generator).to(torch.int32)
        regions = torch.randint(0, 9, (17, 23), generator=generator) * 3  # numbers with gaps
        found = vote(labels, regions)
        assert torch.equal(found, plain_vote(labels, regions))
        assert torch.equal(vote(found, regions), found), "a second vote changes nothing"


def test_what_has_no_region_stays_and_one_region_has_one_label() -> None:
    labels = torch.randint(0, 5, (8, 9), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert torch.equal(vote(labels, torch.zeros(8, 9, dtype=torch.int64)), labels)
    assert vote(labels, torch.ones(8, 9, dtype=torch.int64)).unique().numel() == 1


def test_regions_of_another_size_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        vote(torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(3, 3, dtype=torch.int64))


def test_after_windows_and_threshold() -> None:
    """The decoder by rows and the plain one give the same votes: they vote on whole label maps."""
    generator = torch.Generator().manual_seed(3)
    boxes = (Box(0, 0, 40, 40), Box(0, 20, 40, 60))
    field = ScoreField(torch.rand(2, 5, 4, 4, generator=generator), boxes, boxes, (40, 60), (0, 0, 1, 2, 3))
    rule = DecodeRule(20.0, probability_threshold=0.6, background=0)
    regions = torch.randint(0, 6, (5, 7), generator=generator).repeat_interleave(10, 0).repeat_interleave(10, 1)
    streamed, plain = (run(field, (50, 70), rule) for run in (decode, decode_reference))
    assert torch.equal(streamed, plain)
    found = vote(streamed, regions)
    assert torch.equal(found, plain_vote(plain, regions)) and not torch.equal(found, streamed)
