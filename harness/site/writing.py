"""A report's folder: written beside its place and swapped in whole; nothing else that lies there is ever touched."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...methods import UserError

MARK = "report.json"
"""Lists the files of a report, so that a later one knows what it may replace."""
_SCHEMA = 1


@contextmanager
def new_report(output: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``output`` that takes its place when all has gone well.

    Raises ``UserError`` when ``output`` holds something that no earlier report has written, or cannot be written.
    """
    output = output.resolve()
    check_place(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as beside:
            folder = Path(beside) / "new"
            folder.mkdir()
            yield folder
            (folder / MARK).write_text(json.dumps({"schema_version": _SCHEMA, "files": _files(folder)}, indent=1))
            check_place(output)
            _swap(folder, output, Path(beside) / "old")
    except OSError as error:
        raise UserError(
            f"the report {output} could not be written: {error.strerror or error}.  What was there before is still "
            "there: make room and run the same command again"
        ) from error


def _swap(new: Path, output: Path, aside: Path) -> None:
    was_there = output.exists()
    if was_there:
        output.rename(aside)
    try:
        new.rename(output)
    except OSError:
        if was_there:
            aside.rename(output)
        raise


def check_place(output: Path) -> None:
    """Raise ``UserError`` unless ``output`` is free, empty, or holds an earlier report and nothing beside it."""
    if not output.exists():
        return
    if not output.is_dir():
        raise UserError(f"{output} is a file, and the report is a folder: name another with --output")
    strangers = sorted(set(_files(output)) - _known(output))
    if strangers:
        raise UserError(
            f"{output} holds {strangers[0]!r}, which no report has written: name another folder with --output, or move "
            "it away"
        )


def _known(output: Path) -> set[str]:
    try:
        value = json.loads((output / MARK).read_bytes())
    except (OSError, ValueError):
        return set()
    files = value.get("files") if isinstance(value, dict) else None
    return {MARK, *map(str, files)} if isinstance(files, list) else set()


def _files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir() or p.is_symlink())


def copy_static(folder: Path) -> None:
    """The style and the script of every page."""
    source = Path(__file__).parent / "static"
    (folder / "static").mkdir()
    for path in sorted(source.iterdir()):
        shutil.copyfile(path, folder / "static" / path.name)
