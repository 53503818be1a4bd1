"""The original MaskCLIP against a plain recomputation, each of its differences switched off, and the contract.

The reference runs open_clip's own blocks (with another activation and epsilon) and writes out the last one.
"""

import copy
import math

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from ovss.harness.protocol.protocol import load_protocol
from ovss.harness.protocol.resize import resized_size
from ovss.harness.runs.conformity import check_method
from ovss.methods import Backbone, UserError, Vocabulary, Windows, create_method

from .blocks.test_dense_clip import NAMES, TEMPLATES, error, make_image, make_model, plain_queries
from .blocks.test_key_smoothing import plain_denoised, plain_smoothed
from .with_words import WithWords

TOLERANCE = 5e-5
SIZE = (100, 133)  # neither is a multiple of the patch
QUIRKS = ("exact_gelu", "small_eps", "imagenet_statistics")


pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def model(no_gradients: None) -> open_clip.CLIP:
    """Trained with QuickGELU, so to speak; tokens enter so small that the epsilon of the first norm shows."""
    model = make_model(layers=4)
    for name, p in model.visual.named_parameters():
        if name == "conv1.weight" or "embedding" in name:
            p *= 0.01
    return model


def make(model: nn.Module, name: str = "maskclip-original", **options: object) -> WithWords:
    method = create_method(name, backbone=Backbone.from_module(model, SimpleTokenizer()), **options)
    return WithWords.of(method, Vocabulary.from_names(NAMES, templates=TEMPLATES))


