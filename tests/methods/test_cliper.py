"""CLIPer against a plain recomputation, and every detail that moves numbers shown to matter.

Weights are random but attention is far from uniform: with flat attention most wrong variants would pass.
"""

import itertools
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from ovss.harness.runs.conformity import CHECKS, check_method
from ovss.methods import Backbone, Picture, UserError, Vocabulary, WindowGeometry, create_method, load_backbone
from ovss.methods.blocks.early_fusion import fuse_layers, fused_attention
from ovss.methods.cliper import CLIPer
from ovss.methods.models.vit import read_vision

from ..agreement import assert_best
from .cliper_reference import DETAILS, MEAN, STD, fused_step, layers_of, reference
from .with_words import WithWords

# Of the largest value.  From the reference in double precision, the method and the reference itself are equally far,
# 3e-6 to 6e-5: such is the rounding of peaky attention and sharp probabilities.  Every detail moves 5e-4 or more.
TOLERANCE = 1e-4
SMALL, LARGE = (80, 112), (240, 336)
FOREGROUND, BACKGROUND = 6, 3
TOKENIZER = SimpleTokenizer()
WORDS = ("background", "cat", "dog", "sky", "tree", "road", "car")
# class 0 is the background with three words; they stand in the middle, as the order must not matter
OWNERS = (1, 2, 0, 3, 0, 4, 5, 0, 6)
SPLIT = [k for k, owner in enumerate(OWNERS) if owner], [k for k, owner in enumerate(OWNERS) if not owner]


