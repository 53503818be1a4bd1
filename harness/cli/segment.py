"""``bench segment``: photos of your own, any words."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ..report.sheets import save_png
from ..runs.label_files import write_label_map
from ..runs.storing import store
from ..show.colours import class_colours
from ..show.progress import bars
from ..show.tables import print_json, print_line, print_table, print_warning
from ..use.photo import SegmentedPhoto, photos_sheet, segment_requests
from .segment_request import Sheet


def segment_command(sheets: Sequence[Sheet], save_labels: bool, as_json: bool) -> None:
    """Write a picture for every photo and say which class takes which share of it."""
    requests = [request for sheet in sheets for request in sheet.requests]
    values = []
    with bars() as progress, closing(segment_requests(requests, print_warning, progress)) as found:
        for sheet in sheets:
            values += _written(sheet, [next(found) for _ in sheet.requests], save_labels)
    if as_json:
        print_json(values[0] if len(values) == 1 else values)
        return
    for sheet in sheets:
        _print_report([value for value in values if value["picture"] == str(sheet.picture)], len(sheets) > 1)
    methods = ", ".join(value["method"] for value in _different(values, "method"))
    value = values[0]
    print_line(
        f"{methods}, protocol {value['protocol']} {value['protocol_hash'][:8]}, {value['precision']}, "
        f"{value['device']}, code {value['code_version']}"
    )
    for value in _different(values, "picture"):
        print_line(f"wrote {value['picture']}")
    if save_labels:
        print_line("beside it, for each method: *_labels.png and *.json")
    for value in _different(values, "note"):
        if value["note"]:
            print_line(f"note: {value['note']}")


def _different(values: Sequence[dict[str, Any]], key: str) -> Iterator[dict[str, Any]]:
    """The first value with each ``key``."""
    known: dict[str, dict[str, Any]] = {}
    for value in values:
        known.setdefault(value[key], value)
    yield from known.values()


def _written(sheet: Sheet, found: Sequence[SegmentedPhoto], save_labels: bool) -> list[dict[str, Any]]:
    save_png(photos_sheet(found), sheet.picture)
    values = []
    for one in found:
        value = _report(one, sheet.picture)
        if save_labels:
            maps = sheet.beside(one.request, "_labels.png")
            write_label_map(maps, one.labels, class_colours(len(one.classes)))
            value["labels"] = str(maps)
            written = json.dumps(value, indent=2, ensure_ascii=False)
            store(sheet.beside(one.request, ".json"), (written + "\n").encode())
        values.append(value)
    return values


def _report(one: SegmentedPhoto, picture: Path) -> dict[str, Any]:
    height, width = one.labels.shape
    photo = {"name": one.request.photo.name, "sha256": one.request.file.sha256, "width_px": width, "height_px": height}
    return {
        "picture": str(picture),
        "photo": photo,
        "shares": one.shares,
        "areas_px": one.areas_px,
        **one.provenance,
        "seconds": one.seconds,
        "note": one.note,
    }


def _print_report(values: Sequence[dict[str, Any]], several: bool) -> None:
    """Shares of one photo, a column for each method."""
    methods = [value["method"] for value in values]
    columns = ("class", *(methods if len(methods) > 1 else ["percent of pixels"]))
    rows = [(name, *(f"{100 * value['shares'][name]:.1f}" for value in values)) for name in values[0]["shares"]]
    title = values[0]["photo"]["name"] if several else "percent of pixels" if len(methods) > 1 else ""
    print_table(title, columns, rows)
