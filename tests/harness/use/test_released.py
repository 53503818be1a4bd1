"""What checksums say of weights: the released ones, other ones, or nothing."""

import hashlib
from pathlib import Path

import pytest

from ovss.harness.use.released import said_of_weights
from ovss.methods.models.weights import find_entry

CONTENT = b"weights"


@pytest.fixture(autouse=True)
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches, and a mirror to put files into."""
    import huggingface_hub.constants

    (tmp_path / "mirror").mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("OVSS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OVSS_WEIGHTS", str(tmp_path / "mirror"))
    return tmp_path / "mirror"


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_file_of_another_checksum(mirror: Path) -> None:
    put(mirror / "clip-vit-b-16-openai-original" / "ViT-B-16.pt")
    said = said_of_weights("clip-vit-b-16-openai-original")
    assert said.startswith("weights are not the released ones: clip-vit-b-16-openai-original: its sha256 is ")
    assert hashlib.sha256(CONTENT).hexdigest() in said


def test_a_file_that_nothing_is_known_of(mirror: Path) -> None:
    put(mirror / "dino-vitb8" / "dino_vitbase8_pretrain.pth")
    said = said_of_weights("dino-vitb8").removeprefix("weights are not known to be the released ones: ")
    assert said == "nothing tells what dino_vitbase8_pretrain.pth of dino-vitb8 holds"


def test_a_file_as_the_hub_told_it(tmp_path: Path) -> None:
    entry = find_entry("clip-vit-b-16-openai")
    home = tmp_path / "hub" / f"models--{str(entry.hub).replace('/', '--')}"
    put(home / "refs" / "main", b"0123")
    link = home / "snapshots" / "0123" / "open_clip_model.safetensors"
    link.parent.mkdir(parents=True)
    blob = put(home / "blobs" / hashlib.sha256(CONTENT).hexdigest())
    link.symlink_to(blob)
    assert said_of_weights(entry.name) == "weights are the released ones: clip-vit-b-16-openai, by hub"
    put(blob, b"changed")
    assert said_of_weights(entry.name).startswith(
        "weights are not the released ones: clip-vit-b-16-openai: the hub told"
    )
