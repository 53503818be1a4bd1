"""``fetch_weights`` from Python: typed answers, progress by a callback, nothing printed."""

import hashlib
from pathlib import Path

import pytest

from ovss.harness import fetch_weights
from ovss.harness.use.fetch import check_weights
from ovss.methods import UserError
from ovss.methods.models import weights as catalogue
from ovss.methods.models.weights import WeightEntry, WeightFile

BODY = bytes(range(256)) * 8000  # 2 MB


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a catalogue of one that a person has to get."""
    file = WeightFile(name="head.pt", size_bytes=len(BODY), sha256=hashlib.sha256(BODY).hexdigest())
    entry = WeightEntry(
        name="head", title="H", files=(file,), steps=" Ask. ", used_by=("clip",), licence="MIT", source="made up"
    )
    known = catalogue._Catalogue(coming=(), weights={}).model_copy(update={"weights": {"head": entry}})
    monkeypatch.setattr(catalogue, "_catalogue", lambda: known)
    monkeypatch.setenv("OVSS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


def test_by_hand_then_from_a_copy(cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told = fetch_weights("head")
    assert (told.fetched, told.where, told.files, told.steps) == (False, None, (), "Ask.")
    (absent,) = check_weights(["head"])
    assert absent.path is None and absent.problem.startswith("head: head.pt: it is not here")
    assert check_weights() == []

    (tmp_path / "head.pt").write_bytes(BODY)
    seen: list[tuple[str, int, int]] = []
    found = fetch_weights("head", str(tmp_path), lambda *told: seen.append(told))
    (file,) = found.files
    assert found.fetched and found.where == file.path == cache / "head" / "head.pt"
    assert file.checked == ("size", "sha256") and not file.problem
    assert {title for title, _, _ in seen} == {"copying head.pt", "checking head.pt"}
    assert all(done == total == len(BODY) for _, done, total in (seen[-1], seen[1]))
    again = fetch_weights("head")
    assert not again.fetched and again.files == found.files and check_weights() == [file]
    assert capfd.readouterr() == ("", "")


def test_another_file_is_not_kept(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "head.pt").write_bytes(BODY[:-1])
    with pytest.raises(UserError, match="bytes, 2048000 were expected"):
        fetch_weights("head", str(tmp_path))
    with pytest.raises(UserError, match="did you mean head"):
        fetch_weights("hed")
    assert not list(cache.rglob("*.pt"))
