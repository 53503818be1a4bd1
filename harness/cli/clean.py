"""``bench clean``: what the results folder can do without; a result is never removed unasked."""

import sys
from collections.abc import Sequence
from pathlib import Path

from ...methods import UserError
from ..show.escaping import plain_text
from ..show.tables import bytes_text, print_json, print_line, print_table, print_warning
from ..use.clean import Litter, find_litter, remove


def clean_command(results: Path, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Remove what is not needed; ask before anything that holds a result, and leave it where nobody can be asked."""
    found = find_litter(results)
    if not as_json:
        _print_found(found, results)
    removed = [] if dry_run else _removed(found, yes, as_json)
    if as_json:
        print_json([_value(litter, litter in removed) for litter in found])
    elif found:
        _print_end(found, removed, dry_run)


def _print_found(found: Sequence[Litter], results: Path) -> None:
    if not found:
        print_line(f"nothing to clean in {results}")
        return
    rows = [(one.kind, one.path, bytes_text(one.size_bytes), one.images or "", one.why) for one in found]
    print_table("", ("what", "where", "size", "images", "why"), rows)


def _removed(found: Sequence[Litter], yes: bool, silent: bool) -> list[Litter]:
    removed = []
    for litter in found:
        if litter.holds_results and not yes and (silent or not _agreed(litter)):
            continue
        try:
            remove(litter)
            removed.append(litter)
        except UserError as error:
            print_warning(str(error))
    return removed


def _agreed(litter: Litter) -> bool:
    """The answer of whoever sits there; no for nobody."""
    if not sys.stdin.isatty():
        return False
    sys.stderr.write(f"remove {plain_text(str(litter.path))} with the results of {litter.images} images? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _print_end(found: Sequence[Litter], removed: Sequence[Litter], dry_run: bool) -> None:
    size = bytes_text(sum(one.size_bytes for one in found if dry_run or one in removed))
    print_line(f"{len(found)} to remove, {size}" if dry_run else f"removed {len(removed)} of {len(found)}, {size}")
    kept = [one for one in found if one.holds_results and one not in removed]
    if kept:
        print_line(f"{len(kept)} hold results: they are removed where you answer y, or with --yes")


def _value(litter: Litter, removed: bool) -> dict[str, object]:
    return {
        "kind": litter.kind,
        "path": str(litter.path),
        "size_bytes": litter.size_bytes,
        "images": litter.images,
        "why": litter.why,
        "removed": removed,
    }
