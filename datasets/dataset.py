"""Dataset: image ids, and a sample for each."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from . import shapes
from .dependence import clusters_of
from .errors import DataError, Problem
from .loader import Labels, Pixels, label_digest, read_image_file, read_label
from .record import PREPARED, DatasetRecord


@dataclass(frozen=True)
class Sample:
    """``image`` (H, W, 3) uint8 RGB and ``label`` (H, W) uint8 or uint16, of the same height and width.

    ``image_sha256`` is that of the image file's bytes, ``label_sha256`` that of shape and class indices as scored
    (``loader.label_digest``), so two forms of the same labels agree.  Procedural data has neither: key, split and code
    decide it.
    """

    id: str
    image: Pixels
    label: Labels
    image_sha256: str = ""
    label_sha256: str = ""

    @property
    def digest(self) -> str:
        """What was read, in short; "" for procedural data."""
        return digest_of(self.image_sha256, self.label_sha256)


def digest_of(image_sha256: str, label_sha256: str) -> str:
    """Digest of a sample: the halves of both sums, or "" where there is neither."""
    return f"{image_sha256[:32]}:{label_sha256[:32]}" if image_sha256 or label_sha256 else ""


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
    def load(self, image_id: str, seen: Sample | None = None) -> Sample:
        """One sample.  ``seen`` is that of the same image file in another data set, if the caller has it already.

        Raises ``DataError`` that names the file.
        """

    def files(self, image_id: str) -> tuple[Path, ...]:  # noqa: ARG002
        """Files that a sample is read from; none for procedural data."""
        return ()

    def listing_problems(self) -> list[Problem]:
        """What is wrong with the list of images itself."""
        return []

    def clusters(self, ids: tuple[str, ...]) -> NDArray[np.int64]:
        """Unit of the bootstrap for each id: ``clusters_of``."""
        return clusters_of(self.record, ids)


class FolderDataset(Dataset):
    """Images and labels in folders, as its record says.

    ``home`` is the data set's own folder, ``prepared`` the one that `bench data prepare` writes.
    """

    def __init__(self, record: DatasetRecord, home: Path, prepared: Path | None = None) -> None:
        self.record, self.home, self.prepared = record, home, prepared or home / "prepared"
        self.images, self.labels = self._place(record.images), self._place(record.labels)

    def _place(self, path: str) -> Path:
        return self.prepared / path.removeprefix(PREPARED) if path.startswith(PREPARED) else self.home / path

    def require_folders(self) -> None:
        """Raise ``DataError`` if a folder is absent or there is no image."""
        for folder in (self.images, self.labels):
            if not folder.is_dir():
                raise DataError(
                    f"data set {self.record.key!r}: folder {folder} does not exist.  Pass the folder that contains "
                    f"{self.record.images!r} and {self.record.labels!r} with --data-root"
                )
        if not self.ids:
            raise DataError(f"data set {self.record.key!r}: no *{self.record.image_suffix} in {self.images}")

    def has_images(self) -> bool:
        """Whether the folder holds any image of this suffix, and the list file is there if the record names one."""
        return self.images.is_dir() and self._listing_is_there() and self._some_id() is not None

    def has_labels(self) -> bool:
        """Whether there is a label for one of the images, taken as a sign that the labels are in this form."""
        return self.missing_label().is_file()

    def missing_label(self) -> Path:
        """Label file of the image that ``has_labels`` looked at."""
        return self.files(str(self._some_id()))[1]

    def _listing_is_there(self) -> bool:
        return self.record.list_file is None or self._place(self.record.list_file).exists()

    def _some_id(self) -> str | None:
        if self.record.list_file:
            return next((stem for _, stem in self._listed()), None)
        found = next(_visible_files(self.images, self.record.image_suffix), None)
        return None if found is None else self._id_of(found)

    def _id_of(self, image: Path) -> str:
        return image.relative_to(self.images).as_posix().removesuffix(self.record.image_suffix)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Stems of the list file, or of all images in the folder (with subfolders), sorted."""
        if self.record.list_file:
            return tuple(sorted({s for _, s in self._listed()}))
        return tuple(sorted(map(self._id_of, _visible_files(self.images, self.record.image_suffix))))

    def _listed(self) -> list[tuple[int, str]]:
        """Line number and stem of every line that is not blank; foreign path prefixes are dropped."""
        path = self._place(str(self.record.list_file))
        if path.is_dir():  # a folder of labels lists the images that have one
            found = sorted(p.name for p in path.glob(f"[!.]*{self.record.label_suffix}"))
            return [(n, name.removesuffix(self.record.label_suffix)) for n, name in enumerate(found, 1)]
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
                problems.append(Problem(self._place(self.record.list_file), what, "Remove one of them"))
        return problems

    def files(self, image_id: str) -> tuple[Path, ...]:
        """Image and label file of an id."""
        label = self.labels / f"{image_id}{self.record.label_suffix}"
        return self.images / f"{image_id}{self.record.image_suffix}", label

    def load(self, image_id: str, seen: Sample | None = None) -> Sample:
        """See ``Dataset.load``."""
        image_path, label_path = self.files(image_id)
        problems: list[Problem] = []
        image, sha256 = (seen.image, seen.image_sha256) if seen else (None, "")
        label: Labels | None = None
        try:
            if image is None:
                file = read_image_file(image_path)
                image, sha256 = file.pixels, file.sha256
        except DataError as error:
            problems += error.problems
        try:
            label = read_label(label_path, self.record)
        except DataError as error:
            problems += error.problems
        if image is None or label is None:
            raise DataError(f"sample {image_id} cannot be read:", problems)
        misfit = size_problem(label_path, label.shape, image.shape)
        if misfit:
            raise DataError("a label does not fit its image:", [misfit])
        return Sample(image_id, image, label, sha256, label_digest(label))


def size_problem(label_path: Path, label: tuple[int, ...], image: tuple[int, ...]) -> Problem | None:
    """Finding if a label and its image differ in (height, width)."""
    if label[:2] == image[:2]:
        return None
    what = f"the label is {label[1]}x{label[0]}, its image {image[1]}x{image[0]}"
    fix = "They must be equal: check for swapped folders, resized copies and EXIF orientation"
    return Problem(label_path, what, fix)


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

    def load(self, image_id: str, seen: Sample | None = None) -> Sample:  # noqa: ARG002
        """Draw the scene."""
        scene = shapes.make_scene(self.split, int(image_id.rpartition("_")[2]))
        return Sample(image_id, scene.image, scene.label)


def _visible_files(folder: Path, suffix: str) -> Iterator[Path]:
    """Files in a folder and below it whose names end with ``suffix``.

    Linked folders are followed, each once.  Hidden files and folders are left out: archives packed on macOS contain
    ``._NAME.jpg`` for every ``NAME.jpg``, and notebooks leave copies in ``.ipynb_checkpoints``.
    """
    walked: set[Path] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = Path(place).resolve()
        folders[:] = [] if real in walked else sorted(n for n in folders if not n.startswith("."))
        if real not in walked:
            yield from (Path(place, n) for n in names if n.endswith(suffix) and not n.startswith("."))
        walked.add(real)
