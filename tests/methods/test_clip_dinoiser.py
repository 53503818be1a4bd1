"""CLIP-DINOiser against a plain recomputation: features, affinities, the background rule, every row of the ablation.

The reference shares nothing with the package: open_clip's own blocks with hooks, ``nn.Conv2d`` for the heads, and the
plain DINO of test_dino.  Patches where rounding may decide a threshold are left out.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from ovss.datasets import DatasetRecord
from ovss.harness.decoding.decode import decode
from ovss.harness.protocol.protocol import Setting, load_protocol
from ovss.harness.runs.conformity import check_method
from ovss.harness.runs.photo import Photo
from ovss.harness.runs.pipeline import Clock, Pipeline
from ovss.methods import Backbone, Picture, UserError, Vocabulary, WindowGeometry, Windows, create_method
from ovss.methods.blocks.clip_method import ClipWords
from ovss.methods.clip_dinoiser import CLIPDINOiser, CLIPDINOiserOptions, pool
from ovss.methods.models.dino import Dino
from ovss.methods.models.dinoiser_heads import heads_of, load_heads
from ovss.methods.models.found import Found
from ovss.methods.models.vit import position_for, read_vision

from ..agreement import assert_best
from .blocks.test_dense_clip import error
from .models.test_dino import State, image, plain_normalise, plain_position, plain_run, random_state
from .with_words import WithWords

TOLERANCE = 1e-5
NAMES = ["background", "cat", "sofa", "sky", "red car"]
TOKENIZER = SimpleTokenizer()
TEMPLATES = ["a photo of a {}.", "a drawing of the {}."]
WINDOW = (448, 330)  # 28 x 21 patches, the last column partly padding
SMALL = (90, 75)
ROWS = [
    (pooling, background)
    for pooling in ("none", "trained", "dino_q", "dino_k", "dino_v")
    for background in ("none", "found", "found_delta", "head_delta")
] + [("clip_keys", "none")]


def random_clip(width: int, layers: int, dim: int) -> open_clip.CLIP:
    """A ViT with patches of 16 px and 14 x 14 positions; attention and texts far from uniform."""
    vision = {"image_size": 224, "layers": layers, "width": width, "head_width": 64, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
    torch.manual_seed(0)
    model = open_clip.CLIP(embed_dim=dim, vision_cfg=vision, text_cfg=text).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "embedding" in name:
                p.normal_(std=0.5)
            elif "in_proj_weight" in name:
                p.normal_(std=1.75 / math.sqrt(p.shape[1]))
            elif p.ndim >= 2:
                p.normal_(std=1 / math.sqrt(p.shape[0] if name.endswith("proj") else p[0].numel()))
            elif "ln_" in name and name.endswith("weight"):
                p.copy_(1 + 0.3 * torch.randn_like(p))
            elif name == "ln_final.bias":
                p.normal_(std=4)  # texts are near each other, so that probabilities are not all 0 or 1
            elif p.ndim == 1:
                p.normal_(std=0.05)
        caught: list[Tensor] = []
        hook = model.visual.ln_post.register_forward_hook(lambda module, inputs, output: caught.append(output))
        plain_view(model, clip_normalise(photo(224, 224)[None].float() / 255))
        hook.remove()
        model.visual.ln_post.bias -= caught[0][1:].mean(dim=0)  # what all patches share would decide every label
    return model


def random_heads(model: open_clip.CLIP) -> State:
    """The biases put both heads' outputs for an image around 0, so that thresholds cut through them."""
    generator = torch.Generator().manual_seed(0)
    inner = plain_view(model, clip_normalise(photo(224, 224)[None].float() / 255)).inner
    width = inner.shape[1]

    def normal(*shape: int, std: float) -> Tensor:
        return torch.empty(shape).normal_(std=std, generator=generator)

    heads = {
        "obj_proj.weight": normal(256, width, 3, 3, std=1 / math.sqrt(9 * width)),
        "bkg_decoder.weight": normal(1, width, 1, 1, std=2.0),
    }
    mean = inner.mean(dim=0)
    unit = F.normalize(inner, dim=1) @ heads["bkg_decoder.weight"].view(-1)
    heads["obj_proj.bias"] = normal(256, std=0.1) - heads["obj_proj.weight"].sum(dim=(2, 3)) @ mean
    heads["bkg_decoder.bias"] = -unit.median()[None]
    return heads


@dataclass(frozen=True)
class World:
    """Weights of all parts; ``queries`` are the texts of NAMES, ``(5, dim)``."""

    model: open_clip.CLIP
    heads: State
    dino: State
    small_dino: State
    found: State
    queries: Tensor

    def make(self, **options: Any) -> WithWords:
        parts = {
            "heads": heads_of(self.heads, "made up"),
            "dino": Dino(self.dino),
            "found": Found(Dino(self.small_dino), **self.found),
        }
        backbone = Backbone.from_module(self.model, TOKENIZER)
        method = create_method("clip-dinoiser", backbone=backbone, **{**parts, **options})
        background = 0 if options.get("background", "none") != "none" else None
        return WithWords.of(method, Vocabulary.from_names(NAMES, templates=TEMPLATES, background=background))


def plain_queries(model: open_clip.CLIP) -> Tensor:
    rows = []
    for name in NAMES:
        tokens = TOKENIZER([template.replace("{}", name) for template in TEMPLATES])
        rows.append(F.normalize(F.normalize(model.encode_text(tokens), dim=1).mean(dim=0), dim=0))
    return torch.stack(rows)


