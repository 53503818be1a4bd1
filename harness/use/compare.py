"""``compare``: two runs or more on the same images, class by class and image by image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...methods import UserError
from ..metrics.bootstrap import class_differences, miou_interval, paired_difference
from ..metrics.counts import ImageCounts
from ..metrics.groups import holm
from ..metrics.of_counts import iou, miou
from ..protocol.differences import diff_settings
from ..runs.plan import Plan
from ..runs.run import Finished, Run, find_run

Bounds = tuple[float, float]
RunName = str | Path | Run | Finished
_IMAGES = 10


@dataclass(frozen=True)
class Side:
    """A run that is compared: mIoU over the common images, and its 95 % interval (None for fewer than ten units)."""

    run: str
    method: str
    options: dict[str, Any]
    weights: str
    protocol: str
    protocol_hash: str
    device: str
    code: str
    miou: float | None
    interval: Bounds | None


@dataclass(frozen=True)
class ClassDifference:
    """IoU of a class in both runs; ``images`` are those that are labelled with it.  None for a class without IoU."""

    name: str
    first: float | None
    second: float | None
    difference: float | None
    interval: Bounds | None
    images: int


@dataclass(frozen=True)
class ImageDifference:
    """mIoU of one image in both runs, over the classes that are labelled in it."""

    image: str
    first: float
    second: float

    @property
    def difference(self) -> float:
        """First minus second."""
        return self.first - self.second


@dataclass(frozen=True)
class Change:
    """Something other than the method that the runs do not share, and why numbers may move with it."""

    field: str
    first: str
    second: str
    why: str


@dataclass(frozen=True)
class Difference:
    """The first run minus the second.

    ``interval`` (95 %) and ``p_value`` are those of the paired bootstrap, the p value adjusted for the number of pairs
    (Holm); None for fewer than ten units.  ``classes`` are sorted by their difference, ``images`` are those that differ
    most, ``changes`` say why it is not a difference of methods alone.
    """

    first: str
    second: str
    difference: float
    interval: Bounds | None
    p_value: float | None
    classes: tuple[ClassDifference, ...]
    images: tuple[ImageDifference, ...]
    changes: tuple[Change, ...]

    @property
    def same_protocol(self) -> bool:
        """Whether nothing that the protocol holds differs."""
        return not any(change.field.startswith("protocol: ") for change in self.changes)


@dataclass(frozen=True)
class Comparison:
    """Runs on the images that all have done, in percent, and the first minus every other one.

    ``note`` goes with the numbers.
    """

    dataset: str
    split: str
    images: int
    units: int
    sides: tuple[Side, ...]
    differences: tuple[Difference, ...]
    note: str


def compare(*runs: RunName, results: Path = Path("results")) -> Comparison:
    """Compare runs on the same images; each a folder, a name (as ``find_run`` takes it), or what ``run`` gave.

    Raises ``UserError`` when there is one only, one is there twice, they are on different images, or one is not found,
    not finished or damaged.
    """
    found = [_finished(one, results) for one in runs]
    _check(found)
    common = sorted(set.intersection(*(set(f.result.ids) for f in found)))
    if not common:
        raise UserError(f"{' and '.join(f.name for f in found)} have no image in common: there is nothing to pair")
    first = found[0]
    kept = [np.isin(f.result.ids, common) for f in found]
    counts = [f.result.counts.at(k) for f, k in zip(found, kept, strict=True)]
    clusters = np.unique(first.result.clusters[kept[0]], return_inverse=True)[1]
    pairs = [
        _difference((first, other), (counts[0], c), clusters, common)
        for other, c in zip(found[1:], counts[1:], strict=True)
    ]
    return Comparison(
        dataset=first.plan.identity["dataset"]["key"],
        split=first.plan.identity["dataset"]["split"],
        images=len(common),
        units=len(np.unique(clusters)),
        sides=tuple(_side(f, c, clusters) for f, c in zip(found, counts, strict=True)),
        differences=_adjusted(pairs),
        note="; ".join(dict.fromkeys(filter(None, (f.plan.note for f in found)))),
    )


def _finished(one: RunName, results: Path) -> Finished:
    if isinstance(one, Finished):
        return one
    return (one if isinstance(one, Run) else find_run(str(one), results)).finished()


def _check(found: Sequence[Finished]) -> None:
    if len(found) < 2:
        raise UserError("a comparison needs two runs or more: `bench leaderboard` shows which there are")
    names = [f.plan.digest for f in found]
    doubled = [f.name for k, f in enumerate(found) if f.plan.digest in names[:k]]
    if doubled:
        raise UserError(f"{doubled[0]} was named twice: a run cannot be compared with itself")
    for other in found[1:]:
        sets = [f.plan.identity["dataset"] for f in (found[0], other)]
        if sets[0] != sets[1]:
            images = " and ".join(f"{d['key']} {d['split']}" for d in sets)
            raise UserError(f"the two runs are not on the same images ({images}): there is nothing to pair")


def _side(run: Finished, counts: ImageCounts, clusters: NDArray[np.int64]) -> Side:
    manifest, averaging = run.manifest, run.result.averaging
    interval = miou_interval(counts, clusters, averaging)
    return Side(
        run=run.name,
        method=run.plan.spec.method,
        options=run.plan.spec.options,
        weights=_weights(run.plan),
        protocol=manifest.protocol["name"],
        protocol_hash=manifest.protocol["hash"],
        device=manifest.environment["device"],
        code=manifest.code_version,
        miou=_percent(miou(counts.total(), averaging)),
        interval=None if interval is None else (100 * interval.low, 100 * interval.high),
    )


def _weights(plan: Plan) -> str:
    weights = plan.identity["method"].get("weights") or {}
    return f"{weights.get('name', '')} {weights.get('sha256', '')[:15]}".strip() or "none"


def _percent(value: Any) -> float | None:
    return None if np.isnan(value) else 100 * float(value)


def _difference(
    runs: tuple[Finished, Finished],
    counts: tuple[ImageCounts, ImageCounts],
    clusters: NDArray[np.int64],
    ids: Sequence[str],
) -> Difference:
    one, other = runs
    averaging = one.result.averaging
    found = paired_difference(*counts, clusters, averaging)
    return Difference(
        first=one.name,
        second=other.name,
        difference=100 * found.estimate,
        interval=(100 * found.interval.low, 100 * found.interval.high) if found.interval else None,
        p_value=found.p_value,
        classes=_classes(one.plan.record.classes, counts, clusters),
        images=_images(runs, ids),
        changes=_changes(one.plan, other.plan),
    )


def _adjusted(pairs: Sequence[Difference]) -> tuple[Difference, ...]:
    """With p values for as many pairs as there are."""
    adjusted = holm({pair.second: pair.p_value for pair in pairs if pair.p_value is not None})
    return tuple(replace(pair, p_value=adjusted.get(pair.second)) for pair in pairs)


def _classes(
    names: Sequence[str], counts: tuple[ImageCounts, ImageCounts], clusters: NDArray[np.int64]
) -> tuple[ClassDifference, ...]:
    """Largest difference in favour of the first run first; classes without one last."""
    values = [iou(c.total()) for c in counts]
    estimate, bounds = class_differences(*counts, clusters)
    labelled = (counts[0].gt > 0).sum(axis=0)
    found = [
        ClassDifference(
            name=name,
            first=_percent(values[0][k]),
            second=_percent(values[1][k]),
            difference=_percent(estimate[k]),
            interval=None if bounds is None or np.isnan(bounds[:, k]).any() else _bounds(bounds[:, k]),
            images=int(labelled[k]),
        )
        for k, name in enumerate(names)
    ]
    return tuple(sorted(found, key=lambda c: (c.difference is None, -(c.difference or 0.0))))


def _bounds(values: NDArray[np.float64]) -> Bounds:
    return 100 * float(values[0]), 100 * float(values[1])


def _images(runs: Sequence[Finished], ids: Sequence[str]) -> tuple[ImageDifference, ...]:
    """Largest difference, of either sign, first."""
    first, second = (run.result.per_image[np.isin(run.result.ids, ids)] for run in runs)
    size = np.nan_to_num(np.abs(first - second))
    order = [k for k in np.argsort(-size, kind="stable")[:_IMAGES] if size[k] > 0]
    return tuple(ImageDifference(ids[k], float(first[k]), float(second[k])) for k in order)


def _changes(one: Plan, other: Plan) -> tuple[Change, ...]:
    found = [
        Change(f"protocol: {field}", str(a), str(b), why)
        for field, a, b, why in diff_settings(one.setting, other.setting)
    ]
    others = (
        ("weights", "another model", _weights),
        ("device", "rounding", lambda plan: plan.identity["device_type"]),
        ("code", "anything may have changed; run the older one again", lambda plan: plan.identity["source_hash"]),
    )
    for field, why, value in others:
        a, b = value(one), value(other)
        if a != b:
            found.append(Change(field, a, b, why))
    return tuple(found)
