"""The catalogue: from a name to a data set."""

import difflib
import os
from pathlib import Path

from .dataset import Dataset, FolderDataset, ShapesDataset
from .errors import DataError
from .record import DatasetRecord, read_record

_RECORDS = Path(__file__).parent / "records"
DATA_ROOT_VARIABLE = "OVSS_DATA"


def list_datasets() -> dict[str, DatasetRecord]:
    """Every catalogued data set, by key."""
    records = {p.stem: read_record(p) for p in sorted(_RECORDS.glob("*.toml"))}
    return {"shapes": ShapesDataset().record, **records}


def open_dataset(name: str, data_root: Path | None = None) -> Dataset:
    """Open a data set by key (``shapes``, ``shapes:val``, ``camvid``) or by the path of a user's TOML file.

    ``data_root`` is the folder that the record's paths start from (default: ``$OVSS_DATA/<key>``, then ``$OVSS_DATA``);
    for a TOML file its own folder is the default.

    Raises ``DataError`` when the name is unknown or files are absent.
    """
    if name.endswith(".toml"):
        path = Path(name)
        return FolderDataset(read_record(path), data_root or path.parent)
    key, _, split = name.partition(":")
    if key == "shapes":
        if split and split not in ShapesDataset.COUNTS:
            raise DataError(f"data set 'shapes' has the splits {', '.join(ShapesDataset.COUNTS)}, not {split!r}")
        return ShapesDataset(split or "test")
    records = list_datasets()
    if name not in records:
        close = difflib.get_close_matches(name, records, n=1)
        meant = f"; did you mean {close[0]}?" if close else "."
        raise DataError(
            f"unknown data set {name!r}{meant} Known: {', '.join(records)}, or the path of a .toml file that "
            "describes your own"
        )
    return FolderDataset(records[name], data_root or _root_from_environment(name))


def _root_from_environment(key: str) -> Path:
    value = os.environ.get(DATA_ROOT_VARIABLE)
    if not value:
        raise DataError(f"data set {key!r} needs its folder: pass --data-root DIR, or set {DATA_ROOT_VARIABLE}")
    root = Path(value)
    return root / key if (root / key).is_dir() else root