@pytest.fixture(scope="module", autouse=True)
def _stand_ins(no_gradients: None) -> Iterator[None]:
    """Files of random weights stand in for the released ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ovss.methods.models.weights.check_entry", lambda found: None)
        yield


def make_world(width: int, layers: int, dim: int) -> World:
    model = random_clip(width, layers, dim)
    generator = torch.Generator().manual_seed(1)
    found = {"weight": torch.randn(1, 384, 1, 1, generator=generator) / 10, "bias": torch.tensor([0.3])}
    dino, small_dino = random_state(128, 2, 16, 14), random_state(384, 2, 8, 28, seed=2)
    return World(model, random_heads(model), dino, small_dino, found, plain_queries(model))


@pytest.fixture(scope="module")
def world(no_gradients: None) -> World:
    return make_world(128, 6, 64)


# --- the plain method -----------------------------------------------------------------------------------------------


def plain_pad(rgb: Tensor, side: int = 16) -> Tensor:
    """Black below and to the right: ``(1, 3, H, W)``."""
    height, width = (side * math.ceil(n / side) for n in rgb.shape[2:])
    padded = torch.zeros(1, 3, height, width)
    padded[:, :, : rgb.shape[2], : rgb.shape[3]] = rgb
    return padded


def clip_normalise(rgb: Tensor) -> Tensor:
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    return (rgb - mean.view(3, 1, 1)) / std.view(3, 1, 1)


@dataclass(frozen=True)
class View:
    """What CLIP makes of one padded window: F ``(N, dim)``, I ``(N, D)``, projected keys ``(N, D)``, the grid."""

    features: Tensor
    inner: Tensor
    keys: Tensor
    grid: tuple[int, int]


def plain_view(model: open_clip.CLIP, pixels: Tensor, layer: int | str = -3, added: float = 0.0) -> View:
    """``pixels`` ``(1, 3, H, W)`` are normalised.  ``added=0.1`` is the rule of the positions by scale factor."""
    visual, caught = model.visual, []
    block = visual.transformer.resblocks[-1]
    watched = visual.transformer.resblocks[-3 if layer == "final" else layer].ln_2
    hook = watched.register_forward_hook(lambda module, inputs, output: caught.append(output[0]))
    x = visual.conv1(pixels)
    grid = x.shape[2], x.shape[3]
    x = torch.cat([visual.class_embedding[None], x[0].flatten(1).T])
    x = visual.ln_pre(x + plain_position({"pos_embed": visual.positional_embedding[None]}, *grid, added))[None]
    for earlier in visual.transformer.resblocks[:-1]:
        x = earlier(x)
    _, k, v = (block.ln_1(x[0]) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, dim=1)
    if layer == -1:
        block(x)  # the released code runs it too, and uses what the hook saw last
    y = x[0] + block.attn.out_proj(v)
    y = y + block.mlp(block.ln_2(y[None])[0])
    hook.remove()
    features = (visual.ln_post(y) @ visual.proj)[1:]
    inner = features if layer == "final" else caught[-1][1:]
    return View(features, inner, block.attn.out_proj(k)[1:], grid)


def plain_affinity(heads: State, view: View) -> Tensor:
    conv = nn.Conv2d(view.inner.shape[1], 256, 3, padding=1, padding_mode="replicate")
    conv.load_state_dict({name: heads[f"obj_proj.{name}"] for name in ("weight", "bias")})
    projected = conv(view.inner.T.reshape(1, -1, *view.grid))[0].flatten(1)
    unit = projected / projected.square().sum(dim=0).sqrt()
    return unit.T @ unit


def plain_pool(features: Tensor, affinity: Tensor, gamma: float) -> Tensor:
    weight = affinity * (affinity >= gamma)
    return torch.stack([(row[:, None] * features).sum(dim=0) / (row.sum() + 1e-6) for row in weight])


def plain_found(world: World, rgb: Tensor, sigmoid_first: bool = True) -> Tensor:
    """Saliency of patches of 16 px, ``(N,)``: the mean of four cells of 8 px.  The flag's other value is a mistake."""
    parts, _, _ = plain_run(world.small_dino, plain_normalise(rgb))
    logits = (parts["k"] @ world.found["weight"].view(-1) + world.found["bias"]).view(rgb.shape[2] // 8, -1)
    cells = logits.sigmoid() if sigmoid_first else logits
    mean = (cells[::2, ::2] + cells[1::2, ::2] + cells[::2, 1::2] + cells[1::2, 1::2]) / 4
    return (mean if sigmoid_first else mean.sigmoid()).flatten()


def plain_smooth(probabilities: Tensor, keys: Tensor, norm: str) -> Tensor:
    keys = keys / keys.square().sum(dim=0 if norm == "positions" else 1, keepdim=True).sqrt()
    smooth = (keys @ keys.T) @ probabilities
    return torch.where(probabilities.amax(dim=1, keepdim=True) < 1.0, smooth, probabilities)


def plain_scores(
    world: World,
    rgb: Tensor,
    pooling: str = "trained",
    background: str = "none",
    gamma: float = 0.2,
    delta: float = 0.99,
    layer: int | str = -3,
    key_norm: str = "channels",
) -> tuple[Tensor, Tensor]:
    """Probabilities ``(5, h, w)`` of a padded window ``(1, 3, H, W)`` in [0, 1], and patches to compare ``(h, w)``."""
    view = plain_view(world.model, clip_normalise(rgb), layer)
    features, near = view.features, torch.zeros(len(view.features), dtype=torch.bool)
    if pooling not in ("none", "clip_keys"):
        if pooling == "trained":
            affinity = plain_affinity(world.heads, view)
        else:
            parts, _, _ = plain_run(world.dino, plain_normalise(rgb))
            affinity = torch.stack([torch.cosine_similarity(p, parts[pooling[-1]]) for p in parts[pooling[-1]]])
        near |= ((affinity - gamma).abs() < 2e-6).any(dim=1)
        features = plain_pool(features, affinity, gamma)
    cosines = features / features.square().sum(dim=1, keepdim=True).sqrt() @ world.queries.T
    probabilities = (100 * cosines).softmax(dim=1)
    if pooling == "clip_keys":
        probabilities = plain_smooth(probabilities, view.keys, key_norm)
    if background != "none":
        if background == "head_delta":
            unit = view.inner / view.inner.square().sum(dim=1, keepdim=True).sqrt()
            saliency = (unit @ world.heads["bkg_decoder.weight"].view(-1) + world.heads["bkg_decoder.bias"]).sigmoid()
        else:
            saliency = plain_found(world, rgb)
        near |= (saliency - 0.5).abs() < 1e-5
        if background != "found":
            near |= (probabilities.amax(dim=1) - delta).abs() < 1e-5
        for patch, row in enumerate(probabilities):
            if saliency[patch] <= 0.5 and (background == "found" or row.max() < delta):
                probabilities[patch, 0] = 1.0
    return probabilities.T.reshape(5, *view.grid), ~near.view(view.grid)


def unit_rgb(windows: Tensor) -> list[Tensor]:
    """``(B, 3, H, W)`` uint8 -> a padded ``(1, 3, H', W')`` in [0, 1] each."""
    return [plain_pad(window[None].float() / 255) for window in windows]


def probabilities_of(method: WithWords, scores: Tensor) -> Tensor:
    return scores if method.activated else (100 * scores).softmax(dim=1)


def check_scores(world: World, windows: Tensor, delta: float, **options: Any) -> None:
    method = world.make(delta=delta, **options)
    got = probabilities_of(method, method.score_windows(windows))
    for probabilities, rgb in zip(got, unit_rgb(windows), strict=True):
        wanted, sure = plain_scores(world, rgb, delta=delta, **options)
        assert sure.float().mean() > 0.9
        assert probabilities.shape == wanted.shape
        assert ((probabilities - wanted).abs() * sure).max() <= 5e-5 * max(1, wanted.abs().max().item())


def photo(height: int, width: int, seed: int = 1) -> Tensor:
    """Coloured blocks with noise, ``(3, height, width)`` uint8."""
    return (255 * image(height, width, seed=seed)[0]).round().to(torch.uint8)


def windows_of(*sizes: tuple[int, int]) -> Tensor:
    return torch.stack([photo(*size, seed) for seed, size in enumerate(sizes, 1)])


def median_delta(world: World, windows: Tensor, pooling: str) -> float:
    """A delta that half of the patches are below."""
    wanted = [plain_scores(world, rgb, pooling)[0].amax(dim=0).flatten() for rgb in unit_rgb(windows)]
    return torch.cat(wanted).quantile(0.5).item()  # between two patches


def test_the_random_world_is_not_vacuous(world: World) -> None:
    rgb = unit_rgb(windows_of(WINDOW))[0]
    view = plain_view(world.model, clip_normalise(rgb))
    affinity = plain_affinity(world.heads, view)
    assert 0.2 < (affinity < 0.2).float().mean() < 0.8
    assert (affinity < 0).float().mean() > 0.05
    values = F.normalize(plain_run(world.dino, plain_normalise(rgb))[0]["v"], dim=1)
    assert 0.2 < (values @ values.T < 0.2).float().mean() < 0.8
    best = plain_scores(world, rgb)[0].amax(dim=0)
    assert best.quantile(0.75) - best.quantile(0.25) > 0.1
    assert 0.2 < (plain_found(world, rgb) > 0.5).float().mean() < 0.8
    off, on = (
        plain_scores(world, rgb, background=rule, delta=best.median().item())[0] for rule in ("none", "head_delta")
    )
    assert 0.1 < (off != on).any(dim=0).float().mean() < 0.6


# --- features, affinities, logits (P1 to P6) ------------------------------------------------------------------------


def check_parts(world: World, windows: Tensor, layer: int | str = -3) -> None:
    """F, I, A and the logit of the background of every window."""
    method = world.make(pooling="none", layer=layer)
    tokens, inner, grid = method.walk(method.normalised(windows))
    features = method.raw_features(tokens, grid)
    inner = features if inner is None else inner
    affinity = heads_of(world.heads, "made up").affinity(inner, grid) if layer != "final" else None
    logit = heads_of(world.heads, "made up").saliency_logit(inner) if layer != "final" else None
    for number, rgb in enumerate(unit_rgb(windows)):
        view = plain_view(world.model, clip_normalise(rgb), layer)
        assert grid == view.grid
        assert error(features[number], view.features) <= TOLERANCE
        assert error(inner[number], view.inner) <= TOLERANCE
        if affinity is not None and logit is not None:
            assert (affinity[number] - plain_affinity(world.heads, view)).abs().max() <= 5e-6
            unit = view.inner / view.inner.square().sum(dim=1, keepdim=True).sqrt()
            wanted = unit @ world.heads["bkg_decoder.weight"].view(-1) + world.heads["bkg_decoder.bias"]
            assert error(logit[number], wanted) <= TOLERANCE


def test_full_architecture() -> None:
    """ViT-B/16 as it is, one window of the protocol."""
    world, windows = make_world(768, 12, 512), windows_of((448, 448))
    assert len(world.model.visual.transformer.resblocks) == 12
    assert world.heads["obj_proj.weight"].shape == (256, 768, 3, 3)
    method = world.make(background="head_delta", delta=0.9)
    tokens, inner, grid = method.walk(method.normalised(windows))
    assert inner is not None and method.heads is not None
    rgb = unit_rgb(windows)[0]
    view = plain_view(world.model, clip_normalise(rgb))
    assert error(method.raw_features(tokens, grid)[0], view.features) <= TOLERANCE
    assert (method.raw_features(tokens, grid)[0] - view.features).abs().max() <= 5e-5
    assert (inner[0] - view.inner).abs().max() <= 2e-5
    affinity = plain_affinity(world.heads, view)
    assert (method.heads.affinity(inner, grid)[0] - affinity).abs().max() <= 5e-6
    features = method.encode_windows(Windows.of(windows))
    assert features.features.shape == (1, 28, 28, 512) and features.keys is None
    pooled = F.normalize(plain_pool(view.features, affinity, 0.2), dim=1)
    sure = ((affinity - 0.2).abs() >= 2e-6).all(dim=1)
    assert error(features.features[0].flatten(0, 1)[sure], pooled[sure]) <= TOLERANCE
    off = (100 * pooled @ world.queries.T).softmax(dim=1)
    on = off.clone()
    unit = F.normalize(view.inner, dim=1)
    logit = unit @ world.heads["bkg_decoder.weight"].view(-1) + world.heads["bkg_decoder.bias"]
    best = off.amax(dim=1)
    on[(logit <= 0) & (best < 0.9), 0] = 1.0
    sure &= (logit.abs() > 1e-5) & ((best - 0.9).abs() > 1e-5)
    assert sure.float().mean() > 0.9
    assert 0 < (on != off).any(dim=1).float().mean() < 1
    got = method.method.score_windows(features, method.words)[0].flatten(1).T
    assert (got - on)[sure].abs().max() <= 5e-5


@pytest.mark.parametrize("size", [(448, 448), WINDOW, (331, 450), (224, 224)])
def test_parts(world: World, size: tuple[int, int]) -> None:
    check_parts(world, windows_of(size))


@pytest.mark.parametrize("layer", [-1, -2, -3, -4, -5, "final"])
def test_layers(world: World, layer: int | str) -> None:
    check_parts(world, windows_of(SMALL, SMALL), layer)


def test_heads_on_the_final_features(world: World) -> None:
    generator = torch.Generator().manual_seed(3)
    heads = {
        "obj_proj.weight": torch.randn(256, 64, 3, 3, generator=generator),
        "obj_proj.bias": torch.zeros(256),
        "bkg_decoder.weight": torch.randn(1, 64, 1, 1, generator=generator),
        "bkg_decoder.bias": torch.zeros(1),
    }
    other = replace(world, heads=heads)
    windows = windows_of(SMALL, SMALL)
    check_scores(other, windows, 0.99, layer="final")
    check_scores(other, windows, 0.8, layer="final", background="head_delta")
    with pytest.raises(UserError, match="take features of width 128, layer has 64"):
        world.make(layer="final")


def test_the_last_layer_is_that_of_the_value_path(world: World) -> None:
    """The block's own ln_2, after attention, is another tensor: the released hook sees it first, and forgets it."""
    windows, caught = windows_of(SMALL), []
    method = world.make(pooling="none", layer=-1)
    _, inner, _ = method.walk(method.normalised(windows))
    block = world.model.visual.transformer.resblocks[-1]
    hook = block.ln_2.register_forward_hook(lambda module, inputs, output: caught.append(output[0, 1:]))
    plain_view(world.model, clip_normalise(unit_rgb(windows)[0]), layer=-1)
    hook.remove()
    assert len(caught) == 2 and inner is not None
    assert error(inner[0], caught[1]) <= TOLERANCE
    assert error(inner[0], caught[0]) > 100 * TOLERANCE


@pytest.mark.parametrize("grid", [(14, 14), (28, 28), (28, 21), (6, 5), (1, 37)])
def test_position_embedding(world: World, grid: tuple[int, int]) -> None:
    weights = read_vision(world.model.visual, torch.device("cpu"), torch.float32)
    state = {"pos_embed": world.model.visual.positional_embedding[None]}
    for rule, added in (("size", 0.0), ("factor", 0.1)):
        assert error(position_for(weights, *grid, rule), plain_position(state, *grid, added)) <= 2e-6  # type: ignore[arg-type]
    if grid != (14, 14):
        by_factor = plain_position(state, *grid, 0.1)
        assert error(position_for(weights, *grid, "size"), by_factor) > 1e-3


def test_position_by_factor_shows(world: World) -> None:
    windows = windows_of(SMALL)
    pixels = clip_normalise(unit_rgb(windows)[0])
    for rule, added, other in (("size", 0.0, 0.1), ("factor", 0.1, 0.0)):
        method = world.make(pooling="none", positions=rule)
        tokens, _, grid = method.walk(method.normalised(windows))
        features = method.raw_features(tokens, grid)[0]
        assert error(features, plain_view(world.model, pixels, added=added).features) <= TOLERANCE
        assert error(features, plain_view(world.model, pixels, added=other).features) > 100 * TOLERANCE


def test_padding_is_black(world: World) -> None:
    windows = windows_of(SMALL)
    method = world.make(pooling="none")
    tokens, _, grid = method.walk(method.normalised(windows))
    features = method.raw_features(tokens, grid)[0]
    assert grid == (6, 5) and method.cover(*SMALL) == (0, 0, *SMALL)  # padded patches are stretched over the window
    late = plain_pad(clip_normalise(windows.float() / 255))
    assert error(features, plain_view(world.model, late).features) > 100 * TOLERANCE


# --- scores (P7) ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pooling", "background"), ROWS)
def test_every_row_of_the_ablation(world: World, pooling: str, background: str) -> None:
    windows = windows_of(SMALL, SMALL)
    delta = 0.99 if pooling == "clip_keys" else median_delta(world, windows, pooling)
    check_scores(world, windows, delta, pooling=pooling, background=background)


@pytest.mark.parametrize(
    ("size", "background"),
    [((448, 448), "none"), ((448, 448), "head_delta"), (WINDOW, "head_delta"), (WINDOW, "found_delta")],
)
def test_windows_of_the_protocol(world: World, size: tuple[int, int], background: str) -> None:
    check_scores(world, windows_of(size), 0.95, background=background)


@pytest.mark.parametrize("key_norm", ["positions", "channels"])
def test_clip_keys(world: World, key_norm: str) -> None:
    windows = windows_of(SMALL, SMALL)
    check_scores(world, windows, 0.99, pooling="clip_keys", key_norm=key_norm)
    other = "channels" if key_norm == "positions" else "positions"
    wrong, _ = plain_scores(world, unit_rgb(windows)[0], "clip_keys", key_norm=other)
    got = world.make(pooling="clip_keys", key_norm=key_norm).score_windows(windows)[0]
    assert error(got, wrong) > 100 * TOLERANCE


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 0.9])
def test_gamma(world: World, gamma: float) -> None:
    check_scores(world, windows_of(SMALL), 0.99, gamma=gamma)


