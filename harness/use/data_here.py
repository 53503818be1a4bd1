"""What is here of a data set: found, to be prepared, without labels, or missing."""

from pathlib import Path

from ...datasets import DataError, DatasetRecord, open_dataset
from ...datasets.dataset import FolderDataset
from ...datasets.places import data_roots, homes
from ...datasets.record import PREPARED


def prepared_name(record: DatasetRecord) -> str:
    """What to ask for to get the prepared labels: the key, or the key with another ground truth."""
    sources = [a.source for a in record.alternatives if a.labels and a.labels.startswith(PREPARED)]
    return f"{record.key}@{sources[0]}" if sources and sources[0] not in (None, record.source) else record.key


def raw_home(record: DatasetRecord, roots: list[Path]) -> Path | None:
    """The folder that holds what the recipe of the data set needs; none without a recipe."""
    if record.prepare is None:
        return None
    places = record.prepare.places or record.places
    candidates = homes(record.model_copy(update={"places": places}), roots)
    return next((home for home in candidates if (home / record.prepare.needs).exists()), None)


def situation(record: DatasetRecord, name: str, data_root: Path | None) -> tuple[str, Path | None, Path | None]:
    """Status of a data set or of its other ground truth ``name``, its own folder, and the folder of its labels."""
    try:
        dataset = open_dataset(name, data_root)
    except DataError:
        roots = data_roots(record.key, data_root)
        raw = raw_home(record, roots) if name == prepared_name(record) else None
        if raw is not None:
            return "to prepare", raw, None
        images = _home_of_images(record, name.partition("@")[2] or None, roots)
        return ("missing", None, None) if images is None else ("no labels", images, None)
    return ("found", dataset.home, dataset.labels) if isinstance(dataset, FolderDataset) else ("built in", None, None)


def _home_of_images(record: DatasetRecord, source: str | None, roots: list[Path]) -> Path | None:
    """The folder that holds images in a layout of the data set, listed or not."""
    forms = [f.model_copy(update={"list_file": None}) for f in record.forms(source)]
    named = [f for f in forms if f.images != "." and not f.images.startswith(PREPARED)]  # others would fit any folder
    candidates = (FolderDataset(form, home) for home in homes(record, roots) for form in named)
    return next((dataset.home for dataset in candidates if dataset.has_images()), None)
