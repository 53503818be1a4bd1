"""A whole report of real runs: every page, link and number, and what its pictures show."""

import shutil
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from ovss.harness import every_pair, run
from ovss.harness.metrics.of_confusion import dense
from ovss.harness.report.leaderboard import leaderboard
from ovss.harness.report.of_run import class_rows, provenance_rows
from ovss.harness.runs.label_files import colours_of
from ovss.harness.runs.run import Finished
from ovss.harness.use.label_maps import label_maps
from ovss.harness.use.site import Site, report_site
from ovss.methods import UserError

from ..site.made_up import Balance, parsed, text_of

LIMIT = 8


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def runs(results: Path) -> tuple[Finished, ...]:
    return tuple(run(every_pair(["maskclip", "sclip"], ["shapes"], confusion=True), results, limit=LIMIT))


@pytest.fixture(scope="module")
def site(results: Path, runs: tuple[Finished, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "site"
    assert report_site(results, folder) == Site(folder / "index.html", 2, LIMIT, (), ())
    return folder


def column_page(site: Path) -> Path:
    (page,) = (site / "data").iterdir()
    return page


def tables(page: Path) -> dict[str, list[list[str]]]:
    """Lines of every table by its caption."""
    found = {}
    for table in parsed(page).iter("table"):
        caption = table.find("caption")
        assert caption is not None
        found[text_of(caption)] = [[text_of(cell) for cell in tr] for tr in table.iterfind("tbody/tr")]
    return found


def test_every_page_is_sound_and_every_link_leads_somewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) == 3 + 1 + 2
    for page in pages:
        text = page.read_text()
        parsed(page)
        balance = Balance(text)
        assert balance.handlers == [] and "http:" not in text and "https:" not in text.replace("https://github", "")
        for link in balance.links:
            path, _, anchor = unquote(link).partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.is_file() and target.is_relative_to(site.resolve()), (page, link)
            assert not anchor or anchor in Balance(target.read_text()).ids, (page, link)


def test_the_page_of_a_run(site: Path, runs: tuple[Finished, ...]) -> None:
    for one in runs:
        page = site / "runs" / f"{one.name}.html"
        found = tables(page)
        assert found["IoU, precision and recall in percent; images labelled with the class"] == [
            list(row) for row in class_rows(one)
        ]
        told = {tuple(row) for row in found["What the numbers rest on"]}
        assert {(k.strip(), " ".join(str(v).split())) for k, v in provenance_rows(one)} <= told
        assert ("hash of the protocol", one.manifest.protocol["hash"]) in told
        values = {row[0]: row[1] for row in found["What the protocol sets"]}
        assert set(one.plan.setting.model_fields_set) <= set(values)
        defaults = {row[0]: row[1] for row in found["Left at the default of every protocol"]}
        assert defaults["short_side_px"] == str(one.plan.setting.short_side_px)
        assert one.manifest.note in text_of(parsed(page))


def test_confusions(site: Path, runs: tuple[Finished, ...]) -> None:
    one = runs[0]
    classes = one.plan.record.classes
    assert one.result.confusion is not None
    table = dense(one.result.confusion, len(classes))
    found = tables(site / "runs" / f"{one.name}.html")
    most = found["The most frequent confusions"]
    wrong = table - np.diag(np.diag(table))
    a, b = np.unravel_index(wrong.argmax(), wrong.shape)
    assert most[0][:2] == [classes[a], classes[b]] and int(most[0][3]) == wrong.max() and len(most) <= 20
    matrix = found["Percent of a label's pixels (row) that were said to be a class (column)"]
    share = 100 * table[a, b] / table[a].sum()
    assert [line[0] for line in matrix] == list(classes) and matrix[a][b + 1] == f"{share:.1f}" == most[0][2]


def test_the_page_of_a_data_set(site: Path, results: Path, runs: tuple[Finished, ...]) -> None:
    rows = leaderboard(results).rows
    found = tables(column_page(site))
    best_first = sorted(rows, key=lambda r: -(r.miou or 0))
    (values,) = (lines for caption, lines in found.items() if caption.startswith("Methods on"))
    assert [v[:3] for v in values] == [[r.method, str(k), f"{r.miou:.2f}"] for k, r in enumerate(best_first, 1)]
    by_name = {one.name: one for one in runs}
    columns = [by_name[r.run].result.per_class for r in best_first]
    for line in found["IoU of every class, methods by mIoU"]:
        assert line[2:] == ["" if (v := c[line[0]]) is None else f"{v:.1f}" for c in columns]
    text = text_of(parsed(column_page(site)))
    assert all(r.protocol_hash[:8] in text and r.code in text and r.device in text for r in rows)


def test_pictures(site: Path, runs: tuple[Finished, ...]) -> None:
    """The label map that stands beside a photo is what the run said of that photo."""
    first = parsed(column_page(site)).find(".//div[@class='image']")
    assert first is not None
    image_id = (first.get("aria-label") or "").removeprefix("Image ")
    files = [site / (img.get("src") or "").removeprefix("../") for img in first.iter("img")]
    best_first = sorted(runs, key=lambda one: -one.result.miou)
    assert len(files) == 4
    for file, one in zip(files[2:], best_first, strict=True):
        (expected,) = label_maps(one, [image_id])
        colours = np.array(colours_of(one.plan.record), np.uint8)
        assert np.array_equal(np.array(Image.open(file)), colours[expected.labels])
        value = one.result.per_image[one.result.ids.index(image_id)]
        assert f"{one.plan.spec.method} {value:.2f}" in text_of(first)


def test_two_reports_are_the_same_bytes(results: Path, site: Path, tmp_path: Path) -> None:
    report_site(results, tmp_path / "again")
    files = {p.relative_to(site): p.read_bytes() for p in site.rglob("*") if p.is_file()}
    assert files == {p.relative_to(tmp_path / "again"): p.read_bytes() for p in (tmp_path / "again").rglob("*.*")}


def test_only_some_methods(results: Path, runs: tuple[Finished, ...], tmp_path: Path) -> None:
    from ovss.harness.report.rows import Only

    found = report_site(results, tmp_path / "site", only=Only(methods=("sclip",)))
    assert found.runs == 1 and len(list((tmp_path / "site" / "runs").iterdir())) == 1


def test_a_run_whose_label_maps_cannot_be_made_again(
    results: Path, runs: tuple[Finished, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ovss.harness.use import gallery

    def refuse(one: Finished, ids: object, saved: object) -> object:
        if one.plan.spec.method == "sclip":
            raise UserError("weights <b>FILE</b> are not here")
        return label_maps(one, ids, saved)  # type: ignore[arg-type]

    monkeypatch.setattr(gallery, "label_maps", refuse)
    said: list[str] = []
    found = report_site(results, tmp_path / "site", say=said.append)
    assert said == ["no pictures of sclip on shapes: weights <b>FILE</b> are not here"]
    assert [text.partition(":")[0] for text in found.left_out] == ["No pictures of sclip on shapes"]
    page = column_page(tmp_path / "site")
    assert found.left_out[0] in text_of(parsed(page)) and len(list(parsed(page).iter("img"))) % 3 == 0


def test_a_damaged_run_is_left_out_and_said(results: Path, runs: tuple[Finished, ...], tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path / "results")
    (tmp_path / "results" / "runs" / runs[0].name / "counts.parquet").write_bytes(b"")
    found = report_site(tmp_path / "results", tmp_path / "site")
    assert found.runs == 1 and len(found.skipped) == 1 and runs[0].name in found.skipped[0]
    assert "Left out" in text_of(parsed(tmp_path / "site" / "index.html"))


def test_nothing_is_written_without_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bench run"):
        report_site(tmp_path, tmp_path / "site")
    assert list(tmp_path.iterdir()) == []
