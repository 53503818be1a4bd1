"""Pipeline: from a sample to its label map and counts, the same way for every method."""

import time
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from ...datasets import DatasetRecord, Sample
from ...methods import ScoreField, UserError
from ...methods.core.foreign import foreign_code
from ...methods.core.method import Method, Words
from ...methods.core.picture import Bill, Memo, Picture, wait_for_gpu
from ...methods.proposals.for_methods import note_of
from ...methods.proposals.regions import region_map
from ...methods.refine.guide import Affinity, Correction, Guide, LabelGuide
from ...methods.refine.load_guide import load_guide, load_label_guide
from ..decoding.closing import closed
from ..decoding.heat import ClassMaps
from ..decoding.propagation import Propagation
from ..decoding.refinement import refine_field, stretched, without_class
from ..decoding.rule import DecodeRule
from ..decoding.tiles import Refiner, check_finite
from ..decoding.vote import vote
from ..metrics.counting import count, count_boundary, count_cells, tally_cells
from ..protocol.protocol import Setting
from ..protocol.token_lint import lint_tokens
from ..protocol.word_lint import Findings
from ..protocol.words import vocabulary_for
from .decision import Change, Decision
from .photo import Photo
from .scored import STAGES as STAGES
from .scored import Scored as Scored
from .voters import voter_for

T = TypeVar("T")


