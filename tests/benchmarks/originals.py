"""The programs that the field uses, written out step by step from their description, on full-size maps.

Nothing here comes from this package: the image tower is run by open_clip's own modules, block by block, and the
attention of the last block is written with matrix products.  So neither our model nor our decoder is on both sides of
a ratio.  One window at a time, as the original programs do: upsample to the window, pad to the frame, add; divide,
resize, scale, softmax, maximum, argmax, threshold.
"""

import importlib
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
Name = Literal["sclip", "naclip", "maskclip"]


@dataclass(frozen=True)
class Original:
    """One of three programs; ``text`` holds a unit vector for each class, ``(classes, dim)``."""

    name: Name
    model: Any
    text: Tensor
    window_px: int = 224
    stride_px: int = 112
    logit_scale: float = 40.0

    @torch.inference_mode()
    def predict(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """``(3, h, w)`` uint8 -> labels of ``size``."""
        return post_process(self.slide(image, size), self.logit_scale)

    @torch.inference_mode()
    def slide(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Cosines ``(classes, *size)``."""
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
        pixels = ((image.float() / 255 - mean) / std)[None]
        return stitched(self.window_scores, pixels, len(self.text), self.window_px, self.stride_px, size)

    def window_scores(self, window: Tensor) -> Tensor:
        """Cosines of patches and texts, ``(1, classes, rows, columns)``."""
        visual = self.model.visual
        features, (rows, columns) = self.patch_features(window)
        features = (visual.ln_post(features) @ visual.proj)[:, 1:]
        features = features / features.norm(dim=-1, keepdim=True)
        return (features @ self.text.T).permute(0, 2, 1).reshape(1, len(self.text), rows, columns)

    def patch_features(self, window: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Tokens after the last block, and the grid of patches."""
        visual = self.model.visual
        x = visual.conv1(window)
        grid = (x.shape[2], x.shape[3])
        x = x.flatten(2).permute(0, 2, 1)
        x = torch.cat([visual.class_embedding.expand(1, 1, -1), x], dim=1) + positions(visual, grid)
        x = visual.ln_pre(x)
        for block in visual.transformer.resblocks[:-1]:
            x = block(x)
        last = visual.transformer.resblocks[-1]
        attended = self.attention(last.attn, last.ln_1(x), grid)
        if self.name == "naclip":
            return attended, grid
        x = x + attended
        return x + last.mlp(last.ln_2(x)), grid

    def attention(self, attn: Any, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """The attention of the last block as the method's paper has it."""
        if self.name == "maskclip":
            values = F.linear(x, attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=-1)[2]
            return attn.out_proj(values)
        _, tokens, width = x.shape
        heads, scale = attn.num_heads, (width // attn.num_heads) ** -0.5
        projected = F.linear(x, attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=-1)
        q, k, v = (p.view(tokens, heads, -1).transpose(0, 1) for p in projected)
        if self.name == "sclip":
            weights = torch.softmax(q @ q.transpose(1, 2) * scale, dim=-1)
            weights = weights + torch.softmax(k @ k.transpose(1, 2) * scale, dim=-1)
        else:
            weights = torch.softmax(k @ k.transpose(1, 2) * scale + neighbourhood(grid), dim=-1)
        return attn.out_proj((weights @ v).transpose(0, 1).reshape(1, tokens, width))


def positions(visual: Any, grid: tuple[int, int]) -> Tensor:
    """The position embedding of a grid, made anew on every call unless it is the stored one."""
    stored, (rows, columns) = visual.positional_embedding, grid
    side = int((len(stored) - 1) ** 0.5)
    if (rows, columns) == (side, side):
        return stored
    patches = stored[1:].view(1, side, side, -1).permute(0, 3, 1, 2)
    factor = ((rows + 0.1) / side, (columns + 0.1) / side)
    patches = F.interpolate(patches, scale_factor=factor, mode="bicubic", align_corners=False)
    return torch.cat([stored[:1], patches.flatten(2)[0].T])


@cache
def neighbourhood(grid: tuple[int, int]) -> Tensor:
    """NACLIP's Gaussian of the distance between patches, sigma 5, with a row and a column of 0 for the class token."""
    places = torch.cartesian_prod(*(torch.arange(side).float() for side in grid))
    near = torch.exp(-torch.cdist(places, places).square() / (2 * 5.0**2))
    return F.pad(near, (1, 0, 1, 0))


def stitched(
    window_scores: Callable[[Tensor], Tensor],
    pixels: Tensor,
    classes: int,
    window_px: int,
    stride_px: int,
    size: tuple[int, int],
) -> Tensor:
    """The loop over windows of the original programs: ``(1, 3, h, w)`` -> ``(classes, *size)``."""
    _, _, height, width = pixels.shape
    total, visits = torch.zeros(1, classes, height, width), torch.zeros(1, 1, height, width)
    for row in range(max(height - window_px + stride_px - 1, 0) // stride_px + 1):
        for column in range(max(width - window_px + stride_px - 1, 0) // stride_px + 1):
            bottom, right = min(row * stride_px + window_px, height), min(column * stride_px + window_px, width)
            top, left = max(bottom - window_px, 0), max(right - window_px, 0)
            window = pixels[:, :, top:bottom, left:right]
            maps = F.interpolate(window_scores(window), window.shape[2:], mode="bilinear", align_corners=False)
            total += F.pad(maps, (left, width - right, top, height - bottom))
            visits[:, :, top:bottom, left:right] += 1
    return F.interpolate(total / visits, size, mode="bilinear", align_corners=False)[0]


def post_process(
    maps: Tensor,
    logit_scale: float = 40.0,
    owners: tuple[int, ...] = (),
    threshold: float = 0.0,
    area: float = 0.0,
) -> Tensor:
    """Full-size maps of queries -> labels.  With ``owners``, the class of each query, by a product with a one-hot."""
    found = (maps * logit_scale).softmax(0)
    if owners:
        one_hot = F.one_hot(torch.tensor(owners)).T[:, :, None, None]
        found = (found[None] * one_hot).max(1)[0]
    labels = found.argmax(0, keepdim=True)
    if area:
        pixels = torch.bincount(labels.flatten(), minlength=len(found))
        lost = pixels <= area * (pixels.sum() - pixels[0])
        lost[0] = False
        found[lost] = 0
        labels = found.argmax(0, keepdim=True)
    labels[found.max(0, keepdim=True)[0] < threshold] = 0
    return labels[0]


class PublishedPamr:
    """PAMR as its authors' module does it: stacks of neighbours made by grouped convolutions."""

    def __init__(self, image: Tensor, dilations: tuple[int, ...] = (8, 16)) -> None:
        self.dilations = dilations
        samples = self._neighbours(image, centre=True)
        spread = samples.std(dim=2, keepdim=True)
        differences = self._neighbours(image, centre=False) - image[:, :, None]
        affinity = -differences.abs() / (1e-8 + 0.1 * spread)
        self.weights = affinity.mean(dim=1, keepdim=True).softmax(dim=2)

    def step(self, maps: Tensor) -> Tensor:
        """One iteration on ``(1, C, H, W)``."""
        return (self._neighbours(maps, centre=False) * self.weights).sum(dim=2)

    def _neighbours(self, maps: Tensor, centre: bool) -> Tensor:
        """``(1, C, H, W)`` -> ``(1, C, neighbours, H, W)``."""
        _, channels, height, width = maps.shape
        kept = [n for n in range(9) if centre or n != 4]
        kernel = torch.eye(9)[kept].view(len(kept), 1, 3, 3)
        stacks = []
        for dilation in self.dilations:
            padded = F.pad(maps, (dilation,) * 4, mode="replicate").view(channels, 1, height + 2 * dilation, -1)
            stacks.append(F.conv2d(padded, kernel, dilation=dilation).view(1, channels, len(kept), height, width))
        return torch.cat(stacks, dim=2)


@contextmanager
def released_sclip(folder: Path, model: Any, text: Tensor, size: tuple[int, int]) -> Any:
    """The released program itself, from a checkout: ``predict`` of ``clip_segmentor.CLIPForSegmentation``.

    It reads the weights of ``model`` from a file, as OpenAI's loader wants them, and gets our texts in place of its
    own, as 150 classes x 80 templates take it minutes.  Gives a function from ``(3, h, w)`` uint8 to labels of
    ``size``.  Tried with a stand-in for a checkout alone.
    """
    sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module("clip_segmentor")
        with TemporaryDirectory() as files:
            weights, names = Path(files, "weights.pt"), Path(files, "names.txt")
            torch.save(model.state_dict(), weights)
            names.write_text("thing\n")
            program = module.CLIPForSegmentation(
                clip_path=str(weights),
                name_path=str(names),
                device=torch.device("cpu"),
                slide_crop=224,
                slide_stride=112,
            )
        program.query_features = text
        program.num_queries = program.num_classes = len(text)
        program.query_idx = torch.arange(len(text))
        yield lambda image: _predicted(program, image, size)
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("clip_segmentor", None)


def _predicted(program: Any, image: Tensor, size: tuple[int, int]) -> Tensor:
    from mmseg.structures import SegDataSample

    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    sample = SegDataSample(metainfo={"ori_shape": size, "img_shape": tuple(image.shape[1:]), "pad_shape": size})
    with torch.inference_mode():
        (found,) = program.predict(((image.float() / 255 - mean) / std)[None], [sample])
    labels: Tensor = found.pred_sem_seg.data
    return labels.reshape(size)
