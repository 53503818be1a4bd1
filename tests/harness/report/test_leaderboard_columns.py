"""Which runs stand side by side in a table: whatever decides a number opens a column or a line of its own."""

from types import SimpleNamespace

import pytest

from ovss.harness.report.leaderboard import column_of, entry_of, newest_runs

COLUMN = ("protocol", "dataset", "split", "protocol_hash", "dataset_hash", "images_sha256", "vocabulary")
LINE = ("method", "backbone", "weights", "precision", "guide")


def row(**changes: str) -> SimpleNamespace:
    return SimpleNamespace(**{**dict.fromkeys((*COLUMN, *LINE), "same"), **changes})


@pytest.mark.parametrize("name", COLUMN)
def test_what_opens_a_column(name: str) -> None:
    """The vocabulary is one of them: the same method with other words for the classes is another question."""
    assert column_of(row()) == column_of(row(**dict.fromkeys(LINE, "other")))
    assert column_of(row()) != column_of(row(**{name: "other"}))
    assert newest_runs([row(), row(**{name: "other"})]) == [row(), row(**{name: "other"})]


@pytest.mark.parametrize("name", LINE)
def test_what_opens_a_line(name: str) -> None:
    assert entry_of(row()) == entry_of(row(**dict.fromkeys(COLUMN, "other")))
    assert entry_of(row()) != entry_of(row(**{name: "other"}))
    assert newest_runs([row(), row(**{name: "other"})]) == [row(), row(**{name: "other"})]


def test_of_one_line_and_column_the_newest_is_shown() -> None:
    assert newest_runs([row(run="new"), row(run="old")]) == [row(run="new")]