def plain_pixels(image: Tensor, imagenet_statistics: bool = True, pad_first: bool = False) -> Tensor:
    """``pad_first`` is the mistake of padding with black."""
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    if not imagenet_statistics:
        mean, std = (255 * torch.tensor(v) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    height, width = (16 * math.ceil(side / 16) for side in image.shape[1:])
    black, zeros = torch.zeros(3, height, width), torch.zeros(3, height, width)
    black[:, : image.shape[1], : image.shape[2]] = image
    normalised = (black - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    if pad_first:
        return normalised[None]
    zeros[:, : image.shape[1], : image.shape[2]] = normalised[:, : image.shape[1], : image.shape[2]]
    return zeros[None]


def plain_tower(model: open_clip.CLIP, exact_gelu: bool = True, small_eps: bool = True) -> nn.Module:
    visual = copy.deepcopy(model.visual)
    for module in visual.modules():
        if isinstance(module, nn.LayerNorm) and small_eps:
            module.eps = 1e-6
    for block in visual.transformer.resblocks if exact_gelu else ():
        block.mlp.gelu = nn.GELU()
    return visual


def plain_run(visual: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Features ``(N, dim)`` of unit length, keys ``(N, D)`` and the grid."""
    x = visual.conv1(pixels)
    width, grid = x.shape[1], tuple(x.shape[2:])
    table = visual.positional_embedding[1:].reshape(1, 14, 14, width).permute(0, 3, 1, 2)
    table = F.interpolate(table, size=grid, mode="bicubic", align_corners=False, antialias=False)
    x = x.flatten(2).transpose(1, 2) + table.flatten(2).transpose(1, 2)
    first = visual.class_embedding + visual.positional_embedding[0]
    x = visual.ln_pre(torch.cat([first.expand(1, 1, width), x], dim=1))
    for block in visual.transformer.resblocks[:-1]:
        x = block(x)
    last = visual.transformer.resblocks[-1]
    weight, bias, out = last.attn.in_proj_weight, last.attn.in_proj_bias, last.attn.out_proj
    y = last.ln_1(x)
    keys = out(y @ weight[width : 2 * width].T + bias[width : 2 * width])[0, 1:]
    z = x + out(y @ weight[2 * width :].T + bias[2 * width :])
    z = z + last.mlp(last.ln_2(z))
    return F.normalize((visual.ln_post(z) @ visual.proj)[0, 1:], dim=1), keys, grid


def plain_scores(model: open_clip.CLIP, image: Tensor, pad_first: bool = False, **switches: bool) -> Tensor:
    """Cosines ``(6, h, w)``."""
    statistics = switches.pop("imagenet_statistics", True)
    features, _, grid = plain_run(plain_tower(model, **switches), plain_pixels(image, statistics, pad_first))
    return (plain_queries(model) @ features.T).unflatten(1, grid)


def test_full_size() -> None:
    """ViT-B/16 with 512 channels, non-square, to be padded."""
    torch.manual_seed(0)
    vision = {"image_size": 224, "layers": 12, "width": 768, "head_width": 64, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    model = open_clip.CLIP(embed_dim=512, vision_cfg=vision, text_cfg=text, quick_gelu=True).eval()
    method, image = make(model, key_smoothing=1.0), make_image(*SIZE)
    features, keys, grid = plain_run(plain_tower(model), plain_pixels(image))
    assert grid == (7, 9)
    found = method.encode_windows(Windows.of(image[None]))
    assert found.keys is not None and found.salient is None
    assert error(found.features[0].flatten(0, 1), features) <= TOLERANCE
    assert error(found.keys[0], keys) <= TOLERANCE


def test_scores_are_cosines(model: open_clip.CLIP) -> None:
    image = make_image(*SIZE)
    method = make(model)
    field = method.segment(image)
    assert error(field.scores[0], plain_scores(model, image)) <= TOLERANCE
    assert field.covers == field.boxes == ((0, 0, *SIZE),)  # padded cells are stretched over the image too
    assert not field.activated and not method.activated
    assert float(field.scores.abs().max()) <= 1 + 1e-5


@pytest.mark.parametrize("quirk", QUIRKS)
def test_each_difference_can_be_switched_off_and_matters(model: open_clip.CLIP, quirk: str) -> None:
    image = make_image(*SIZE)
    plain = make(model, **{quirk: False}).score_windows(image[None])[0]
    assert error(plain, plain_scores(model, image, **{quirk: False})) <= TOLERANCE
    assert error(plain, plain_scores(model, image)) > 20 * TOLERANCE


def test_without_the_differences_it_is_the_other_maskclip(model: open_clip.CLIP) -> None:
    image, off = make_image(*SIZE), dict.fromkeys(QUIRKS, False)
    for pad in (False, True):
        other = make(model, "maskclip", positions="size", pad=pad)
        assert torch.equal(make(model, pad=pad, **off).score_windows(image[None]), other.score_windows(image[None]))


def test_padding_is_zero_after_the_normalisation(model: open_clip.CLIP) -> None:
    image = make_image(*SIZE)
    found = make(model).score_windows(image[None])[0]
    assert error(found, plain_scores(model, image, pad_first=True)) > 20 * TOLERANCE
    pixels = make(model).normalised(image[None])
    assert pixels.shape == (1, 3, 112, 144)
    assert bool((pixels[:, :, 100:] == 0).all()) and bool((pixels[:, :, :, 133:] == 0).all())


def test_windows_smaller_than_a_patch_are_padded_to_one(model: open_clip.CLIP) -> None:
    assert make(model).score_windows(make_image(9, 20)[None]).shape == (1, 6, 1, 2)


def test_positions(model: open_clip.CLIP) -> None:
    image = make_image(*SIZE)
    by_factor = make(model, positions="factor").score_windows(image[None])[0]
    assert error(by_factor, plain_scores(model, image)) > 20 * TOLERANCE


@pytest.mark.parametrize("norm", ["positions", "channels"])
@pytest.mark.parametrize("smoothing", [0.0, 0.6, 1.0])
def test_refinements(model: open_clip.CLIP, norm: str, smoothing: float) -> None:
    images = torch.stack([make_image(*SIZE, seed=seed) for seed in (0, 1)])
    plain = [plain_run(plain_tower(model), plain_pixels(image)) for image in images]
    scores = [features @ plain_queries(model).T for features, _, _ in plain]
    best = torch.stack([(100 * s).softmax(dim=1).amax(dim=0) for s in scores]).flatten().sort().values
    threshold = float(best[5:7].mean())  # some queries are below it, and none is near
    options = {"prompt_denoising": threshold, "key_smoothing": smoothing, "key_norm": norm}
    wanted = [plain_denoised(s, threshold) for s in scores]
    assert 0 < sum(int((w == -100).all(dim=0).sum()) for w in wanted) < 12
    if smoothing:
        keys = [k for _, k, _ in plain]
        probabilities = [(100 * w).softmax(dim=1) for w in wanted]
        unsure = torch.stack(probabilities).amax(dim=2) < smoothing
        assert bool(unsure.any()) and (smoothing == 1 or bool((~unsure).any()))
        wanted = [plain_smoothed(p, k, smoothing, norm) for p, k in zip(probabilities, keys, strict=True)]
    method = make(model, **options)
    found = method.score_windows(images)
    assert found.shape == (2, 6, 7, 9) and found.dtype == torch.float32
    assert torch.allclose(found.flatten(2).transpose(1, 2), torch.stack(wanted), rtol=0, atol=10 * TOLERANCE)
    assert method.activated == method.segment(images[0]).activated == (smoothing > 0)


def test_options_are_checked_and_told(model: open_clip.CLIP) -> None:
    told = make(model, key_smoothing=1.0, small_eps=False).provenance
    assert (told["key_smoothing"], told["prompt_denoising"], told["key_norm"]) == (1.0, 0.0, "positions")
    assert [told[quirk] for quirk in QUIRKS] == [True, False, True]
    assert (told["pad"], told["positions"]) == ("end", "size")
    for wrong in ({"prompt_denoising": 1.5}, {"key_smoothing": -0.1}, {"key_norm": "patches"}, {"pad": "begin"}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            make(model, **wrong)


@pytest.mark.parametrize("options", [{}, {"prompt_denoising": 0.5, "key_smoothing": 1.0}])
def test_contract(options: dict[str, float]) -> None:
    results = list(check_method(lambda: create_method("maskclip-original", "tiny-clip", **options)))
    assert {r.name: r.detail for r in results if not r.passed} == {}


def test_protocol() -> None:
    protocol = load_protocol("maskclip")
    assert load_protocol("paper:maskclip-original") == protocol
    context, cityscapes = protocol.setting("context59"), protocol.setting("cityscapes")
    for size in ((375, 500), (500, 333), (281, 500)):
        assert max(resized_size(*size, context.short_side_px, context.long_side_px)) == 520
    assert resized_size(1024, 2048, cityscapes.short_side_px, cityscapes.long_side_px) == (512, 1024)
    for key in ("voc20", "context59", "coco_stuff", "cityscapes", "ade20k"):
        setting = protocol.setting(key)
        assert (setting.window_px, setting.templates, setting.average) == (0, "maskclip85", "score")
        assert setting.options_for("maskclip-original") == {}  # the refinements are off
