"""Training of clip-s4-like: pool and prototypes, steps, stopping and killing, messages, what is embedded."""

import dataclasses
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from ovss.datasets import open_dataset
from ovss.datasets.shapes import CLASS_NAMES, Stream, make_scene
from ovss.harness.cli.main import main
from ovss.harness.runs.evaluation import evaluate
from ovss.harness.training import clip_s4 as train_clip_s4
from ovss.harness.training import loop as training
from ovss.harness.training.clip_dinoiser_recipe import Jitter
from ovss.harness.training.clip_s4 import Trainer, initial_encoder
from ovss.harness.training.clip_s4_losses import contrast_loss, embedding_loss, find_segments, semantic_loss
from ovss.harness.training.clip_s4_recipe import RECIPES, Optimiser, Recipe, Views
from ovss.harness.training.clip_s4_views import superpixels
from ovss.harness.training.images import Scenes, find_images
from ovss.harness.training.loop import train
from ovss.methods import UserError
from ovss.methods.clip_s4 import TINY_S4, CLIPS4Like
from ovss.methods.maskclip_value import MaskCLIPValue
from ovss.methods.models import vit
from ovss.methods.models.backbone import load_backbone
from ovss.methods.models.clip_s4 import EncoderSpec, PixelEncoder, cluster, load_weights, segment_means

# a few iterations of the tiny recipe
SHORT = dataclasses.replace(
    RECIPES["tiny"],
    count=23,
    batch=3,
    views=Views(32, (0.75, 1.5), 0.5, Jitter(0.8, brightness=0.2), grey=0.2),
    encoder=EncoderSpec("small", width=4),
    clusters=2,
    rounds=3,
    pool=60,
    unknown=5,
    saved_every=3,
)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVSS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def teacher() -> MaskCLIPValue:
    return MaskCLIPValue(load_backbone("tiny-clip"))


def scenes(seed: int = 0, recipe: Recipe = SHORT) -> Scenes:
    return Scenes(recipe, seed)


def trainer_on(teacher: MaskCLIPValue, recipe: Recipe = SHORT, seed: int = 0) -> Trainer:
    return Trainer(recipe, teacher, seed)


# ---- what is learnt from


def test_pool_is_clip_over_superpixels_and_prototypes_come_from_it(teacher: MaskCLIPValue) -> None:
    trainer = trainer_on(teacher)
    trainer.prepare(scenes())
    assert trainer.pool.shape == (60, 128) and torch.allclose(trainer.pool.norm(dim=1), torch.ones(()), atol=1e-3)
    rgb = torch.from_numpy(make_scene("train", 0).image.copy()).permute(2, 0, 1)[None] / 255
    tokens, grid = vit.run_trunk(teacher.tower, teacher.normalised(rgb * 255))
    features = teacher.patch_features(tokens, grid).unflatten(1, grid).permute(0, 3, 1, 2)
    centres = (torch.arange(24) + 0.5) * 4  # px; a cell takes the superpixel and the feature of its centre
    big = F.interpolate(features, (24, 24), mode="bilinear", align_corners=False)[0]
    regions = superpixels(rgb, SHORT.superpixels)[0][centres.long()][:, centres.long()]
    for row, name in zip(trainer.pool, regions.unique(), strict=False):
        assert torch.allclose(row, F.normalize(big[:, regions == name].mean(1), dim=0), atol=2e-3)
    assert trainer.known.shape == (11, 128) and SHORT.known_names() == list(CLASS_NAMES[::2])
    again, other = trainer_on(teacher), trainer_on(teacher, seed=1)
    again.prepare(scenes())
    other.prepare(scenes())
    assert torch.equal(again.unknown, trainer.unknown) and not torch.equal(other.unknown, trainer.unknown)
    assert all(any(torch.equal(u, p) for p in trainer.pool) for u in trainer.unknown)


