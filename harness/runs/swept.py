"""Swept: one pass over the images for many values of one number of the decode rule.

The method runs once per image.  A probability threshold is compared with what every pixel's class has, so one decode
and one histogram hold all of its values (``count_thresholds``).  A gated rule, a vote of regions, and any other field
are decoded once for each value from the same scores: correct and slower.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from ...datasets import Dataset, Sample
from ...methods import UserError
from ...methods.core.picture import Memo
from ..decoding.decode import decoder_name
from ..metrics.counting import confusion, tally
from ..metrics.counts import Counts
from ..metrics.thresholds import count_thresholds
from .photo import Photo
from .pipeline import Clock, Pipeline
from .plan import Plan

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
            and decoder_name(self.pipeline.method.device) == "torch"
        )


def sweep_through(lanes: Sequence[SweptLane], ids: Sequence[str], advance: Callable[[int], None]) -> list[Counts]:
    """Counts ``(N, T, C)`` of each lane over the images ``ids``; lanes share what they compute of an image."""
    found: list[list[Counts]] = [[] for _ in lanes]
    for image_id in ids:
        for kept, counts in zip(found, _sweep_image(lanes, image_id), strict=True):
            kept.append(counts)
        advance(1)
    return [Counts.stack(counts) for counts in found]


def _sweep_image(lanes: Sequence[SweptLane], image_id: str) -> Iterator[Counts]:
    with Memo() as memo:
        for lane in lanes:
            sample = lane.data.load(image_id, memo.once)
            if sample.digest != lane.plan.content[image_id]:
                raise UserError(
                    f"image {image_id} has changed since the sweep began: run the same command again, it checks the "
                    "data anew"
                )
            try:
                yield count_values(lane, Photo(sample.image, image_id, memo), sample)
            except UserError as error:
                raise UserError(f"image {image_id}: {error}") from error


def count_values(lane: SweptLane, photo: Photo, sample: Sample) -> Counts:
    """Counts ``(T, C)`` of one image: a row for each value."""
    pipeline, record, clock = lane.pipeline, lane.data.record, Clock()
    seen = [pipeline.observe(picture, clock) for picture in photo.pictures(pipeline.setting)]
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
        counts = Counts.stack([tally(confusion(labels, truth, every, ignored)) for labels in maps])
    return counts.first(len(record.classes))
