"""Made-up rows and grids, a browser, and ways to read a page."""

import json
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ovss.harness.metrics.counts import Counts
from ovss.harness.report.grid import Grid, grids
from ovss.harness.report.rows import Row
from ovss.harness.site.pages import write_front
from ovss.harness.site.writing import copy_static


def row(method: str, dataset: str, miou: float, **changes: Any) -> Row:
    text = dict.fromkeys(Row.model_fields, "x")
    numbers = {"low": None, "high": None, "group": None, "behind": None, "behind_low": None, "behind_high": None}
    return Row(
        **text
        | numbers
        | {"method": method, "dataset": dataset, "miou": miou, "split": "test", "note": "", "schema_version": 1}
        | {"training_free": True, "images": 1, "units": 1, "complete": True, "images_per_second": 2.0, "peak_mb": 100}
        | {"reported": None, "protocol": "p", "protocol_hash": "abcdef12", "run": f"{dataset}-{method}-p-0123456789"}
        | changes
    )


def grids_of(rows: Sequence[Row]) -> tuple[Grid, ...]:
    """Grids as the leaderboard makes them, from counts of one image each."""

    def result(r: Row) -> Any:
        tp = np.array([[round((r.miou or 0) * 100)]])
        return SimpleNamespace(counts=Counts(tp, np.full_like(tp, 10000), tp), clusters=None, averaging="mmseg")

    return grids(rows, result)


def front(folder: Path, rows: Sequence[Row], skipped: Sequence[str] = ()) -> Path:
    """A report's first page with its style and script."""
    folder.mkdir(parents=True, exist_ok=True)
    copy_static(folder)
    write_front(folder, rows, grids_of(rows), skipped)
    return folder / "index.html"


def parsed(path: Path) -> ElementTree.Element:
    """The page, which must be well-formed XML too."""
    return ElementTree.fromstring(path.read_text(encoding="utf-8"))


def text_of(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())


VOID = {"meta", "link", "input", "img", "br"}


class Balance(HTMLParser):
    """As HTML: every tag that opens is closed in turn, and no id is given twice."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [] and len(set(self.ids)) == len(self.ids)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def _note(self, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [v for k, v in attrs if k == "id" and v]
        self.links += [v for k in ("href", "src") if (v := found.get(k))]
        self.handlers += [k for k in found if k.startswith("on") or k == "style"]


BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
WHY_NO_BROWSER = "" if BROWSER and DRIVER and find_spec("selenium") else "no selenium, chromium or chromedriver"


@contextmanager
def open_browser() -> Iterator[Any]:
    """A browser without a window that keeps its console's log and every request."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def open_page(browser: Any, path: Path) -> None:
    """Open a file and wait until it is there as a whole: ``get`` was seen to come back before that."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(path.as_uri())
    whole = "return document.URL.split('#')[0] === arguments[0] && document.readyState === 'complete'"
    WebDriverWait(browser, 20, 0.05).until(lambda b: b.execute_script(whole, path.as_uri()))


def assert_silent(browser: Any) -> None:
    """No error in the console and no request to anything but files, so far."""
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"}
    assert asked and {url.partition(":")[0] for url in asked} == {"file"}
