"""Census: what the labels of a data set hold.

Everything is counted on labels as scored, after ``label_map`` and ``first_label``.
"""

from collections import Counter
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from .dataset import Dataset
from .errors import shown
from .examine import ImageFacts, LabelFacts


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClassCount(_Part):
    """Pixels of a class and labels that hold it; the shares are of scored pixels and of labels read."""

    index: int
    name: str
    pixels: int
    images: int
    pixel_share: float
    image_share: float


class Census(_Part):
    """What ``labels`` labels hold, of ``listed`` images; ``ignored_share`` is the part of all ``pixels``.

    ``absent``: names of classes that no label holds.  ``without_scored_pixel``: ids of labels that are wholly ignored.
    ``oriented``: id -> EXIF orientation, where it is not 1.  ``other_suffixes``: pictures beside the images that have a
    label and are not scored.  ``spare_labels``: labels without an image.
    """

    listed: int
    labels: int
    pixels: int
    ignored: int
    ignored_share: float
    classes: tuple[ClassCount, ...]
    absent: tuple[str, ...]
    without_scored_pixel: tuple[str, ...]
    oriented: dict[str, int]
    other_suffixes: tuple[str, ...]
    spare_labels: tuple[str, ...]


def take_census(
    dataset: Dataset, images: Mapping[str, ImageFacts | None], labels: Mapping[str, LabelFacts | None]
) -> Census:
    """The census of what was read."""
    read = {i: label for i, label in labels.items() if label is not None}
    pixels, holding = Counter[int](), Counter[int]()
    for label in read.values():
        pixels.update(label.pixels)
        holding.update(label.pixels.keys())
    total, ignored = pixels.total(), pixels.pop(dataset.record.ignore_index, 0)
    names = dataset.record.classes
    return Census(
        listed=len(dataset.ids),
        labels=len(read),
        pixels=total,
        ignored=ignored,
        ignored_share=ignored / max(1, total),
        classes=tuple(
            ClassCount(
                index=k,
                name=name,
                pixels=pixels[k],
                images=holding[k],
                pixel_share=pixels[k] / max(1, total - ignored),
                image_share=holding[k] / max(1, len(read)),
            )
            for k, name in enumerate(names)
        ),
        absent=tuple(name for k, name in enumerate(names) if read and not holding[k]),
        without_scored_pixel=tuple(i for i, v in read.items() if set(v.pixels) <= {dataset.record.ignore_index}),
        oriented={i: f.orientation for i, f in images.items() if f is not None and f.orientation != 1},
        other_suffixes=tuple(shown(p) for p in dataset.beside.images),
        spare_labels=tuple(shown(p) for p in dataset.beside.labels),
    )
