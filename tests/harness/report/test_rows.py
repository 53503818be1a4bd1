"""Rows of the leaderboard: which runs stand side by side, and reading what an older version wrote."""

import json
from pathlib import Path
from typing import Any

import pytest

from ovss.harness.report.rows import Row, newest_runs, read_rows
from ovss.methods import UserError

COMMITTED = Path(__file__).resolve().parents[3] / "results" / "LEADERBOARD.json"
COLUMN = ("protocol", "dataset", "split", "protocol_hash", "dataset_hash", "images_sha256", "vocabulary")
LINE = ("method", "backbone", "weights", "precision", "guide")
NUMBERS = {"miou": 50.0, "low": 49.0, "high": 51.0, "images": 20, "units": 20, "images_per_second": 1.0, "peak_mb": 1.0}
NOTHING = {"reported": None, "reported_source": None, "training_free": True, "complete": True}


def row(**changes: Any) -> Row:
    texts = {name for name, field in Row.model_fields.items() if field.is_required()} - {*NUMBERS, *NOTHING}
    return Row(**{**dict.fromkeys(texts, "same"), **NUMBERS, **NOTHING, **changes})


@pytest.mark.parametrize("name", COLUMN)
def test_what_opens_a_column(name: str) -> None:
    """The vocabulary is one of them: the same method with other words for the classes is another question."""
    assert row().column == row(**dict.fromkeys(LINE, "other")).column
    assert row().column != row(**{name: "other"}).column
    assert newest_runs([row(), row(**{name: "other"})]) == [row(), row(**{name: "other"})]


@pytest.mark.parametrize("name", LINE)
def test_what_opens_a_line(name: str) -> None:
    assert row().line == row(**dict.fromkeys(COLUMN, "other")).line
    assert row().line != row(**{name: "other"}).line
    assert newest_runs([row(), row(**{name: "other"})]) == [row(), row(**{name: "other"})]


def test_of_one_line_and_column_the_newest_is_shown() -> None:
    assert newest_runs([row(run="new"), row(run="old")]) == [row(run="new")]


def test_rows_without_a_version_are_those_of_the_first() -> None:
    """The committed table was exported before rows had a version."""
    assert len(read_rows(COMMITTED)) == len(json.loads(COMMITTED.read_text())) > 10


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("[{", "no rows that this version understands"),
        ('[{"method": "clip"}]', "no rows that this version understands"),
        (f"[{row(schema_version=2).model_dump_json()}]", "rows of version 2, this version of ovss-bench reads 1"),
    ],
)
def test_what_cannot_be_read_says_what_rewrites_it(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "rows.json").write_text(text)
    with pytest.raises(UserError, match=rf"{words}[\s\S]*bench leaderboard. writes it again"):
        read_rows(tmp_path / "rows.json")
