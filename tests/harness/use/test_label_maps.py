"""Label maps of a run: saved while it works, filled up later, predicted again, and never those of another run."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovss.harness import every_pair, run
from ovss.harness.runs.label_files import label_path, read_label_map, write_label_map
from ovss.harness.runs.photo import Photo
from ovss.harness.runs.pipeline import Clock
from ovss.harness.runs.plan import build_pipelines
from ovss.harness.runs.run import Finished
from ovss.harness.show.colours import class_colours
from ovss.harness.use.label_maps import label_maps
from ovss.methods import UserError


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


def three(results: Path, method: str = "maskclip", labels: Path | None = None, **asked: int) -> Finished:
    (found,) = run(every_pair([method], ["shapes"]), results, limit=3, labels=labels, **asked)
    return found


def expected(found: Finished) -> dict[str, np.ndarray]:
    """By the pipeline itself."""
    data = found.plan.spec.open_data()
    (pipeline,) = build_pipelines([found.plan.spec], [data])
    return {i: pipeline.predict(Photo(data.load(i).image, i), Clock()).numpy() for i in found.result.ids}


def test_predicted_again(results: Path) -> None:
    found = three(results)
    wanted = expected(found)
    order = found.result.ids[::-1]
    shown = list(label_maps(found, order))
    assert [one.sample.id for one in shown] == list(order)
    assert all(one.same and np.array_equal(one.labels, wanted[one.sample.id]) for one in shown)


@pytest.mark.parametrize("workers", [1, 2])
def test_saved_while_it_works(tmp_path: Path, workers: int) -> None:
    found = three(tmp_path / "results", labels=tmp_path / "labels", workers=workers)
    folder = tmp_path / "labels" / found.name
    about = json.loads((folder / "labels.json").read_text())
    assert about["plan"] == found.plan.digest and about["protocol_hash"] == found.manifest.protocol["hash"]
    assert [c["class"] for c in about["classes"]] == list(found.plan.record.classes)
    for image_id, labels in expected(found).items():
        with Image.open(folder / f"{image_id}.png") as picture:
            assert picture.mode == "P" and np.array_equal(np.array(picture), labels)
            colours = np.array(picture.convert("RGB"))
        first = labels[0, 0]
        assert tuple(colours[0, 0].tolist()) == tuple(about["classes"][first]["colour"])


def test_a_finished_run_saves_what_is_absent(results: Path, tmp_path: Path) -> None:
    found = three(results)
    written = {p.name: p.stat().st_mtime_ns for p in (found.folder / "parts").iterdir()}
    again = three(results, labels=tmp_path)
    assert again.folder == found.folder
    assert {p.name: p.stat().st_mtime_ns for p in (found.folder / "parts").iterdir()} == written
    paths = [label_path(tmp_path / found.name, i) for i in found.result.ids]
    assert all(path.is_file() for path in paths)
    paths[1].unlink()
    kept = paths[0].stat().st_mtime_ns
    three(results, labels=tmp_path)
    assert paths[1].is_file() and paths[0].stat().st_mtime_ns == kept


def test_saved_ones_are_read(results: Path, tmp_path: Path) -> None:
    """And compared with the counts of the run: a changed pixel is told."""
    found = three(results, labels=tmp_path)
    path = label_path(tmp_path / found.name, found.result.ids[0])
    labels = read_label_map(path, found.plan.spec.open_data().load(found.result.ids[0]).label.shape)
    assert [one.same for one in label_maps(found, found.result.ids, tmp_path)] == [True] * 3
    write_label_map(path, (labels + 1) % len(found.plan.record.classes), class_colours(16))
    (first, *others) = label_maps(found, found.result.ids, tmp_path)
    assert not first.same and all(one.same for one in others)


def test_label_maps_of_another_run(results: Path, tmp_path: Path) -> None:
    found, other = three(results, labels=tmp_path), three(results, "clip")
    (tmp_path / other.name).mkdir()
    (tmp_path / other.name / "labels.json").write_bytes((tmp_path / found.name / "labels.json").read_bytes())
    assert all(one.same for one in label_maps(other, other.result.ids[:1], tmp_path))  # not read, predicted
    with pytest.raises(UserError, match="another run"):
        three(results, "clip", labels=tmp_path)


def test_what_is_refused(results: Path, tmp_path: Path) -> None:
    found = three(results, labels=tmp_path)
    with pytest.raises(UserError, match="has no image 'nowhere'"):
        list(label_maps(found, ["nowhere"]))
    path = label_path(tmp_path / found.name, found.result.ids[0])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="cannot be read"):
        list(label_maps(found, found.result.ids[:1], tmp_path))
    write_label_map(path, np.zeros((3, 4), np.uint8), class_colours(16))
    with pytest.raises(UserError, match=r"is \(3, 4\), its image is"):
        list(label_maps(found, found.result.ids[:1], tmp_path))
    for name in ("", "../a", "/a"):
        with pytest.raises(UserError, match="has no place"):
            label_path(tmp_path, name)


@pytest.mark.parametrize("classes", [2, 255, 256, 847])
def test_every_value_survives(tmp_path: Path, classes: int) -> None:
    """Also that of no class, one more than the last."""
    labels = np.arange(classes + 1).reshape(1, -1)
    write_label_map(tmp_path / "a.png", labels, class_colours(classes))
    assert np.array_equal(read_label_map(tmp_path / "a.png", labels.shape), labels)
