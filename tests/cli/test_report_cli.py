"""``bench report`` end to end: hostile names, places that are taken, pictures that are not ours, no torch."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ovss.harness.show.escaping import is_hidden, plain_text

from ..harness.site.made_up import WHY_NO_BROWSER, Balance, assert_silent, open_browser, open_page, parsed, text_of
from .conftest import Ended
from .test_hostile_text import CLASSES, PLUGIN, hostile

__all__ = ["hostile"]
Bench = Callable[..., Ended]


@pytest.fixture
def own(bench: Bench, hostile: str) -> str:
    ended = bench("run", "-m", "clip", "--backbone", "tiny-clip", "-d", hostile, "--confusion")
    assert ended.code == 0, ended.err
    return hostile


def pages(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(folder.rglob("*.html"))}


def test_names_of_classes_and_of_a_plugin(
    bench: Bench, own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert bench("run", "-m", "evil_plugin:Evil", "-d", own, "--set", "synonym_separator=</script><b>").code == 0
    ended = bench("report", "-o", "site", "--with-images")
    assert ended.code == 0, ended.err
    assert "wrote site/index.html: 2 runs, 4 images" in ended.out
    for name, page in pages(tmp_path / "site").items():
        Balance(page)
        parsed(tmp_path / "site" / name)
        assert page.count("<script") == 1 and not [c for c in page if is_hidden(c) and c != "\n"], name
    for column in (tmp_path / "site" / "data").iterdir():
        assert all(plain_text(name) in text_of(parsed(column)) for name in CLASSES)
    sys.modules.pop("evil_plugin", None)


@pytest.mark.skipif(bool(WHY_NO_BROWSER), reason=WHY_NO_BROWSER)
def test_every_page_in_a_browser(bench: Bench, own: str, tmp_path: Path) -> None:
    """Pages in folders find style, script and pictures; a head sorts; nothing complains, and nothing foreign runs."""
    ended = bench("report", "-o", "a #%41 site", "--with-images")
    assert ended.code == 0 and "warning" not in ended.err, ended.err
    with open_browser() as browser:
        for path in sorted((tmp_path / "a #%41 site").rglob("*.html")):
            open_page(browser, path)
            assert browser.execute_script("return document.querySelector('.theme').hidden") is False
            skip = "return getComputedStyle(document.querySelector('.skip')).position"
            assert browser.execute_script(skip) == "absolute"
        (column,) = (tmp_path / "a #%41 site" / "data").iterdir()
        open_page(browser, column)
        decoded = (
            "return Promise.all([...document.images].map((i) => { i.loading = 'eager'; return i.decode(); }))"
            ".then((done) => done.length)"
        )
        assert browser.execute_script(decoded) > 0
        browser.execute_script("document.querySelector('.heat thead button').click()")
        heads = "return [...document.querySelectorAll('.heat tbody th')].map((t) => t.textContent)"
        names = browser.execute_script(heads)
        assert len(names) == len(CLASSES) and names == sorted(names, key=str.lower)
        assert_silent(browser)


def test_pictures_of_others_need_a_word(bench: Bench, own: str, tmp_path: Path) -> None:
    ended = bench("report")
    assert ended.code == 0 and "--with-images" in ended.out and "licence: l|\\n# owned" in ended.out
    site = tmp_path / "results" / "site"
    assert not (site / "images").exists() and len(pages(site)) == 5
    found = bench("report", "--with-images", "--json").json()
    assert found["pictures"] == 2 and found["left_out"] == [] and (site / "images").is_dir()
    assert bench("report").code == 0 and not (site / "images").exists()


def test_pictures_without_the_data(bench: Bench, own: str, tmp_path: Path) -> None:
    (tmp_path / "set" / "images").rename(tmp_path / "set" / "elsewhere")
    ended = bench("report", "--with-images")
    assert ended.code == 0 and "warning: no pictures of clip on own: " in ended.err and "0 images" in ended.out
    assert not [name for name, page in pages(tmp_path / "results" / "site").items() if str(tmp_path) in page]


def test_a_folder_that_holds_something_else(bench: Bench, own: str, tmp_path: Path) -> None:
    for taken, says in (("set", "which no report has written"), ("set/own.toml", "is a file")):
        ended = bench("report", "-o", taken)
        assert ended.code == 2 and says in ended.err and "--output" in ended.err and "Traceback" not in ended.err
    assert (tmp_path / "set" / "own.toml").is_file()


def test_tables_need_no_torch(bench: Bench, own: str, tmp_path: Path, environment: dict[str, str]) -> None:
    code = (
        "import sys\n"
        "for heavy in ('torch', 'open_clip', 'torchvision', 'transformers'):\n"
        "    sys.modules[heavy] = None\n"
        "from ovss.harness.cli.main import main\n"
        "sys.argv = ['bench', 'report', '-o', 'site']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert "wrote site/index.html" in done.stdout, done.stderr
