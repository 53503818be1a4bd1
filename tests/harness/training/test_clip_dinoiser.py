"""Training of CLIP-DINOiser's heads: losses, steps and schedules against plain ones; stopping, killing, messages."""

import dataclasses
import json
import math
import multiprocessing
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn

from ovss.datasets import DataError
from ovss.datasets.shapes import Stream, make_scene
from ovss.harness.cli.main import main
from ovss.harness.training import clip_dinoiser_recipe as dinoiser_recipe
from ovss.harness.training import loop as training
from ovss.harness.training.clip_dinoiser import Trainer, affinity_loss, default_recipe, initial_heads, saliency_loss
from ovss.harness.training.clip_dinoiser_recipe import RECIPES, Augment, Jitter, Rate, Recipe
from ovss.harness.training.clip_dinoiser_teachers import (
    DinoFound,
    Seen,
    TinyWorld,
    look,
    patch_descriptor,
    teachers_for,
)
from ovss.harness.training.images import Photos, Scenes, augmented, find_images
from ovss.harness.training.loop import train
from ovss.methods import Backbone, UserError
from ovss.methods.clip_dinoiser import TINY_HEADS, CLIPDINOiser, CLIPDINOiserOptions
from ovss.methods.core.picture import Windows
from ovss.methods.models.backbone import load_backbone
from ovss.methods.models.dino import Dino
from ovss.methods.models.dinoiser_heads import DinoiserHeads, heads_of, load_heads
from ovss.methods.models.found import Found

WIDTH, GRID = 128, (3, 4)
NO_JITTER = Jitter(1.0)
# a few iterations of the tiny recipe, with every border of its schedule inside
SHORT = dataclasses.replace(
    RECIPES["tiny"], count=30, batch=4, affinity=Rate(1e-3, drop_at=3, stop_at=6), saliency=Rate(1e-2, 5), saved_every=3
)


@pytest.fixture(scope="module")
def tiny() -> CLIPDINOiser:
    return CLIPDINOiser(load_backbone("tiny-clip"), CLIPDINOiserOptions(pooling="none"))


def trainer_on(model: CLIPDINOiser, recipe: Recipe = SHORT, seed: int = 0) -> Trainer:
    return Trainer(recipe, model, teachers_for(recipe, model), seed)


