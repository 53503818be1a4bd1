"""The embedded model: what is shipped, and that it takes any text."""

import hashlib
import json

import open_clip
import pytest
import torch

from ovss.methods import Vocabulary, create_method, find_method, list_methods, load_backbone
from ovss.methods.models.backbone import TINY_CLIP_FOLDER, TINY_CLIP_NOTE


def test_files_are_those_that_training_wrote() -> None:
    sums = dict(reversed(line.split("  ")) for line in (TINY_CLIP_FOLDER / "SHA256SUMS").read_text().splitlines())
    assert set(sums) == {p.name for p in TINY_CLIP_FOLDER.iterdir()} - {"SHA256SUMS"}
    for name, digest in sums.items():
        assert hashlib.sha256((TINY_CLIP_FOLDER / name).read_bytes()).hexdigest() == digest
    assert (TINY_CLIP_FOLDER / "open_clip_model.safetensors").stat().st_size < 6_000_000


def test_training_log_says_how_it_was_made() -> None:
    records = [json.loads(line) for line in (TINY_CLIP_FOLDER / "training_log.jsonl").read_text().splitlines()]
    assert [s["kind"] for s in records[0]["recipe"]["stages"]] == ["crops", "scenes"]
    last = {r["stage"]: r for r in records if "step" in r}
    for record in last.values():
        assert record["step"] == record["steps"]
    assert records[-1]["cpu_minutes"] > 0


def test_is_a_stock_open_clip_folder() -> None:
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{TINY_CLIP_FOLDER}")
    ours = load_backbone("tiny-clip").model
    assert type(ours) is open_clip.CLIP
    assert 1.5e6 < sum(p.numel() for p in ours.parameters()) < 2.5e6
    pixels = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(model.eval().encode_image(pixels), ours.encode_image(pixels), atol=1e-5)


@pytest.mark.parametrize("text", ["zebra crossing", "über 3 µm", "a" * 500, "苹果", "🙂", "sofa-bed, king size"])
def test_takes_any_text(text: str) -> None:
    method = create_method("maskclip", backbone="tiny-clip")
    vocabulary = Vocabulary.from_names([text, "grass"], separator=None)
    scores = method.segment(torch.zeros(3, 96, 96, dtype=torch.uint8), vocabulary).scores
    assert scores.shape == (1, 2, 12, 12)
    assert torch.isfinite(scores).all()


def test_is_never_the_default() -> None:
    assert all(find_method(name).info.backbone != "tiny-clip" for name in list_methods())


def test_says_what_it_is_worth() -> None:
    assert create_method("sclip", backbone="tiny-clip").note == TINY_CLIP_NOTE
