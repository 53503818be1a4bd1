"""``bench weights list``, ``fetch`` and ``check``: the only verbs that get checkpoints from elsewhere."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...datasets.download import download
from ...methods import UserError
from ...methods.core.files import put_in_place
from ...methods.models.weight_checks import FileCheck, check_file
from ...methods.models.weights import (
    FoundWeights,
    WeightEntry,
    WeightFile,
    coming_methods,
    find_entry,
    found_in,
    list_weights,
    locate,
)
from ..show.progress import progress, progress_to
from ..show.tables import print_json, print_line, print_table

# ---- list


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


# ---- check


def check_command(names: list[str], as_json: bool) -> None:
    """Compare every file that is here with what is known about it; exit code 1 if one is another file."""
    entries = [find_entry(name) for name in names] or list(list_weights().values())
    found = [(entry, locate(entry)) for entry in entries]
    rows = [row for entry, where in found for row in _check(entry, where, bool(names))]
    problems = sum(bool(row["wrong"]) for row in rows)
    if as_json:
        print_json({"problems": problems, "files": rows})
    else:
        for row in rows:
            print_line(_finding(row))
        print_line(f"{len(rows)} checked, {problems} wrong" if rows else "no catalogued weights are here")
    if problems:
        raise SystemExit(1)


def _check(entry: WeightEntry, found: FoundWeights | None, asked_for: bool) -> list[dict[str, Any]]:
    """A row for each file that is here, and one for those that are missing though others are here, or asked for."""
    fix = f"run `bench weights fetch {entry.name}`"
    rows = []
    for file, path in found.files if found else ():
        check = _checked(file, path)
        rows.append(_result(entry, file.name, check, f"Delete {path.resolve()} and {fix}"))
    missing = found.missing if found else [f.name for f in entry.files] if asked_for else []
    return rows + [
        {"weights": entry.name, "file": name, "path": None, "wrong": ["it is not here"], "fix": f"Please {fix}"}
        for name in missing
    ]


def _checked(file: WeightFile, path: Path) -> FileCheck:
    with progress(f"checking {path.name}", path.stat().st_size) as advance:
        return check_file(file, path, advance)


def _result(entry: WeightEntry, name: str, check: FileCheck, fix: str) -> dict[str, Any]:
    return {
        "weights": entry.name,
        "file": name,
        "path": str(check.path),
        "sha256": check.sha256,
        "checked": list(check.checked),
        "unknown": list(check.unknown),
        "wrong": list(check.wrong),
        "fix": fix if check.wrong else "",
    }


def _finding(row: dict[str, Any]) -> str:
    if row["wrong"]:
        return f"wrong: {row['weights']}: {row['path'] or row['file']}: {'; '.join(row['wrong'])}. {row['fix']}"
    return f"{row['weights']}: {row['path']}\n  sha256 {row['sha256']}, {_evidence(row)}"


def _evidence(row: dict[str, Any]) -> str:
    fits = f"fits: {', '.join(row['checked'])}" if row["checked"] else "nothing is known to compare it with"
    return f"{fits}; unknown: {', '.join(row['unknown'])}" if row["unknown"] and row["checked"] else fits


# ---- fetch


def fetch_command(name: str, source: str | None, as_json: bool) -> None:
    """Get a checkpoint, compare it with what is known, and put it where methods look for it.

    ``source`` is a folder or an address that has it; without it the catalogued one is taken.  What needs a person is
    told as steps, with exit code 1.
    """
    entry = find_entry(name)
    found = locate(entry)
    here = source is None and found is not None and not found.missing
    if source is None and entry.steps and not here:
        _print_steps(entry, as_json)
        raise SystemExit(1)
    if not as_json:
        print_line(f"{entry.title}\nlicence: {entry.licence}")
    if here:
        assert found is not None
        rows = _check(entry, found, True)
        _refuse_wrong(rows)
    else:
        rows = _get(entry, source)
    path = locate(entry)
    if as_json:
        where = str(path.path) if path else None
        print_json(
            {"weights": entry.name, "licence": entry.licence, "fetched": not here, "where": where, "files": rows}
        )
        return
    for row in rows:
        print_line(
            f"{'already here' if here else 'fetched'}: {row['path']}\n  sha256 {row['sha256']}, {_evidence(row)}"
        )


def _print_steps(entry: WeightEntry, as_json: bool) -> None:
    if as_json:
        print_json({**_said(entry), "fetched": False, "where": None, "files": [], "steps": entry.steps.strip()})
    else:
        print_line(f"{entry.title}: {entry.home}\nlicence: {entry.licence}\n{entry.steps.strip()}")


def _said(entry: WeightEntry) -> dict[str, str]:
    return {"weights": entry.name, "title": entry.title, "home": entry.home, "licence": entry.licence}


def _refuse_wrong(rows: list[dict[str, Any]]) -> None:
    wrong = [_finding(row).removeprefix("wrong: ") for row in rows if row["wrong"]]
    if wrong:
        raise UserError("\n".join(wrong))


def _get(entry: WeightEntry, source: str | None) -> list[dict[str, Any]]:
    if source is None and entry.hub is not None:
        got = [_from_hub(entry, file) for file in entry.files]
        rows = [_result(entry, f.name, _checked(f, p), f"Delete {p.resolve()} and run this again") for f, p in got]
        _refuse_wrong(rows)
        return rows
    if source is not None and not source.startswith(("http://", "https://")):
        rows = [_keep(entry, f, _copying(path)) for f, path in _in_folder(entry, Path(source))]
    else:
        rows = [_keep(entry, f, _downloading(f, _address(entry, f, source))) for f in entry.files]
    shutil.rmtree(_incoming(entry), ignore_errors=True)
    return rows


# ---- files that are kept in the cache

Fill = Callable[[Path], None]
"""Writes a file at a path, in the folder of what has not been checked yet."""


def _keep(entry: WeightEntry, file: WeightFile, fill: Fill) -> dict[str, Any]:
    """Fill in a file of the cache: it takes its name once it is known to be the right one."""
    target, incoming = entry.folder / file.name, _incoming(entry) / file.name
    here = target.is_file()
    if not here:
        with _telling(incoming):
            incoming.parent.mkdir(parents=True, exist_ok=True)
            fill(incoming)
    check = _checked(file, target if here else incoming)
    again = "run the same command again"
    row = _result(entry, file.name, check, f"Delete it and {again}" if here else f"It was deleted: {again}")
    if check.wrong and not here:
        incoming.unlink()
    _refuse_wrong([row])
    if not here:
        with _telling(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            put_in_place(incoming, target)
    return {**row, "path": str(target)}


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Turn what goes wrong with the disk into a ``UserError`` with the fix."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} could not be written: {error.strerror or error}.  Make room, or mend the permissions, and run the "
            "same command again"
        ) from error


def _incoming(entry: WeightEntry) -> Path:
    return entry.folder / "incoming"


def _downloading(file: WeightFile, url: str) -> Fill:
    def fill(path: Path) -> None:
        md5, sha256 = _if_whole(file.md5, 32), _if_whole(file.sha256, 64)
        with progress_to(f"downloading {path.name}") as report:
            download(url, path, md5=md5, sha256=sha256, size=file.size_bytes, advance=report)

    return fill


def _if_whole(digest: str | None, length: int) -> str | None:
    return digest if digest is not None and len(digest) == length else None


def _address(entry: WeightEntry, file: WeightFile, source: str | None) -> str:
    """The catalogued address, or the one in a mirror: BASE/NAME/FILE, or the file's own."""
    if source is None:
        assert file.url is not None
        return file.url
    own = len(entry.files) == 1 and source.endswith(f"/{file.name}")
    return source if own else f"{source.rstrip('/')}/{entry.name}/{file.name}"


