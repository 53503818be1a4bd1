"""``segment_photo`` from Python: labels, shares, provenance, and nothing written or printed unless asked for."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovss.datasets.shapes import make_scene
from ovss.harness import segment_photo
from ovss.methods import UserError


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(make_scene("val", 3, size=120).image[:90]).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_photo_is_segmented(photo: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []
    classes = ["grass", ["sky", "clouds"], "house"]
    found = segment_photo(photo, classes, backbone="tiny-clip", options={"pad": True}, say=told.append)
    assert found.labels.shape == (90, 120) == found.image.shape[:2]
    assert found.classes == ("grass", "sky", "house")
    assert list(found.areas_px.values()) == np.bincount(found.labels.reshape(-1), minlength=3).tolist()
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.provenance["words"]["sky"] == "sky, clouds" and found.provenance["method_provenance"]["pad"] is True
    assert found.seconds > 0 and "ranks do not transfer" in found.note
    assert [p.name for p in tmp_path.iterdir()] == ["photo.png"] and capfd.readouterr() == ("", "")
    found.save(tmp_path / "overlay.png")
    with Image.open(tmp_path / "overlay.png") as picture:
        assert picture.width >= 120 and picture.height > 90

    (tmp_path / "classes.txt").write_text("grass\nsky, clouds\nhouse\n")
    again = segment_photo(photo, tmp_path / "classes.txt", backbone="tiny-clip", options={"pad": True})
    assert np.array_equal(again.labels, found.labels) and again.provenance == found.provenance


def test_what_is_wrong_is_raised_before_a_model_is_loaded(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovss.harness.use.photo.create_method", lambda *a, **k: pytest.fail("a model was loaded"))
    for words, asked in {
        "names cat twice": {"classes": ["cat", "cat"]},
        "names no class": {"classes": []},
        "did you mean sclip": {"method": "sclp"},
        "there is no option 'colour'": {"options": {"colour": 1}},
        "colour: no such field": {"changes": {"colour": 1}},
        "did you mean ViT-B-16": {"backbone": "ViT-B-61/openai"},
    }.items():
        with pytest.raises(UserError, match=words):
            segment_photo(photo, **{"classes": ["cat", "sky"], "backbone": "tiny-clip", **asked})  # type: ignore[arg-type]
