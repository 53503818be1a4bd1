"""How unsure scores are of each class: the entropy of every pixel, summed up for the class that it goes to."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...methods import ScoreField
from .rule import DecodeRule
from .tiles import check_finite, tiles

EPSILON = 1e-10


@dataclass(frozen=True)
class Entropy:
    """For each class: ``total`` ``(C,)`` float64, entropies in nats summed over its ``pixels`` ``(C,)`` int64."""

    total: Tensor
    pixels: Tensor

    def __add__(self, other: "Entropy") -> "Entropy":
        return Entropy(self.total + other.total, self.pixels + other.pixels)


def entropy_of(field: ScoreField, size: tuple[int, int], rule: DecodeRule, num_classes: int) -> Entropy:
    """``- sum over classes of p ln(p + 1e-10)`` of every pixel of an image of ``size``, for the class of largest p.

    p of a class is the largest probability over its queries, not divided by the sum again, as in FLOSS:
    the softmax of ``rule`` at the pixel, or with ``activation="none"`` the scores as they are.
    """
    check_finite(field)
    total = torch.zeros(num_classes, dtype=torch.float64, device=field.scores.device)
    pixels = torch.zeros(num_classes, dtype=torch.int64, device=field.scores.device)
    owners = torch.tensor(field.query_to_class, device=field.scores.device)
    for _, queries, values in tiles(field, size, None):
        p = (rule.logit_scale * values).softmax(dim=-1) if rule.activation == "softmax" else values
        by_class = p.new_zeros(*p.shape[:2], num_classes)
        by_class.scatter_reduce_(2, owners[queries].expand(p.shape), p, "amax")
        unsure = -(by_class * (by_class + EPSILON).log()).sum(dim=-1)
        winners = by_class.argmax(dim=-1).flatten()
        total.index_add_(0, winners, unsure.flatten().double())
        pixels += winners.bincount(minlength=num_classes)
    return Entropy(total.cpu(), pixels.cpu())
