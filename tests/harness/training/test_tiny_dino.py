"""Training of tiny-dino: codes, hidden patches, going on with it, and that DINO's door reads what comes out."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from ovss.harness.training import tiny_dino as training
from ovss.harness.training.clip_s4_recipe import Views
from ovss.harness.training.images import Scenes
from ovss.harness.training.loop import train
from ovss.harness.training.tiny_dino import WEIGHTS, Recipe, Trainer, balanced, disagreement
from ovss.methods import UserError
from ovss.methods.models.dino import Dino, load_dino

SHORT = dataclasses.replace(
    Recipe(),
    count=11,
    batch=3,
    width=64,
    depth=1,
    codes=8,
    whole=dataclasses.replace(training.WHOLE, crop_px=32),
    partial=dataclasses.replace(training.PARTIAL, crop_px=16),
    saved_every=2,
)
CPU = torch.device("cpu")


def test_codes_by_hand() -> None:
    """Rows [2, 1] and [1, 1] of exp: columns to 1/2 each, then rows to 1/2 each; a second round changes little."""
    logits = torch.tensor([[math.log(2.0), 0.0], [0.0, 0.0]])
    columns = torch.tensor([[2 / 3, 1 / 2], [1 / 3, 1 / 2]]) / 2
    wanted = columns / columns.sum(dim=1, keepdim=True)
    torch.testing.assert_close(balanced(logits, 1.0, rounds=1), wanted)
    many = balanced(torch.randn(40, 5, generator=torch.Generator().manual_seed(0)), 0.5, rounds=50)
    torch.testing.assert_close(many.sum(dim=1), torch.ones(40))
    torch.testing.assert_close(many.sum(dim=0), torch.full((5,), 8.0), atol=1e-3, rtol=0)


def test_disagreement_by_hand() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])
    wanted = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    found = disagreement(wanted, logits * 0.1, 0.1)
    assert float(found) == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


def test_the_student_is_the_vit_of_dino_s_door(tmp_path: Path) -> None:
    """Whole scenes; and what is hidden from the student changes what it says."""
    trainer = Trainer(SHORT, CPU)
    (tmp_path / WEIGHTS).write_bytes(trainer.results({})[WEIGHTS])
    dino = load_dino(tmp_path / WEIGHTS)
    pixels = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        state = {k: t.float() for k, t in trainer.trained().items()}
        trainer.teacher.vit.load_state_dict(state)  # rounded as it is stored
        theirs = trainer.teacher.tokens(dino.normalise(pixels))
        torch.testing.assert_close(theirs, dino.tokens(dino.normalise(pixels)), atol=1e-5, rtol=1e-4)
        hidden = torch.zeros(2, 144, dtype=torch.bool)
        hidden[1, 5] = True
        masked = trainer.teacher.tokens(dino.normalise(pixels), hidden)
    assert torch.allclose(masked[0], theirs[0], atol=1e-6) and not torch.allclose(masked[1], theirs[1], atol=1e-3)


def test_every_second_view_hides_patches() -> None:
    trainer = Trainer(SHORT, CPU)
    hidden = trainer._hidden(1000, 9)
    share = hidden.float().mean(dim=1)
    assert not hidden[::2].any() and float(share[1::2].mean()) == pytest.approx(0.3, abs=0.02)
    assert hidden.equal(trainer._hidden(1000, 9))
    trainer.iteration = 1
    assert not hidden.equal(trainer._hidden(1000, 9))


def test_a_step_teaches_the_student_and_moves_the_teacher_behind_it() -> None:
    trainer = Trainer(SHORT, CPU)
    before = {k: t.clone() for k, t in trainer.student.state_dict().items()}
    rgb = next(Scenes(SHORT, 0).batches(0))
    losses = trainer.step(rgb)
    assert set(losses) == {"class", "patches"} and all(value > 0 for value in losses.values())
    name = "vit.blocks.0.attn.qkv.weight"
    student, teacher = (one.state_dict()[name] for one in (trainer.student, trainer.teacher))
    assert not student.equal(before[name])
    torch.testing.assert_close(teacher, before[name] + 0.01 * (student - before[name]))


def run(output: Path, stop_after: int | None = None) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    train(output, Trainer(SHORT, CPU), Scenes(SHORT, 0), stop_after, report=records.append)
    return records


def test_a_stopped_training_ends_with_the_same_bytes(tmp_path: Path) -> None:
    records = run(tmp_path / "whole")
    assert [r["iteration"] for r in records] == [2, 4]
    for until in (1, 3, None):
        run(tmp_path / "parts", until)
    whole, parts = ((tmp_path / name / WEIGHTS).read_bytes() for name in ("whole", "parts"))
    assert whole == parts
    with safe_open(tmp_path / "whole" / WEIGHTS, "pt") as file:
        about = json.loads(file.metadata()["training"])
    assert about["command"] == "bench train tiny-dino --seed 0" and about["iterations"] == 4
    assert about["images"]["data"] == "shapes:train"


def test_a_loss_that_is_not_finite_stops_before_it_is_stored() -> None:
    trainer = Trainer(SHORT, CPU)
    before = {k: t.clone() for k, t in trainer.student.state_dict().items()}
    with pytest.raises(UserError, match="not finite in iteration 0"):
        trainer.step(torch.full((3, 3, 96, 96), torch.nan))
    assert all(t.equal(before[k]) for k, t in trainer.student.state_dict().items())


def test_views_lie_in_the_scene() -> None:
    """Whole views show 32 / 1.15 to 32 / 0.75 px of it, twice for every scene; two draws of one place differ."""
    trainer, rgb = Trainer(SHORT, CPU), torch.rand(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    seen = trainer._views(rgb, Views(32, (0.75, 1.15), 0.5, SHORT.whole.jitter, grey=0.0), 0)
    assert seen.shape == (6, 3, 32, 32) and seen.isfinite().all()
    assert seen.equal(trainer._views(rgb, SHORT.whole, 0)) and not seen.equal(trainer._views(rgb, SHORT.whole, 1))
    low, high = (_normalised(v) for v in (0.0, 1.0))
    assert (seen >= low - 1e-4).all() and (seen <= high + 1e-4).all()


def _normalised(value: float) -> Tensor:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (Dino.mean, Dino.std))
    return (value - mean) / std
