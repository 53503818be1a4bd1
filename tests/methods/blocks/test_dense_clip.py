"""The dense-CLIP methods against a plain recomputation of their formulas.

The reference below shares nothing with the package: open_clip's own blocks up to the last one, then explicit softmax
matrices, head by head.
"""

import hashlib
import math
from collections.abc import Callable
from functools import lru_cache

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from ovss.methods import Backbone, Vocabulary, Windows, create_method
from ovss.methods.blocks.dense_clip import gaussian_window
from ovss.methods.models.vit import position_for, read_vision

from ..with_words import WithWords

TOLERANCE = 1e-5
Trunk = tuple[list[Tensor], int, int]
NAMES = ["cat", "sofa, couch", "sky", "a red car", "window"]
TEMPLATES = ["a photo of a {}.", "a drawing of the {}."]
# attention terms, residual, ffn, sigma
RULES: dict[str, tuple[tuple[str, ...], bool, bool, float | None]] = {
    "clip": (("qk",), True, True, None),
    "maskclip": ((), True, True, None),
    "maskclip-value": ((), False, False, None),
    "sclip": (("qq", "kk"), True, True, None),
    "clearclip": (("qq",), False, False, None),
    "naclip": (("kk",), False, False, 5.0),
}


def make_model(quick_gelu: bool = True, layers: int = 12, layer_scale: float | None = None) -> open_clip.CLIP:
    """Random weights with attention far from uniform, so that a wrong term shows."""
    vision = {"image_size": 224, "layers": layers, "width": 192, "head_width": 64, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=64, vision_cfg={**vision, "ls_init_value": layer_scale}, text_cfg=text, quick_gelu=quick_gelu
    )
    with torch.no_grad():
        for name, p in model.visual.named_parameters():
            if "in_proj_weight" in name:
                p.normal_(std=1.75 / math.sqrt(p.shape[1]))
            elif name == "conv1.weight":
                p.normal_(std=1.5 / math.sqrt(p[0].numel()))
            elif "embedding" in name:
                p.normal_(std=0.5)
            elif "ln_" in name and name.endswith("weight"):
                p.copy_(1 + 0.3 * torch.randn_like(p))
            elif name == "proj":
                p.normal_(std=0.7 / math.sqrt(p.shape[0]))
            elif "gamma" in name:
                p.uniform_(0.3, 0.9)
            elif p.ndim == 2:
                p.normal_(std=0.7 / math.sqrt(p.shape[1]))
            else:
                p.normal_(std=0.02)
    return model.eval()