def batch_of(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """I, pairs, objects."""
    generator = torch.Generator().manual_seed(seed)
    inner = torch.randn(2, 12, WIDTH, generator=generator)
    alike = torch.rand(2, 12, 12, generator=generator) < 0.4
    return inner, alike, torch.rand(2, 12, generator=generator) < 0.5


def bce(logits: Tensor, target: Tensor) -> Tensor:
    p = 1 / (1 + torch.exp(-logits))
    return -torch.where(target, p.log(), (1 - p).log()).mean()


def plain_losses(state: dict[str, Tensor], inner: Tensor, alike: Tensor, objects: Tensor) -> dict[str, Tensor]:
    """In float64, from the equations: the cosine is the logit, negative ones count as a constant 0."""
    maps = inner.double().transpose(1, 2).reshape(len(inner), WIDTH, *GRID)
    rows = [0, *range(GRID[0]), GRID[0] - 1]
    columns = [0, *range(GRID[1]), GRID[1] - 1]
    projected = F.conv2d(maps[:, :, rows][:, :, :, columns], state["obj_proj.weight"], state["obj_proj.bias"])
    p = projected.flatten(2)
    cosine = torch.einsum("bci,bcj->bij", p, p) / (p.norm(dim=1)[:, :, None] * p.norm(dim=1)[:, None])
    unit = maps / maps.norm(dim=1, keepdim=True)
    salient = F.conv2d(unit, state["bkg_decoder.weight"], state["bkg_decoder.bias"]).flatten(1)
    clipped = torch.where(cosine > 0, cosine, torch.zeros_like(cosine))
    return {"affinity": bce(clipped, alike), "saliency": bce(salient, objects)}


def test_losses_and_gradients_are_those_of_the_equations() -> None:
    heads = initial_heads(WIDTH, 3, torch.device("cpu"))
    inner, alike, objects = batch_of()
    losses = affinity_loss(heads, inner, GRID, alike), saliency_loss(heads, inner, objects)
    (losses[0] + losses[1]).backward()
    copies = {k: t.detach().double().requires_grad_() for k, t in heads.state.items()}
    wanted = plain_losses(copies, inner, alike, objects)
    (wanted["affinity"] + wanted["saliency"]).backward()
    assert [x.item() for x in losses] == pytest.approx([x.item() for x in wanted.values()], rel=1e-6)
    assert (heads.affinity(inner, GRID) < 0).any(), "a negative cosine has to occur"
    for name, tensor in heads.state.items():
        expected = copies[name].grad
        assert tensor.grad is not None and expected is not None
        difference = (tensor.grad.double() - expected).norm() / expected.norm()
        assert difference < 1e-4, name


def test_floors_of_the_affinity_loss_and_no_gradient_below_zero() -> None:
    weight = torch.zeros(256, 2, 3, 3)
    weight[0, 0, 1, 1] = weight[1, 1, 1, 1] = 1.0
    heads = heads_of(
        {
            "obj_proj.weight": weight.requires_grad_(),
            "obj_proj.bias": torch.zeros(256),
            "bkg_decoder.weight": torch.zeros(1, 2, 1, 1),
            "bkg_decoder.bias": torch.zeros(1),
        },
        "test",
    )
    inner = torch.tensor([[[1.0, 0.1], [-1.0, 0.1]]])  # a patch and almost its opposite
    cosine = heads.affinity(inner, (1, 2))
    assert cosine[0, 0, 1] < -0.9
    same = affinity_loss(heads, inner, (1, 2), torch.eye(2, dtype=torch.bool)[None])
    assert float(same.detach()) == pytest.approx((math.log(1 + math.exp(-1)) + math.log(2)) / 2)  # 0.313 and 0.693
    same.backward()
    assert weight.grad is not None
    assert float(weight.grad.abs().max()) < 1e-6


class Fixed:
    """Teachers with the same targets for every batch."""

    provenance: ClassVar[dict[str, Any]] = {"name": "fixed"}

    def __init__(self, batch: int, patches: int) -> None:
        generator = torch.Generator().manual_seed(9)
        self.pairs = torch.rand(batch, patches, patches, generator=generator) < 0.4
        self.mask = torch.rand(batch, patches, generator=generator) < 0.5

    def alike(self, seen: Seen) -> Tensor:
        return self.pairs

    def objects(self, seen: Seen) -> Tensor:
        return self.mask


def scene_batch(count: int = 2, side: int = 32) -> Tensor:
    scenes = [torch.from_numpy(make_scene("train", i).image[:side, :side].copy()) for i in range(count)]
    return torch.stack(scenes).permute(0, 3, 1, 2).float() / 255


def test_three_steps_are_those_of_adamw_by_hand(tiny: CLIPDINOiser) -> None:
    recipe = dataclasses.replace(SHORT, affinity=Rate(1e-3, drop_at=2), saliency=Rate(1e-2, stop_at=2))
    teachers = Fixed(2, 16)
    trainer = Trainer(recipe, tiny, teachers)
    rgb = scene_batch()
    inner = look(tiny, rgb).inner
    state = {k: t.detach().clone() for k, t in trainer.heads.state.items()}
    moments = {k: (torch.zeros_like(t), torch.zeros_like(t)) for k, t in state.items()}
    for step, rates in enumerate([(1e-3, 1e-2), (1e-3, 1e-2), (1e-4, 0.0)], start=1):
        leaves = {k: t.clone().requires_grad_() for k, t in state.items()}
        heads = heads_of(leaves, "by hand")
        both = affinity_loss(heads, inner, (4, 4), teachers.pairs) + saliency_loss(heads, inner, teachers.mask)
        both.backward()
        for name, leaf in leaves.items():
            rate = rates[name.startswith("bkg")]
            if not rate:
                continue
            assert leaf.grad is not None
            first, second = moments[name]
            first.mul_(0.9).add_(0.1 * leaf.grad)
            second.mul_(0.999).add_(0.001 * leaf.grad**2)
            state[name] = state[name] * (1 - rate * 0.01)  # decoupled weight decay
            change = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
            state[name] = state[name] - rate * change
        losses = trainer.step(rgb)
        assert set(losses) == ({"affinity", "saliency"} if step < 3 else {"affinity"})
    for name, tensor in trainer.heads.state.items():
        assert torch.allclose(tensor, state[name], rtol=1e-4, atol=1e-6), name


def test_schedules_at_their_borders() -> None:
    released, first = RECIPES["in1k-1000"], RECIPES["voc1464"]
    assert (released.iterations, released.per_epoch) == (6300, 63)
    assert (first.iterations, first.per_epoch) == (920, 46)
    for iteration, rates in {0: (5e-5, 1e-2), 4999: (5e-5, 1e-2), 5000: (5e-6, 1e-3), 6299: (5e-6, 1e-3)}.items():
        assert (released.affinity.at(iteration), released.saliency.at(iteration)) == pytest.approx(rates, rel=1e-12)
    for iteration, rates in {229: (5e-5, 1e-2), 230: (0, 1e-2), 689: (0, 1e-2), 690: (0, 1e-3)}.items():
        assert (first.affinity.at(iteration), first.saliency.at(iteration)) == pytest.approx(rates, rel=1e-12)


def test_a_head_that_stopped_keeps_its_bits(tiny: CLIPDINOiser) -> None:
    trainer = Trainer(dataclasses.replace(SHORT, affinity=Rate(1e-3, stop_at=1)), tiny, Fixed(2, 16))
    trainer.step(scene_batch())
    before = trainer.trained()
    trainer.step(scene_batch())
    after = trainer.trained()
    assert torch.equal(before.obj_weight, after.obj_weight) and torch.equal(before.obj_bias, after.obj_bias)
    assert not torch.equal(before.bkg_weight, after.bkg_weight)


def test_first_weights_are_those_of_torch_and_the_global_state_is_untouched() -> None:
    torch.manual_seed(5)
    module = nn.Conv2d(WIDTH, 256, 3)
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    heads = initial_heads(WIDTH, 5, torch.device("cpu"))
    assert torch.equal(heads.obj_weight, module.weight) and torch.equal(torch.rand(1), expected)


def test_features_are_those_of_segmenting_whatever_the_dtype_of_the_image(tiny: CLIPDINOiser) -> None:
    pixels = (scene_batch(side=36) * 255).round().to(torch.uint8)  # no multiple of the patch: padded alike
    seen = look(tiny, pixels.float() / 255)
    _, inner, grid = tiny.walk(tiny.normalised(pixels))
    assert seen.grid == grid == (5, 5) and inner is not None
    assert torch.allclose(seen.inner, inner, atol=1e-5)
    assert seen.rgb.shape == (2, 3, 40, 40) and not seen.inner.requires_grad


def test_patch_descriptor_by_hand() -> None:
    image = torch.zeros(1, 3, 2, 4)
    image[0, 0, :, 2:] = torch.tensor([[0.2, 0.8], [0.2, 0.8]])
    left, right = patch_descriptor(image, 2)[0]
    # of the last column in a patch, the neighbour to the right is the next patch's; beyond the image it is 0
    assert left.tolist() == pytest.approx([0, 0, 0, 0, 0, 0, 2 * (0.2 / 3) / 2, 0])
    assert right.tolist() == pytest.approx([1.5 * 0.5, 0, 0, 0.3, 0, 0, 2 * 0.2 / 2, 0], abs=1e-6)


def test_tiny_teachers_see_regions_and_things(tiny: CLIPDINOiser) -> None:
    scenes = [make_scene("val", i) for i in range(20)]
    rgb = torch.stack([torch.from_numpy(s.image.copy()) for s in scenes]).permute(0, 3, 1, 2).float() / 255
    teachers = TinyWorld(tiny)
    seen = look(tiny, rgb)
    labels = torch.stack([torch.from_numpy(s.label) for s in scenes]).long()
    shares = F.avg_pool2d(F.one_hot(labels, 22).permute(0, 3, 1, 2).float(), 8).flatten(2).transpose(1, 2)
    pure, kind = shares.max(-1)
    same = kind[:, :, None] == kind[:, None]
    sure = (pure > 0.8)[:, :, None] & (pure > 0.8)[:, None]
    alike = teachers.alike(seen)
    assert alike.shape == (20, 144, 144) and bool(alike.diagonal(dim1=1, dim2=2).all())
    assert alike[sure & same].float().mean() > 10 * alike[sure & ~same].float().mean()
    thing, objects = shares[..., 8:].sum(-1) > 0.5, teachers.objects(seen)
    everything = thing.float().mean()
    assert (thing & objects).sum() / (thing | objects).sum() > everything + 0.2
    assert torch.equal(teachers.alike(seen), alike) and torch.equal(teachers.objects(seen), objects)


# ---- DINO and FOUND with random weights


def random_dino(width: int, patch: int, seed: int) -> Dino:
    generator = torch.Generator().manual_seed(seed)
    block = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 17, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
    }
    for name, (rows, columns) in block.items():
        shapes[f"blocks.0.{name}.weight"] = (rows * width, columns * width)
        shapes[f"blocks.0.{name}.bias"] = (rows * width,)
    for norm in ("blocks.0.norm1", "blocks.0.norm2", "norm"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    state = {k: torch.randn(*s, generator=generator) / math.sqrt(s[-1]) for k, s in shapes.items()}
    state["pos_embed"] *= 30  # patches that differ, so that a threshold cuts through their cosines
    return Dino(state)


@pytest.fixture(scope="module")
def real() -> CLIPDINOiser:
    """Random weights in the layout of the real ones: patches of 16 px, DINO and FOUND."""
    torch.manual_seed(0)
    vision = {"image_size": 64, "layers": 4, "width": 64, "head_width": 32, "patch_size": 16}
    text = {"context_length": 8, "vocab_size": 10, "width": 32, "heads": 1, "layers": 1}
    clip = open_clip.CLIP(embed_dim=32, vision_cfg=vision, text_cfg=text).eval()
    small, head = random_dino(384, 8, 1), torch.randn(1, 384, 1, 1, generator=torch.Generator().manual_seed(2))
    return CLIPDINOiser(
        Backbone.from_module(clip, lambda texts: torch.zeros(len(texts), 8, dtype=torch.long)),
        CLIPDINOiserOptions(pooling="dino_v", background="found"),
        dino=random_dino(128, 16, 3),
        found=Found(small, head, torch.zeros(1)),
    )


def test_real_teachers_threshold_dino_values_and_found(real: CLIPDINOiser) -> None:
    rgb = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    seen, teachers = look(real, rgb), DinoFound(real)
    assert real.dino is not None and real.found is not None
    values = F.normalize(real.dino.qkv(real.dino.normalise(rgb)).v, dim=-1)
    cosine = values @ values.transpose(1, 2)
    clear = (cosine - 0.2).abs() > 1e-4
    alike = teachers.alike(seen)
    assert torch.equal(alike[clear], (cosine > 0.2)[clear])
    assert 0 < float(alike.float().mean()) < 1
    averaged = F.avg_pool2d(real.found.saliency(rgb), 2).flatten(1)  # 8 px to 16 px
    certain = (averaged - 0.5).abs() > 1e-4
    assert torch.equal(teachers.objects(seen)[certain], (averaged > 0.5)[certain])


def photos(folder: Path, count: int = 7) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (70 + i, 100, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"p{i}.png")
    return folder


def test_training_on_photos_stops_and_resumes(real: CLIPDINOiser, tmp_path: Path) -> None:
    recipe = dataclasses.replace(
        RECIPES["in1k-1000"],
        count=10,
        batch=4,
        epochs=3,
        affinity=Rate(1e-3, drop_at=5),
        augment=Augment(64, (1.0, 1.5), 0.5, Jitter(0.7, 0.3, 0.3, 0.3, 0.1)),
        saved_every=4,
    )
    images = find_images(str(photos(tmp_path / "photos")), recipe, 1)
    assert [len(b) for b in images.batches(0)] == [4, 4, 2] * 3
    train(tmp_path / "whole", trainer_on(real, recipe, 1), images)
    train(tmp_path / "parts", trainer_on(real, recipe, 1), images, stop_after=3)
    train(tmp_path / "parts", trainer_on(real, recipe, 1), images)
    assert (tmp_path / "whole/last.pt").read_bytes() == (tmp_path / "parts/last.pt").read_bytes()
    assert load_heads(tmp_path / "whole/last.pt", 64).width == 64


# ---- images


def test_picks_are_numpys_and_orders_are_shuffled_by_seed_and_epoch(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    files = tuple(folder / f"{i:05d}.jpg" for i in range(5000))
    recipe = RECIPES["in1k-1000"]
    a, again, other = (Photos(recipe, seed, folder, files) for seed in (0, 0, 1))
    np.random.seed(0)  # noqa: NPY002 - what the released code calls
    assert a.picked().tolist() == np.random.choice(5000, 1000).tolist()  # noqa: NPY002
    assert len(set(a.picked().tolist())) < 1000, "with replacement"
    epoch = [p for i in range(63) for p in a.chosen(i)]
    assert sorted(epoch) == sorted(files[i] for i in a.picked())
    assert [len(a.chosen(i)) for i in (0, 61, 62, 125, 6299)] == [16, 16, 8, 8, 8]
    assert a.chosen(70) == again.chosen(70)
    assert a.chosen(0) != a.chosen(63) and a.chosen(0) != other.chosen(0)


@pytest.mark.parametrize("name", ["in1k-1000", "voc1464"])
@pytest.mark.parametrize("size", [(375, 500), (500, 333), (448, 448), (60, 900)])
def test_augmented_photos_are_squares(name: str, size: tuple[int, int]) -> None:
    how = RECIPES[name].augment
    assert how is not None
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    out = augmented(image, how, Stream(0, 1))
    assert out.shape == (3, 448, 448) and out.min() >= 0 and out.max() <= 1
    assert torch.equal(out, augmented(image, how, Stream(0, 1)))
    assert not torch.equal(out, augmented(image, how, Stream(0, 2)))


def test_augmentation_by_hand() -> None:
    image = torch.rand(3, 8, 20, generator=torch.Generator().manual_seed(0))
    plain = augmented(image, Augment(4, (1.0, 1.0), 0.0, NO_JITTER), Stream(3))
    # bilinear without antialiasing at half size: the mean of 2 x 2
    half = F.avg_pool2d(image, 2)
    assert any(torch.allclose(plain, half[:, :, x : x + 4], atol=1e-6) for x in range(7))
    flipped = augmented(image, Augment(4, (1.0, 1.0), 1.0, NO_JITTER), Stream(3))
    assert torch.equal(flipped, plain.flip(-1))
    bright = augmented(image, Augment(4, (1.0, 1.0), 0.0, Jitter(1.0, brightness=0.5)), Stream(3))
    factor = (bright / plain)[bright < 1]
    assert factor.std() < 1e-4 and 0.5 < factor.mean() < 1.5


def test_scenes_are_new_in_every_batch_and_for_every_seed() -> None:
    batches = list(Scenes(SHORT, 0).batches(6))
    assert [len(b) for b in batches] == [4, 2]
    assert torch.equal(batches[0][1] * 255, torch.from_numpy(make_scene("train", 25).image).permute(2, 0, 1).float())
    other = next(Scenes(SHORT, 2).batches(6))
    assert torch.equal(other[1] * 255, torch.from_numpy(make_scene("train", 85).image).permute(2, 0, 1).float())


def test_voc_folder_is_told_by_its_list(tmp_path: Path) -> None:
    home = tmp_path / "VOCdevkit/VOC2012"
    (home / "ImageSets/Segmentation").mkdir(parents=True)
    photos(home / "JPEGImages", 1)
    names = [f"2007_{i:06d}" for i in range(1464)]
    (home / "ImageSets/Segmentation/train.txt").write_text("\n".join(names) + "\n")
    recipe = RECIPES["voc1464"]
    assert default_recipe(str(tmp_path)) == "voc1464"
    with pytest.raises(UserError, match=r"1464 of its images are missing, first .*2007_000000\.jpg"):
        find_images(str(tmp_path), recipe, 0)
    for name in names:
        (home / "JPEGImages" / f"{name}.jpg").touch()
    images = find_images(str(tmp_path), recipe, 0)
    assert isinstance(images, Photos) and images.files[3] == home / "JPEGImages/2007_000003.jpg"
    assert sorted(p for i in range(46, 92) for p in images.chosen(i)) == sorted(images.files), "each once per epoch"
    (home / "ImageSets/Segmentation/train.txt").write_text("\n".join(names[:7]))
    with pytest.raises(UserError, match=r"recipe voc1464 is for the 1464 images .* has 7"):
        find_images(str(tmp_path), recipe, 0)


def test_messages_about_data(tmp_path: Path) -> None:
    released = RECIPES["in1k-1000"]
    with pytest.raises(UserError, match="neither 'shapes' nor a folder"):
        find_images(str(tmp_path / "nowhere"), released, 0)
    with pytest.raises(UserError, match="has no image"):
        find_images(str(tmp_path), released, 0)
    with pytest.raises(UserError, match="it needs --data FOLDER"):
        find_images("shapes", released, 0)
    with pytest.raises(UserError, match="it needs --data shapes"):
        find_images(str(tmp_path), RECIPES["tiny"], 0)
    with pytest.raises(UserError, match="unknown recipe 'tinny'; did you mean tiny"):
        dinoiser_recipe.find_recipe("tinny")
    assert default_recipe("shapes") == "tiny" and default_recipe(str(tmp_path)) == "in1k-1000"
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.jpg"):
        next(find_images(str(tmp_path), released, 0).batches(0))


# ---- stopping


class Slow(Scenes):
    """Scenes that come slowly enough to be killed in between."""

    def batches(self, first: int) -> Generator[Tensor, None, None]:
        for batch in super().batches(first):
            time.sleep(0.2)
            yield batch


def interrupt_at(iteration: int) -> Callable[[int], None]:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if done == iteration:
            raise KeyboardInterrupt

    return advance


def end_of(folder: Path) -> tuple[bytes, dict[str, Any]]:
    state = torch.load(folder / "state.pt", weights_only=True)
    return (folder / "last.pt").read_bytes(), {k: v for k, v in state.items() if k != "log"}


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


def test_stopped_interrupted_and_killed_trainings_end_with_the_same_bits(tiny: CLIPDINOiser, tmp_path: Path) -> None:
    images = Scenes(SHORT, 0)
    whole, stopped, interrupted, killed = (tmp_path / n for n in ("whole", "stopped", "interrupted", "killed"))
    train(whole, trainer_on(tiny), images)
    for until in (1, 4, 7, None):
        train(stopped, trainer_on(tiny), images, stop_after=until)
    with pytest.raises(KeyboardInterrupt):
        train(interrupted, trainer_on(tiny), images, advance=interrupt_at(5))
    assert torch.load(interrupted / "state.pt", weights_only=True)["iteration"] == 3
    train(interrupted, trainer_on(tiny), images)
    process = multiprocessing.get_context("fork").Process(
        target=train, args=(killed, trainer_on(tiny), Slow(SHORT, 0)), daemon=True
    )
    process.start()
    while not (killed / "log.jsonl").exists():
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert torch.load(killed / "state.pt", weights_only=True)["iteration"] < SHORT.iterations
    train(killed, trainer_on(tiny), images)
    heads, state = end_of(whole)
    assert state["iteration"] == SHORT.iterations == 8
    for folder in (stopped, interrupted, killed):
        assert end_of(folder)[0] == heads
        assert_same(end_of(folder)[1], state)
    lines = [json.loads(line) for line in (interrupted / "log.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines[1:]] == [3, 6, 8]
    assert lines[0]["teachers"]["alike"]["name"] == "patch-descriptor" and lines[0]["images"]["data"] == "shapes:train"
    assert "affinity" in lines[2] and "affinity" not in lines[3], "the head that stopped is not logged"
    before = (whole / "state.pt").read_bytes()
    train(whole, trainer_on(tiny), images)  # nothing left to do
    assert (whole / "state.pt").read_bytes() == before


def test_checkpoint_has_the_released_format(tiny: CLIPDINOiser, tmp_path: Path) -> None:
    trainer = trainer_on(tiny)
    train(tmp_path / "out", trainer, Scenes(SHORT, 0), stop_after=2)
    stored = torch.load(tmp_path / "out/last.pt", weights_only=True)
    assert stored["epoch"] == 0
    assert {k: (tuple(v.shape), v.dtype) for k, v in stored["model_state_dict"].items()} == {
        "obj_proj.weight": ((256, 128, 3, 3), torch.float32),
        "obj_proj.bias": ((256,), torch.float32),
        "bkg_decoder.weight": ((1, 128, 1, 1), torch.float32),
        "bkg_decoder.bias": ((1,), torch.float32),
    }
    heads = load_heads(tmp_path / "out/last.pt", 128)
    assert all(torch.equal(t, heads.state[k]) for k, t in trainer.heads.state.items())
    segmented = CLIPDINOiser(tiny.backbone, CLIPDINOiserOptions(heads=str(tmp_path / "out/last.pt")))
    windows = (scene_batch() * 255).to(torch.uint8)
    assert segmented.encode_windows(Windows.of(windows)).features.shape == (2, 4, 4, 128)


def test_messages_about_the_output(tiny: CLIPDINOiser, tmp_path: Path) -> None:
    images = Scenes(SHORT, 0)
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UserError, match=r"is not empty and holds no state\.pt"):
        train(tmp_path, trainer_on(tiny), images)
    folder = tmp_path / "out"
    train(folder, trainer_on(tiny), images, stop_after=1)
    with pytest.raises(UserError, match="holds another training: seed differ"):
        train(folder, trainer_on(tiny, seed=1), images)
    with pytest.raises(UserError, match="holds another training: images differ"):
        train(folder, trainer_on(tiny), Scenes(SHORT, 1))
    (folder / "state.pt").write_bytes(b"half of a file")
    with pytest.raises(UserError, match=r"state\.pt cannot be read"):
        train(folder, trainer_on(tiny), images)


def test_a_loss_that_is_not_finite_stops_before_it_is_stored(tiny: CLIPDINOiser, tmp_path: Path) -> None:
    class Poisoned(Scenes):
        def batches(self, first: int) -> Generator[Tensor, None, None]:
            for number, batch in enumerate(super().batches(first)):
                yield batch * (float("nan") if number == 4 else 1)

    with pytest.raises(UserError, match="the loss is not finite in iteration 4"):
        train(tmp_path / "out", trainer_on(tiny), Poisoned(SHORT, 0))
    heads = load_heads(tmp_path / "out/last.pt", 128)
    assert all(bool(t.isfinite().all()) for t in heads.state.values())
    train(tmp_path / "out", trainer_on(tiny), Scenes(SHORT, 0))


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
    call = ["train", "clip-dinoiser", "--data", "shapes", "--output", str(tmp_path / "out"), "--seed", "3"]
    assert bench(monkeypatch, *call, "--stop-after", "4") == 0
    out, err = capsys.readouterr()
    assert "stopped after 4 of 8 iterations" in out and "iteration 3  iterations 8  affinity 0." in err
    assert bench(monkeypatch, *call) == 0
    out, err = capsys.readouterr()
    assert "iteration 3 " not in err and "iteration 8 " in err
    assert f"wrote {tmp_path / 'out/last.pt'}; try it with" in out and "--option gamma=0.55" in out
    lines = [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]
    assert [line.get("iteration") for line in lines] == [None, 3, 4, 6, 8]
    assert all(5 < line["val_miou"] < 100 for line in lines[1:])
    heads, embedded = (load_heads(tmp_path / "out" / n, 128) for n in ("last.pt", "dinoiser_heads.safetensors"))
    for name, tensor in heads.state.items():
        assert torch.equal(embedded.state[name], tensor.half().float())


def test_embedded_heads_are_the_recipes_and_do_what_they_learnt(tiny: CLIPDINOiser) -> None:
    with safe_open(TINY_HEADS, "pt") as file:
        about = json.loads(file.metadata()["training"])
    assert about["recipe"] == json.loads(json.dumps(dataclasses.asdict(RECIPES["tiny"])))
    assert about["seed"] == 0 and about["iterations"] == RECIPES["tiny"].iterations
    assert about["backbone"].items() <= tiny.backbone.provenance.items(), "heads for other weights of tiny-clip"
    heads, seen = CLIPDINOiser(tiny.backbone).heads, look(tiny, scene_batch(8, 96))
    assert heads is not None
    teachers = TinyWorld(tiny)
    for seed in range(3):  # better than untrained ones on both targets
        new = initial_heads(WIDTH, seed, torch.device("cpu"))
        for loss, target in ((affinity_of, teachers.alike(seen)), (saliency_loss, teachers.objects(seen))):
            assert loss(heads, seen.inner, target) < loss(new, seen.inner, target).detach() - 0.03


def affinity_of(heads: DinoiserHeads, inner: Tensor, alike: Tensor) -> Tensor:
    return affinity_loss(heads, inner, (12, 12), alike)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "shapes", "--recipe", "in1k-1000"], "it needs --data FOLDER"),
        (["--data", "nowhere"], "neither 'shapes' nor a folder"),
        (["--data", "shapes", "--recipe", "voc"], "unknown recipe 'voc'"),
        (["--data", "shapes", "--device", "tpu"], "unknown device 'tpu'"),
    ],
)
def test_command_says_what_is_wrong(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert bench(monkeypatch, "train", "clip-dinoiser", "--output", str(tmp_path / "out"), *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
