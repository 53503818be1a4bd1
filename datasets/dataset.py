"""Dataset: image ids, and a sample for each."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from . import shapes
from .errors import DataError, Problem
from .loader import Labels, Pixels, read_image, read_label
from .record import DatasetRecord


@dataclass(frozen=True)
class Sample:
    """``image`` (H, W, 3) uint8 RGB and ``label`` (H, W) uint8 or uint16, of the same height and width."""

    id: str
    image: Pixels
    label: Labels


class Dataset(ABC):
    """What the harness needs of a data set.

    ``ids`` are sorted, unique and stable: a run is planned over them.  ``note`` is printed beside every number.
    """

    record: DatasetRecord
    note: ClassVar[str] = ""

    @property
    @abstractmethod
    def ids(self) -> tuple[str, ...]:
        """Ids of all images of the split, sorted."""

    @property
    def planned(self) -> int:
        """How many images the split has: as catalogued where that is known, else as found."""
        return self.record.expected_images or len(self.ids)

    @abstractmethod
    def load(self, image_id: str) -> Sample:
        """One sample.  Raises ``DataError`` that names the file."""

    def files(self, image_id: str) -> tuple[Path, ...]:  # noqa: ARG002
        """Files that a sample is read from; none for procedural data."""
        return ()

    def listing_problems(self) -> list[Problem]:
        """What is wrong with the list of images itself."""
        return []

    def clusters(self, ids: tuple[str, ...]) -> NDArray[np.int64]:
        """Unit of the bootstrap for each id, ``(N,)`` with values 0 to K - 1 (see ``DatasetRecord.block_frames``)."""
        if not self.record.block_frames:
            return np.arange(len(ids))
        out, unit, seen, prefix = [], -1, self.record.block_frames, ""
        for image_id in ids:
            start, joint, _ = image_id.partition("_")
            if not joint:  # no prefix: a sequence is a folder
                start = image_id.rpartition("/")[0]
            if start != prefix or seen == self.record.block_frames:
                unit, seen, prefix = unit + 1, 0, start
            seen += 1
            out.append(unit)
        return np.array(out, np.int64)


class FolderDataset(Dataset):
    """Images and labels in folders, as its record says."""

    def __init__(self, record: DatasetRecord, root: Path) -> None:
        self.record, self.root = record, root
        self._images, self._labels = root / record.images, root / record.labels
        for folder in (self._images, self._labels):
            if not folder.is_dir():
                raise DataError(
                    f"data set {record.key!r}: folder {folder} does not exist.  Pass the folder that contains "
                    f"{record.images!r} and {record.labels!r} with --data-root"
                )
        if not self.ids:
            raise DataError(f"data set {record.key!r}: no *{record.image_suffix} in {self._images}")

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Stems of the list file, or of all images in the folder (with subfolders), sorted."""
        suffix = self.record.image_suffix
        if self.record.list_file:
            return tuple(sorted({s for _, s in self._listed()}))
        found = (p.relative_to(self._images).as_posix() for p in self._images.rglob(f"*{suffix}"))
        return tuple(sorted(name.removesuffix(suffix) for name in found))

    def _listed(self) -> list[tuple[int, str]]:
        """Line number and stem of every line that is not blank; foreign path prefixes are dropped."""
        path = self.root / str(self.record.list_file)
        if not path.is_file():
            raise DataError(f"data set {self.record.key!r}: list file {path} does not exist")
        lines = [(n, line.split()) for n, line in enumerate(path.read_text().splitlines(), 1)]
        names = [(n, words[0].rpartition("/")[2]) for n, words in lines if words]
        return [(n, name.removesuffix(self.record.image_suffix)) for n, name in names]

    def listing_problems(self) -> list[Problem]:
        """Double entries of the list file.  Blank lines are skipped and harmless."""
        if not self.record.list_file:
            return []
        first: dict[str, int] = {}
        problems = []
        for number, stem in self._listed():
            if first.setdefault(stem, number) != number:
                what = f"lines {first[stem]} and {number} both name {stem}"
                problems.append(Problem(self.root / self.record.list_file, what, "Remove one of them"))
        return problems

    def files(self, image_id: str) -> tuple[Path, ...]:
        """Image and label file of an id."""
        label = self._labels / f"{image_id}{self.record.label_suffix}"
        return self._images / f"{image_id}{self.record.image_suffix}", label

    def load(self, image_id: str) -> Sample:
        """See ``Dataset.load``."""
        image_path, label_path = self.files(image_id)
        problems: list[Problem] = []
        image = label = None
        try:
            image = read_image(image_path)
        except DataError as error:
            problems += error.problems
        try:
            label = read_label(label_path, self.record)
        except DataError as error:
            problems += error.problems
        if image is None or label is None:
            raise DataError(f"sample {image_id} cannot be read:", problems)
        if image.shape[:2] != label.shape:
            what = f"the label is {label.shape[1]}x{label.shape[0]}, its image {image.shape[1]}x{image.shape[0]}"
            fix = "They must be equal: check for swapped folders, resized copies and EXIF orientation"
            raise DataError("a label does not fit its image:", [Problem(label_path, what, fix)])
        return Sample(image_id, image, label)


class ShapesDataset(Dataset):
    """The procedural scenes of the tiny world; needs no files."""

    note = "synthetic scenes: ranks do not transfer"
    COUNTS: ClassVar[dict[str, int]] = {"train": 2000, "val": 100, "test": 300}

    def __init__(self, split: str = "test") -> None:
        self.split = split
        self.record = DatasetRecord(
            key="shapes",
            title="Shapes (procedural scenes)",
            images="",
            labels="",
            classes=shapes.CLASS_NAMES,
            split=split,
            expected_images=self.COUNTS[split],
            protocol="tiny",
            licence="Apache-2.0",
        )

    @property
    def ids(self) -> tuple[str, ...]:
        """``<split>_00000`` and so on."""
        return tuple(f"{self.split}_{i:05d}" for i in range(self.COUNTS[self.split]))

    def load(self, image_id: str) -> Sample:
        """Draw the scene."""
        scene = shapes.make_scene(self.split, int(image_id.rpartition("_")[2]))
        return Sample(image_id, scene.image, scene.label)
