"""Rules that rate every class by the image as a whole before classes meet: scaled maps, a gate, a complement.

The rule stands at ``DecodeRule``.  ``gated_reference`` is the rule written down plainly, for ``decode_reference``;
``decode_gated`` is what ``decode`` runs, with no more memory than its other rules.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ...methods import ScoreField, UserError
from .rule import DecodeRule
from .tiles import Refiner, Tile, tiles


def decode_gated(field: ScoreField, size: tuple[int, int], rule: DecodeRule, refine: Refiner | None) -> Tensor:
    """Label map ``(height, width)`` int64 for a rule that is ``gated``.

    Scaling takes two passes over the scores: extremes per class, then the best class of every pixel.

    Raises ``UserError`` for negative scores when the rule scales by class.
    """
    assert rule.background is not None
    field = field.dense()
    level = image_scores(field, rule)
    device = field.scores.device
    owner = torch.tensor(field.query_to_class, device=device)
    # A map that the gate makes 0 never beats the background, so it need not be made.
    kept = owner != rule.background
    if rule.class_gate is not None:
        kept &= level[owner] > rule.class_gate
    best = torch.zeros(size, device=device)
    labels = torch.full(size, rule.background, device=device)
    if bool(kept.any()):
        extremes = _extremes(_class_tiles(field, size, refine, kept), len(level), rule)
        for place, classes, values in _class_tiles(field, size, refine, kept):
            value, index = _scaled(values, classes, level, extremes, rule).max(dim=-1)
            better = value > best[place]
            labels[place] = torch.where(better, classes[index], labels[place])
            best[place] = torch.where(better, value, best[place])
    beaten = (1 - best) ** 2 >= best if rule.complement else best < rule.probability_threshold
    return labels.masked_fill_(beaten, rule.background)


def gated_reference(maps: Tensor, field: ScoreField, rule: DecodeRule) -> Tensor:
    """The rule, step by step, on the maps of all classes ``(C, H, W)`` float32: labels ``(H, W)`` int64."""
    assert rule.background is not None
    level = image_scores(field, rule).cpu()
    values = torch.zeros_like(maps)
    for c in set(field.query_to_class) - {rule.background}:
        values[c] = maps[c]
        if rule.class_scaling != "none":
            values[c] = values[c] / (values[c].max() + 1e-5) * level[c]
        if rule.class_scaling == "minmax":
            values[c] -= values[c].min()
            values[c] /= values[c].max() + 1e-6
        if rule.class_gate is not None and level[c] <= rule.class_gate:
            values[c] = 0
    if rule.complement:
        best, labels = values.max(dim=0)
        return labels.masked_fill((1 - best) ** 2 >= best, rule.background)
    values[values < rule.probability_threshold] = 0
    best, labels = values.max(dim=0)
    return labels.masked_fill(best == 0, rule.background)


def image_scores(field: ScoreField, rule: DecodeRule) -> Tensor:
    """Image-level score of each class, ``(K,)`` float32 on the device of the scores, -inf for classes without queries.

    Raises ``UserError`` when the rule scales by class and a score is negative: dividing by a negative maximum would
    turn the map of a class upside down.
    """
    owner = torch.tensor(field.query_to_class, device=field.scores.device)
    level = field.scores.new_full((field.num_classes,), float("-inf"))
    if field.class_scores is None:
        level.scatter_reduce_(0, owner, field.scores.amax(dim=(0, 2, 3)), "amax")
    else:
        level[owner] = field.class_scores.to(level)[owner]
    lowest = torch.minimum(field.scores.min(), level[owner].min())
    if rule.class_scaling != "none" and lowest < 0:
        raise UserError(
            f"class_scaling works on probabilities or masks, but the lowest score is {float(lowest):.3g}.  Average "
            "probabilities instead of scores, or set class_scaling to none"
        )
    return level


def _extremes(maps: Iterator[Tile], num_classes: int, rule: DecodeRule) -> tuple[Tensor, Tensor] | None:
    """Smallest and largest value of each class over all pixels, ``(K,)`` each; None if the rule needs none."""
    if rule.class_scaling == "none":
        return None
    low = high = torch.empty(0)
    for number, (_, classes, values) in enumerate(maps):
        if not number:
            low, high = (values.new_full((num_classes,), sign * float("inf")) for sign in (1, -1))
        smallest, largest = values.flatten(0, 1).aminmax(dim=0)
        low[classes] = torch.minimum(low[classes], smallest)
        high[classes] = torch.maximum(high[classes], largest)
    return low, high


def _scaled(
    values: Tensor, classes: Tensor, level: Tensor, extremes: tuple[Tensor, Tensor] | None, rule: DecodeRule
) -> Tensor:
    """``values`` (rows, columns, k) of ``classes`` (k,) after the scaling of ``rule``, same shape."""
    if extremes is None:
        return values
    (low, high), level = (extreme[classes] for extreme in extremes), level[classes]
    values = values / (high + 1e-5) * level
    if rule.class_scaling == "max":
        return values
    # No rounding step reverses an order, so the extremes of a scaled map are the scaled extremes, to the last bit.
    least, most = (extreme / (high + 1e-5) * level for extreme in (low, high))
    return (values - least) / (most - least + 1e-6)


def _class_tiles(field: ScoreField, size: tuple[int, int], refine: Refiner | None, kept: Tensor) -> Iterator[Tile]:
    """``tiles`` of the ``kept`` queries with one value per class, the maximum over its queries: the pixels, classes
    (k,), and values ``(rows, columns, k)``.
    """
    owner = torch.tensor(field.query_to_class, device=field.scores.device)
    wanted = torch.bincount(owner[kept])
    if int(wanted.max()) == 1:
        yield from ((place, owner[queries], values) for place, queries, values in tiles(field, size, refine, kept))
        return
    # The last class of a tile may go on in the next one: it is held back until all of its queries have come.
    held, seen = None, 0
    for place, queries, values in tiles(field, size, refine, kept):
        classes, index, found = owner[queries].unique_consecutive(return_inverse=True, return_counts=True)
        maps = values.new_full((*values.shape[:2], len(classes)), float("-inf"))
        maps.scatter_reduce_(2, index.expand_as(values), values, "amax")
        if held is not None:
            maps[..., 0] = torch.maximum(maps[..., 0], held)
            found[0] += seen
        whole = len(classes) - int(found[-1] < wanted[classes[-1]])
        if whole:
            yield place, classes[:whole], maps[..., :whole]
        held, seen = (maps[..., -1].clone(), int(found[-1])) if whole < len(classes) else (None, 0)
