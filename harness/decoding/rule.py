"""The rule by which scores become classes: a record of numbers, which knows no tensors (``decoding`` does)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...methods import UserError

if TYPE_CHECKING:
    from ...methods import ScoreField


@dataclass(frozen=True)
class DecodeRule:
    """How scores at a pixel become a class.

    The class of a pixel is that of its best query; among equals the lowest class wins.  Probabilities are
    ``softmax(logit_scale * score)`` over *all queries*; that of a class is the maximum over its queries.

    ``probability_threshold``: pixels whose best class is less probable become ``background`` (0: never).
    ``area_threshold``: foreground classes that win at most this share of all foreground pixels lose everywhere, before
    the threshold (wangf3014/SCLIP, clip_segmentor.py, ``postprocess_result``; 0: never).
    ``activation``: with "none" scores are compared with the threshold as they are: they already are probabilities, or
    masks (TCL's constant background channel).  ``logit_scale`` has no effect then.
    ``background``: class of pixels that no class gets.  No query has to speak for it, and it may be the highest class.

    ``class_scaling``, ``class_gate`` and ``complement`` rate every class by the image as a whole before classes meet
    (CLIPer: linsun449/cliper.code, ovs/main_ovs.py and util/miou.py).  They need ``activation="none"``, and queries of
    the background take no part.  With U the map of a class at output size, the maximum over its queries, and s its
    image-level score (``ScoreField``):

    1. ``class_scaling``: "max" makes it ``U / (max U + 1e-5) * s``; "minmax" moves that to start at 0 and divides it
       by its own maximum + 1e-6, which leaves s to the gate alone.
    2. ``class_gate``: the map becomes 0 unless s is larger than the gate (None: no gate).
    3. Values below ``probability_threshold`` become 0, and a pixel is background where no class is above 0.  With
       ``complement`` the background instead has the value ``(1 - best value)^2`` and wins ties.
    """

    logit_scale: float = 1.0
    probability_threshold: float = 0.0
    area_threshold: float = 0.0
    background: int | None = None
    activation: Literal["softmax", "none"] = "softmax"
    class_scaling: Literal["none", "max", "minmax"] = "none"
    class_gate: float | None = None
    complement: bool = False

    def __post_init__(self) -> None:
        if (self.probability_threshold or self.area_threshold) and self.background is None:
            raise UserError(
                "a probability or area threshold needs a background class: on a data set without one, class 0 would "
                "become a bin for uncertain pixels.  Set both thresholds to 0"
            )
        if self.gated:
            self._check_gated()

    @property
    def gated(self) -> bool:
        """Whether classes are scaled, gated or compared with their complement (``decode_gated``)."""
        return self.class_scaling != "none" or self.class_gate is not None or self.complement

    def num_classes(self, field: "ScoreField") -> int:
        """Number of values a label may take: the classes of the queries, and the background if it comes after them."""
        return max(field.num_classes, (self.background or 0) + 1)

    def _check_gated(self) -> None:
        what = "class_scaling, class_gate and complement"
        if self.background is None:
            raise UserError(
                f"{what} need a background class for the pixels that no class gets.  Name one, or drop them"
            )
        if self.activation != "none":
            raise UserError(
                f"{what} work on probabilities that the method or the average over windows has made.  Set activation "
                'to "none" (and average probabilities, not scores), or drop them'
            )
        if self.area_threshold:
            raise UserError(f"{what} and an area threshold are two rules against absent classes.  Set one of them")
        if self.complement and self.probability_threshold:
            raise UserError("complement and a probability threshold are two rules for the background.  Set one of them")
