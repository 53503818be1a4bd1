"""How sure a method is of a class, pixel by pixel."""

import torch
from torch import Tensor

from ...methods import ScoreField
from .decode import Best
from .rule import DecodeRule
from .tiles import Refiner, check_finite, tiles


class ClassMaps:
    """What ``decode`` compares with its threshold, class by class and before any decision: ``maps(number)``.

    What all classes share is made once, and never all maps at a time.

    Raises ``UserError`` when a score is NaN or infinite.
    """

    def __init__(
        self, field: ScoreField, size: tuple[int, int], rule: DecodeRule, refine: Refiner | None = None
    ) -> None:
        check_finite(field)
        self.field, self.size, self.refine = field, size, refine
        self.owner = torch.tensor(field.query_to_class, device=field.scores.device)
        self.best = None
        if rule.activation == "softmax":
            self.scale = rule.logit_scale
            self.best = Best(field, size, torch.int32, rule.logit_scale)
            for place, queries, values in tiles(field, size, refine):
                self.best.update(place, queries, values)

    def __call__(self, number: int) -> Tensor:
        """``(height, width)`` float32: the probability of the class, ``softmax(logit_scale * score)`` over all queries
        and the maximum over its own; with the activation "none" its score as it is.  All zeros for a class that no
        query speaks for.
        """
        kept = self.owner == number
        if not bool(kept.any()):
            return torch.zeros(self.size, device=self.owner.device)
        own = torch.full(self.size, float("-inf"), device=self.owner.device)
        for place, _, values in tiles(self.field, self.size, self.refine, kept):
            own[place] = torch.maximum(own[place], values.amax(dim=-1))
        return own if self.best is None else torch.exp(self.scale * (own - self.best.value)) / self.best.total


def class_map(
    field: ScoreField, size: tuple[int, int], rule: DecodeRule, refine: Refiner | None, class_index: int
) -> Tensor:
    """The map of one class, ``(height, width)`` float32: see ``ClassMaps``."""
    return ClassMaps(field, size, rule, refine)(class_index)
