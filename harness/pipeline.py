"""Pipeline: from a sample to its label map and counts, the same way for every method."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from ..datasets import DatasetRecord, Sample
from ..datasets.loader import Pixels
from ..methods import Segmenter
from .counting import Counts, count, count_boundary
from .decoding import DecodeRule, Refiner, decode
from .protocol import Setting
from .resize import resize_image

STAGES = ("load", "resize", "segment", "refine", "decode", "count")
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


class Pipeline:
    """A method under one setting, with the vocabulary of one data set encoded (in ``encode_seconds``).

    ``boundary`` asks for the counts of Boundary IoU too.
    """

    def __init__(self, method: Segmenter, setting: Setting, record: DatasetRecord, boundary: bool = False) -> None:
        self.method, self.setting, self.record, self.boundary = method, setting, record, boundary
        self.rule: DecodeRule = setting.rule(record.background)
        started = time.perf_counter()
        method.encode(setting.vocabulary_for(record))
        self.encode_seconds = time.perf_counter() - started

    def predict(self, image: Pixels, clock: Clock) -> Tensor:
        """Label map ``(H, W)`` of an image ``(H, W, 3)`` uint8 RGB, at its own size."""
        setting = self.setting
        size = (image.shape[0], image.shape[1])
        small = clock.time("resize", lambda: resize_image(image, setting.short_side_px, setting.long_side_px))
        pixels = torch.from_numpy(small.copy()).permute(2, 0, 1)
        scores = clock.time("segment", lambda: self.method.segment(pixels, setting.geometry))
        refine = clock.time("refine", lambda: self._refiner(pixels.to(scores.scores.device), size, clock))
        before = clock.seconds["refine"]
        labels = clock.time("decode", lambda: decode(scores, size, self.rule, refine))
        clock.seconds["decode"] -= clock.seconds["refine"] - before  # the refiner is called from inside decode
        return labels

    def score(self, sample: Sample, clock: Clock) -> tuple[Counts, Counts | None]:
        """Counts of one sample, ``(C,)``, and those of boundary bands if they are asked for."""
        labels = self.predict(sample.image, clock)
        truth = torch.from_numpy(sample.label.copy()).to(labels.device)
        classes, ignored = len(self.record.classes), self.record.ignore_index
        counts = clock.time("count", lambda: count(labels, truth, classes, ignored))
        if not self.boundary:
            return counts, None
        return counts, clock.time("count", lambda: count_boundary(labels, truth, classes, ignored))

    def _refiner(self, pixels: Tensor, size: tuple[int, int], clock: Clock) -> Refiner | None:
        if self.setting.refine == "none":
            return None
        from ..methods.refine.pamr import Pamr

        pamr = Pamr(pixels, size, steps=self.setting.refine_steps)
        return lambda maps: clock.time("refine", lambda: pamr(maps))
