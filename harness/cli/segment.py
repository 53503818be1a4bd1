"""``bench segment``: one photo, any words."""

from pathlib import Path
from typing import Any

from ..show.tables import print_json, print_line, print_table, print_warning
from ..use.photo import segment_request
from ..use.photo_request import PhotoRequest


def segment_command(request: PhotoRequest, output: Path, as_json: bool) -> None:
    """Write the overlay and say which class takes which share of the photo."""
    found = segment_request(request, print_warning)
    found.save(output)
    value = {
        "picture": str(output),
        "photo": {
            "name": request.photo.name,
            "sha256": request.file.sha256,
            "width_px": found.labels.shape[1],
            "height_px": found.labels.shape[0],
        },
        "shares": found.shares,
        "areas_px": found.areas_px,
        **found.provenance,
        "seconds": found.seconds,
        "note": found.note,
    }
    if as_json:
        print_json(value)
    else:
        _print_report(value)


def _print_report(value: dict[str, Any]) -> None:
    print_table("", ("class", "percent of pixels"), [(n, f"{100 * s:.1f}") for n, s in value["shares"].items()])
    print_line(
        f"{value['method']}, protocol {value['protocol']} {value['protocol_hash'][:8]}, {value['precision']}, "
        f"{value['device']}, code {value['code_version']}"
    )
    print_line(f"wrote {value['picture']}")
    if value["note"]:
        print_line(f"note: {value['note']}")
