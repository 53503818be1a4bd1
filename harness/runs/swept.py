"""Swept: one pass over the images for many values of one number of the decode rule.

The method runs once per image.  A probability threshold is compared with what every pixel's class has, so one decode
and one histogram hold all of its values (``count_thresholds``).  A gated rule, a vote of regions, and any other field
are decoded once for each value from the same scores: correct and slower.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from ...datasets import Dataset, Sample
from ...datasets.decoded import Decoded
from ...methods import UserError
from ...methods.core.picture import Memo
from ..decoding.decode import decoder_name
from ..metrics.counting import count
from ..metrics.counts import Counts
from ..metrics.thresholds import count_thresholds
from .loading import IN_LINE, Loading
from .photo import Photo
from .pipeline import Clock, Pipeline
from .plan import Plan
from .prefetch import bytes_of, loaded

THRESHOLD = "probability_threshold"


@dataclass(frozen=True)
class SweptLane:
    """A planned run, and its pipeline under each of the ascending ``values`` of ``field``."""

    plan: Plan
    pipeline: Pipeline
    data: Dataset
    field: str
    values: tuple[float, ...]
    variants: tuple[Pipeline, ...]

    @classmethod
    def of(cls, plan: Plan, pipeline: Pipeline, data: Dataset, field: str, values: tuple[float, ...]) -> "SweptLane":
        """Raises ``UserError`` for a value that the field or the data set does not allow."""
        protocols = [plan.spec.protocol.changed(**{field: value}) for value in values]
        variants = tuple(pipeline.under(p.setting(data.record.key)) for p in protocols)
        return cls(plan, pipeline, data, field, values, variants)

    @property
    def at_once(self) -> bool:
        """Whether one decode serves all values.

        Regions vote after the threshold, for each value anew; the kernels for a GPU decide by themselves.
        """
        return (
            self.field == THRESHOLD
            and not self.pipeline.rule.gated
            and self.pipeline.setting.refine != "sam"  # which asks anew for each label map
            and self.pipeline.voter is None
            and not self.pipeline.setting.closing_px
            and decoder_name(self.pipeline.method.device) != "triton"
        )


@dataclass(frozen=True)
class _Image:
    """An image: a sample for each lane, and what they share."""

    samples: list[Sample]
    memo: Memo

    def photo(self) -> Photo:
        """The picture itself."""
        return Photo(self.samples[0].image, self.samples[0].id, self.memo)

    def bytes(self) -> int:
        """What its arrays hold."""
        return bytes_of(self.samples)


def sweep_through(
    lanes: Sequence[SweptLane], ids: Sequence[str], advance: Callable[[int], None], loading: Loading = IN_LINE
) -> list[Counts]:
    """Counts ``(N, T, C)`` of each lane over the images ``ids``; lanes share what they compute of an image.

    ``loading`` says how images come to the method; it moves no count.
    """
    found: list[list[Counts]] = [[] for _ in lanes]
    threads, decoded = loading.threads_for(lanes[0].plan.spec.device), Decoded(loading.decoded)
    with loaded(ids, lambda i: _loaded(lanes, i, decoded), threads, _Image.bytes) as images:
        for image in images:
            for kept, counts in zip(found, _sweep_image(lanes, image.value), strict=True):
                kept.append(counts)
            advance(1)
    return [Counts.stack(counts) for counts in found]


def _loaded(lanes: Sequence[SweptLane], image_id: str, decoded: Decoded) -> _Image:
    """Read what the lanes need of an image, and resize it as each asks."""
    memo = Memo()
    samples = [lane.data.load(image_id, decoded.through(memo.once, lane.data.record)) for lane in lanes]
    if any(s.digest != lane.plan.content[image_id] for lane, s in zip(lanes, samples, strict=True)):
        raise UserError(
            f"image {image_id} has changed since the sweep began: run the same command again, it checks the data anew"
        )
    image = _Image(samples, memo)
    for lane in lanes:
        image.photo().prepare(lane.pipeline.setting, lane.pipeline.method.device)
    return image


def _sweep_image(lanes: Sequence[SweptLane], image: _Image) -> Iterator[Counts]:
    photo = image.photo()
    with image.memo:
        for lane, sample in zip(lanes, image.samples, strict=True):
            try:
                yield count_values(lane, photo, sample)
            except UserError as error:
                raise UserError(f"image {sample.id}: {error}") from error


def count_values(lane: SweptLane, photo: Photo, sample: Sample) -> Counts:
    """Counts ``(T, C)`` of one image: a row for each value."""
    pipeline, record, clock = lane.pipeline, lane.data.record, Clock()
    seen = [pipeline.observe(picture, clock) for picture in photo.pictures(pipeline.setting, pipeline.method.device)]
    device = seen[0].scores.scores.device
    truth = torch.from_numpy(sample.label.copy()).to(device)
    every, ignored = pipeline.num_classes, record.ignore_index
    if lane.at_once:
        winners = [pipeline.decision(one, clock).winners() for one in seen]
        labels = torch.cat([w.labels for w in winners], dim=1)
        probability = torch.cat([w.probability for w in winners if w.probability is not None], dim=1)
        background = pipeline.rule.background
        counts = count_thresholds(labels, probability, truth, lane.values, background, every, ignored)
    else:
        maps = (torch.cat([v.decision(one, clock).labels() for one in seen], dim=1) for v in lane.variants)
        counts = Counts.stack([count(labels, truth, every, ignored) for labels in maps])
    return counts.first(len(record.classes))
