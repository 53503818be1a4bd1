"""The first page as text: what it says, what it escapes, what it may load."""

from dataclasses import replace
from pathlib import Path

from ovss.harness.report.rows import Row
from ovss.harness.show.escaping import is_hidden
from ovss.harness.site.board import boards, columns_by
from ovss.harness.site.render import write_page

from .made_up import Balance, front, grids_of, parsed, row, text_of

EVIL = "</script><script>alert(1)</script>\x1b[2J\u202e\"'&amp;"
ROWS = [
    row("a", "one", 90, run="one-a-p-0123456789"),
    row("b", "one", 50, note="first note"),
    row("a", "two", 40),
    row("b", "two", 60, note="first note; second note"),
    row("c", "two", 99, complete=False, note="second note"),
    row("t", "one", 30, training_free=False, weights="sha256:0123456789"),
]


def cells(path: Path, table: int = 0) -> list[list[str]]:
    body = parsed(path).findall(".//table[@class='grid']")[table].find("tbody")
    assert body is not None
    return [[text_of(cell) for cell in tr] for tr in body]


def test_it_says_what_the_grid_says(tmp_path: Path) -> None:
    path = front(tmp_path, ROWS)
    free, trained = grids_of(ROWS)
    for number, grid in enumerate((free, trained)):
        for line, shown in zip(grid.lines, cells(path, number), strict=True):
            assert shown[0] == line.row.method
            assert shown[1] == ("" if line.rank is None else str(line.rank))
            assert shown[2] == ("" if line.mean is None else f"{line.mean:.2f}")
            for cell, text in zip(line.cells, shown[3:], strict=False):
                assert text.startswith("" if cell is None else f"{cell.miou:.2f}") and (cell is not None or not text)
                assert ("partial" in text) == (cell is not None and not cell.complete)
    assert cells(path)[0][3] == "90.00, best" and cells(path)[1][3].startswith("50.00, second")
    assert cells(path, 1)[0][3] == "30.00, best" and "01234567" in cells(path, 1)[0][-1]


def test_an_interval_of_the_rank(tmp_path: Path) -> None:
    """Made up: the bootstrap has its own tests."""
    (grid,) = grids_of(ROWS[:2])
    grid = replace(grid, lines=(replace(grid.lines[0], interval=(1, 2)), *grid.lines[1:]))
    known = columns_by(ROWS, {})
    values = {"boards": boards([grid], known, {}), "keys": ["one test"], "notes": {}, "skipped": (), "runs": 1}
    write_page(tmp_path / "p.html", "index.html", here="index", **values)  # type: ignore[arg-type]
    assert cells(tmp_path / "p.html")[0][1] == "1 [1, 2]" and cells(tmp_path / "p.html")[1][1] == "2"


def test_two_columns_of_one_data_set_are_told_apart(tmp_path: Path) -> None:
    path = front(tmp_path, [row("a", "one", 90), row("b", "one", 50, images_sha256="some", complete=False)])
    root = parsed(path)
    heads = [text_of(th) for th in root.iter("th") if th.get("data-key")]
    assert len(set(heads)) == 2 and all(h.startswith("one test (") for h in heads)
    assert [box.get("value") for box in root.iter("input") if box.get("type") == "checkbox"] == heads
    assert len({a.get("href") for a in root.iter("a") if "data/" in (a.get("href") or "")}) == 2


def test_notes_stand_once(tmp_path: Path) -> None:
    path = front(tmp_path, ROWS)
    text = text_of(parsed(path))
    assert text.count("first note") == 1 and text.count("second note") == 1
    links = {a.get("href") for a in parsed(path).iter("a")}
    assert {"#note-1", "#note-2"} <= links
    assert cells(path)[1][4] == "60.00, best1,2"


def hostile() -> list[Row]:
    changes = dict.fromkeys(("backbone", "precision", "guide", "split", "device", "changed", "note", "run"), EVIL)
    rows = [row(EVIL, f"{EVIL}{k}", 50, protocol=EVIL, **changes) for k in range(2)]
    return [*rows, row("b", f"{EVIL}0", 60, protocol=EVIL, **changes)]


def test_text_of_others_stays_text(tmp_path: Path) -> None:
    path = front(tmp_path, hostile(), [EVIL])
    page = path.read_text()
    Balance(page)
    assert page.count("<script") == 1 and not [c for c in page if is_hidden(c) and c != "\n"]
    root = parsed(path)
    assert text_of(root).count("</script><script>alert(1)</script>") > 10
    assert [s.get("src") for s in root.iter("script")] == ["static/report.js"]
    assert all(
        set(a.get("href", "")) < set("abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ._-/#")
        for a in root.iter("a")
    )


def test_a_policy_and_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = front(tmp_path, ROWS).read_text()
    (policy,) = (m.get("content") for m in parsed(tmp_path / "index.html").iter("meta") if m.get("http-equiv"))
    assert policy is not None and policy.startswith(
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'"
    )
    assert "unsafe" not in policy and "http:" not in page and "https:" not in page
    assert Balance(page).handlers == []
    for path in (tmp_path / "static").iterdir():
        text = path.read_text()
        assert not [w for w in ("http:", "https:", "@import", "url(", "fetch(", "innerHTML", "eval(") if w in text]


def test_every_control_has_a_name(tmp_path: Path) -> None:
    root = parsed(front(tmp_path, ROWS))
    labels = {label.get("for") for label in root.iter("label")}
    fields = [f.get("id") for kind in ("input", "select") for f in root.iter(kind)]
    assert len(fields) == 4 and set(fields) <= labels
    for table in root.iter("table"):
        assert table.find("caption") is not None
        assert all(th.get("scope") in ("col", "row") for th in table.iter("th"))
    assert root.get("lang") == "en" and next(a.get("href") for a in root.iter("a")) == "#main"