@dataclass
class Clock:
    """Seconds per stage for one image; on a GPU the queue is emptied at the borders, so that work counts where it is.

    What other pipelines have computed of the image is on the ``bill`` and counts with the seconds that it took them: a
    row says what its method would have taken alone, and never less because it ran beside others.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    bill: Bill = field(default_factory=Bill)

    def time(self, stage: str, work: Callable[[], T]) -> T:
        """Run ``work`` and add what it took, and what it owes, to ``stage``."""
        owed, started = self.bill.seconds, time.perf_counter()
        result = work()
        wait_for_gpu()
        self.seconds[stage] += time.perf_counter() - started + self.bill.seconds - owed
        return result


@dataclass(frozen=True)
class Observed:
    """What a method, a guide and a proposer of regions say about a picture, whose own pixels are of ``size``."""

    scores: ScoreField
    pixels: Tensor
    size: tuple[int, int]
    affinity: Affinity | None = None
    correction: Correction | None = None
    regions: Tensor | None = None


def guide_for(setting: Setting, method: Method) -> Guide | LabelGuide | None:
    """The guide of a protocol, on the device of the method; None if it has none.

    Raises ``UserError`` when the guide's weights are not on this machine.
    """
    if setting.refine in ("none", "pamr", "pearl"):
        return None
    if setting.refine == "sam":
        return load_label_guide(str(method.device), setting.refine_threshold, method.size_multiple_px)
    options = (setting.refine_threshold, setting.refine_fusion, setting.refine_noise, setting.seed)
    return load_guide(setting.refine, str(method.device), *options)


def propagation_for(setting: Setting, method: Method, words: Words) -> Propagation | None:
    """What ``refine = "pearl"`` does to scores of the words; None for a protocol without it.

    Raises ``UserError`` for a method without an embedding of each text that it scores, and for scaled classes.
    """
    if setting.refine != "pearl":
        return None
    if setting.class_scaling != "none":
        raise UserError(
            "class_scaling needs scores from 0 on, which refine = 'pearl' may leave: set one of them to none"
        )
    texts = words.unit_texts
    if texts is None or len(texts) != len(words.query_to_class):
        raise UserError(
            f"refine is 'pearl', which needs an embedding of each text that is scored, and method {method.info.name!r} "
            "has none: choose another method, or --refine pamr"
        )
    return Propagation(texts, setting.refine_grid)


class Pipeline:
    """A method under one setting, with the words of one data set (encoded in ``encode_seconds``).

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
        self.voter = voter_for(setting, method)
        _check_multiple(setting, method)
        self.findings = _lint_tokens(setting, record, method)
        started = time.perf_counter()
        with foreign_code(method.info.name, type(method).__module__, "at the words"), torch.inference_mode():
            self.words: Words = method.encode_text(vocabulary)
        self.encode_seconds = time.perf_counter() - started
        self.propagation = propagation_for(setting, method, self.words)

    @property
    def note(self) -> str:
        """What has to be said beside its numbers: the method's note, the guide's, and that of regions that vote."""
        notes = [self.method.note, self.guide.note if self.guide else "", note_of(self.voter) if self.voter else ""]
        return "; ".join(dict.fromkeys(filter(None, notes)))

    def predict(self, photo: Photo, clock: Clock) -> Tensor:
        """Label map ``(H, W)`` of an image, at its own size.

        What pipelines have in common is computed once for all that are given the same ``photo``.
        """
        with photo.memo.charged_to(clock.bill):
            pictures = clock.time("resize", lambda: photo.pictures(self.setting, self.method.device))
            return torch.cat([self._predict_column(picture, clock) for picture in pictures], dim=1)

    def under(self, setting: Setting) -> "Pipeline":
        """The same method, words and guide under ``setting``, which may differ in the decode rule alone."""
        other = copy(self)
        other.setting, other.rule = setting, setting.rule(self.words.vocabulary.background)
        return other

    def _predict_column(self, picture: Picture, clock: Clock) -> Tensor:
        return self.finish(self.observe(picture, clock), clock)

    def observe(self, picture: Picture, clock: Clock) -> Observed:
        """Everything about a picture that comes before the decision."""
        scores = clock.time("segment", lambda: self.scores(picture))
        given = Observed(scores, picture.pixels, (picture.original.shape[1], picture.original.shape[2]))
        guide = self.guide
        if guide is not None:
            given = clock.time("refine", lambda: _guided(given, guide, picture))
        voter = self.voter
        if voter is not None:
            given = replace(given, regions=clock.time("refine", lambda: region_map(voter, picture)))
        return given

    @torch.inference_mode()
    def scores(self, picture: Picture) -> ScoreField:
        """What the method says about a picture, before any decision."""
        method, geometry = self.method, self.setting.geometry
        with foreign_code(method.info.name, type(method).__module__):
            seen = picture.once(("seen", method, geometry), lambda: method.encode_image(picture, geometry))
            return method.score(seen, self.words)

    def score(self, sample: Sample, clock: Clock) -> Scored:
        """Counts of one sample."""
        with Memo() as memo:
            labels = self.predict(Photo(sample.image, sample.id, memo), clock)
        return self.compare(labels, sample, clock)

    def compare(self, labels: Tensor, sample: Sample, clock: Clock) -> Scored:
        """Counts of a label map of one sample."""
        truth = torch.from_numpy(sample.label.copy()).to(labels.device)
        classes, every, ignored = len(self.record.classes), self.num_classes, self.record.ignore_index
        cells = None
        if self.confusion:
            cells = clock.time("count", lambda: count_cells(labels, truth, every, ignored))
            counts = tally_cells(cells, every)
        else:
            counts = clock.time("count", lambda: count(labels, truth, every, ignored))
        boundary = None
        if self.boundary:
            boundary = clock.time("count", lambda: count_boundary(labels, truth, every, ignored).first(classes))
        return Scored(counts.first(classes), int(counts.gt.sum()), boundary, cells)

    def finish(self, seen: Observed, clock: Clock) -> Tensor:
        """From scores of the resized image to labels of its own size."""
        decision = self.decision(seen, clock)
        before = clock.seconds["refine"]
        labels = clock.time("decode", decision.labels)
        clock.seconds["decode"] -= clock.seconds["refine"] - before  # the refiner is called from inside decode
        return labels

    def decision(self, seen: Observed, clock: Clock) -> Decision:
        """What this pipeline's setting makes of scores."""
        scores, size, affinity, rule = seen.scores, seen.size, seen.affinity, self.rule
        if scores.activated:
            rule = replace(rule, activation="none")
        elif self.setting.average == "probability":
            scores = scores.dense()
            scores = replace(scores, scores=(self.setting.logit_scale * scores.scores).softmax(dim=1))
        pixels = seen.pixels.to(scores.scores.device)
        if self.propagation is not None:
            check_finite(scores)  # NaN would spread over the image
            refined, probable = self.propagation.refine, rule.activation == "none"
            scores = clock.time("refine", lambda: refined(scores, pixels, size, probable))
        elif affinity is not None:
            check_finite(scores)  # NaN would spread over the image, and be dropped by a gate without a word
            if rule.gated and rule.background is not None:
                scores = without_class(scores, rule.background)
            scores = clock.time("refine", lambda: refine_field(scores, affinity, size))
        elif self.setting.upsample == "direct":
            scores = stretched(scores, size)
        elif self.setting.upsample == "labels":
            return Decision(scores, size, rule, None, on_grid=True, then=self._then(seen, None, clock))
        refine = clock.time("refine", lambda: self._refiner(pixels, size, clock))
        maps = None if seen.correction is None else ClassMaps(scores, size, rule, refine)
        return Decision(scores, size, rule, refine, on_grid=False, then=self._then(seen, maps, clock))

    def _then(self, seen: Observed, maps: ClassMaps | None, clock: Clock) -> tuple[Change, ...]:
        """What becomes of the label map afterwards, in this order."""
        side_px, correction, regions = self.setting.closing_px, seen.correction, seen.regions
        changes: list[Change] = []
        if correction is not None and maps is not None:
            count = self.rule.num_classes(seen.scores)
            changes.append(lambda labels: clock.time("refine", lambda: correction.corrected(labels, count, maps)))
        if side_px:
            changes.append(lambda labels: closed(labels, side_px))
        if regions is not None:
            changes.append(lambda labels: vote(labels, regions.to(labels.device)))
        return tuple(changes)

    def heat(self, photo: Photo, class_index: int) -> Tensor:
        """How sure the method is of a class at each pixel, ``(H, W)`` float32: see ``decoding.heat``."""
        clock = Clock()
        seen = [self.observe(picture, clock) for picture in photo.pictures(self.setting)]
        return torch.cat([self.decision(one, clock).heat(class_index) for one in seen], dim=1)

    def _refiner(self, pixels: Tensor, size: tuple[int, int], clock: Clock) -> Refiner | None:
        if self.setting.refine != "pamr":
            return None
        from ...methods.refine.pamr import Pamr
        from ..decoding.pamr import refined

        pamr = Pamr(pixels, size, steps=self.setting.refine_steps)
        return lambda maps: clock.time("refine", lambda: refined(pamr, maps))


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
    multiple, patch = setting.size_multiple_px, method.size_multiple_px
    if patch is not None and multiple % patch:
        raise UserError(
            f"the protocol rounds sides to multiples of {multiple} px, the backbone has patches of {patch} px: parts "
            f"of the image would be lost.  Choose the protocol of this backbone, or --set size_multiple_px={patch}"
        )


def _guided(given: Observed, guide: Guide | LabelGuide, picture: Picture) -> Observed:
    """With what a guide sees in an image at its own size; equal guides are one object and look once."""
    if isinstance(guide, LabelGuide):
        return replace(given, correction=guide.look(picture))
    key, look = ("guide", id(guide)), guide.observe
    return replace(given, affinity=picture.once_of_original(key, lambda: look(picture.original, picture.name)))
