"""Pipeline: from a sample to its label map and counts, the same way for every method."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..datasets import DatasetRecord, Sample
from ..datasets.loader import Pixels
from ..methods import ScoreField, Segmenter, UserError
from .confusion_metrics import SparseConfusion, sparse
from .counting import Counts, confusion, count_boundary, tally
from .decoding import DecodeRule, Refiner, decode
from .protocol import Setting
from .resize import resize_image
from .words import vocabulary_for

STAGES = ("load", "resize", "segment", "refine", "decode", "count")
SHARED = (
    "short_side_px",
    "long_side_px",
    "resize",
    "size_multiple_px",
    "columns",
    "window_px",
    "stride_px",
    "precision",
)
"""Fields of a setting that must agree for two data sets to share one pass over their images."""
T = TypeVar("T")


@dataclass
class Clock:
    """Seconds per stage; on a GPU the queue is emptied at the borders, so that work counts where it is done."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def time(self, stage: str, work: Callable[[], T]) -> T:
        """Run ``work`` and add what it took to ``stage``."""
        started = time.perf_counter()
        result = work()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.seconds[stage] += time.perf_counter() - started
        return result


@dataclass(frozen=True)
class Scored:
    """Counts of one image, ``(C,)``; those of boundary bands and the confusion matrix if they were asked for."""

    counts: Counts
    boundary: Counts | None = None
    confusion: SparseConfusion | None = None


class Pipeline:
    """A method under one setting, with the vocabulary of one data set encoded (in ``encode_seconds``).

    ``boundary`` asks for the counts of Boundary IoU too, ``confusion`` for the confusion matrix of every image.
    """

    def __init__(
        self,
        method: Segmenter,
        setting: Setting,
        record: DatasetRecord,
        boundary: bool = False,
        confusion: bool = False,
    ) -> None:
        self.method, self.setting, self.record = method, setting, record
        self.boundary, self.confusion = boundary, confusion
        vocabulary = vocabulary_for(setting, record)
        self.num_classes = len(vocabulary.classes)
        self.rule: DecodeRule = setting.rule(vocabulary.background)
        started = time.perf_counter()
        method.encode(vocabulary)
        self.encode_seconds = time.perf_counter() - started

    def predict(self, image: Pixels, clock: Clock) -> Tensor:
        """Label map ``(H, W)`` of an image ``(H, W, 3)`` uint8 RGB, at its own size."""
        return predict_together([self], image, [clock])[0]

    def score(self, sample: Sample, clock: Clock) -> Scored:
        """Counts of one sample."""
        return self.compare(self.predict(sample.image, clock), sample, clock)

    def compare(self, labels: Tensor, sample: Sample, clock: Clock) -> Scored:
        """Counts of a label map of one sample."""
        truth = torch.from_numpy(sample.label.copy()).to(labels.device)
        classes, every, ignored = len(self.record.classes), self.num_classes, self.record.ignore_index
        table = clock.time("count", lambda: confusion(labels, truth, every, ignored))
        boundary = None
        if self.boundary:
            boundary = clock.time("count", lambda: count_boundary(labels, truth, every, ignored).first(classes))
        return Scored(tally(table).first(classes), boundary, sparse(table) if self.confusion else None)

    def finish(self, scores: ScoreField, pixels: Tensor, size: tuple[int, int], clock: Clock) -> Tensor:
        """From the scores of the resized image ``pixels`` (3, h, w) uint8 to labels of ``size``."""
        rule = self.rule
        if scores.activated:
            rule = replace(rule, activation="none")
        elif self.setting.average == "probability":
            scores = replace(scores, scores=(self.setting.logit_scale * scores.scores).softmax(dim=1))
        refine = clock.time("refine", lambda: self._refiner(pixels.to(scores.scores.device), size, clock))
        before = clock.seconds["refine"]
        labels = clock.time("decode", lambda: decode(scores, size, rule, refine))
        clock.seconds["decode"] -= clock.seconds["refine"] - before  # the refiner is called from inside decode
        return labels

    def _refiner(self, pixels: Tensor, size: tuple[int, int], clock: Clock) -> Refiner | None:
        if self.setting.refine == "none":
            return None
        from ..methods.refine.pamr import Pamr

        pamr = Pamr(pixels, size, steps=self.setting.refine_steps)
        return lambda maps: clock.time("refine", lambda: pamr(maps))


def predict_together(pipelines: Sequence[Pipeline], image: Pixels, clocks: Sequence[Clock]) -> list[Tensor]:
    """Label maps ``(H, W)`` of one image for each pipeline; it is resized and encoded once.

    The methods of the pipelines are twins and their settings agree in ``SHARED`` (see ``check_sharing``).  What is done
    once counts on every clock: a clock says what its data set would have taken alone.
    """
    setting, shared = pipelines[0].setting, Clock()
    limits = (setting.short_side_px, setting.long_side_px, setting.resize, setting.size_multiple_px)
    small = shared.time("resize", lambda: resize_image(image, *limits))
    widths = [part.shape[1] for part in np.array_split(image, setting.columns, axis=1)]
    parts = []
    for pixels, width in zip(np.array_split(small, setting.columns, axis=1), widths, strict=True):
        column = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        # mypy cannot infer a lambda whose default binds the loop's value
        fields = shared.time("segment", lambda c=column: _segment(pipelines, c))  # type: ignore[misc]
        size = (image.shape[0], width)
        finished = zip(pipelines, fields, clocks, strict=True)
        parts.append([p.finish(field, column, size, clock) for p, field, clock in finished])
    for clock in clocks:
        for stage in ("resize", "segment"):
            clock.seconds[stage] += shared.seconds[stage]
    return [torch.cat(labels, dim=1) for labels in zip(*parts, strict=True)]


def _segment(pipelines: Sequence[Pipeline], pixels: Tensor) -> list[ScoreField]:
    methods, geometry = [p.method for p in pipelines], pipelines[0].setting.geometry
    if len(methods) == 1 or type(methods[0]).segment is not Segmenter.segment:  # a method may have its own way
        return [method.segment(pixels, geometry) for method in methods]
    return methods[0].segment_with(methods, pixels, geometry)


def check_sharing(settings: Sequence[Setting], keys: Sequence[str], method: str) -> None:
    """Raise ``UserError`` unless the settings of several data sets allow one pass over their images."""
    for key, setting in zip(keys[1:], settings[1:], strict=True):
        names = [n for n in SHARED if getattr(setting, n) != getattr(settings[0], n)]
        if setting.options_for(method) != settings[0].options_for(method):
            names.append("method options")
        if names:
            raise UserError(
                f"{keys[0]} and {key} cannot share a pass: the protocol gives them different {', '.join(names)}.  Run "
                "them one after the other"
            )
