"""Reading a data set's record from TOML, with the lists and tables that stand in files beside it."""

import csv
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .errors import DataError
from .invalid import explain
from .lists import class_lines
from .record import DatasetRecord
from .text import read_text
from .toml import read_toml

"""Findings of a record that are listed."""


def read_record(path: Path) -> DatasetRecord:
    """Read a record from a TOML file.

    Values may stand in files beside it: ``classes = "names.txt"`` (one per line), ``palette = "colours.txt"`` (``R G
    B`` per line), ``parents = "parents.json"``, ``label_map = {file = "map.tsv", from = "COLUMN", to = "COLUMN"}``
    (then ``only_mapped`` is set) and ``groups = {file = "map.tsv", from = "COLUMN", to = "COLUMN"}``.

    Raises ``DataError`` that names the file and the field.
    """
    fields = read_toml(path, f"data set file {path}")
    alternatives = fields.get("alternatives")
    for table in (fields, *(alternatives if isinstance(alternatives, list) else ())):
        if isinstance(table, dict):  # what is none is refused below
            _fill_in(table, path)
    try:
        return DatasetRecord.model_validate(fields)
    except ValidationError as error:
        raise DataError(f"data set file {path} is not usable:\n{explain(error, 'record')}") from error


def read_table(path: Path, source: str, target: str, asked_by: Path) -> dict[int, int]:
    """Two columns of a TSV file with a header as a map of integers; rows with an empty cell are left out.

    Lines before the header that start with ``#`` are comments.  Raises ``DataError`` for an absent file or column.
    """
    lines = [line for line in _text(path, asked_by).splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines, delimiter="\t"))
    for column in (source, target):
        if not rows or column not in rows[0]:
            raise DataError(f"table {path}, named in {asked_by}, has no column {column!r}")
    try:
        return {int(row[source]): int(row[target]) for row in rows if row[source] and row[target]}
    except ValueError as error:
        raise DataError(f"table {path}, named in {asked_by}, holds no whole numbers there: {error}") from error


def _fill_in(fields: dict[str, Any], path: Path) -> None:
    """Replace file names by what the files hold."""
    beside = path.parent
    if isinstance(fields.get("classes"), str):
        named = beside / fields["classes"]
        fields["classes"] = class_lines(named, f"class file {named}, named in {path},")
    if isinstance(fields.get("palette"), str):
        fields["palette"] = [tuple(line.split()) for line in _lines(beside / fields["palette"], path)]
    if isinstance(fields.get("parents"), str):
        fields["parents"] = _json(beside / fields["parents"], path)
    label_map = fields.get("label_map")
    if isinstance(label_map, dict) and "file" in label_map:
        fields["label_map"] = _columns(label_map, "label_map", path)
        fields["only_mapped"] = True
    groups = fields.get("groups")
    if isinstance(groups, dict) and isinstance(fields.get("classes"), list):
        table = _columns(groups, "groups", path)
        fields["groups"] = [table[k] for k in sorted(table) if k < len(fields["classes"])]  # not the ignored value


def _columns(asked: dict[str, Any], field: str, path: Path) -> dict[int, int]:
    """The table that ``{file, from, to}`` asks for."""
    if set(asked) != {"file", "from", "to"} or not all(isinstance(v, str) for v in asked.values()):
        raise DataError(f'data set file {path}: {field} needs {{ file = "TSV", from = "COLUMN", to = "COLUMN" }}')
    return read_table(path.parent / asked["file"], asked["from"], asked["to"], path)


def _json(path: Path, asked_by: Path) -> Any:
    try:
        return json.loads(_text(path, asked_by))
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise DataError(f"file {path}, named in {asked_by}, is no valid JSON: {why}") from error


def _lines(path: Path, asked_by: Path) -> list[str]:
    return [line.strip() for line in _text(path, asked_by).splitlines() if line.strip()]


def _text(path: Path, asked_by: Path) -> str:
    return read_text(path, f"file {path}, named in {asked_by},")
