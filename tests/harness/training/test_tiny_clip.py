"""Training: a schedule of a few steps runs whole, and gives the same files twice."""

import dataclasses
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ovss.harness.training.tiny_clip import Trainer, train
from ovss.harness.training.tiny_clip_data import build_bpe
from ovss.harness.training.tiny_clip_recipe import SHIPPED


def test_bpe_makes_every_word_one_token(tmp_path: Path) -> None:
    from open_clip.tokenizer import SimpleTokenizer

    words = ["star", "stare", "mushroom", "a"]
    assert build_bpe(words) == build_bpe(words)
    (tmp_path / "bpe.gz").write_bytes(build_bpe(words))
    tokenizer = SimpleTokenizer(str(tmp_path / "bpe.gz"), context_length=8)
    assert all(len(tokenizer.encode(w)) == 1 for w in words)
    assert len(tokenizer.encode("starfish")) > 1


ONE_STEP_EACH = tuple(dataclasses.replace(s, scenes=8, samples=4, batch=4) for s in SHIPPED.stages)
"""A step of Muon is slow on a CPU that has no bfloat16."""


def test_a_short_training(tmp_path: Path) -> None:
    records: list[dict[str, object]] = []
    recipe = dataclasses.replace(SHIPPED, stages=ONE_STEP_EACH)
    trained = train(tmp_path / "a", recipe, workers=1, report=records.append)
    assert [r["stage"] for r in records if "loss" in r] == ["crops", "scenes"]
    logged = [json.loads(line) for line in (trained / "training_log.jsonl").read_text().splitlines()]
    assert logged[0]["recipe"]["seed"] == 0
    weights = safetensors.torch.load_file(trained / "open_clip_model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


@pytest.mark.slow
def test_it_is_repeatable(tmp_path: Path) -> None:
    crops, scenes = ONE_STEP_EACH
    recipe = dataclasses.replace(SHIPPED, stages=(dataclasses.replace(crops, samples=8), scenes))
    first, second = (train(tmp_path / name, recipe, workers=1) for name in "ab")
    for name in ("open_clip_model.safetensors", "open_clip_config.json", "bpe.txt.gz"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_forward_is_that_of_open_clip(tmp_path: Path) -> None:
    """The hand-written attention gives the features of the stock model, class token sighted and whole scenes."""
    from open_clip.tokenizer import SimpleTokenizer

    (tmp_path / "bpe.gz").write_bytes(build_bpe(["a", "star"]))
    tokenizer = SimpleTokenizer(str(tmp_path / "bpe.gz"), context_length=32)
    trainer = Trainer(dataclasses.replace(SHIPPED, blind_share=0.0), tokenizer, "cpu")
    pixels = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    tokens = tokenizer(["a star", "a"])
    with torch.no_grad():
        image = trainer.model.encode_image(pixels, normalize=True)
        text = trainer.model.encode_text(tokens, normalize=True)
        assert torch.allclose(trainer._image_features(pixels, 0.0), image, atol=1e-5)
        assert torch.allclose(trainer._text_features(tokens), text, atol=1e-5)
