"""Advice: what in the census of a data set looks like a mistake, and how to mend it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from .census import Census
from .dataset import Dataset, FolderDataset
from .errors import Problem, shown
from .examine import LabelFacts
from .record import DatasetRecord

_NAMED = 5
"""Names that a line of advice lists."""


def census_problems(dataset: Dataset, census: Census) -> list[Problem]:
    """What makes scoring impossible: no label holds a scored pixel."""
    empty = len(census.without_scored_pixel)
    if not census.labels or empty < census.labels:
        return []
    record = dataset.record
    what = (
        f"{empty} of {census.labels} labels hold no scored pixel: every pixel has the value {record.ignore_index}, "
        "which is ignored" + (f", or lies below first_label = {record.first_label}" if record.first_label else "")
    )
    fix = "Check ignore_index, first_label and label_map of the data set, and that this is the right label folder"
    if record.first_label:
        fix = f"If these are masks of 0 and 255, set label_map = {{ 255 = {record.first_label} }}. {fix}"
    return [Problem(_label_folder(dataset), what, fix)]


def census_warnings(dataset: Dataset, census: Census, own: bool) -> list[Problem]:
    """What looks like a mistake, one finding each.

    A catalogued data set (not ``own``) is as its authors made it: classes that never occur, wholly ignored labels and
    files beside it are no surprise there.
    """
    if not dataset.ids or not dataset.files(dataset.ids[0]):
        return []  # procedural
    found = [_one_class(dataset, census), _orientation(dataset, census)]
    if own:
        found += [
            _absent(dataset, census),
            _partly_empty(dataset, census),
            _beside_images(dataset),
            _beside_labels(dataset),
        ]
    return [problem for problem in found if problem]


def single_class(record: DatasetRecord, labels: Iterable[LabelFacts | None]) -> str | None:
    """Name of the class if all labels together hold one only."""
    present = {v for label in labels if label for v in label.pixels} - {record.ignore_index}
    return record.classes[present.pop()] if len(present) == 1 else None


def one_class_problem(dataset: Dataset, name: str, where: str) -> Problem:
    """The note that a perfect score over one class says nothing."""
    if len(dataset.record.classes) == 1:
        what = f"the data set has a single class, {name!r}: every prediction is right, and mIoU is always 100"
        fix = (
            "Score what is not it as a class of its own: set background, and let no label_map or first_label ignore it"
        )
    else:
        what = f"{where} hold one class only, {name!r}: painting all of it scores 100, so an mIoU says little here"
        fix = "Check label_map, first_label and ignore_index, or score more images"
    return Problem(_label_folder(dataset), what, fix)


def _one_class(dataset: Dataset, census: Census) -> Problem | None:
    present = [c.name for c in census.classes if c.images]
    return one_class_problem(dataset, present[0], f"all {census.labels} labels") if len(present) == 1 else None


def _absent(dataset: Dataset, census: Census) -> Problem | None:
    """Classes that never occur, with the likeliest reason; a part of the labels cannot tell."""
    if not census.absent or len(census.absent) == len(census.classes) or census.labels < census.listed:
        return None
    what = f"no label holds {_named(census.absent)} ({len(census.absent)} of {len(census.classes)} classes)"
    if census.ignored:
        what += f"; {census.ignored_share:.1%} of the pixels are ignored (value {dataset.record.ignore_index})"
    return Problem(_label_folder(dataset), what, _reason(dataset.record, census))


def _reason(record: DatasetRecord, census: Census) -> str:
    plain = not record.label_map and not record.first_label and record.label_encoding == "index"
    absent = {c.index for c in census.classes if not c.images}
    if plain and absent == {1} and len(record.classes) == 2 and census.ignored and record.ignore_index == 255:
        return f"If these are masks of 0 and 255 (255 for {record.classes[1]!r}), set label_map = {{ 255 = 1 }}"
    if plain and 0 in absent and 2 * len(absent) <= len(record.classes):
        return f"If values count from 1 (1 for {record.classes[0]!r}), set first_label = 1"
    return (
        "Classes that never occur do not enter mIoU unless they are predicted; check label_map and the order of classes"
    )


def _partly_empty(dataset: Dataset, census: Census) -> Problem | None:
    empty = census.without_scored_pixel
    if not empty or len(empty) == census.labels:
        return None
    what = f"{len(empty)} of {census.labels} labels hold no scored pixel: {_named(empty)}"
    return Problem(_label_folder(dataset), what, "They add nothing to any number; check that they were labelled")


def _orientation(dataset: Dataset, census: Census) -> Problem | None:
    if not census.oriented:
        return None
    images = _several(len(census.oriented), "image")
    what = f"{images} with an EXIF orientation other than 1: {_named(list(census.oriented))}"
    fix = (
        "The orientation is applied to the photo, labels are taken as they are stored: check on a picture (bench run "
        "--picture) that they lie upon each other"
    )
    return Problem(dataset.files(dataset.ids[0])[0].parent, what, fix)


def _beside_images(dataset: Dataset) -> Problem | None:
    left_out = dataset.beside.images
    if not left_out or not isinstance(dataset, FolderDataset):
        return None
    suffix, total = dataset.record.image_suffix, len(dataset.ids) + len(left_out)
    names = _named([shown(p.relative_to(dataset.images)) for p in left_out])
    what = (
        f"{len(left_out)} of {total} images with a label are not scored, because their suffix is not {suffix}: {names}"
    )
    return Problem(dataset.images, what, f"Rename them to *{suffix}; until then this data set is scored in part")


def _beside_labels(dataset: Dataset) -> Problem | None:
    spare = dataset.beside.labels
    if not spare or not isinstance(dataset, FolderDataset):
        return None
    names = _named([shown(p.relative_to(dataset.labels)) for p in spare])
    what = f"{_several(len(spare), 'label')} without an image: {names}"
    return Problem(
        dataset.labels, what, "Add the missing images, or remove the labels, so that it is sure what is scored"
    )


def _label_folder(dataset: Dataset) -> Path:
    return dataset.labels if isinstance(dataset, FolderDataset) else dataset.files(dataset.ids[0])[1].parent


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _named(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
