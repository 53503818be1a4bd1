"""How sure a method is of one class, pixel by pixel."""

import torch
from torch import Tensor

from ...methods import ScoreField
from .decode import Best
from .rule import DecodeRule
from .tiles import Refiner, check_finite, tiles


def class_map(
    field: ScoreField, size: tuple[int, int], rule: DecodeRule, refine: Refiner | None, class_index: int
) -> Tensor:
    """What ``decode`` compares with its threshold, for one class: ``(height, width)`` float32, before any decision.

    The probability of the class, ``softmax(logit_scale * score)`` over all queries and the maximum over its own; with
    the activation "none" its score as it is.  All zeros for a class that no query speaks for.

    Raises ``UserError`` when a score is NaN or infinite.
    """
    check_finite(field)
    softmax = rule.activation == "softmax"
    best = Best(field, size, torch.int32, rule.logit_scale if softmax else None)
    own = torch.full(size, float("-inf"), device=field.scores.device)
    owner = torch.tensor(field.query_to_class, device=field.scores.device)
    for place, queries, values in tiles(field, size, refine):
        best.update(place, queries, values)
        mine = owner[queries] == class_index
        if bool(mine.any()):
            own[place] = torch.maximum(own[place], values[..., mine].amax(dim=-1))
    if not softmax:
        return own.nan_to_num(neginf=0.0)
    return torch.exp(rule.logit_scale * (own - best.value)) / best.total
