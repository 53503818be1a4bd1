"""Hostile names in the grids and tables of the leaderboard: in Markdown, on a terminal, and in a pipe."""

import pytest

from ovss.harness.cli.report import _print_grids, _print_rows
from ovss.harness.report.leaderboard import Leaderboard
from ovss.harness.report.leaderboard_text import markdown
from ovss.harness.report.rows import Row
from ovss.harness.show.escaping import is_hidden

from .test_grid import build, row

HOSTILE = "a|b `q` *x* _y_\n## owned <script>&lt; ![i](http://e) \x1b[2J\u202e\\"
FOREIGN = ("split", "protocol", "changed", "backbone", "device", "code", "note", "weights", "unchecked", "guide", "run")


def rows() -> list[Row]:
    bad = row(HOSTILE, HOSTILE, 40, **dict.fromkeys(FOREIGN, HOSTILE), protocol_hash="0" * 64, licences=HOSTILE)
    return [bad, bad.model_copy(update={"method": f"other {HOSTILE}", "miou": 50.0, "trained_on": HOSTILE})]


def test_markdown() -> None:
    markdown_it = pytest.importorskip("markdown_it")
    page = markdown(rows(), build(rows()))
    assert not [hex(ord(c)) for c in page if is_hidden(c) and c != "\n"]
    tokens = markdown_it.MarkdownIt("commonmark").enable("table").parse(page)
    headings = [tokens[k + 1].content for k, token in enumerate(tokens) if token.type == "heading_open"]
    assert len(headings) == 3 and not any(h.startswith("owned") for h in headings)
    starts = [k for k, token in enumerate(tokens) if token.type == "tr_open"]
    ends = [k for k, token in enumerate(tokens) if token.type == "tr_close"]
    counts = [sum(t.type in ("td_open", "th_open") for t in tokens[a:b]) for a, b in zip(starts, ends, strict=True)]
    assert counts == [7] * 3 + [7] * 3 + [10] * 3  # the grid, the data set, the provenance
    inside = [child for t in tokens for child in t.children or []]
    assert not [t for t in (*tokens, *inside) if t.type.startswith("html") and "script" in t.content]
    assert not [t for t in inside if t.type in ("image", "link_open")]
    shown = "".join(t.content for t in inside if t.type == "text")
    assert r"a|b `q` *x* _y_\n## owned <script>&lt; ![i](http://e) \x1b[2J\u202e" in shown


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", ["80", "400"])
def test_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool, width: str
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    found = Leaderboard(tuple(rows()), (), build(rows()))
    _print_grids(found)
    _print_rows(found)
    said = capsys.readouterr().out
    assert not [hex(ord(c)) for c in said if is_hidden(c) and c != "\n"]
    assert not [line for line in said.splitlines() if line.startswith(("##", "owned"))]
    assert said.count("other a|b") == 2