def test_pool_by_hand() -> None:
    features = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    affinity = torch.tensor([[[1.0, 0.2], [-0.5, 1.0]]])
    kept = affinity.clone()
    assert torch.allclose(pool(features, affinity, 0.2), torch.tensor([[[1 / 1.2, 0.4 / 1.2], [0.0, 2.0]]]), atol=2e-6)
    assert torch.allclose(pool(features, affinity, 0.21), features, atol=3e-6)
    assert torch.allclose(pool(features, affinity, 0.0)[0, 1], features[0, 1], atol=3e-6)  # no negative weights
    assert torch.equal(affinity, kept)


def test_pooling_takes_features_as_they_are(world: World) -> None:
    """Unit features would weigh patches differently."""
    windows = windows_of(SMALL)
    view = plain_view(world.model, clip_normalise(unit_rgb(windows)[0]))
    wrong = plain_pool(F.normalize(view.features, dim=1), plain_affinity(world.heads, view), 0.2)
    got = world.make().encode_windows(Windows.of(windows)).features[0].flatten(0, 1)
    assert error(got, F.normalize(wrong, dim=1)) > 100 * TOLERANCE


def test_pooling_none_is_maskclip(world: World) -> None:
    windows = windows_of(SMALL, SMALL)
    backbone = Backbone.from_module(world.model, TOKENIZER)
    plain = create_method("maskclip", backbone=backbone, pad="end", positions="size")
    maskclip = WithWords.of(plain, Vocabulary.from_names(NAMES, templates=TEMPLATES))
    assert torch.equal(world.make(pooling="none").score_windows(windows), maskclip.score_windows(windows))


