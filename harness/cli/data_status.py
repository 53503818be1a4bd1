"""What is here of a data set: found, to be prepared, without labels, or missing."""

from pathlib import Path
from typing import Any

from ...datasets import DataError, DatasetRecord, dataset_keys, find_record, open_dataset
from ...datasets.dataset import FolderDataset
from ...datasets.places import ROOT_VARIABLE, config_path, data_roots, homes, prepared_root
from ...datasets.record import PREPARED


def name_a_root() -> str:
    """What to do where no data root is known."""
    return f"pass --data-root DIR, set {ROOT_VARIABLE}, or write data_roots into {config_path()}"


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


def all_rows(data_root: Path | None) -> list[dict[str, Any]]:
    """A row for every data set, and one for every other ground truth that is here or can be prepared."""
    return [row for key in dataset_keys() for row in _rows(key, data_root)]


def _rows(key: str, data_root: Path | None) -> list[dict[str, Any]]:
    record = find_record(key)
    others = {a.source for a in record.alternatives if a.source} - {record.source}
    rows = [_row(record, name, data_root) for name in (key, *sorted(f"{key}@{source}" for source in others))]
    return [row for row in rows if row["dataset"] == key or row["status"] in ("found", "to prepare")]


def _row(record: DatasetRecord, name: str, data_root: Path | None) -> dict[str, Any]:
    status, where, labels = situation(record, name, data_root)
    return {
        "dataset": name,
        "images": record.expected_images,
        "classes": len(record.classes),
        "status": status,
        "where": None if where is None else str(where),
        "labels": None if labels is None else str(labels),
        "shares_images_with": list(record.shares_images_with),
    }


def footnotes(rows: list[dict[str, Any]], data_root: Path | None) -> list[str]:
    """Where was looked, the command that helps for each status, and which data sets have images in common."""
    roots = ", ".join(map(str, data_roots("", data_root)))
    helps = {
        "to prepare": "`bench data prepare KEY` makes the labels",
        "no labels": "there are images; `bench data check KEY` says which labels are missing",
        "missing": "`bench data download KEY` says how to get it",
    }
    present = {row["status"] for row in rows}
    return [
        f"looked below {roots}" if roots else f"no data root is known: {name_a_root()}",
        f"what `bench data prepare` makes is in {prepared_root()}",
        *(f"{status}: {text}" for status, text in helps.items() if status in present),
        "images in common, so results are not independent:",
        *(f"  {', '.join(group)}" for group in _sharing(rows)),
    ]


def _sharing(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    groups = {tuple(sorted((r["dataset"], *r["shares_images_with"]))) for r in rows if "@" not in r["dataset"]}
    return sorted(group for group in groups if len(group) > 1)
