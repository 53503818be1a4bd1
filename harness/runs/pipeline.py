"""Pipeline: from a sample to its label map and counts, the same way for every method."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ...datasets import DatasetRecord, Sample
from ...datasets.loader import Pixels
from ...methods import Method, ScoreField, UserError
from ...methods.blocks.clip_method import ClipMethod
from ...methods.core.foreign import foreign_code
from ...methods.refine.guide import Affinity, Guide
from ...methods.refine.guides import load_guide
from ..decoding.decode import decode
from ..decoding.on_grid import decode_on_grid
from ..decoding.refinement import refine_field, stretched, without_class
from ..decoding.rule import DecodeRule
from ..decoding.tiles import Refiner, check_finite
from ..metrics.counting import confusion, count_boundary, tally
from ..metrics.of_confusion import sparse
from ..protocol.protocol import Setting
from ..protocol.resize import resize_image
from ..protocol.token_lint import lint_tokens
from ..protocol.word_lint import Findings
from ..protocol.words import vocabulary_for
from .scored import STAGES as STAGES
from .scored import Scored as Scored

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


def guide_for(setting: Setting, method: Method) -> Guide | None:
    """The guide of a protocol, on the device of the method; None if it has none.

    Raises ``UserError`` when the guide's weights are not on this machine.
    """
    if setting.refine in ("none", "pamr"):
        return None
    options = (setting.refine_threshold, setting.refine_fusion, setting.refine_noise, setting.seed)
    return load_guide(setting.refine, str(method.device), *options)


class Pipeline:
    """A method under one setting, with the vocabulary of one data set encoded (in ``encode_seconds``).

    ``findings`` are warnings about its words as the method's tokenizer reads them.

    ``boundary`` asks for the counts of Boundary IoU too, ``confusion`` for the confusion matrix of every image.
    """

    def __init__(
        self,
        method: Method,
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
        self.guide = guide_for(setting, method)
        _check_multiple(setting, method)
        self.findings = _lint_tokens(setting, record, method)
        started = time.perf_counter()
        with foreign_code(method.info.name, type(method).__module__, "at the words"):
            method.encode(vocabulary)
        self.encode_seconds = time.perf_counter() - started

    @property
    def note(self) -> str:
        """What has to be said beside its numbers: the method's note and the guide's."""
        return "; ".join(filter(None, [self.method.note, self.guide.note if self.guide else ""]))

    def predict(self, image: Pixels, clock: Clock, name: str = "") -> Tensor:
        """Label map ``(H, W)`` of an image ``(H, W, 3)`` uint8 RGB, at its own size.

        ``name`` is the image's id: noise of a guide depends on it.
        """
        return predict_together([self], image, [clock], name)[0]

    def score(self, sample: Sample, clock: Clock) -> Scored:
        """Counts of one sample."""
        return self.compare(self.predict(sample.image, clock, sample.id), sample, clock)

    def compare(self, labels: Tensor, sample: Sample, clock: Clock) -> Scored:
        """Counts of a label map of one sample."""
        truth = torch.from_numpy(sample.label.copy()).to(labels.device)
        classes, every, ignored = len(self.record.classes), self.num_classes, self.record.ignore_index
        table = clock.time("count", lambda: confusion(labels, truth, every, ignored))
        boundary = None
        if self.boundary:
            boundary = clock.time("count", lambda: count_boundary(labels, truth, every, ignored).first(classes))
        counts = tally(table).first(classes)
        return Scored(counts, int(table.sum()), boundary, sparse(table) if self.confusion else None)

    def finish(
        self, scores: ScoreField, pixels: Tensor, size: tuple[int, int], clock: Clock, affinity: Affinity | None = None
    ) -> Tensor:
        """From the scores of the resized image ``pixels`` (3, h, w) uint8 to labels of ``size``.

        ``affinity`` is what the guide saw in the image.
        """
        rule = self.rule
        if scores.activated:
            rule = replace(rule, activation="none")
        elif self.setting.average == "probability":
            scores = scores.dense()
            scores = replace(scores, scores=(self.setting.logit_scale * scores.scores).softmax(dim=1))
        if affinity is not None:
            check_finite(scores)  # NaN would spread over the image, and be dropped by a gate without a word
            if rule.gated and rule.background is not None:
                scores = without_class(scores, rule.background)
            scores = clock.time("refine", lambda: refine_field(scores, affinity, size))
        elif self.setting.upsample == "direct":
            scores = stretched(scores, size)
        elif self.setting.upsample == "labels":
            return clock.time("decode", lambda: decode_on_grid(scores, size, rule))
        refine = clock.time("refine", lambda: self._refiner(pixels.to(scores.scores.device), size, clock))
        before = clock.seconds["refine"]
        labels = clock.time("decode", lambda: decode(scores, size, rule, refine))
        clock.seconds["decode"] -= clock.seconds["refine"] - before  # the refiner is called from inside decode
        return labels

    def _refiner(self, pixels: Tensor, size: tuple[int, int], clock: Clock) -> Refiner | None:
        if self.setting.refine != "pamr":
            return None
        from ...methods.refine.pamr import Pamr

        pamr = Pamr(pixels, size, steps=self.setting.refine_steps)
        return lambda maps: clock.time("refine", lambda: pamr(maps))


def _lint_tokens(setting: Setting, record: DatasetRecord, method: Method) -> Findings:
    """Warnings about the words as the method's own tokenizer reads them.

    Raises ``UserError`` for classes whose texts are the same tokens.
    """
    tokenizer = method.prompt_tokenizer
    found = [] if tokenizer is None else lint_tokens(setting, record, tokenizer)
    errors = [text for level, text in found if level == "error"]
    if errors:
        raise UserError(f"the words for {record.key} cannot be used:\n  " + "\n  ".join(errors))
    return found


def _check_multiple(setting: Setting, method: Method) -> None:
    """Raise ``UserError`` for sides that the protocol rounds to whole patches of another backbone."""
    if not isinstance(method, ClipMethod) or type(method).segment is not Method.segment:
        return  # a method that cuts the image in its own way
    multiple, patch = setting.size_multiple_px, method.tower.patch_px
    if multiple % patch:
        raise UserError(
            f"the protocol rounds sides to multiples of {multiple} px, the backbone has patches of {patch} px: parts "
            f"of the image would be lost.  Choose the protocol of this backbone, or --set size_multiple_px={patch}"
        )


def predict_together(
    pipelines: Sequence[Pipeline], image: Pixels, clocks: Sequence[Clock], name: str = ""
) -> list[Tensor]:
    """Label maps ``(H, W)`` of one image for each pipeline; it is resized and encoded once, seen once by each guide.

    The methods of the pipelines are twins and their settings agree in ``SHARED`` (see ``check_sharing``).  What is done
    once counts on every clock: a clock says what its data set would have taken alone.
    """
    setting = pipelines[0].setting
    limits = (setting.short_side_px, setting.long_side_px, setting.resize, setting.size_multiple_px)
    small = _time_all(clocks, "resize", lambda: resize_image(image, *limits))
    columns = [np.array_split(pixels, setting.columns, axis=1) for pixels in (small, image)]
    parts = []
    for number, (pixels, original) in enumerate(zip(*columns, strict=True)):
        column = _tensor(pixels)
        # mypy cannot infer a lambda whose default binds the loop's value
        fields = _time_all(clocks, "segment", lambda c=column: _segment(pipelines, c))  # type: ignore[misc]
        seen = _observe(pipelines, original, f"{name}#{number}" if number else name, clocks)
        zipped = zip(pipelines, fields, clocks, seen, strict=True)
        size = (original.shape[0], original.shape[1])
        parts.append([p.finish(field, column, size, clock, sight) for p, field, clock, sight in zipped])
    return [torch.cat(labels, dim=1) for labels in zip(*parts, strict=True)]


def _time_all(clocks: Sequence[Clock], stage: str, work: Callable[[], T]) -> T:
    """Run ``work`` once and add what it took to every clock."""
    first, *others = clocks
    before = first.seconds[stage]
    result = first.time(stage, work)
    for clock in others:
        clock.seconds[stage] += first.seconds[stage] - before
    return result


def _tensor(pixels: Pixels) -> Tensor:
    """``(H, W, 3)`` -> a copy, ``(3, H, W)``."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def _observe(pipelines: Sequence[Pipeline], image: Pixels, name: str, clocks: Sequence[Clock]) -> list[Affinity | None]:
    """What the guide of each pipeline sees in an image at its own size; equal guides are one object and look once."""
    seen: dict[int, Affinity] = {}
    for guide in {id(p.guide): p.guide for p in pipelines if p.guide is not None}.values():
        theirs = [clock for p, clock in zip(pipelines, clocks, strict=True) if p.guide is guide]
        # as in predict_together: the default binds the loop's value
        seen[id(guide)] = _time_all(theirs, "refine", lambda g=guide: g.observe(_tensor(image), name))  # type: ignore[misc]
    return [seen.get(id(p.guide)) for p in pipelines]


def _segment(pipelines: Sequence[Pipeline], pixels: Tensor) -> list[ScoreField]:
    methods, geometry = [p.method for p in pipelines], pipelines[0].setting.geometry
    with foreign_code(methods[0].info.name, type(methods[0]).__module__):
        if len(methods) == 1:
            return [methods[0].segment(pixels, geometry)]
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
