"""``compare``: the paired difference of two runs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...methods import UserError
from ..metrics.bootstrap import paired_difference
from ..runs.run import Finished, Run, find_run


@dataclass(frozen=True)
class Comparison:
    """Mean IoU of the first run minus that of the second over the images that both have done, in percent.

    ``interval`` (95 %) and ``p_value`` are those of the paired bootstrap over ``units``; None for fewer than ten.
    ``same_protocol``: where it is false, the difference is not one of methods alone.  ``note`` goes with the numbers.
    """

    first: str
    second: str
    dataset: str
    split: str
    images: int
    units: int
    same_protocol: bool
    difference: float
    interval: tuple[float, float] | None
    p_value: float | None
    note: str


def compare(
    first: str | Path | Run | Finished, second: str | Path | Run | Finished, results: Path = Path("results")
) -> Comparison:
    """Compare two runs on the same images; each a folder, a name (as ``find_run`` takes it), or what ``run`` gave.

    Raises ``UserError`` when they are on different images, or one is not found, not finished or damaged.
    """
    a, b = (_finished(one, results) for one in (first, second))
    one, other = a.plan.identity, b.plan.identity
    if one["dataset"] != other["dataset"]:
        images = " and ".join(f"{d['key']} {d['split']}" for d in (one["dataset"], other["dataset"]))
        raise UserError(f"the two runs are not on the same images ({images}): there is nothing to pair")
    common = sorted(set(a.result.ids) & set(b.result.ids))
    if not common:
        raise UserError(f"{a.name} and {b.name} have no image in common: there is nothing to pair")
    kept = [np.isin(r.result.ids, common) for r in (a, b)]
    counts = [r.result.counts.at(k) for r, k in zip((a, b), kept, strict=True)]
    clusters = np.unique(a.result.clusters[kept[0]], return_inverse=True)[1]
    found = paired_difference(counts[0], counts[1], clusters, a.result.averaging)
    return Comparison(
        first=a.name,
        second=b.name,
        dataset=one["dataset"]["key"],
        split=one["dataset"]["split"],
        images=len(common),
        units=found.units,
        same_protocol=one["protocol"]["hash"] == other["protocol"]["hash"],
        difference=100 * found.estimate,
        interval=(100 * found.interval.low, 100 * found.interval.high) if found.interval else None,
        p_value=found.p_value,
        note=a.plan.note,
    )


def _finished(one: str | Path | Run | Finished, results: Path) -> Finished:
    if isinstance(one, Finished):
        return one
    return (one if isinstance(one, Run) else find_run(str(one), results)).finished()
