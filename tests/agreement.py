"""When two computations agree: said once for the whole suite.

Bits are equal only between the same operations on tensors of the same layout.  Anything else rounds as the CPU, its
instruction set and the number of threads have it, and is compared with a stated tolerance.  Labels are decisions: they
are equal but where the decision hangs on less than rounding.
"""

from dataclasses import replace

import torch
from torch import Tensor

from ovss.harness.decoding.decode import decode_reference
from ovss.harness.decoding.rule import DecodeRule
from ovss.methods import ScoreField


def assert_best(labels: Tensor, scores: Tensor, gap: float = 1e-4, share: float = 0.98) -> None:
    """``labels`` (H, W) name the best of ``scores`` (C, H, W), wherever the two best differ by more than ``gap``.

    At least ``share`` of the pixels must be such, or the comparison would say nothing.
    """
    best = scores.topk(min(2, len(scores)), dim=0).values
    sure = best[0] - best[-1] > gap if len(scores) > 1 else torch.ones_like(best[0], dtype=torch.bool)
    assert sure.float().mean() >= share
    assert torch.equal(labels.long()[sure], scores.argmax(dim=0)[sure])


def settled(field: ScoreField, size: tuple[int, int], rule: DecodeRule, gap: float = 1e-5) -> Tensor:
    """Pixels ``(H, W)`` whose label stays when the scores of any one query move by ``gap``, whatever the rule."""
    field = field.dense()
    labels = decode_reference(field, size, rule)
    found = torch.ones_like(labels, dtype=torch.bool)
    for query in range(len(field.query_to_class)):
        for step in (-gap, gap):
            scores = field.scores.clone()
            scores[:, query] += step
            found &= decode_reference(replace(field, scores=scores), size, rule) == labels
    return found


def assert_same_labels(a: Tensor, b: Tensor, scores: Tensor, owners: tuple[int, ...], share: float = 1e-3) -> None:
    """Labels are equal, but for a few pixels where the two chosen classes score the same to rounding.

    ``scores`` are those of the queries at output size, ``(Q, H, W)`` float64, about as large as cosines.
    """
    assert a.dtype == b.dtype and a.shape == b.shape == scores.shape[1:]
    differing = a != b
    assert int(differing.sum()) <= share * a.numel()
    owner = torch.tensor(owners)
    by_class = torch.stack([scores[owner == c].amax(0) for c in range(int(owner.max()) + 1)])
    chosen = [by_class.gather(0, labels[None].long())[0][differing] for labels in (a, b)]
    assert torch.all((chosen[0] - chosen[1]).abs() < 1e-6)