def test_a_step_is_the_sum_of_the_losses_over_the_views(teacher: MaskCLIPValue) -> None:
    recipe = dataclasses.replace(SHORT, optimiser=Optimiser("sgd", 0.1, 0.0), loss_weights=(1.0, 2.0, 0.5), keep=0.5)
    trainer = trainer_on(teacher, recipe)
    trainer.prepare(scenes())
    rgb = next(scenes().batches(0))
    pixels, labels, clip = trainer._views(rgb)
    assert pixels.shape == (6, 3, 32, 32) and labels.shape == (6, 64) and clip.shape == (6, 128, 8, 8)
    mirror = PixelEncoder(recipe.encoder, 128).train()
    mirror.load_state_dict(trainer.encoder.state_dict())
    z = mirror(teacher.normalised(pixels * 255))
    segments = find_segments(cluster(z.detach(), 2, 3), labels, torch.tensor([0, 1, 2, 0, 1, 2]))
    flat, target = (m.flatten(2).transpose(1, 2).reshape(-1, 128) for m in (z, clip))
    means = segment_means(flat, segments.of_pixel, segments.count)
    target = segment_means(target, segments.of_pixel, segments.count)
    prototypes = torch.cat([trainer.known, trainer.unknown])
    chosen = (target @ prototypes.T).argmax(1)
    losses = {
        "contrast": contrast_loss(flat, means, segments, 16.0),
        "embedding": embedding_loss(means, target),
        "semantic": semantic_loss(means, chosen, prototypes, 0.07),
    }
    (losses["contrast"] + 2 * losses["embedding"] + 0.5 * losses["semantic"]).backward()
    before = trainer.unknown
    assert trainer.step(rgb) == pytest.approx({name: loss.item() for name, loss in losses.items()}, rel=1e-5)
    for (name, new), old in zip(trainer.encoder.named_parameters(), mirror.parameters(), strict=True):
        assert old.grad is not None
        assert torch.allclose(new, old - 0.1 * old.grad, atol=1e-6), name
    taken = {int(c) - 11 for c in chosen if c >= 11}
    moved = {u for u in range(5) if not torch.allclose(trainer.unknown[u], before[u], atol=1e-6)}
    assert taken and moved == taken


def test_both_views_show_the_same_picture(teacher: MaskCLIPValue) -> None:
    """A view's superpixels and features are its picture's: whatever a view contains lies in the picture."""
    trainer = trainer_on(teacher)
    rgb = next(scenes().batches(0))
    _, labels, clip = trainer._views(rgb)
    regions = superpixels(rgb, SHORT.superpixels)
    for view in range(6):
        assert set(labels[view].tolist()) <= set(regions[view % 3].flatten().tolist())
    assert not torch.equal(labels[0], labels[3]) and not clip.requires_grad and not clip.is_inference()
    again = trainer_on(teacher)._views(rgb)
    assert torch.equal(again[1], labels) and torch.equal(again[2], clip)
    trainer.iteration = 1
    assert not torch.equal(trainer._views(rgb)[1], labels), "every iteration has its own views"