def make_image(height: int, width: int, seed: int = 0) -> Tensor:
    """14 x 14 blocks with noise below, constant above: ``(3, height, width)`` uint8."""
    generator = torch.Generator().manual_seed(seed)
    blocks = F.interpolate(torch.rand(1, 3, 14, 14, generator=generator), (height, width), mode="nearest")[0]
    image = (blocks * 255 + 20 * torch.randn(3, height, width, generator=generator)).clamp(0, 255)
    image[:, : height // 2] = 90
    return image.to(torch.uint8)


def normalise(image: Tensor) -> Tensor:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    return ((image.float() / 255 - mean) / std)[None]


def plain_position(model: open_clip.CLIP, height: int, width: int, by_size: bool = False) -> Tensor:
    position = model.visual.positional_embedding
    if (height, width) == (14, 14):
        return position
    table = position[1:].reshape(1, 14, 14, 192).permute(0, 3, 1, 2)
    if by_size:
        table = F.interpolate(table, size=(height, width), mode="bicubic", align_corners=False, antialias=False)
    else:
        scale = ((height + 0.1) / 14, (width + 0.1) / 14)
        table = F.interpolate(table, scale_factor=scale, mode="bicubic", align_corners=False, antialias=False)
    return torch.cat([position[:1], table.permute(0, 2, 3, 1).reshape(height * width, 192)])


def plain_trunk(model: open_clip.CLIP, pixels: Tensor, position_by_size: bool = False) -> Trunk:
    """Input of every block (the last one's at the end) and the grid."""
    visual = model.visual
    x = visual.conv1(pixels)
    height, width = x.shape[2:]
    x = x.reshape(1, 192, height * width).permute(0, 2, 1)
    x = torch.cat([visual.class_embedding.reshape(1, 1, 192), x], dim=1)
    states = [visual.ln_pre(x + plain_position(model, height, width, position_by_size))]
    for block in visual.transformer.resblocks[:-1]:
        states.append(block(states[-1]))
    return states, height, width


def plain_heads(block: nn.Module, x: Tensor) -> list[dict[str, Tensor]]:
    """q, k and v of each of the three heads, ``(T, 64)``."""
    y = block.ln_1(x)[0] @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
    part = {"q": y[:, :192], "k": y[:, 192:384], "v": y[:, 384:]}
    return [{name: p[:, 64 * m : 64 * m + 64] for name, p in part.items()} for m in range(3)]


@lru_cache
def plain_omega(height: int, width: int, sigma: float) -> Tensor:
    places = [(y, x) for y in range(height) for x in range(width)]
    rows = [[math.exp(-((y - v) ** 2 + (x - u) ** 2) / (2 * sigma**2)) for v, u in places] for y, x in places]
    omega = torch.zeros(1 + len(places), 1 + len(places))
    omega[1:, 1:] = torch.tensor(rows)
    return omega


def plain_features(
    model: open_clip.CLIP, trunk: Trunk, method: str, mean_of_terms: bool = False, scaled_omega: bool = False
) -> Tensor:
    """``(h * w, 64)``, unit length.  The flags are mistakes that the tests must notice."""
    terms, residual, ffn, sigma = RULES[method]
    visual, block = model.visual, model.visual.transformer.resblocks[-1]
    states, height, width = trunk
    x = states[-1]
    outputs = []
    for head in plain_heads(block, x):
        attention = torch.zeros(x.shape[1], x.shape[1]) if terms else torch.eye(x.shape[1])
        for a, b in terms:
            logits = head[a] @ head[b].T / 8
            if sigma is not None:
                logits = logits + plain_omega(height, width, sigma) / (8 if scaled_omega else 1)
            attention += logits.softmax(dim=1)
        outputs.append((attention / len(terms) if mean_of_terms else attention) @ head["v"])
    y = block.ls_1(block.attn.out_proj(torch.cat(outputs, dim=1)))[None]
    if residual:
        y = y + x
    if ffn:
        y = y + block.ls_2(block.mlp(block.ln_2(y)))
    return F.normalize((visual.ln_post(y) @ visual.proj)[0, 1:], dim=1)


def plain_queries(model: open_clip.CLIP) -> Tensor:
    rows = []
    for query in ["cat", "sofa", "couch", "sky", "a red car", "window"]:
        tokens = SimpleTokenizer()([t.replace("{}", query) for t in TEMPLATES])
        rows.append(F.normalize(F.normalize(model.encode_text(tokens), dim=1).mean(dim=0), dim=0))
    return torch.stack(rows)


def error(got: Tensor, wanted: Tensor) -> float:
    """Largest difference relative to the largest value."""
    return ((got - wanted).abs().max() / wanted.abs().max()).item()


pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def model(no_gradients: None) -> open_clip.CLIP:
    return make_model()


Make = Callable[..., WithWords]


@pytest.fixture(scope="module")
def make(model: open_clip.CLIP) -> Make:
    backbone = Backbone.from_module(model, SimpleTokenizer())
    vocabulary = Vocabulary.from_names(NAMES, templates=TEMPLATES)

    def make(name: str, **options: object) -> WithWords:
        return WithWords.of(create_method(name, backbone=backbone, **options), vocabulary)

    return make


def run(method: WithWords, windows: Tensor) -> tuple[Tensor, Tensor]:
    """Features ``(B, N, 64)`` and scores ``(B, Q, h, w)``."""
    seen = method.encode_windows(Windows.of(windows))
    return seen.features.flatten(1, 2), method.method.score_windows(seen, method.words)


def test_the_random_model_is_not_vacuous(model: open_clip.CLIP) -> None:
    states, _, _ = plain_trunk(model, normalise(make_image(224, 224)))
    maps = [
        (h["q"] @ h["k"].T / 8).softmax(dim=1) for h in plain_heads(model.visual.transformer.resblocks[-1], states[-1])
    ]
    entropy = torch.stack([-(a * a.clamp_min(1e-30).log()).sum(dim=1).mean() for a in maps]).mean()
    assert 2.9 < entropy < 3.9  # uniform would be log(197) = 5.28
    for block in (3, 8):
        patches = F.normalize(states[block + 1][0, 1:], dim=1)
        assert 0.25 < (patches @ patches.T > 0.4).float().mean() < 0.75


@pytest.mark.parametrize("size", [(224, 224), (224, 336)])
def test_equals_the_formula(model: open_clip.CLIP, make: Make, size: tuple[int, int]) -> None:
    image = make_image(*size)
    trunk, queries = plain_trunk(model, normalise(image)), plain_queries(model)
    for name in RULES:
        features, scores = run(make(name), image[None])
        wanted = plain_features(model, trunk, name)
        assert features.dtype == scores.dtype == torch.float32
        assert error(features[0], wanted) <= TOLERANCE, name
        cosines = (queries @ wanted.T).reshape(6, size[0] // 16, size[1] // 16)
        assert error(scores[0], cosines) <= TOLERANCE, name


@pytest.mark.parametrize("pad", [False, True])
def test_sizes_that_are_no_multiple_of_the_patch(model: open_clip.CLIP, make: Make, pad: bool) -> None:
    image = make_image(165, 250)
    pixels = normalise(image)
    trunk = plain_trunk(model, F.pad(pixels, (3, 3, 5, 6)) if pad else pixels[:, :, :160, :240])
    for name in RULES:
        method = make(name, pad=pad)
        features, scores = run(method, image[None])
        assert scores.shape == ((1, 6, 11, 16) if pad else (1, 6, 10, 15))
        assert error(features[0], plain_features(model, trunk, name)) <= TOLERANCE, name
        assert method.cover(165, 250) == ((-5, -3, 171, 253) if pad else (0, 0, 165, 250))


def test_a_batch_is_its_windows(make: Make) -> None:
    windows = torch.stack([make_image(96, 112, seed) for seed in (1, 2)])
    for name in RULES:
        method = make(name)
        together = method.score_windows(windows)
        alone = torch.cat([method.score_windows(window[None]) for window in windows])
        assert error(together, alone) <= TOLERANCE


def test_vanilla_is_open_clip(model: open_clip.CLIP, make: Make) -> None:
    image = make_image(224, 224)
    features, _ = run(make("clip"), image[None])
    out = model.visual.forward_intermediates(normalise(image), indices=1, output_fmt="NLC", intermediates_only=True)
    tokens = model.visual.ln_post(out["image_intermediates"][0]) @ model.visual.proj
    assert error(features, F.normalize(tokens, dim=-1)) <= TOLERANCE


def test_layer_scale_and_plain_gelu() -> None:
    model = make_model(quick_gelu=False, layers=3, layer_scale=0.5)
    image = make_image(160, 192)
    for name in ("clip", "clearclip"):
        made = create_method(name, backbone=Backbone.from_module(model, SimpleTokenizer()))
        method = WithWords.of(made, Vocabulary.from_names(["cat"], templates="simple"))
        features, _ = run(method, image[None])
        assert error(features[0], plain_features(model, plain_trunk(model, normalise(image)), name)) <= TOLERANCE


@pytest.mark.parametrize(("name", "mistake"), [("sclip", "mean_of_terms"), ("naclip", "scaled_omega")])
def test_mistakes_in_the_last_block_show(model: open_clip.CLIP, make: Make, name: str, mistake: str) -> None:
    image = make_image(96, 112)
    trunk = plain_trunk(model, normalise(image))
    features, _ = run(make(name), image[None])
    assert error(features[0], plain_features(model, trunk, name)) <= TOLERANCE
    assert error(features[0], plain_features(model, trunk, name, **{mistake: True})) > 100 * TOLERANCE


def test_position_by_size_shows(model: open_clip.CLIP, make: Make) -> None:
    image = make_image(96, 112)
    trunk = plain_trunk(model, normalise(image), position_by_size=True)
    for name in RULES:
        features, _ = run(make(name), image[None])
        assert error(features[0], plain_features(model, trunk, name)) > 100 * TOLERANCE


def test_the_activation_shows(model: open_clip.CLIP, make: Make) -> None:
    image = make_image(96, 112)
    other = make_model(quick_gelu=False)
    other.load_state_dict(model.state_dict())
    trunk = plain_trunk(other, normalise(image))
    for name in RULES:
        features, _ = run(make(name), image[None])
        assert error(features[0], plain_features(other, trunk, name)) > 100 * TOLERANCE


@pytest.mark.parametrize("grid", [(3, 5), (1, 4), (7, 7)])
def test_gaussian_window(grid: tuple[int, int]) -> None:
    for sigma in (5.0, 1.5):
        assert torch.allclose(gaussian_window(*grid, sigma), plain_omega(*grid, sigma), rtol=1e-6, atol=0)


@pytest.mark.parametrize("grid", [(14, 14), (14, 21), (10, 12), (28, 3), (7, 28), (37, 91)])
def test_position_embedding(model: open_clip.CLIP, grid: tuple[int, int]) -> None:
    got = position_for(read_vision(model.visual, torch.device("cpu"), torch.float32), *grid)
    assert got.shape == (1 + grid[0] * grid[1], 192)
    assert error(got, plain_position(model, *grid)) <= 1e-6


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float16, 0.006)])
def test_half_precision_stays_near(make: Make, dtype: torch.dtype, tolerance: float) -> None:
    windows = make_image(96, 112)[None]
    for name in RULES:
        exact, rough = make(name).score_windows(windows), make(name, dtype=dtype).score_windows(windows)
        assert rough.dtype == torch.float32
        assert (exact - rough).abs().max() <= tolerance, name


def test_the_backbone_is_left_alone(model: open_clip.CLIP, make: Make) -> None:
    def state() -> str:
        digest = hashlib.sha256()
        for value in model.state_dict().values():
            digest.update(value.numpy().tobytes())
        return digest.hexdigest()

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    before, modules = state(), [id(m) for m in model.modules()]
    for name in RULES:
        make(name).segment(make_image(100, 120))
    assert state() == before
    assert hooks() == 0
    assert [id(m) for m in model.modules()] == modules
