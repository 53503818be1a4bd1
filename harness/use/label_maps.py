"""``label_maps``: what a finished run said about some of its images, from saved files or predicted again."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...datasets import Dataset, Sample
from ...methods import UserError
from ...methods.core.arithmetic import computed_by
from ..runs.label_files import belongs, colours_of, describe_labels, label_path, read_label_map, write_label_map
from ..runs.run import Finished
from ..runs.sealed import digest_of

if TYPE_CHECKING:  # saved label maps are read without torch
    from ..runs.pipeline import Pipeline


@dataclass(frozen=True)
class LabelMap:
    """An image with its labels, and what a run said: ``labels`` (H, W), indices of classes.

    ``same``: its pixels are counted as those of the run were.  Predicted on another machine, or by other code, it can
    differ.
    """

    sample: Sample
    labels: NDArray[np.integer]
    same: bool


def label_maps(run: Finished, ids: Sequence[str], saved: Path | None = None) -> Iterator[LabelMap]:
    """Label maps of some images, in that order.

    Read below ``saved`` where ``save_labels`` has written them, else predicted again, which needs the weights.

    Raises ``UserError`` for images that the run does not have, for data or weights that are not those of the run, and
    whatever loading them raises.
    """
    unknown = sorted(set(ids) - set(run.result.ids))
    if unknown:
        raise UserError(f"run {run.name} has no image {unknown[0]!r}: `bench show {run.name} --worst 12` names some")
    again, data = _Again(run), run.plan.spec.open_data()
    folder = None if saved is None else saved / run.name
    known = folder is not None and belongs(folder, run.plan)
    places = dict(zip(run.result.ids, range(len(run.result.ids)), strict=True))
    for image_id in ids:
        sample = _load(run, data, image_id)
        path = label_path(folder, image_id) if folder is not None and known else None
        if path is not None and path.is_file():
            labels = read_label_map(path, sample.label.shape)
        else:
            labels = again.predict(sample)
        yield LabelMap(sample, labels, _is_counted_so(labels, sample, run, places[image_id]))


def save_labels(runs: Iterable[Finished], folder: Path) -> None:
    """Write the label maps of all images of runs that are not there yet to ``FOLDER/RUN/<image id>.png``."""
    for run in runs:
        mine = folder / run.name
        describe_labels(mine, run.plan)
        absent = [i for i in run.result.ids if not label_path(mine, i).is_file()]
        for found in label_maps(run, absent):
            write_label_map(label_path(mine, found.sample.id), found.labels, colours_of(run.plan.record))


class _Again:
    """Predicts as the run did; the method is loaded when the first image needs it."""

    def __init__(self, run: Finished) -> None:
        self.run = run

    def predict(self, sample: Sample) -> NDArray[np.integer]:
        from ...methods.core.picture import Memo
        from ..runs.photo import Photo
        from ..runs.pipeline import Clock

        with Memo() as memo, computed_by(self.run.plan.arithmetic):
            labels = self._pipeline.predict(Photo(sample.image, sample.id, memo), Clock())
        return np.asarray(labels.cpu().numpy())

    @cached_property
    def _pipeline(self) -> "Pipeline":
        from ..runs.plan import build_pipelines

        spec = self.run.plan.spec
        (pipeline,) = build_pipelines([spec], [spec.open_data()])
        if digest_of(pipeline.method.provenance) != digest_of(self.run.plan.identity["method"]):
            raise UserError(
                f"{self.run.name} was made with other weights or parts than {spec.method} has here: run it again with "
                "`bench run`"
            )
        return pipeline


def _load(run: Finished, data: Dataset, image_id: str) -> Sample:
    sample = data.load(image_id)
    if sample.digest != run.plan.content[image_id]:
        files = " or ".join(map(str, data.files(image_id)))
        raise UserError(f"image {image_id}: {files} has changed since {run.name} was made: run it again")
    return sample


def _is_counted_so(labels: NDArray[np.integer], sample: Sample, run: Finished, place: int) -> bool:
    """Whether the run has these counts at ``place``."""
    scored = sample.label != run.plan.record.ignore_index
    truth, said = sample.label[scored].astype(np.int64), labels[scored].astype(np.int64)
    classes, counts = len(run.plan.record.classes), run.result.counts
    pairs = ((truth[truth == said], counts.tp), (truth, counts.gt), (said, counts.pred))
    return all(np.array_equal(np.bincount(v, minlength=classes)[:classes], known[place]) for v, known in pairs)
