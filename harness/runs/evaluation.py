"""evaluate: score a method in memory, without a run folder, or several in one pass."""

from collections.abc import Mapping
from pathlib import Path

from ...datasets import Dataset, Sample
from ...methods import Method
from ...methods.core.picture import Memo
from ..metrics.counts import Counts
from ..metrics.of_confusion import SparseConfusion
from ..metrics.result import EvalResult
from ..protocol.protocol import Protocol
from .photo import Photo
from .pipeline import Clock, Pipeline
from .scored import Scored
from .sources import load_any, open_any


def evaluate(
    method: Method,
    dataset: str | Dataset,
    protocol: str | Protocol | None = None,
    limit: int | None = None,
    data_root: Path | None = None,
    boundary: bool = False,
    confusion: bool = False,
) -> EvalResult:
    """Score ``method`` on the first ``limit`` images (default: all) of a data set.

    ``protocol`` defaults to the data set's own.  Its ``precision`` and ``method_options`` are the business of whoever
    made the method; everything else is applied here.  ``boundary`` asks for Boundary IoU too, ``confusion``
    for the metrics that need confusion matrices.

    >>> from ovss.methods import create_method
    >>> method = create_method("maskclip", backbone="tiny-clip")
    >>> evaluate(method, "shapes", limit=4).miou > 5
    True
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    data = open_any(dataset, data_root) if isinstance(dataset, str) else dataset
    chosen = load_any(protocol or data.record.protocol) if not isinstance(protocol, Protocol) else protocol
    return evaluate_together({"": method}, data, chosen, limit, boundary, confusion)[""]


def evaluate_together(
    methods: Mapping[str, Method],
    data: Dataset,
    protocol: Protocol,
    limit: int | None = None,
    boundary: bool = False,
    confusion: bool = False,
) -> dict[str, EvalResult]:
    """The same for several methods, by name, in one pass: what they have in common is computed once for each image."""
    setting = protocol.setting(data.record.key)
    pipelines = {name: Pipeline(m, setting, data.record, boundary, confusion) for name, m in methods.items()}
    ids = data.ids[:limit]
    images = [_score_all(pipelines, data.load(i)) for i in ids]
    found = {}
    for name in methods:
        scored = [image[name] for image in images]
        found[name] = EvalResult(
            record=data.record,
            ids=ids,
            counts=Counts.stack([s.counts for s in scored]),
            clusters=data.clusters(ids),
            planned=data.planned,
            averaging=setting.averaging,
            boundary=Counts.stack([s.boundary for s in scored if s.boundary]) if boundary else None,
            confusion=SparseConfusion.stack([s.confusion for s in scored if s.confusion]) if confusion else None,
        )
    return found


def _score_all(pipelines: Mapping[str, Pipeline], sample: Sample) -> dict[str, Scored]:
    with Memo() as memo:
        photo = Photo(sample.image, sample.id, memo)
        return {name: p.compare(p.predict(photo, Clock()), sample, Clock()) for name, p in pipelines.items()}
