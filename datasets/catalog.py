"""The catalogue: from a name to a data set."""

import difflib
from functools import cache
from pathlib import Path

from .dataset import Dataset, FolderDataset, ShapesDataset
from .errors import DataError
from .places import locate
from .read_record import read_record
from .record import DatasetRecord

_RECORDS = Path(__file__).parent / "records"


def dataset_keys() -> list[str]:
    """Keys of the catalogue, without reading the records."""
    return ["shapes", *sorted(p.stem for p in _RECORDS.glob("*.toml"))]


def list_datasets() -> dict[str, DatasetRecord]:
    """Every catalogued data set, by key."""
    return {key: find_record(key) for key in dataset_keys()}


@cache
def find_record(key: str) -> DatasetRecord:
    """The record of a catalogued data set.  Raises ``DataError`` with a suggestion when there is none."""
    if key == "shapes":
        return ShapesDataset().record
    if key not in dataset_keys():
        close = difflib.get_close_matches(key, dataset_keys(), n=1)
        meant = f"; did you mean {close[0]}?" if close else "."
        raise DataError(
            f"unknown data set {key!r}{meant} Known: {', '.join(dataset_keys())}, or the path of a .toml file that "
            "describes your own"
        )
    return read_record(_RECORDS / f"{key}.toml")


def label_of(key: str, split: str) -> str:
    """Key of a data set for names of files, with the split if it is not the one that the key alone stands for.

    >>> label_of("shapes", "test"), label_of("shapes", "val")
    ('shapes', 'shapes-val')
    """
    usual = find_record(key).split if key in dataset_keys() else split
    return key if split == usual else f"{key}-{split}"


def open_dataset(name: str, data_root: Path | None = None) -> Dataset:
    """Open a data set by name, looking for its files as ``places`` says.

    Names: a key (``camvid``), a key with another ground truth (``coco_object@instances``), a split of the procedural
    scenes (``shapes:val``), or the path of a user's TOML file, whose own folder is the default data root.

    Raises ``DataError`` when the name is unknown or files are absent.
    """
    if name.endswith(".toml"):
        path = Path(name)
        record = read_record(path)
        if record.key.partition("@")[0] in dataset_keys():
            raise DataError(
                f"data set file {path} has the key {record.key!r}, which is that of a catalogued data set: results of "
                f'both would stand in one column.  Choose another, for example key = "my_{record.key}"'
            )
        dataset = FolderDataset(record, data_root or path.parent)
        dataset.require_folders()
        return dataset
    key, _, split = name.partition(":")
    if key == "shapes":
        if split and split not in ShapesDataset.COUNTS:
            raise DataError(f"data set 'shapes' has the splits {', '.join(ShapesDataset.COUNTS)}, not {split!r}")
        return ShapesDataset(split or "test")
    key, _, source = name.partition("@")
    return locate(find_record(key), data_root, source or None)
