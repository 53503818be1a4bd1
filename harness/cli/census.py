"""The census of a data set as a table: what the labels hold."""

from ...datasets import Census
from ...datasets.errors import printable
from ..show.tables import print_line, print_table

_ROWS = 20
"""Classes that are listed, the most frequent first."""


def print_census(census: Census) -> None:
    """Print it; nothing for procedural data, whose labels are not read."""
    if not census.labels:
        return
    present = sorted((c for c in census.classes if c.images), key=lambda c: -c.pixels)
    rows = [(printable(c.name), _share(c.pixel_share), f"{c.images} of {census.labels}") for c in present[:_ROWS]]
    print_table("", ("class", "pixels", "images"), rows)
    if len(present) > _ROWS:
        print_line(f"... and {len(present) - _ROWS} more classes; --json lists them all")
    if census.absent:
        more = len(census.absent) - _ROWS
        names = printable(", ".join(census.absent[:_ROWS])) + (f" and {more} more" if more > 0 else "")
        print_line(f"in no label: {len(census.absent)} of {len(census.classes)} classes ({names})")
    print_line(f"ignored: {_share(census.ignored_share)} of all pixels")
    counts = {
        "labels without a scored pixel": census.without_scored_pixel,
        "images with an EXIF orientation": census.oriented,
        "images left out for their suffix": census.other_suffixes,
        "labels without an image": census.spare_labels,
    }
    for what, found in counts.items():
        if found:
            print_line(f"{what}: {len(found)}")


def _share(share: float) -> str:
    """Per cent with two digits; what is there and rounds to nothing is "under 0.01 %"."""
    return "under 0.01 %" if 0 < share < 0.0001 else f"{share:.2%}".replace("%", " %")