def _in_folder(entry: WeightEntry, source: Path) -> tuple[tuple[WeightFile, Path], ...]:
    """The files of a checkpoint in a folder of the user's, as NAME/FILE or FILE, or the one file itself."""
    if source.is_file() and len(entry.files) == 1:
        return ((entry.files[0], source),)
    for folder in (source / entry.name, source):
        found = found_in(entry, "given", folder)
        if not found.missing:
            return found.files
    raise UserError(f"{source} does not hold {entry.wanted}, neither in a folder {entry.name} nor beside each other")


def _copying(source: Path) -> Fill:
    def fill(path: Path) -> None:
        total = source.stat().st_size
        with progress_to(f"copying {source.name}") as report, source.open("rb") as old, path.open("wb") as new:
            while chunk := old.read(1 << 20):
                new.write(chunk)
                report(new.tell(), total)

    return fill


# ---- the hub


def _from_hub(entry: WeightEntry, file: WeightFile) -> tuple[WeightFile, Path]:
    """A file of the catalogued commit, in the Hugging Face cache; its name may be one of ``instead``."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    assert entry.hub is not None
    for name in (file.name, *file.instead):
        try:
            found = Path(hf_hub_download(entry.hub, name, revision=entry.revision))
        except EntryNotFoundError as error:
            if not isinstance(error, LocalEntryNotFoundError):  # the hub answered that there is none
                continue
            raise UserError(_no_hub(entry, name, error)) from error
        except (OSError, HfHubHTTPError) as error:
            raise UserError(_no_hub(entry, name, error)) from error
        return (file if name == file.name else WeightFile(name=name)), found
    raise UserError(_no_hub(entry, " or ".join((file.name, *file.instead)), "the hub has no such file"))


def _no_hub(entry: WeightEntry, name: str, error: object) -> str:
    copies = f", or look at {', '.join(entry.mirrors)}" if entry.mirrors else ""
    return (
        f"{entry.hub}/{name} could not be fetched ({error}).  Check the connection and run the same command again"
        f"{copies}, or hand over a copy: bench weights fetch {entry.name} --from FOLDER"
    )
