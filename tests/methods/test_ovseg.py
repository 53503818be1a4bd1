"""OVSeg: what comes out of a checkpoint in the released layout is what the formulas say."""

import re
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.harness.runs.conformity import check_method
from ovss.methods import UserError, Vocabulary, WindowGeometry, create_method
from ovss.methods.blocks.mask_crops import cut_masked
from ovss.methods.blocks.mask_prompts import embed_crops
from ovss.methods.core.picture import Picture
from ovss.methods.models import vit
from ovss.methods.models.mask_former import MaskNet
from ovss.methods.models.ovseg_checkpoint import read_ovseg
from ovss.methods.ovseg import OVSeg

from .ovseg_parts import SMALL, SMALL_RESNET, SWIN_B_VIT_L_14, Sizes, random_ovseg, random_state
from .ovseg_reference import embed_with_prompts, propose
from .with_words import WithWords

VOCABULARY = Vocabulary.from_names(["cat", "dog, hound", "sky"], templates="vild14", separator=None)
CPU = torch.device("cpu")
MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD


def _image(height: int = 70, width: int = 91, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def _made(sizes: Sizes = SMALL, **options: Any) -> OVSeg:
    method = create_method("ovseg", weights=random_ovseg(sizes), **options)  # type: ignore[arg-type]
    assert isinstance(method, OVSeg)
    return method


def _method(**options: Any) -> WithWords:
    return WithWords.of(_made(**options), VOCABULARY)


def _relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


# ---- the mask network


@pytest.mark.parametrize("sizes", [SMALL, SMALL_RESNET], ids=["swin", "resnet"])
@pytest.mark.parametrize("size", [(150, 91), (64, 96)])
def test_mask_network_equals_the_formulas(sizes: Sizes, size: tuple[int, int]) -> None:
    image = _image(*size)
    found = random_ovseg(sizes).mask_net(image)
    masks, embeddings = propose(random_state(sizes), sizes, image)
    assert found.masks.shape == (12, *size) and masks.std() > 0.1 and embeddings.std(0).mean() > 0.1
    assert _relative(found.masks, masks) < 1e-4
    assert _relative(found.embeddings, embeddings) < 1e-4


# ---- crops with mask prompts


def _crops(side: int, count: int = 4) -> tuple[Tensor, Tensor]:
    """Crops and masks; of some patches all pixels are shown, of some a single one, of most none."""
    generator = torch.Generator().manual_seed(1)
    masks = torch.zeros(count, side, side, dtype=torch.bool)
    for i, mask in enumerate(masks):
        mask[: side // 3 * (i + 1) // 2, i : side // 2] = True
        mask[-1, -1 - i] = True
    return torch.randn(count, 3, side, side, generator=generator), masks


def test_mask_prompts_equal_open_clips_modules() -> None:
    parts = random_ovseg()
    crops, masks = _crops(48)
    weights = vit.read_vision(parts.clip.visual, CPU, torch.float32)
    for prompts in (parts.prompts, parts.prompts[:1], parts.prompts[:, :1], None):  # type: ignore[index]
        wanted = embed_with_prompts(parts.clip.visual, prompts, crops, masks)
        found = embed_crops(weights, prompts, crops, masks)
        assert _relative(found, wanted) < 1e-5
        single = [embed_crops(weights, prompts, crops[i : i + 1], masks[i : i + 1]) for i in range(len(crops))]
        assert torch.allclose(torch.cat(single), found, atol=1e-6)


def test_mask_prompts_at_the_size_of_vit_b_16() -> None:
    config = open_clip.get_model_config("ViT-B-16-quickgelu")
    torch.manual_seed(0)
    visual = open_clip.CLIP(**{**config, "text_cfg": {**config["text_cfg"], "layers": 1}}).eval().visual
    prompts = torch.randn(3, 196, 768)
    crops, masks = _crops(224, 3)
    with torch.inference_mode():
        wanted = embed_with_prompts(visual, prompts, crops, masks)
    found = embed_crops(vit.read_vision(visual, CPU, torch.float32), prompts, crops, masks)
    assert _relative(found, wanted) < 1e-4
    assert (wanted[0] - wanted[1]).abs().max() > 1e-2


def test_prompts_hide_what_is_outside_the_mask() -> None:
    """A2."""
    parts = random_ovseg()
    weights = vit.read_vision(parts.clip.visual, CPU, torch.float32)
    crops, masks = _crops(48)
    prompts, full = parts.prompts, torch.ones_like(masks)
    plain = F.normalize(parts.clip.encode_image(crops), dim=-1)
    assert torch.allclose(embed_crops(weights, prompts, crops, full), plain, atol=1e-5)
    assert torch.allclose(embed_crops(weights, None, crops, masks), plain, atol=1e-5)
    empty = embed_crops(weights, prompts, crops, ~full)
    assert torch.equal(empty, empty[:1].expand_as(empty))
    assert prompts is not None
    shallow, middle, deep = (embed_crops(weights, prompts[:d], crops, masks) for d in (1, 2, 3))
    assert (shallow - middle).abs().max() > 1e-3 and (middle - deep).abs().max() > 1e-3
    assert embed_crops(weights, prompts, crops[:0], masks[:0]).shape == (0, 32)


# ---- the method


def _by_the_formulas(image: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Masks, p, phat (a row for every query, 0 where there is no crop) and which are valid, in plain loops."""
    state, parts = random_state(SMALL), random_ovseg()
    masks, embeddings = propose(state, SMALL, image)
    tokenize = open_clip.get_tokenizer("ViT-B-16-quickgelu")
    templates = VOCABULARY.templates
    texts = []
    for name in VOCABULARY.queries:
        features = parts.clip.encode_text(tokenize([t.format(name) for t in templates]))
        mean = (features / features.norm(dim=-1, keepdim=True)).mean(0)
        texts.append(mean / mean.norm())
    t = torch.stack(texts)
    none = state["clip_adapter.non_object_embedding"]
    e = embeddings / embeddings.norm(dim=-1, keepdim=True)
    p = torch.softmax(100 * e @ torch.cat([t, none / none.norm()]).T, dim=1)[:, :3]
    phat, valid = torch.zeros(12, 3), torch.zeros(12, dtype=torch.bool)
    for q, mask in enumerate(masks > threshold):
        if mask.any():
            crops, crop_masks, _ = cut_masked(image, mask[None], MEAN, STD, side_px=48)
            phi = embed_with_prompts(parts.clip.visual, parts.prompts, crops, crop_masks)
            phat[q], valid[q] = torch.softmax(100 * phi[0] @ t.T, dim=0), True
    return masks, p, phat, valid


def _threshold(masks: Tensor, valid: int) -> float:
    """A threshold that ``valid`` masks exceed."""
    top = masks.flatten(1).amax(1).sort(descending=True).values
    return float((top[valid - 1] + top[valid]) / 2) if valid else float(1 + top[0]) / 2


@pytest.mark.parametrize("valid", [0, 1, 5])
@torch.inference_mode()
def test_scores_equal_the_formulas(valid: int) -> None:
    """A3, with no, one and several valid proposals."""
    image = _image()
    threshold = _threshold(random_ovseg().mask_net(image).masks, valid)
    masks, p, phat, seen = _by_the_formulas(image, threshold)
    assert int(seen.sum()) == valid
    for weight in (0.0, 0.7, 1.0):
        field = _method(mask_threshold=threshold, ensemble_weight=weight, crop_batch=2).segment(image)
        powers = p ** (1 - weight)
        wanted = torch.where(seen[:, None], powers * phat**weight, powers) if weight else phat
        assert field.mixing is not None and field.mixing.dtype == torch.float32
        torch.testing.assert_close(field.mixing, wanted, rtol=5e-3, atol=1e-5)
        y = sum(wanted[q][:, None, None] * masks[q] for q in range(12))
        torch.testing.assert_close(field.dense().scores[0], y, rtol=5e-3, atol=1e-4)
    off = _method(mask_threshold=threshold, ensemble=False).segment(image)
    torch.testing.assert_close(off.mixing, p, rtol=5e-3, atol=1e-5)


def test_windows_of_the_protocol_change_nothing() -> None:
    method = _method()
    for seed in (1, 2):
        whole, cut = method.segment(_image(seed=seed)), method.segment(_image(seed=seed), WindowGeometry(32, 16))
        assert cut.frame == (70, 91) and cut.boxes == cut.covers == ((0, 0, 70, 91),) and cut.activated
        assert torch.equal(whole.scores, cut.scores) and torch.equal(whole.mixing, cut.mixing)  # type: ignore[arg-type]


@torch.inference_mode()
def test_several_vocabularies_share_proposals_and_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    """And two methods on one mask network share its masks."""
    method, other = _made(), _made(mask_threshold=0.5)
    vocabularies = [VOCABULARY, Vocabulary.from_names(["boat", "tree"], templates="simple")]
    alone = [method.segment(_image(), vocabulary) for vocabulary in vocabularies]
    calls = []
    run = MaskNet.forward
    monkeypatch.setattr(MaskNet, "forward", lambda self, image: calls.append("net") or run(self, image))
    monkeypatch.setattr("ovss.methods.ovseg.embed_crops", lambda *a: calls.append("crops") or embed_crops(*a))
    picture, geometry = Picture.of(_image()), WindowGeometry()
    seen = method.encode_image(picture, geometry)
    for vocabulary, wanted in zip(vocabularies, alone, strict=True):
        field = method.score(seen, method.encode_text(vocabulary))
        assert torch.equal(wanted.mixing, field.mixing) and torch.equal(wanted.scores, field.scores)  # type: ignore[arg-type]
        assert field.query_to_class == vocabulary.query_to_class
    assert calls == ["net", "crops"]
    other.encode_image(picture, geometry)
    assert calls == ["net", "crops", "crops"]


def test_mask_prompts_and_half_precision_move_scores() -> None:
    threshold = _threshold(random_ovseg().mask_net(_image()).masks, 5)  # high, hence masks with blank patches
    base, plain, half = (
        _method(mask_threshold=threshold, **options).segment(_image())
        for options in ({}, {"mask_prompts": False}, {"dtype": torch.bfloat16})
    )
    assert torch.equal(plain.scores, base.scores) and torch.equal(half.scores, base.scores)
    assert base.mixing is not None and plain.mixing is not None and half.mixing is not None
    assert (plain.mixing - base.mixing).abs().max() > 1e-3
    assert half.mixing.dtype == torch.float32 and (half.mixing - base.mixing).abs().max() > 0


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("mask_threshold", 1.0, "allowed is a number from 0 below 1 (probability above which"),
        ("mask_threshold", -0.1, "allowed is a number from 0 below 1 (probability above which"),
        ("ensemble_weight", 1.5, "allowed is a number from 0 to 1 (lambda"),
        ("crop_batch", 0, "allowed is a whole number from 1 (crops that go through CLIP in one call"),
        ("ensemble", 2, "allowed is true or false"),
        ("checkpoint", "ovseg", "allowed is ovseg-swinb-vitl14, ovseg-r101c-vitb16 or ovseg-swinb-vitl14-prompts"),
    ],
)
def test_senseless_options_are_refused(monkeypatch: pytest.MonkeyPatch, option: str, value: object, told: str) -> None:
    monkeypatch.setattr("ovss.methods.ovseg.open_model", None)
    with pytest.raises(UserError, match=re.escape(f"method 'ovseg': option {option} is {value!r}: {told}")):
        create_method("ovseg", **{option: value})


@pytest.mark.parametrize("sizes", [SMALL, SMALL_RESNET], ids=["swin", "resnet"])
def test_conformity(sizes: Sizes) -> None:
    wrong = [c for c in check_method(lambda: _made(sizes)) if not c.passed]
    assert not wrong, wrong


@pytest.mark.slow
def test_the_released_sizes(tmp_path: Path) -> None:
    """Swin-B with ViT-L/14: a file of 2 GB, read in the released layout."""
    if shutil.disk_usage(tmp_path).free < 4 << 30:
        pytest.skip(f"needs 4 GiB of free disk below {tmp_path}")
    sizes, image = SWIN_B_VIT_L_14, _image(100, 130)
    state = random_state(sizes)
    torch.save({"model": state}, tmp_path / "full.pth")
    masks, embeddings = propose(state, sizes, image)
    del state
    parts = read_ovseg(tmp_path / "full.pth")
    (tmp_path / "full.pth").unlink()
    assert parts.clip_name == "ViT-L-14-quickgelu"
    found = parts.mask_net(image)
    assert _relative(found.masks, masks) < 1e-4 and _relative(found.embeddings, embeddings) < 1e-4
    crops, shown = _crops(224, 2)
    with torch.inference_mode():
        wanted = embed_with_prompts(parts.clip.visual, parts.prompts, crops, shown)
    tower = vit.read_vision(parts.clip.visual, CPU, torch.float32)
    assert _relative(embed_crops(tower, parts.prompts, crops, shown), wanted) < 1e-4
