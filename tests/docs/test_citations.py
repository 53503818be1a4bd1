"""What a comment, a docstring or a page cites can be looked up: a paper or a public file, not a document of ours."""

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CITED = re.compile(r"(?<![`\w/-])spec(?:ification)?s?\b(?!`|/)", re.IGNORECASE)
PYTHON = [path for room in ("methods", "datasets", "harness", "tests") for path in sorted((ROOT / room).rglob("*.py"))]
TEXTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *(path for room in ("methods", "datasets", "harness") for path in sorted((ROOT / room).rglob("*.toml"))),
    ROOT / "harness/protocol/vocabularies/SOURCES.tsv",
]
HERE = Path(__file__).resolve()


def prose_of(source: str) -> list[tuple[int, str]]:
    """Comments and triple-quoted strings of Python source, each line of them with its number."""
    found: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and token.string.startswith('"""')):
            found.extend(enumerate(token.string.splitlines(), token.start[0]))
    return found


def citations(lines: list[tuple[int, str]]) -> list[str]:
    return [f"{number}: {line.strip()}" for number, line in lines if CITED.search(line)]


@pytest.mark.parametrize("room", ["methods", "datasets", "harness", "tests"])
def test_python_cites_what_can_be_read(room: str) -> None:
    paths = [path for path in PYTHON if path.is_relative_to(ROOT / room) and path != HERE]
    assert paths
    found = {str(p.relative_to(ROOT)): citations(prose_of(p.read_text(encoding="utf-8"))) for p in paths}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_pages_and_records_cite_what_can_be_read() -> None:
    found = {str(p.relative_to(ROOT)): citations(list(enumerate(p.read_text("utf-8").splitlines(), 1))) for p in TEXTS}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ('"""Sizes (spec: protocols, 6.1)."""\n', ['1: """Sizes (spec: protocols, 6.1)."""']),
        ("x = 1  # the spec says so\n", ["1: # the spec says so"]),
        ('"""The ``spec`` of a run."""\nspec: int = 1\n', []),
    ],
)
def test_citations_are_seen(source: str, lines: list[str]) -> None:
    assert citations(prose_of(source)) == lines
