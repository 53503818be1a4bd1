"""evaluate: score a method in memory, without a run folder."""

from pathlib import Path

from ..datasets import Dataset, open_dataset
from ..methods import Segmenter
from .counting import Counts
from .pipeline import Clock, Pipeline
from .protocol import Protocol, load_protocol
from .result import EvalResult


def evaluate(
    method: Segmenter,
    dataset: str | Dataset,
    protocol: str | Protocol | None = None,
    limit: int | None = None,
    data_root: Path | None = None,
    boundary: bool = False,
) -> EvalResult:
    """Score ``method`` on the first ``limit`` images (default: all) of a data set.

    ``protocol`` defaults to the data set's own.  Its ``precision`` and ``method_options`` are the business of whoever
    made the method; everything else is applied here.  ``boundary`` asks for Boundary IoU too.

    >>> from ovss.methods import create_method
    >>> method = create_method("maskclip", backbone="tiny-clip")
    >>> evaluate(method, "shapes", limit=4).miou > 5
    True
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    data = open_dataset(dataset, data_root) if isinstance(dataset, str) else dataset
    chosen = load_protocol(protocol or data.record.protocol) if not isinstance(protocol, Protocol) else protocol
    setting = chosen.setting(data.record.key)
    pipeline = Pipeline(method, setting, data.record, boundary)
    ids = data.ids[:limit]
    scored = [pipeline.score(data.load(i), Clock()) for i in ids]
    bands = [b for _, b in scored if b is not None]
    return EvalResult(
        ids=ids,
        classes=data.record.classes,
        counts=Counts.stack([c for c, _ in scored]),
        clusters=data.clusters(ids),
        planned=data.planned,
        averaging=setting.averaging,
        background=data.record.background,
        boundary=Counts.stack(bands) if bands else None,
    )