@cache
def make_model(
    width: int = 48, layers: int = 5, heads: int = 4, dim: int = 24, patch: int = 16, quick_gelu: bool = True
) -> open_clip.CLIP:
    """A tower with OpenAI's layout and a positions table for 224 px."""
    vision = {"image_size": 224, "layers": layers, "width": width, "head_width": width // heads, "patch_size": patch}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1}
    torch.manual_seed(0)
    model = open_clip.CLIP(embed_dim=dim, vision_cfg=vision, text_cfg=text, quick_gelu=quick_gelu).eval()
    wider = math.sqrt(48 / width)  # a sum over more channels is not larger then
    with torch.no_grad():
        for name, p in model.visual.named_parameters():
            if "in_proj_weight" in name:
                p.normal_(std=0.35 * wider)
            elif "ln_1.weight" in name:
                p.normal_(1, 0.1)
            elif p.ndim >= 2 or name == "class_embedding":
                p.normal_(std=0.25 * (wider if p.ndim == 2 and "embedding" not in name else 1))
            elif name.endswith("bias"):
                p.normal_(std=0.1)
    model.requires_grad_(False)
    return model


def make_image(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    blocks = F.interpolate(torch.rand(1, 3, 7, 9, generator=generator), (height, width), mode="nearest")[0]
    return (200 * blocks + 55 * torch.rand(3, height, width, generator=generator)).to(torch.uint8)


def make_text(dim: int) -> Tensor:
    rows = torch.randn(len(OWNERS), dim, generator=torch.Generator().manual_seed(1))
    return F.normalize(rows, dim=1)


def vocabulary(owners: tuple[int, ...] = OWNERS, background: int | None = 0) -> Vocabulary:
    queries = tuple(f"text {k}" for k in range(len(owners)))
    return Vocabulary(WORDS[: max(owners) + 1], queries, owners, ("a {}.",), background)


def cliper(backbone: Backbone, **options: Any) -> CLIPer:
    method = create_method("cliper", backbone, **options)
    assert isinstance(method, CLIPer)
    return method


def with_rows(method: CLIPer, rows: Tensor, words: Vocabulary) -> WithWords:
    """The given rows as embeddings of the texts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ovss.methods.blocks.clip_method.encode_queries", lambda *args, **named: rows)
        return WithWords.of(method, words)


def make_method(model: open_clip.CLIP, **options: Any) -> WithWords:
    """CLIPer with made-up embeddings of its nine texts."""
    method = cliper(Backbone.from_module(model, TOKENIZER), **{"logit_scale": 50.0, **options})
    return with_rows(method, make_text(model.visual.proj.shape[1]), vocabulary())


def wanted(model: open_clip.CLIP, image: Tensor, **options: Any) -> Tensor:
    """The reference in the vocabulary's order, ``(Q, h, w)``."""
    text = make_text(model.visual.proj.shape[1])
    seg = reference(model.visual, image, text[SPLIT[0]], text[SPLIT[1]], **{"logit_scale": 50.0, **options})
    out = torch.empty_like(seg)
    out[SPLIT[0] + SPLIT[1]] = seg
    return out


def error(got: Tensor, reference: Tensor) -> float:
    return ((got - reference).abs().max() / reference.abs().max()).item()


def agree(model: open_clip.CLIP, image: Tensor, **options: Any) -> None:
    got, seg = make_method(model, **options).score_windows(image[None])[0], wanted(model, image, **options)
    assert got.shape == seg.shape and got.dtype == torch.float32
    assert error(got, seg) < TOLERANCE
    assert_best(got.argmax(dim=0), seg, gap=TOLERANCE, share=0.5)  # a threshold leaves zeros alone
    assert_best(got[SPLIT[0]].argmax(dim=0), seg[SPLIT[0]], gap=TOLERANCE, share=0.5)
    assert got.min() >= 0


# --- the numbers ------------------------------------------------------------------------------------------------------

CASES = {
    "as published": {"attention_threshold": 0.1},
    "second layer from the end": {"select_layer": -2, "attention_threshold": 0.2},
    "no threshold": {"attention_threshold": 0.0},
    "scale 100": {"logit_scale": 100.0, "attention_threshold": 0.35},
    "v1": {"variant": "v1"},
    "v1, own threshold": {"variant": "v1", "attention_threshold": 0.4},
    "selected layer only": {"fusion": False},
    "selected layer only, -2": {"fusion": False, "select_layer": -2},
    "selected layer only, v1": {"fusion": False, "variant": "v1"},
    "no propagation": {"propagate": False},
    "neither": {"propagate": False, "fusion": False, "attention": "vv"},
    **{name: {"attention": name} for name in ("qq", "kk", "vv", "qk", "identity")},
    "v1, qq": {"attention": "qq", "variant": "v1"},
}


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_scores(options: dict[str, Any], size: tuple[int, int]) -> None:
    agree(make_model(), make_image(*size), **options)


WINDOWS = {
    "224 on 240x336": (LARGE, {"window_px": 224, "stride_px": 112}),
    "64 on 80x112": (SMALL, {"window_px": 64, "stride_px": 32}),
    "336 on 240x336: larger than one side": (LARGE, {"window_px": 336}),
    "336 on 80x112: larger than both": (SMALL, {"window_px": 336}),
    "upright": ((112, 80), {"window_px": 64, "stride_px": 32}),
    "off the patch grid": ((91, 125), {"window_px": 64, "stride_px": 48}),
    "windows side by side": ((96, 160), {"window_px": 32, "stride_px": 32}),
}


@pytest.mark.parametrize("options", [{}, {"select_layer": -2, "attention_threshold": 0.1}, {"attention": "kk"}])
@pytest.mark.parametrize(("size", "windows"), WINDOWS.values(), ids=WINDOWS)
def test_windows(size: tuple[int, int], windows: dict[str, int], options: dict[str, Any]) -> None:
    agree(make_model(), make_image(*size), **windows, **options)
    assert (
        error(
            wanted(make_model(), make_image(*size), **options),
            wanted(make_model(), make_image(*size), **options, **windows),
        )
        > 1e-3
    )


@pytest.mark.parametrize("patch", [14, 16])
@pytest.mark.parametrize("quick_gelu", [True, False])
def test_activation_and_patch_are_the_backbones(quick_gelu: bool, patch: int) -> None:
    model = make_model(patch=patch, quick_gelu=quick_gelu)
    agree(model, make_image(112, 168))
    agree(model, make_image(112, 168), window_px=112, stride_px=112)


@pytest.mark.parametrize("options", [{}, {"variant": "v1"}, {"window_px": 64, "stride_px": 32}])
def test_full_size(options: dict[str, Any]) -> None:
    agree(make_model(width=768, layers=12, heads=12, dim=512), make_image(*SMALL), **options)


def test_features_and_attention() -> None:
    """Of every layer, before texts come in; two images at once."""
    model = make_model()
    images = torch.stack([make_image(*SMALL, seed) for seed in (0, 1)])
    pixels = (images.float() / 255 - MEAN) / STD
    found = fuse_layers(read_vision(model.visual, torch.device("cpu"), torch.float32), pixels, range(5))
    for k, image in enumerate(pixels):
        plain = layers_of(model.visual, image)
        unit = F.normalize(plain.outputs.flatten(1, 2), dim=-1)
        torch.testing.assert_close(found.unit[:, k], unit, atol=1e-5, rtol=0)
        torch.testing.assert_close(found.attention[k], plain.between_patches, atol=1e-6, rtol=0)
    assert found.grid == (5, 7)
    assert found.attention.sum(dim=-1).max() <= 1 + 1e-6 and found.attention.sum(dim=-1).min() < 0.99


# --- every detail matters ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("detail", DETAILS)
def test_a_reference_without_one_detail_is_rejected(detail: str) -> None:
    options = {"attention_threshold": 0.1}
    model, image = make_model(), make_image(*LARGE)
    got = make_method(model, **options).score_windows(image[None])[0]
    assert error(got, wanted(model, image, **options)) < TOLERANCE
    assert error(got, wanted(model, image, **options, without=detail)) > 3 * TOLERANCE


def test_options_and_variants_differ() -> None:
    image = make_image(*SMALL)
    scores = [make_method(make_model(), **options).score_windows(image[None]) for options in CASES.values()]
    for a, b in itertools.combinations(scores, 2):
        assert error(a, b) > 1e-4


# --- parts ------------------------------------------------------------------------------------------------------------


def test_sinkhorn_by_vectors_is_the_direct_form() -> None:
    total = (3 * torch.randn(12, 300, 300, generator=torch.Generator().manual_seed(0))).softmax(dim=-1)
    direct = total.clone()
    for matrix in fused_attention(total, 12):
        plain, direct = fused_step(direct)
        torch.testing.assert_close(matrix, plain[:, 1:], atol=1e-6, rtol=0)


def test_columns_that_nothing_attends_to() -> None:
    """Sums far below what a reciprocal can hold, and sums of 0: finite, and the rest is as without the column."""
    total = torch.rand(2, 9, 9, generator=torch.Generator().manual_seed(0)).double().softmax(dim=-1).float()
    rare, empty = total.clone(), total.clone()
    rare[:, :, 4] *= 1e-42
    empty[:, :, 4] = 0
    assert 0 < rare[:, :, 4].sum(dim=1).min() < 1e-40
    direct = rare.clone()
    for matrix in fused_attention(rare, 5):
        plain, direct = fused_step(direct)
        torch.testing.assert_close(matrix, plain[:, 1:], atol=0.02, rtol=0)  # so few bits are left of such numbers
    for matrix in fused_attention(empty, 5):
        assert matrix.isfinite().all()
        assert (matrix[:, :, 4] < matrix[:, :, 3]).any()


def test_uniform_attention_is_finite() -> None:
    """Nothing is above the mean: 0 / 0 in the original."""
    for matrix in fused_attention(torch.full((1, 4, 4), 0.25), 3):
        assert torch.equal(matrix, torch.zeros(1, 3, 4))


@pytest.mark.parametrize(
    ("height", "width", "window", "count"),
    [
        (336, 448, 224, 6),
        (336, 448, 336, 2),
        (336, 504, 224, 8),
        (336, 504, 336, 3),
        (560, 560, 224, 16),
        (448, 448, 224, 9),
    ],
)
def test_number_of_windows(height: int, width: int, window: int, count: int) -> None:
    boxes = WindowGeometry(window, 112).boxes(height, width)
    assert len(boxes) == count
    for box in boxes:
        assert not any(side % 14 and side % 16 for side in box)


def test_generic_row_is_the_mean_of_the_foreground() -> None:
    method = make_method(make_model())
    text = make_text(24)
    torch.testing.assert_close(method.text, torch.cat([text, F.normalize(text[SPLIT[0]].mean(0), dim=0)[None]]))


# --- properties -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"variant": "v1"}, {"window_px": 64, "stride_px": 32}])
def test_batch_equals_singles_to_the_bit(options: dict[str, Any]) -> None:
    method = make_method(make_model(), **options)
    images = torch.stack([make_image(*SMALL, seed) for seed in range(3)])
    singles = [method.score_windows(image[None]) for image in images]
    assert torch.equal(method.score_windows(images), torch.cat(singles))


def test_vocabularies_that_share_a_pass() -> None:
    """Fields of one look are those of separate runs, bit for bit."""
    backbone = Backbone.from_module(make_model(), TOKENIZER)
    lists = (["background", "cat", "sofa, couch"], ["dog", "a red car", "tree", "road, street", "moon"])
    pair = [Vocabulary.from_names(n, templates=["a {}."], background=b) for n, b in zip(lists, (0, None), strict=True)]
    method = cliper(backbone, window_px=64, stride_px=32)
    image, geometry = make_image(*LARGE), WindowGeometry(112, 80)
    seen = method.encode_image(Picture.of(image), geometry)
    for words, rows, planes in zip(pair, (5, 7), (4, 6), strict=True):
        said = method.encode_text(words)
        field, alone = method.score(seen, said), cliper(backbone, window_px=64, stride_px=32)
        assert torch.equal(field.scores, alone.segment(image, words, geometry).scores)
        assert field.activated and field.scores.shape[1] == planes
        assert len(said.text) == rows  # and the mean over the foreground


def test_order_of_texts_does_not_matter() -> None:
    """A column follows its text, and which foreground class a text speaks for moves nothing."""
    model, image = make_model(), make_image(*SMALL)[None]
    text, scores = make_text(24), make_method(make_model()).score_windows(image)
    order = torch.randperm(len(OWNERS), generator=torch.Generator().manual_seed(2)).tolist()
    renamed = {0: 0, 1: 3, 2: 1, 3: 2, 4: 2, 5: 4, 6: 5}
    method = with_rows(
        cliper(Backbone.from_module(model, TOKENIZER), logit_scale=50.0),
        text[order],
        vocabulary(tuple(renamed[OWNERS[k]] for k in order)),
    )
    torch.testing.assert_close(method.score_windows(image), scores[:, order], atol=2e-6, rtol=0)


def one_class(model: open_clip.CLIP, owners: tuple[int, ...], background: int | None) -> Tensor:
    made = cliper(Backbone.from_module(model, TOKENIZER), logit_scale=50.0)
    method = with_rows(made, make_text(24)[: len(owners)], vocabulary(owners, background))
    return method.score_windows(make_image(*SMALL)[None])[0]


def test_one_text_alone() -> None:
    """Foreground: it and its mean share the probability evenly.  Background: there is no mean, all is 1."""
    text = make_text(24)
    seg = reference(make_model().visual, make_image(*SMALL), text[:1], text[:0], logit_scale=50.0)
    foreground = one_class(make_model(), (0,), None)
    assert error(foreground, seg) < TOLERANCE
    background = one_class(make_model(), (0,), 0)
    torch.testing.assert_close(background, 2 * foreground)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(dtype: torch.dtype) -> None:
    image = make_image(*LARGE)[None]
    full = make_method(make_model(), window_px=224).score_windows(image)
    half = make_method(make_model(), window_px=224, dtype=dtype).score_windows(image)
    assert half.dtype == torch.float32 and half.isfinite().all()
    assert (half - full).abs().mean() < (2e-2 if dtype == torch.bfloat16 else 5e-3)
    assert (half.argmax(1) == full.argmax(1)).float().mean() > (0.9 if dtype == torch.bfloat16 else 0.98)


# --- options and the contract -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"variant": "v3"}, "variant is 'v3': allowed is v1 or v2"),
        ({"attention": "vq"}, "allowed is fused, qq, kk, vv, qk or identity"),
        ({"attention_threshold": 1.0}, "attention_threshold is 1.0"),
        ({"attention_threshold": -0.1}, "attention_threshold is -0.1"),
        ({"attention_threshold": math.nan}, "attention_threshold is nan"),
        ({"logit_scale": 0.0}, "logit_scale is 0.0"),
        ({"logit_scale": math.inf}, "logit_scale is inf"),
        ({"select_layer": 0}, "select_layer is 0: allowed is a whole number to -1"),
        ({"select_layer": -6}, "-5 to -1 are allowed"),
        ({"variant": "v1", "window_px": 224}, "window_px is 224 and select_layer -1, allowed are 0 and -1"),
        ({"variant": "v1", "select_layer": -2}, "variant=v2 has both"),
        ({"window_px": 225}, "multiples of the patch, 16 px"),
        ({"window_px": -224}, "window_px is -224: allowed is a whole number from 0"),
        ({"window_px": 224, "stride_px": 100}, "multiples of the patch"),
        ({"window_px": 224, "stride_px": 0}, "stride_px is 0: allowed is a whole number above 0"),
        ({"window_px": 224, "stride_px": 240}, "no larger than the window"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says.replace("(", r"\(")):
        cliper(Backbone.from_module(make_model(), TOKENIZER), **options)


def test_a_backbone_of_one_block_is_refused() -> None:
    with pytest.raises(UserError, match="one block"):
        cliper(Backbone.from_module(make_model(layers=1), TOKENIZER))


def test_provenance_tells_options_apart() -> None:
    values: dict[str, Any] = {
        "variant": "v1",
        "attention_threshold": 0.3,
        "select_layer": -2,
        "window_px": 224,
        "stride_px": 64,
        "logit_scale": 70.0,
        "fusion": False,
        "propagate": False,
        "attention": "qq",
    }
    backbone = Backbone.from_module(make_model(), TOKENIZER)
    plain = cliper(backbone).provenance
    for name, value in values.items():
        assert cliper(backbone, **{name: value}).provenance == {**plain, name: value}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "CLIPer (whole)"),
        ({"select_layer": -2, "attention_threshold": 0.1}, "CLIPer (whole)"),
        ({"window_px": 224}, "CLIPer (sliding)"),
        ({"variant": "v1"}, None),
        ({"fusion": False}, None),
        ({"propagate": False}, None),
        ({"attention": "vv"}, None),
    ],
)
def test_published_name_is_that_of_the_configuration(options: dict[str, Any], name: str | None) -> None:
    assert cliper(Backbone.from_module(make_model(), TOKENIZER), **options).described.published == name


FACTORIES: dict[str, Callable[[], CLIPer]] = {
    "tiny-clip": lambda: cliper(load_backbone("tiny-clip")),
    "tiny-clip, windows": lambda: cliper(load_backbone("tiny-clip"), window_px=64, stride_px=32),
    "tiny-clip, v1": lambda: cliper(load_backbone("tiny-clip"), variant="v1"),
    "random": lambda: cliper(Backbone.from_module(make_model(), TOKENIZER)),
}


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
def test_contract(factory: Callable[[], CLIPer]) -> None:
    results = list(check_method(factory))
    assert {r.name: r.detail for r in results if not r.passed} == {}
    assert len(results) == len(CHECKS)
