"""What is here of each data set, as rows and footnotes."""

from pathlib import Path
from typing import Any

from ...datasets import DatasetRecord, dataset_keys, find_record
from ...datasets.places import ROOT_VARIABLE, config_path, data_roots, prepared_root
from ..use.data_here import situation


def name_a_root() -> str:
    """What to do where no data root is known."""
    return f"pass --data-root DIR, set {ROOT_VARIABLE}, or write data_roots into {config_path()}"


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
