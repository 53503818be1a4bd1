"""Decision: what is left to do when a method has spoken, from scores to labels."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ...methods import ScoreField
from ..decoding.decode import Winners, decode, winners_of
from ..decoding.heat import ClassMaps
from ..decoding.on_grid import decode_on_grid, winners_on_grid
from ..decoding.rule import DecodeRule
from ..decoding.tiles import Refiner

Change = Callable[[Tensor], Tensor]
"""A label map ``(H, W)`` -> another of the same size and type."""


@dataclass(frozen=True)
class Decision:
    """Scores of an image, refined if a guide does that, and the rule by which they become labels of ``size``.

    ``on_grid``: classes are decided on the method's grid.  ``then``: what becomes of the label map afterwards.
    """

    scores: ScoreField
    size: tuple[int, int]
    rule: DecodeRule
    refine: Refiner | None
    on_grid: bool
    then: tuple[Change, ...] = ()

    def labels(self) -> Tensor:
        """Label map ``(H, W)``."""
        if self.on_grid:
            labels = decode_on_grid(self.scores, self.size, self.rule)
        else:
            labels = decode(self.scores, self.size, self.rule, self.refine)
        for change in self.then:
            labels = change(labels)
        return labels

    def winners(self) -> Winners:
        """What is compared with the probability threshold.  The rule must not be gated, nor labels changed later."""
        if self.on_grid:
            return winners_on_grid(self.scores, self.size, self.rule)
        return winners_of(self.scores, self.size, self.rule, self.refine)

    def heat(self, class_index: int) -> Tensor:
        """How sure the scores are of a class, ``(H, W)`` float32, before any decision."""
        return ClassMaps(self.scores, self.size, self.rule, self.refine)(class_index)
