"""Whether weights are the released ones, as far as checksums tell."""

from collections.abc import Hashable
from functools import cache

from ...datasets.memory import mark
from ...methods.models.weights import find_entry, locate
from .fetch import check_weights


def said_of_weights(name: str) -> str:
    """A sentence about the files of a catalogued checkpoint that are here; unchanged ones are read once."""
    found = locate(find_entry(name))
    return _said(name, tuple(mark(path) for _, path in found.files) if found else ())


@cache
def _said(name: str, _files: Hashable) -> str:
    rows = check_weights([name])
    wrong = [text for row in rows for text in row.wrong]
    if wrong:
        return f"weights are not the released ones: {name}: {'; '.join(wrong)}"
    kinds = {kind for row in rows for kind in row.checked} - {"size"}
    unknown = [row.file for row in rows if not set(row.checked) - {"size"}]
    if unknown:
        return f"weights are not known to be the released ones: nothing tells what {', '.join(unknown)} of {name} holds"
    return f"weights are the released ones: {name}, by {', '.join(sorted(kinds))}"