# --- the background rule --------------------------------------------------------------------------------------------


def test_background_of_each_window_of_a_batch(world: World) -> None:
    """Classes of a batch lie between its windows: one long row of patches belongs to the first window alone."""
    windows = windows_of(SMALL, SMALL)
    delta = median_delta(world, windows, "trained")
    off, on = world.make(), world.make(background="head_delta", delta=delta)
    before, got = (100 * off.score_windows(windows)).softmax(dim=1), on.score_windows(windows)
    assert got.shape == (2, 5, 6, 5)
    lost = (got[:, 0] == 1.0) & (before[:, 0] < 1.0)
    assert lost[0].any() and lost[1].any() and (lost[0] != lost[1]).any()
    assert torch.equal(got[:, 1:], before[:, 1:])  # other classes stay, so patches do not sum to 1
    assert torch.equal(got[:, 0][~lost], before[:, 0][~lost])
    alone = torch.cat([on.score_windows(window[None]) for window in windows])
    assert ((got - alone).abs() <= 5e-5).all()
    flat = before.clone().reshape(1, 5, -1)
    flat[:, 0, lost.flatten()] = 1.0
    assert not torch.allclose(flat.view_as(got), alone, atol=5e-5)


def test_found_is_a_sigmoid_first(world: World) -> None:
    """The mean of four probabilities and the probability of the mean of four logits fall on different sides of 0.5."""
    windows = windows_of((224, 192))
    rgb = unit_rgb(windows)[0]
    right, wrong = (plain_found(world, rgb, first) for first in (True, False))
    assert not torch.equal(right > 0.5, wrong > 0.5)
    seen = world.make(pooling="none", background="found").encode_windows(Windows.of(windows))
    assert seen.salient is not None and seen.salient.dtype == torch.bool
    sure = (right - 0.5).abs() > 1e-5
    got = seen.salient[0].flatten()[sure]
    assert torch.equal(got, right[sure] > 0.5)
    assert not torch.equal(got, wrong[sure] > 0.5)


