"""``docs/compatibility.md`` lists every method that is held to an original program's vectors."""

from .oracle_parts import RECORD, TOLERANCE
from .vector_table import PAGE, methods_with_vectors, rows_of
from .vector_table import RECORD as SAME


def test_every_method_with_vectors_has_a_row_within_its_tolerance() -> None:
    rows = rows_of(PAGE.read_text())
    assert list(rows) == list(methods_with_vectors())
    assert len(rows) >= 14
    for row in rows.values():
        assert int(row[2]) > 0 and 0 < float(row[3]) <= float(row[4]) == TOLERANCE


def test_both_mean_the_same_variable() -> None:
    """The program that writes the table imports no test."""
    assert RECORD == SAME
