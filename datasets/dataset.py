"""Dataset: image ids, and a sample for each."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import shapes
from .beside import PICTURES, Beside, find_beside, is_plain, visible_files
from .dependence import clusters_of
from .errors import DataError, Problem, shown
from .lists import candidates, listed_lines
from .loader import FileKey, ImageFile, LabelFile, Labels, Pixels, read_image_file, read_label_file
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


T = TypeVar("T")


class Once(Protocol):
    """Gives the value of a key, and makes it for the first who asks (``ovss.methods.core.picture.Memo.once``)."""

    def __call__(self, key: Hashable, read: Callable[[], T], /) -> T:
        """The value."""


def every_time(key: Hashable, read: Callable[[], T]) -> T:  # noqa: ARG001
    """A ``Once`` that keeps nothing."""
    return read()


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
    def load(self, image_id: str, once: Once = every_time) -> Sample:
        """One sample.  What others may have read already is asked of ``once(key, read)``.

        Several threads call it at a time.
        Raises ``DataError`` that names the file.
        """

    def files(self, image_id: str) -> tuple[Path, ...]:  # noqa: ARG002
        """Files that a sample is read from; none for procedural data."""
        return ()

    def listing_problems(self) -> list[Problem]:
        """What is wrong with the list of images itself."""
        return []

    @property
    def beside(self) -> Beside:
        """Files that look like samples of the data set and are none."""
        return Beside()

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
            raise DataError(
                f"data set {self.record.key!r}: no *{self.record.image_suffix} in {self.images}{self._instead()}"
            )

    def _instead(self) -> str:
        """What is in the folder in place of images with the record's suffix."""
        suffixes = Counter(p.suffix for p in self._found if p.suffix.lower() in PICTURES)
        if not suffixes or self.record.list_file:
            return ""
        (suffix, count), *_ = suffixes.most_common(1)
        found = f"{count} file{'' if count == 1 else 's'} *{shown(suffix)}"
        return f'.  There: {found}.  Set image_suffix = "{shown(suffix)}" if these are the images'

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
        return next((self._id_of(p) for p in visible_files(self.images) if self._is_image(p)), None)

    def _is_image(self, path: Path) -> bool:
        return path.name.endswith(self.record.image_suffix) and is_plain(path)

    def _id_of(self, image: Path) -> str:
        return image.relative_to(self.images).as_posix().removesuffix(self.record.image_suffix)

    @cached_property
    def _found(self) -> tuple[Path, ...]:
        """Every file in the folder of images and below it, sorted."""
        return tuple(sorted(visible_files(self.images)))

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Ids of the list file, or of all images in the folder (with subfolders), sorted."""
        if self.record.list_file:
            return tuple(sorted({s for _, s in self._listed()}))
        return tuple(sorted(self._id_of(p) for p in self._found if self._is_image(p)))

    @property
    def planned(self) -> int:
        """As catalogued, else as found: images with a label but another suffix count, too."""
        return self.record.expected_images or len(self.ids) + len(self.beside.images)

    @cached_property
    def beside(self) -> Beside:
        """Files that look like samples and are none.  Where a list says what is scored, there are none."""
        if self.record.list_file or not self.record.images:
            return Beside()
        return find_beside(self.record, self.images, self.labels, self._found, self.ids)

    def _listed(self) -> Iterator[tuple[int, str]]:
        """Line number and id of every line that is neither blank nor a comment."""
        path = self._place(str(self.record.list_file))
        if path.is_dir():  # a folder of labels lists the images that have one
            found = sorted(p.name for p in path.glob(f"[!.]*{self.record.label_suffix}"))
            yield from ((n, name.removesuffix(self.record.label_suffix)) for n, name in enumerate(found, 1))
            return
        for number, entry in listed_lines(path, f"data set {self.record.key!r}: list file {path}"):
            ids = candidates(entry, self.record.image_suffix) or [entry]
            yield number, next((i for i in ids if self.files(i)[0].is_file()), ids[-1])

    def listing_problems(self) -> list[Problem]:
        """Double entries of the list file, names that cannot be written down, a pattern that takes too long.

        Blank lines are skipped and harmless.
        """
        problems = self._odd_names()
        first: dict[str, int] = {}
        for number, stem in self._listed() if self.record.list_file else ():
            if first.setdefault(stem, number) != number:
                what = f"lines {first[stem]} and {number} both name {stem}"
                problems.append(Problem(self._place(str(self.record.list_file)), what, "Remove one of them"))
        try:
            self.clusters(self.ids)
        except DataError as error:
            problems.append(Problem(self.home, str(error), "See docs/datasets.md, dependence"))
        return problems

    def _odd_names(self) -> list[Problem]:
        """Images whose name is no UTF-8 or holds control characters: they cannot stand in a table."""
        found = () if self.record.list_file else self._found
        odd = [p for p in found if p.name.endswith(self.record.image_suffix) and not is_plain(p)]
        what = "the name of the file holds bytes that are no UTF-8, or control characters, so the image is left out"
        return [Problem(p, what, "Rename it (and its label): `convmv` converts names of other encodings") for p in odd]

    def files(self, image_id: str) -> tuple[Path, ...]:
        """Image and label file of an id."""
        label = self.labels / f"{image_id}{self.record.label_suffix}"
        return self.images / f"{image_id}{self.record.image_suffix}", label

    def load(self, image_id: str, once: Once = every_time) -> Sample:
        """See ``Dataset.load``."""
        image_path, label_path = self.files(image_id)
        problems: list[Problem] = []
        image: ImageFile | None = None
        label: LabelFile | None = None
        try:
            image = once(FileKey("image", image_path), lambda: read_image_file(image_path))
        except DataError as error:
            problems += error.problems
        try:
            label = once(FileKey("label", label_path, id(self)), lambda: read_label_file(label_path, self.record))
        except DataError as error:
            problems += error.problems
        if image is None or image.pixels is None or label is None:
            raise DataError(f"sample {image_id} cannot be read:", problems)
        misfit = size_problem(label_path, label.values.shape, image.pixels.shape)
        if misfit:
            raise DataError("a label does not fit its image:", [misfit])
        return Sample(image_id, image.pixels, label.values, image.sha256, label.sha256)


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

    def load(self, image_id: str, once: Once = every_time) -> Sample:
        """Draw the scene."""
        number = int(image_id.rpartition("_")[2])
        scene = once(("scene", self.split, number), lambda: shapes.make_scene(self.split, number))
        return Sample(image_id, scene.image, scene.label)