def test_found_alone_does_not_ask_for_doubt(world: World) -> None:
    """Not the same as a delta of 1: a patch whose best probability is 1 stays then."""
    windows = windows_of(SMALL)
    alone = world.make(background="found", delta=0.0).score_windows(windows)
    never = world.make(background="found_delta", delta=0.0).score_windows(windows)
    off = (100 * world.make().score_windows(windows)).softmax(dim=1)
    assert torch.equal(never, off)
    salient = plain_found(world, unit_rgb(windows)[0]).view(6, 5) > 0.5
    assert 0 < salient.sum() < 30
    assert torch.equal(alone[0, 0] == 1.0, ~salient)


def background_last(backbone: Backbone, world: World, **options: Any) -> WithWords:
    """The background is class 2 of 3 and has two texts; class 0 has two as well."""
    method = create_method("clip-dinoiser", backbone=backbone, heads=heads_of(world.heads, "made up"), **options)
    names = ["cat, sofa", "red car", "sky, background"]
    return WithWords.of(method, Vocabulary.from_names(names, templates=TEMPLATES, background=2))


def test_background_with_several_texts(world: World) -> None:
    backbone, windows = Backbone.from_module(world.model, TOKENIZER), windows_of(SMALL, SMALL)
    off = (100 * background_last(backbone, world).score_windows(windows)).softmax(dim=1)
    delta = off.amax(dim=1).median().item()
    on = background_last(backbone, world, background="head_delta", delta=delta)
    got = on.score_windows(windows)
    assert on.words.query_to_class == (0, 0, 1, 2, 2)
    changed = (got != off).any(dim=1)
    assert changed.any() and not changed.all()
    assert torch.equal(got[:, 3], torch.where(changed, 1.0, off[:, 3]))
    assert torch.equal(got[:, [0, 1, 2, 4]], off[:, [0, 1, 2, 4]])
    assert (off.amax(dim=1)[changed] < delta).all()  # the best of all texts, which is that of the best class
    labels = decode(on.segment(windows[0]), SMALL)
    assert (labels == 2).any()


