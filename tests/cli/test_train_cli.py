"""``bench train tiny-dino``: stops, goes on, and what it wrote is run."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ovss.harness.training import loop, tiny_dino
from ovss.harness.training.tiny_dino import PARTIAL, WEIGHTS, WHOLE, Recipe

SHORT = Recipe(
    count=11,
    batch=3,
    width=64,
    depth=1,
    codes=8,
    whole=dataclasses.replace(WHOLE, crop_px=32),
    partial=dataclasses.replace(PARTIAL, crop_px=16),
    saved_every=2,
)


def test_the_command(bench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_dino, "Recipe", lambda: SHORT)
    monkeypatch.setattr(loop, "VALIDATION_SCENES", 1)
    ended = bench("train", "tiny-dino", "--output", str(tmp_path / "t"), "--stop-after", "2")
    assert ended.code == 0 and "stopped after 2 of 4" in ended.out and "val_miou" in ended.err
    ended = bench("train", "tiny-dino", "--output", str(tmp_path / "t"))
    assert ended.code == 0 and "stopped" not in ended.out
    file = tmp_path / "t" / WEIGHTS
    shown = bench("run", "-m", "proxyclip", "-d", "shapes", "--limit", "1", "--option", f"dino={file}", "--json").json()
    assert shown["images"] == 1
    other = bench("train", "tiny-dino", "--output", str(tmp_path / "t"), "--seed", "1")
    assert other.code == 2 and "holds another training" in other.err