def test_first_weights_follow_the_seed_and_leave_the_global_state(teacher: MaskCLIPValue) -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    a, b, c = (initial_encoder(SHORT, 16, seed, None).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(not torch.equal(a[k], c[k]) for k in a)


def test_resnet_starts_from_a_file_of_torchvision(tmp_path: Path) -> None:
    photos = dataclasses.replace(RECIPES["photos"], encoder=EncoderSpec("resnet50", bins=(1,)))
    source = PixelEncoder(photos.encoder, 8).trunk.state_dict()
    path = tmp_path / "resnet50.pth"
    torch.save({**source, "fc.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)}, path)
    trunk = initial_encoder(photos, 8, 0, path).trunk.state_dict()
    assert all(torch.equal(trunk[name], tensor) for name, tensor in source.items())
    with pytest.raises(UserError, match=r"recipe photos starts from torchvision's ResNet-50 of ImageNet.*--initial"):
        initial_encoder(photos, 8, 0, None)
    with pytest.raises(UserError, match="recipe tiny starts from nothing: leave out --initial"):
        initial_encoder(SHORT, 8, 0, path)
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"resnet50\.pth does not fit the model: missing .*conv1\.weight has shape"):
        initial_encoder(photos, 8, 0, path)


# ---- stopping


class Slow(Scenes):
    """Scenes that come slowly enough to be killed in between."""

    def batches(self, first: int) -> Generator[Tensor, None, None]:
        for batch in super().batches(first):
            time.sleep(0.1)
            yield batch


def interrupt_at(iteration: int) -> Callable[[int], None]:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if done == iteration:
            raise KeyboardInterrupt

    return advance


def state_of(folder: Path) -> dict[str, Any]:
    state = torch.load(folder / "state.pt", weights_only=True)
    return {name: value for name, value in state.items() if name != "log"}


def assert_same(a: Any, b: Any) -> None:
    """Equal, tensors bit by bit."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b


def test_stopped_interrupted_and_killed_trainings_end_with_the_same_bytes(
    teacher: MaskCLIPValue, tmp_path: Path
) -> None:
    whole, stopped, interrupted, killed = (tmp_path / n for n in ("whole", "stopped", "interrupted", "killed"))
    train(whole, trainer_on(teacher), scenes())
    for until in (1, 4, 7, None):
        train(stopped, trainer_on(teacher), scenes(), stop_after=until)
    with pytest.raises(KeyboardInterrupt):
        train(interrupted, trainer_on(teacher), scenes(), advance=interrupt_at(5))
    assert state_of(interrupted)["iteration"] == 3
    train(interrupted, trainer_on(teacher), scenes())
    process = multiprocessing.get_context("fork").Process(
        target=train, args=(killed, trainer_on(teacher), Slow(SHORT, 0)), daemon=True
    )
    process.start()
    while not (killed / "log.jsonl").exists():
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert state_of(killed)["iteration"] < SHORT.iterations
    train(killed, trainer_on(teacher), scenes())
    weights, state = (whole / "clip_s4.safetensors").read_bytes(), state_of(whole)
    assert state["iteration"] == SHORT.iterations == 8
    for folder in (stopped, interrupted, killed):
        assert (folder / "clip_s4.safetensors").read_bytes() == weights
        assert_same(state_of(folder), state)
    lines = [json.loads(line) for line in (interrupted / "log.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines[1:]] == [3, 6, 8]
    assert lines[0]["teacher"] == "maskclip-value" and lines[0]["images"]["data"] == "shapes:train"
    before = (whole / "state.pt").read_bytes()
    train(whole, trainer_on(teacher), scenes())  # nothing left to do
    assert (whole / "state.pt").read_bytes() == before


def test_training_on_photos_stops_and_resumes(teacher: MaskCLIPValue, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(make_scene("train", i, size=80 + i).image).save(folder / f"{i}.png")
    recipe = dataclasses.replace(
        SHORT,
        pick="with-replacement",
        picture_px=72,
        count=4,
        batch=2,
        epochs=2,
        optimiser=Optimiser("sgd", 0.01, 1e-4),
    )
    images = find_images(str(folder), recipe, 0)
    train(tmp_path / "whole", trainer_on(teacher, recipe), images)
    for until in (3, None):
        train(tmp_path / "parts", trainer_on(teacher, recipe), images, stop_after=until)
    assert_same(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))


def test_messages_about_the_output(teacher: MaskCLIPValue, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UserError, match=r"is not empty and holds no state\.pt"):
        train(tmp_path, trainer_on(teacher), scenes())
    folder = tmp_path / "out"
    train(folder, trainer_on(teacher), scenes(), stop_after=1)
    with pytest.raises(UserError, match="holds another training: seed differ"):
        train(folder, trainer_on(teacher, seed=1), scenes())
    with pytest.raises(UserError, match="holds another training: images differ"):
        train(folder, trainer_on(teacher), scenes(1))
    (folder / "state.pt").write_bytes(b"half of a file")
    with pytest.raises(UserError, match=r"state\.pt cannot be read"):
        train(folder, trainer_on(teacher), scenes())


def test_a_loss_that_is_not_finite_stops_before_it_is_stored(teacher: MaskCLIPValue, tmp_path: Path) -> None:
    trainer = trainer_on(teacher)
    train(tmp_path / "out", trainer, scenes(), stop_after=3)
    trainer.known = trainer.known * float("nan")
    before = {name: tensor.clone() for name, tensor in trainer.encoder.named_parameters()}
    with pytest.raises(UserError, match="the loss is not finite in iteration 3"):
        trainer.step(next(scenes().batches(3)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.encoder.named_parameters())
    train(tmp_path / "out", trainer_on(teacher), scenes())


# ---- the command line


def bench(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_command_trains_resumes_and_tells_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(RECIPES, "tiny", SHORT)
    monkeypatch.setattr(training, "VALIDATION_SCENES", 2)
    call = ["train", "clip-s4", "--data", "shapes", "--output", str(tmp_path / "out"), "--seed", "3"]
    assert bench(monkeypatch, *call, "--stop-after", "4") == 0
    out, err = capsys.readouterr()
    assert "stopped after 4 of 8 iterations" in out and "iteration 3  iterations 8  contrast " in err
    assert bench(monkeypatch, *call) == 0
    out, err = capsys.readouterr()
    file = tmp_path / "out/clip_s4.safetensors"
    assert "iteration 3 " not in err and "iteration 8 " in err
    assert f"wrote {file}; try it with" in out and f"--option encoder={file}" in out
    lines = [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]
    assert [line.get("iteration") for line in lines] == [None, 3, 4, 6, 8]
    assert all(0 <= line["val_miou"] < 100 for line in lines[1:])
    assert load_weights(file).clip_sha256 == load_backbone("tiny-clip").sha256


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "shapes", "--recipe", "photos"], "it needs --data FOLDER"),
        (["--data", "nowhere"], "neither 'shapes' nor a folder"),
        (["--data", "shapes", "--recipe", "voc"], "unknown recipe 'voc'"),
        (["--data", "shapes", "--device", "tpu"], "unknown device 'tpu'"),
        (["--data", "shapes", "--initial", "resnet50.pth"], "leave out --initial"),
    ],
)
def test_command_says_what_is_wrong(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert bench(monkeypatch, "train", "clip-s4", "--output", str(tmp_path / "out"), *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ---- what is embedded


def test_embedded_weights_are_the_recipes_and_segment(teacher: MaskCLIPValue) -> None:
    with safe_open(TINY_S4, "pt") as file:
        about = json.loads(file.metadata()["training"])
    assert about["recipe"] == json.loads(json.dumps(dataclasses.asdict(RECIPES["tiny"])))
    assert about["command"] == "bench train clip-s4 --data shapes --recipe tiny --seed 0"
    assert about["seed"] == 0 and about["iterations"] == RECIPES["tiny"].iterations
    assert about["backbone"].items() <= teacher.backbone.provenance.items(), "weights for another tiny-clip"
    assert about["known"] == list(CLASS_NAMES[::2])
    assert TINY_S4.stat().st_size < 1_500_000
    fresh = dataclasses.replace(load_weights(TINY_S4), encoder=initial_encoder(RECIPES["tiny"], 128, 0, None))
    data = open_dataset("shapes:val")
    miou = evaluate(CLIPS4Like(teacher.backbone), data, limit=12).miou
    assert miou > evaluate(CLIPS4Like(teacher.backbone, encoder=fresh), data, limit=12).miou + 15


def test_streams_of_views_and_of_pictures_differ() -> None:
    keys = {1, 2, train_clip_s4._VIEWS, train_clip_s4._UNKNOWN}  # 1 and 2: order and augmentation of photos
    assert len({float(Stream(0, key, 0, 0).uniform()) for key in keys}) == 4