@pytest.mark.parametrize("background", ["found", "found_delta", "head_delta"])
def test_no_class_to_give_patches_to(world: World, background: str) -> None:
    method = world.make(background=background)
    wordless = Vocabulary.from_texts([["cat"], []], ["cat", "nothing"], TEMPLATES, background=1)
    for vocabulary in (Vocabulary.from_names(NAMES, templates=TEMPLATES), wordless):
        with pytest.raises(UserError, match=f"background={background} needs a data set with a scored background"):
            method.encode_text(vocabulary)
    world.make(background="none").encode_text(wordless)


# --- the contract ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pad", [False, True, "end"])
@pytest.mark.parametrize(("pooling", "background"), [("trained", "none"), ("dino_v", "found_delta")])
def test_sizes_that_are_no_multiple_of_the_patch(world: World, pad: bool | str, pooling: str, background: str) -> None:
    """DINO and FOUND see the pixels that CLIP sees, whatever the padding."""
    windows = windows_of(SMALL)
    method = world.make(pooling=pooling, background=background, pad=pad, delta=0.9)
    rgb = windows.float() / 255
    if pad is True:  # evenly, with CLIP's mean colour
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
        padded = mean.expand(1, 3, 96, 80).clone()
        padded[:, :, 3:93, 2:77] = rgb
    else:
        padded = plain_pad(rgb) if pad == "end" else rgb[:, :, :80, :64]
    wanted, sure = plain_scores(world, padded, pooling, background, delta=0.9)
    got = probabilities_of(method, method.score_windows(windows))[0]
    assert got.shape == wanted.shape
    assert ((got - wanted).abs() * sure).max() <= 5e-5


@pytest.mark.parametrize(
    ("pooling", "background"), [("trained", "head_delta"), ("dino_v", "found"), ("clip_keys", "none")]
)
def test_conformity(world: World, pooling: str, background: str) -> None:
    """The checks name no background: here it is the first class."""

    class Ruled(CLIPDINOiser):
        def encode_text(self, vocabulary: Vocabulary) -> ClipWords:
            return super().encode_text(replace(vocabulary, background=0))

    backbone = Backbone.from_module(world.model, TOKENIZER)
    parts: dict[str, Any] = {"heads": heads_of(world.heads, "made up"), "dino": Dino(world.dino)}
    parts["found"] = Found(Dino(world.small_dino), **world.found)
    options = CLIPDINOiserOptions(pooling=pooling, background=background)  # type: ignore[arg-type]
    results = check_method(lambda: Ruled(backbone, options, **parts))
    assert {r.name: r.detail for r in results if not r.passed} == {}


def test_one_pass_for_two_vocabularies(world: World) -> None:
    photograph, geometry = photo(120, 200), WindowGeometry(96, 48)
    first = world.make(background="head_delta", delta=0.9)
    other = Vocabulary.from_names(["sky", "background, wall"], templates=TEMPLATES, background=1)
    second = WithWords.of(first.method, other)
    seen = first.encode_image(Picture.of(photograph), geometry)
    together = [method.score(seen, method.words) for method in (first, second)]
    for method, field in zip((first, second), together, strict=True):
        assert torch.equal(field.scores, method.segment(photograph, geometry).scores)
        assert field.activated
    assert [len(field.query_to_class) for field in together] == [5, 3]
    assert (together[1].scores[:, 1] == 1.0).any()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float16, 0.02)])
@pytest.mark.parametrize("pooling", ["trained", "dino_v"])
def test_half_precision_stays_near(world: World, dtype: torch.dtype, tolerance: float, pooling: str) -> None:
    """Tolerances of cosines: 0.003 to 0.01 was seen with float16, by whether the CPU adds in float32 or not."""
    windows = windows_of(SMALL)
    dino = {"dino": Dino(world.dino, dtype=dtype)} if pooling == "dino_v" else {}
    exact, rough = world.make(pooling=pooling), world.make(pooling=pooling, dtype=dtype, **dino)
    scores = rough.score_windows(windows)
    assert scores.dtype == torch.float32
    assert 0 < (exact.score_windows(windows) - scores).abs().max() <= tolerance
    assert rough.provenance["precision"] == str(dtype).removeprefix("torch.")
    ruled = world.make(pooling=pooling, background="found_delta", dtype=dtype, **dino).score_windows(windows)
    assert ruled.dtype == torch.float32 and ruled.min() >= 0 and ruled.max() <= 1


def test_provenance(world: World) -> None:
    full = world.make(pooling="dino_v", background="found_delta", gamma=0.3).provenance
    assert (full["pooling"], full["background"], full["gamma"], full["delta"]) == ("dino_v", "found_delta", 0.3, 0.99)
    assert (full["pad"], full["positions"], full["layer"]) == ("end", "size", -3)
    assert full["dino"]["sha256"].startswith("state:") and full["found"]["sha256"].startswith("state:")
    assert "heads" not in full
    heads = world.make().provenance["heads"]
    assert heads["source"] == "made up" and heads["sha256"].startswith("state:")
    assert not {"dino", "found", "heads"} & set(world.make(pooling="none").provenance)


