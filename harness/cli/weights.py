"""``bench weights list``, ``fetch`` and ``check``: the only verbs that get checkpoints from elsewhere."""

from typing import Any

from ...methods.models.weights import WeightEntry, coming_methods, find_entry, list_weights, locate
from ..show.progress import bars
from ..show.tables import print_json, print_line, print_table
from ..use.fetch import CheckedFile, check_weights, fetch_weights


def list_command(as_json: bool) -> None:
    """Every checkpoint that a method needs, and whether it is here."""
    rows = [_row(entry) for entry in list_weights().values()]
    if as_json:
        print_json(rows)
        return
    columns = ("weights", "used by", "MB", "licence", "state", "where")
    print_table("", columns, [[_cell(row, c) for c in columns] for row in rows])
    missing = sum(row["state"] != "present" for row in rows)
    print_line(f"{len(rows) - missing} of {len(rows)} are here; `bench weights fetch NAME` gets one")
    print_line(f"methods yet to come: {', '.join(coming_methods())}")


def _row(entry: WeightEntry) -> dict[str, Any]:
    found = locate(entry)
    state = "missing" if found is None else "incomplete" if found.missing else "present"
    return {
        "weights": entry.name,
        **entry.model_dump(exclude={"name", "used_by", "files"}),
        "used by": list(entry.used_by),
        "files": [f.model_dump() for f in entry.files],
        "size_bytes": entry.size_bytes,
        "state": state,
        "place": found.place if found else None,
        "where": str(found.path) if found else None,
    }


def _cell(row: dict[str, Any], column: str) -> str:
    if column == "MB":
        return "unknown" if row["size_bytes"] is None else f"{row['size_bytes'] / 1e6:.3g}"
    if column == "used by":
        return ", ".join(row[column])
    return row[column] or {True: "by hand", False: row["hub"] or "public address"}[bool(row["steps"])]


def check_command(names: list[str], as_json: bool) -> None:
    """Compare every file that is here with what is known about it; exit code 1 if one is another file."""
    with bars() as progress:
        found = check_weights(names, progress)
    problems = sum(bool(one.wrong) for one in found)
    if as_json:
        print_json({"problems": problems, "files": [_value(one) for one in found]})
    else:
        for one in found:
            print_line(f"wrong: {one.problem}" if one.wrong else f"{one.weights}: {_evidence(one)}")
        print_line(f"{len(found)} checked, {problems} wrong" if found else "no catalogued weights are here")
    if problems:
        raise SystemExit(1)


def _value(one: CheckedFile) -> dict[str, Any]:
    """A file as JSON; of one that is missing there is no evidence."""
    value = {**vars(one), "path": str(one.path) if one.path else None}
    return {k: v for k, v in value.items() if one.path or k not in ("sha256", "checked", "unknown")}


def _evidence(one: CheckedFile) -> str:
    fits = f"fits: {', '.join(one.checked)}" if one.checked else "nothing is known to compare it with"
    unknown = f"; unknown: {', '.join(one.unknown)}" if one.unknown and one.checked else ""
    return f"{one.path}\n  sha256 {one.sha256}, {fits}{unknown}"


def fetch_command(name: str, source: str | None, as_json: bool) -> None:
    """Get a checkpoint.  What needs a person is told as steps, with exit code 1."""
    entry = find_entry(name)
    if not as_json:
        print_line(f"{entry.title}\nlicence: {entry.licence}")
    with bars() as progress:
        found = fetch_weights(name, source, progress)
    if as_json:
        where = str(found.where) if found.where else None
        files = [_value(one) for one in found.files]
        value = {"weights": entry.name, "licence": entry.licence, "fetched": found.fetched, "where": where}
        by_hand = {"title": entry.title, "home": entry.home, "steps": found.steps} if found.steps else {}
        print_json({**value, "files": files, **by_hand})
    elif found.steps:
        print_line(f"{entry.home}\n{found.steps}")
    for one in () if as_json else found.files:
        print_line(f"{'fetched' if found.fetched else 'already here'}: {_evidence(one)}")
    if found.steps:
        raise SystemExit(1)
