"""CLIPer written down plainly, step by step: the measure that ``test_cliper`` holds the method to.

It shares nothing with the package.  Blocks run as open_clip's own modules; everything that CLIPer adds is dense
matrices, normalised step by step, in loops over layers and windows.  ``without`` leaves out or changes one detail.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

DETAILS = (
    "compounding normalisation",
    "threshold in place",
    "transposed attention",
    "separate heads",
    "own ln_1 of early features",
    "mean foreground row",
    "column mean and clamp",
    "bilinear position embedding",
    "position embedding in half",
)
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)


@dataclass(frozen=True)
class Layers:
    """``outputs`` O_k without the class token, ``(L, h, w, E)``; ``last`` W_(L-1), all tokens."""

    outputs: Tensor
    last: Tensor

    @property
    def between_patches(self) -> Tensor:
        return self.last.mean(dim=0)[1:, 1:]


def position_embedding(visual: Any, h: int, w: int, without: str) -> Tensor:
    stored = visual.positional_embedding.detach()
    side = int((len(stored) - 1) ** 0.5)
    grid = stored[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    mode = "bicubic" if without == "bilinear position embedding" else "bilinear"
    grid = F.interpolate(grid, size=(h, w), mode=mode, align_corners=False)
    full = torch.cat([stored[:1], grid.permute(0, 2, 3, 1).reshape(h * w, -1)])
    return full if without == "position embedding in half" else full.half().float()


def attention_map(q: Tensor, k: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, dim=-1)


def heads_of(block: Any, x: Tensor, part: int) -> Tensor:
    """q, k or v (0, 1, 2) of ``x``, which is normalised already: ``(heads, N, d)``."""
    width, heads = x.shape[1], block.attn.num_heads
    rows = slice(part * width, (part + 1) * width)
    y = x @ block.attn.in_proj_weight[rows].T + block.attn.in_proj_bias[rows]
    return y.reshape(len(x), heads, width // heads).transpose(0, 1)


def layers_of(visual: Any, pixels: Tensor, without: str = "", attention: str = "fused") -> Layers:
    """``pixels`` ``(3, H, W)`` normalised, sides multiples of the patch."""
    patches = visual.conv1(pixels[None])[0]
    h, w = patches.shape[1:]
    x = torch.cat([visual.class_embedding[None], patches.flatten(1).T]) + position_embedding(visual, h, w, without)
    x = visual.ln_pre(x)
    blocks = list(visual.transformer.resblocks)
    early, total = [], torch.tensor(0.0)
    for block in blocks[:-1]:
        normed = block.ln_1(x)
        early.append(x if without == "own ln_1 of early features" else normed)
        total = total + attention_map(heads_of(block, normed, 0), heads_of(block, normed, 1))
        x = block(x[None])[0]
    early.append(x)
    if without == "separate heads":
        total = total.mean(dim=0, keepdim=True).expand_as(total).clone()

    last, outputs = blocks[-1], []
    for f in early:
        normed = last.ln_1(f)
        if attention == "fused":
            matrix, total = fused_step(total, without)
        elif attention == "identity":
            matrix = torch.eye(len(f)).expand(last.attn.num_heads, -1, -1)
        else:
            a, b = (heads_of(last, normed, "qkv".index(letter)) for letter in attention)
            matrix = attention_map(a, b)
        y = (matrix @ heads_of(last, normed, 2)).transpose(0, 1).reshape(len(f), -1)
        y = last.attn.out_proj(y)
        outputs.append(visual.ln_post(y) @ visual.proj)
    return Layers(torch.stack(outputs)[:, 1:].reshape(len(early), h, w, -1), matrix)


def fused_step(total: Tensor, without: str = "") -> tuple[Tensor, Tensor]:
    """W_k and what stays of M for the next k."""
    normalised = total / total.sum(dim=1, keepdim=True)
    normalised = normalised / normalised.sum(dim=2, keepdim=True)
    s = (normalised + normalised.transpose(1, 2)) / 2
    if without != "column mean and clamp":
        s = (s - s.mean(dim=1, keepdim=True)).clamp(min=0)
    stays = total if without == "compounding normalisation" else normalised
    return s / s.sum(dim=2, keepdim=True), stays


def text_bank(foreground: Tensor, background: Tensor, without: str = "") -> Tensor:
    rows = [foreground, background]
    if without != "mean foreground row":
        rows.append(foreground.mean(dim=0, keepdim=True))
    bank = torch.cat(rows)
    return bank / bank.norm(dim=1, keepdim=True)


def logits_of(outputs: Tensor, bank: Tensor, scale: float) -> Tensor:
    """``(L, h, w, E)`` -> ``(L, texts, h, w)``."""
    unit = outputs / outputs.norm(dim=-1, keepdim=True)
    return (scale * unit @ bank.T).permute(0, 3, 1, 2)


def window_starts(side: int, crop: int, stride: int) -> list[int]:
    count = max(side - crop + stride - 1, 0) // stride + 1
    return [max(min(stride * u + crop, side) - crop, 0) for u in range(count)]


def window_probabilities(
    visual: Any, pixels: Tensor, bank: Tensor, scale: float, crop: int, stride: int, attention: str
) -> Tensor:
    """P_slide, ``(L, texts, h * w)``."""
    p = visual.conv1.weight.shape[-1]
    h, w = pixels.shape[1] // p, pixels.shape[2] // p
    side = min(crop, pixels.shape[1]) // p, min(crop, pixels.shape[2]) // p
    layers = len(visual.transformer.resblocks)
    logits, count = torch.zeros(layers, len(bank), h, w), torch.zeros(h, w)
    mixing, pairs = torch.zeros(h, w, h, w), torch.zeros(h, w, h, w)
    for top in window_starts(pixels.shape[1], crop, stride):
        for left in window_starts(pixels.shape[2], crop, stride):
            found = layers_of(visual, pixels[:, top : top + crop, left : left + crop], attention=attention)
            rows, columns = slice(top // p, top // p + side[0]), slice(left // p, left // p + side[1])
            logits[:, :, rows, columns] += logits_of(found.outputs, bank, scale)
            count[rows, columns] += 1
            mixing[rows, columns, rows, columns] += found.between_patches.reshape(*side, *side)
            pairs[rows, columns, rows, columns] += 1
    logits = (logits / count).flatten(2)
    g = (mixing / (pairs + 1e-5)).reshape(h * w, h * w)
    g = g / g.sum(dim=1, keepdim=True)
    return torch.softmax(logits @ g, dim=1)


def reference(
    visual: Any,
    image: Tensor,
    foreground: Tensor,
    background: Tensor,
    *,
    variant: str = "v2",
    attention_threshold: float = 0.2,
    select_layer: int = -1,
    window_px: int = 0,
    stride_px: int = 112,
    logit_scale: float = 100.0,
    fusion: bool = True,
    propagate: bool = True,
    attention: str = "fused",
    without: str = "",
) -> Tensor:
    """seg of the foreground, then of the background words, which the original drops: ``(C + B, h, w)``."""
    p = visual.conv1.weight.shape[-1]
    image = image[:, : image.shape[1] // p * p, : image.shape[2] // p * p]
    pixels = (image.float() / 255 - MEAN) / STD
    found = layers_of(visual, pixels, without, attention)
    bank = text_bank(foreground, background, without)
    probabilities = torch.softmax(logits_of(found.outputs, bank, logit_scale), dim=1).flatten(2)
    if window_px:
        slid = window_probabilities(visual, pixels, bank, logit_scale, window_px, stride_px, attention)
        probabilities = 0.5 * probabilities + 0.5 * slid
    probabilities = probabilities[:, : len(foreground) + len(background)].clone()
    between = found.between_patches if propagate else torch.eye(probabilities.shape[2])
    chosen = probabilities[select_layer]
    if variant == "v1" or without == "threshold in place":
        chosen = chosen.clone()
    for row in chosen:
        row[row < attention_threshold * row.max()] = 0  # in place: ``chosen`` is a view
    from_left = variant == "v1" or without == "transposed attention"
    seg = (between @ chosen.T).T if from_left else chosen @ between
    if fusion:
        seg = seg + (probabilities[:-1] if variant == "v1" else probabilities).mean(dim=0)
    return seg.reshape(len(seg), *found.outputs.shape[1:3])