def test_dino_pool(world: World) -> None:
    backbone, windows = Backbone.from_module(world.model, TOKENIZER), windows_of(SMALL)
    pooled = create_method("dino-pool", backbone=backbone, dino=Dino(world.dino))
    method = WithWords.of(pooled, Vocabulary.from_names(NAMES, templates=TEMPLATES))
    assert torch.equal(method.score_windows(windows), world.make(pooling="dino_v").score_windows(windows))
    assert method.provenance["pooling"] == "dino_v"
    with pytest.raises(UserError, match="no option 'gama'; did you mean gamma"):
        create_method("dino-pool", backbone=backbone, dino=Dino(world.dino), gama=0.2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pooling": "dino"}, "pooling is 'dino': allowed is none, clip_keys, dino_q, dino_k, dino_v or trained"),
        ({"background": True}, "background is True: allowed is none, found, found_delta or head_delta"),
        ({"layer": -6}, "layer is -6: allowed is final, -1, -2, -3, -4 or -5"),
        ({"layer": "-3"}, "layer is '-3'"),
        ({"key_norm": "tokens"}, "key_norm is 'tokens': allowed is positions or channels"),
        ({"gamma": 1.5}, "gamma is 1.5"),
        ({"gamma": -0.1}, "gamma is -0.1"),
        ({"pad": "start"}, "pad is 'start'"),
        ({"pooling": "clip_keys", "background": "found"}, "pooling=clip_keys goes with background=none"),
    ],
)
def test_options_that_do_not_work(world: World, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as raised:
        world.make(**options)
    assert says in str(raised.value)


def test_parts_that_do_not_fit(world: World) -> None:
    with pytest.raises(UserError, match=r"patches of 8 px, the backbone of 16 px"):
        world.make(pooling="dino_v", dino=Dino(world.small_dino))
    shallow = Backbone.from_module(random_clip(128, 4, 64), TOKENIZER)
    with pytest.raises(UserError, match="layer is -5, but the backbone has 4 blocks"):
        create_method("clip-dinoiser", backbone=shallow, heads=heads_of(world.heads, "made up"), layer=-5)


# --- released files -------------------------------------------------------------------------------------------------

FILES = {"heads": "last.pt", "dino": "dino_vitbase16_pretrain.pth", "found": "decoder_weights.pt"}
WEIGHTS = {"heads": "clip-dinoiser-heads", "dino": "dino-vitb16", "found": "found-head"}
SMALL_DINO = "dino-vits8-300ep/dino_deitsmall8_300ep_pretrain.pth"


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def mirror(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files in the released formats, where ``$OVSS_WEIGHTS`` has them."""
    folder = tmp_path_factory.mktemp("mirror")
    contents = {"heads": {"epoch": 99, "model_state_dict": world.heads}, "dino": world.dino}
    for part, content in {**contents, "found": {"decoder": world.found}}.items():
        write(folder / WEIGHTS[part] / FILES[part], content)
    write(folder / SMALL_DINO, world.small_dino)
    return folder


@pytest.mark.parametrize("given", [False, True])
def test_released_files(world: World, mirror: Path, monkeypatch: pytest.MonkeyPatch, given: bool) -> None:
    """Found by name, or given as files; FOUND's own DINO is always found by name."""
    monkeypatch.setenv("OVSS_WEIGHTS", str(mirror))
    windows = windows_of(SMALL)
    for pooling, background in (("trained", "head_delta"), ("dino_v", "found_delta"), ("trained", "found")):
        parts: dict[str, Any] = {part: str(mirror / WEIGHTS[part] / FILES[part]) if given else None for part in FILES}
        options = {"pooling": pooling, "background": background, "delta": 0.9}
        method = world.make(**options, **parts)
        assert torch.equal(method.score_windows(windows), world.make(**options).score_windows(windows))
        for part in set(FILES) & set(method.provenance):
            assert method.provenance[part]["source"] == f"file {FILES[part]}"
            assert method.provenance[part]["sha256"].startswith("file:")


def test_listed_weights_may_be_named(
    world: World, mirror: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The heads of the first release are in a file of the same name."""
    other = {name: tensor + 0.1 for name, tensor in world.heads.items()}
    file = write(tmp_path / "clip-dinoiser-heads-voc" / "last.pt", {"epoch": 20, "model_state_dict": other})
    monkeypatch.setenv("OVSS_WEIGHTS", str(tmp_path))
    windows = windows_of(SMALL)
    named = world.make(heads="clip-dinoiser-heads-voc")
    assert torch.equal(named.score_windows(windows), world.make(heads=str(file)).score_windows(windows))
    released = world.make(heads=str(mirror / WEIGHTS["heads"] / FILES["heads"]))
    assert not torch.allclose(named.score_windows(windows), released.score_windows(windows))


def test_checkpoint_round_trip(world: World, mirror: Path) -> None:
    heads = load_heads(mirror / WEIGHTS["heads"] / FILES["heads"], 128)
    assert {name: tuple(tensor.shape) for name, tensor in heads.state.items()} == {
        "obj_proj.weight": (256, 128, 3, 3),
        "obj_proj.bias": (256,),
        "bkg_decoder.weight": (1, 128, 1, 1),
        "bkg_decoder.bias": (1,),
    }
    assert all(torch.equal(tensor, world.heads[name]) for name, tensor in heads.state.items())


OPTIONS = {
    "heads": {"pooling": "trained", "background": "none"},
    "dino": {"pooling": "dino_v", "background": "none"},
    "found": {"pooling": "none", "background": "found"},
}


@pytest.mark.parametrize("part", FILES)
def test_absent_weights(world: World, part: str) -> None:
    with pytest.raises(UserError) as raised:
        world.make(**OPTIONS[part], **{part: None})
    wanted = "dino-vits8-300ep" if part == "found" else WEIGHTS[part]  # FOUND needs two
    assert f"bench weights fetch {wanted}" in str(raised.value)
    with pytest.raises(UserError, match=r"nowhere\.pt") as raised:
        world.make(**OPTIONS["heads"], heads="nowhere.pt")
    assert "last.pt is expected there" in str(raised.value)


@pytest.mark.parametrize("part", FILES)
@pytest.mark.parametrize("damage", ["truncated", "shape", "missing", "unknown"])
def test_damaged_weights(
    world: World, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, damage: str
) -> None:
    monkeypatch.setenv("OVSS_WEIGHTS", str(mirror))
    content = {"heads": world.heads, "dino": world.dino, "found": world.found}[part]
    first = next(name for name in content if name.endswith("weight"))
    if damage == "shape":
        content = {**content, first: content[first][..., :1, :1, None]}
    elif damage == "missing":
        content = {name: tensor for name, tensor in content.items() if name != first}
    elif damage == "unknown":
        content = {**content, "head.bias.of.another": torch.zeros(1)}
    path = write(tmp_path / "mine.pt", content)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError) as raised:
        world.make(**OPTIONS[part], **{part: str(path)})
    text = str(raised.value)
    assert str(path) in text and f"bench weights fetch {WEIGHTS[part]}" in text
    assert {"truncated": "cannot be read", "unknown": "head.bias.of.another"}.get(damage, first) in text


# --- under the protocol ---------------------------------------------------------------------------------------------


def record(background: int | None = 0) -> DatasetRecord:
    fields = {"title": "made up", "images": "i", "labels": "l", "classes": tuple(NAMES)}
    return DatasetRecord.model_validate({"key": "made_up", "background": background, **fields})


def protocol_setting(**changes: Any) -> Setting:
    setting = load_protocol("tcl").setting("voc21")
    return setting.model_copy(update={"vocabulary": "official", "templates": "photo", **changes})


def plain_merge(world: World, pixels: np.ndarray[Any, Any], size: tuple[int, int], **options: Any) -> Tensor:
    """Scores ``(5, *size)`` of an image that is resized already: windows of 448 px every 224, averaged."""
    height, width = pixels.shape[:2]
    total, visits = torch.zeros(5, height, width), torch.zeros(height, width)
    starts = []
    for side in (height, width):
        count = max(side - 448 + 223, 0) // 224 + 1
        starts.append([max(min(224 * i + 448, side) - 448, 0) for i in range(count)])
    for top, left in itertools.product(*starts):
        window = torch.from_numpy(pixels[top : top + 448, left : left + 448].copy()).permute(2, 0, 1)[None]
        scores, _ = plain_scores(world, plain_pad(window.float() / 255), **options)
        maps = F.interpolate(scores[None], window.shape[2:], mode="bilinear", align_corners=False)[0]
        total[:, top : top + 448, left : left + 448] += maps
        visits[top : top + 448, left : left + 448] += 1
    return F.interpolate((total / visits)[None], size, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize("background", ["none", "head_delta"])
def test_pipeline(world: World, background: str) -> None:
    """From an image file's pixels to its labels, against the protocol step by step."""
    pixels = photo(150, 203).permute(1, 2, 0).numpy().copy()
    method = world.make(background=background)
    pipeline = Pipeline(method.method, protocol_setting(), record())
    labels = pipeline.predict(Photo(pixels), Clock())
    assert labels.shape == (150, 203) and isinstance(pipeline.words, ClipWords)
    here = replace(world, queries=pipeline.words.text)  # the protocol's template
    small = cv2.resize(pixels, (606, 448), interpolation=cv2.INTER_LINEAR)
    maps = plain_merge(here, small, (150, 203), background=background)
    assert_best(labels, maps, gap=1e-3)
    assert len(labels.unique()) >= 2
    if background == "head_delta":
        plain = plain_merge(here, small, (150, 203), background="none")
        assert (maps[0] > plain[0] + 0.1).any()  # the rule has worked somewhere


def test_probabilities_are_left_alone(world: World) -> None:
    """``activated`` scores go to the decoder as they are, under any protocol; thresholds compare with them."""
    pixels = photo(150, 203).permute(1, 2, 0).numpy().copy()
    labels = {}
    for average in ("probability", "score"):
        for scale in (1.0, 100.0):
            setting = protocol_setting(average=average, logit_scale=scale, short_side_px=150)
            method = world.make(background="head_delta", delta=0.9)
            labels[average, scale] = Pipeline(method.method, setting, record()).predict(Photo(pixels), Clock())
    first = labels["probability", 100.0]
    assert all(torch.equal(first, other) for other in labels.values())
    assert not world.make().segment(photo(*SMALL)).activated
    assert world.make(background="head_delta").segment(photo(*SMALL)).activated
    assert world.make(pooling="clip_keys").segment(photo(*SMALL)).activated
    threshold = protocol_setting(probability_threshold=0.7, short_side_px=150)
    method = world.make(background="head_delta", delta=0.9)
    pipeline = Pipeline(method.method, threshold, record())
    more = pipeline.predict(Photo(pixels), Clock())
    field = pipeline.scores(Picture.of(torch.from_numpy(pixels).permute(2, 0, 1)))
    maps = F.interpolate(field.scores[:1], (150, 203), mode="bilinear", align_corners=False)[0]
    unsure = maps.amax(dim=0) < 0.7
    assert len(field.boxes) == 1 and unsure.any() and not unsure.all()
    assert torch.equal(more == 0, (maps.argmax(dim=0) == 0) | unsure)
