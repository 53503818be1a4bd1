"""Masked region queries: a full mask is the class token, a region sees its patches only, and what it costs."""

import open_clip
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ovss.methods.blocks.region_queries import covered_patches, default_depth, region_features
from ovss.methods.models import vit


@pytest.fixture(scope="module")
def weights() -> vit.VisionTransformer:
    torch.manual_seed(0)
    vision = {"image_size": 64, "layers": 4, "width": 128, "head_width": 64, "patch_size": 16}
    text = {"context_length": 8, "vocab_size": 100, "width": 64, "heads": 1, "layers": 1}
    model = open_clip.CLIP(embed_dim=64, vision_cfg=vision, text_cfg=text).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=1.3 / p[0].numel() ** 0.5 if p.ndim >= 2 else 0.5)
    return vit.read_vision(model.visual, torch.device("cpu"), torch.float32)


def class_token(weights: vit.VisionTransformer, pixels: Tensor) -> Tensor:
    x, _ = vit.embed(weights, pixels)
    for block in weights.blocks:
        x = vit.run_block(block, x)
    return vit.project(weights, x[:, 0])[0]


def pixels(height: int = 48, width: int = 80, seed: int = 1) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_full_mask_is_the_class_token(weights: vit.VisionTransformer, depth: int) -> None:
    image = pixels()
    found = region_features(weights, image, torch.ones(3, 15, dtype=torch.bool), depth)
    wanted = class_token(weights, image)
    assert found.shape == (3, 64) and found.dtype == torch.float32
    assert (found - wanted).abs().max() < 2e-6 * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("depth", [1, 3])
def test_plain_formula(weights: vit.VisionTransformer, depth: int) -> None:
    """One region by itself, every head written out."""
    image = pixels()
    mask = torch.zeros(48, 80, dtype=torch.bool)
    mask[0:20, 30:70] = True
    x, (rows, columns) = vit.embed(weights, image)
    seen = [i for i in range(rows * columns) if mask.view(rows, 16, columns, 16).any(3).any(1).flatten()[i]]
    blocks = weights.blocks
    for block in blocks[:-depth]:
        x = vit.run_block(block, x)
    region = x[0, :1]
    for block in blocks[-depth:]:
        tokens = torch.cat([region, x[0, 1:][seen]])
        qkv = vit.norm(tokens, block.ln_1) @ block.qkv.weight.T + block.qkv.bias
        q, k, v = (part.unflatten(1, (block.heads, -1)) for part in qkv.chunk(3, dim=1))
        heads = [(q[:1, h] @ k[:, h].T / q.shape[-1] ** 0.5).softmax(dim=-1) @ v[:, h] for h in range(block.heads)]
        region = region + torch.cat(heads, dim=-1) @ block.out.weight.T + block.out.bias
        hidden = block.activation(vit.norm(region, block.ln_2) @ block.fc.weight.T + block.fc.bias)
        region = region + hidden @ block.proj.weight.T + block.proj.bias
        x = vit.run_block(block, x)
    wanted = vit.project(weights, region)[0]
    others = torch.ones(1, 48, 80, dtype=torch.bool)
    found = region_features(weights, image, covered_patches(torch.cat([mask[None], others]), (rows, columns)), depth)
    assert torch.allclose(found[0], wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[0], found[1], atol=1e-2)


def test_regions_do_not_see_each_other(weights: vit.VisionTransformer) -> None:
    masks = torch.zeros(5, 48, 80, dtype=torch.bool)
    for i in range(5):
        masks[i, 8 * i : 8 * i + 9, 10 * i : 10 * i + 30] = True
    seen = covered_patches(masks, (3, 5))
    together = region_features(weights, pixels(), seen, 2)
    alone = torch.cat([region_features(weights, pixels(), one[None], 2) for one in seen])
    assert torch.allclose(together, alone, rtol=1e-5, atol=1e-5)


def test_which_patches_a_region_sees() -> None:
    masks = torch.zeros(3, 32, 48, dtype=torch.bool)
    masks[0, 0:17, 0:17] = True  # a patch and a pixel's width of three more
    masks[1, 10:17, 14:20] = True  # smaller than a patch, in four of them: most in the second
    masks[2, 31, 47] = True
    seen = covered_patches(masks, (2, 3)).view(3, 2, 3).int()
    assert seen[0].tolist() == [[1, 1, 0], [1, 1, 0]]
    assert seen[1].tolist() == [[0, 1, 0], [0, 0, 0]]
    assert seen[2].tolist() == [[0, 0, 0], [0, 0, 1]]
    with pytest.raises(ValueError, match="without any pixel"):
        covered_patches(torch.zeros(1, 4, 4, dtype=torch.bool), (2, 2))


@pytest.mark.parametrize(
    ("name", "depth", "crops_gmac", "fast_gmac"), [("ViT-B-16", 6, 1756, 114), ("ViT-L-14", 9, 8101, 510)]
)
def test_cost_at_full_size(name: str, depth: int, crops_gmac: float, fast_gmac: float) -> None:
    """100 proposals in 448 x 597 px, counted without computing anything; expected numbers are of a separate count."""
    config = open_clip.get_model_config(name)
    with torch.device("meta"):
        model = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
        image, crop = torch.empty(1, 3, 448, 597), torch.empty(1, 3, 224, 224)
    weights = vit.read_vision(model.visual, torch.device("meta"), torch.float32)
    assert default_depth(weights) == depth
    seen = torch.empty(100, 448 // weights.patch_px * (597 // weights.patch_px), dtype=torch.bool, device="meta")
    with FlopCounterMode(display=False) as fast:
        region_features(weights, image, seen, depth)
    with FlopCounterMode(display=False) as one:
        class_token(weights, crop)
    found, exact = fast.get_total_flops() / 2e9, 100 * one.get_total_flops() / 2e9
    assert exact == pytest.approx(crops_gmac, rel=0.01)
    assert found == pytest.approx(fast_gmac, rel=0.08), "less: the image's tokens stop before the last block"
    assert exact / found > 8
