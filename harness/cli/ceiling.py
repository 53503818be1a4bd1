"""``bench ceiling``: what a perfect classifier of patches would reach."""

from pathlib import Path

from ..metrics.bootstrap import why_no_interval
from ..report.ceiling import grid_ceiling
from ..runs.sources import open_any
from ..show.progress import progress
from ..show.tables import images_and_units, print_json, print_line, print_table, with_interval


def ceiling_command(
    dataset: str, patch_px: int, short_side_px: int, data_root: Path | None, limit: int | None, as_json: bool
) -> None:
    """Grid ceiling of a data set."""
    data = open_any(dataset, data_root)
    with progress("grid ceiling", len(data.ids[:limit])) as advance:
        result = grid_ceiling(data, patch_px, short_side_px, limit, advance=advance)
    if as_json:
        print_json(
            {"dataset": data.record.key, "patch_px": patch_px, "short_side_px": short_side_px, **result.summary()}
        )
        return
    images = images_and_units(f"{len(result.ids)} of {result.planned}", result.units)
    bounds = None if result.interval is None else (result.interval.low, result.interval.high)
    row = (data.record.key, short_side_px or "as is", patch_px, with_interval(result.miou, bounds), images)
    print_table("", ("data set", "short side", "patch", "ceiling mIoU [95 %]", "images"), [row])
    if reason := why_no_interval(result.units):
        print_line(reason)
