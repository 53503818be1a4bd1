"""``bench compare``: the paired difference of two runs."""

from dataclasses import asdict
from pathlib import Path

from ..metrics.bootstrap import why_no_interval
from ..show.tables import print_json, print_line, print_table
from ..use.compare import compare


def compare_command(first: str, second: str, results: Path, as_json: bool) -> None:
    """Paired difference of two runs."""
    found = compare(first, second, results)
    value = asdict(found) | {"interval": found.interval and list(found.interval)}
    if as_json:
        print_json(value)
        return
    print_table("", ("field", "value"), [(k, v) for k, v in value.items() if k != "note"])
    if reason := why_no_interval(found.units):
        print_line(f"{reason}; so there is no p value either, and nothing is said about which is better")
    if not found.same_protocol:
        print_line("warning: the protocols differ, so this is not a difference of methods alone")
    if found.note:
        print_line(f"note: {found.note}")
