"""OVSeg from its formulas alone, on the tensors of a checkpoint under their released names, one image at a time."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .ovseg_parts import Sizes

State = dict[str, Tensor]
HEAD_WIDTH = 32


def propose(t: State, s: Sizes, image: Tensor) -> tuple[Tensor, Tensor]:
    """Soft masks ``(Q, h, w)`` and embeddings ``(Q, D)`` of ``(3, h, w)`` uint8."""
    height, width = image.shape[1:]
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    padded = torch.zeros(1, 3, math.ceil(height / 32) * 32, math.ceil(width / 32) * 32)
    padded[0, :, :height, :width] = (image - mean[:, None, None]) / std[:, None, None]
    stages = _resnet(t, s, padded) if s.resnet else _swin(t, s, padded)
    hidden = _decoder(t, s, stages[-1])
    h = hidden
    for i in range(3):
        h = _linear(t, f"sem_seg_head.predictor.mask_embed.layers.{i}", h)
        h = h if i == 2 else h.clamp(min=0)
    logits = (h @ _features(t, stages)[0].flatten(1)).view(1, s.queries, padded.shape[2] // 4, padded.shape[3] // 4)
    logits = F.interpolate(logits, padded.shape[2:], mode="bilinear", align_corners=False)[0, :, :height, :width]
    e = _linear(t, "sem_seg_head.predictor.class_embed.layers.0", hidden).clamp(min=0)
    return 1 / (1 + torch.exp(-logits)), _linear(t, "sem_seg_head.predictor.class_embed.layers.1", e)


def embed_with_prompts(visual: torch.nn.Module, prompts: Tensor | None, crops: Tensor, masks: Tensor) -> Tensor:
    """Unit embeddings by open_clip's own modules, with mask prompts, one crop at a time."""
    rows = []
    for crop, mask in zip(crops, masks, strict=True):
        x = visual.conv1(crop[None]).flatten(2)[0].T
        patch = visual.conv1.kernel_size[0]
        shares = F.avg_pool2d(mask[None, None].float(), patch)
        flag = shares.ceil().view(-1, 1)
        e = prompts if prompts is not None else []
        x = flag * x + (1 - flag) * e[0] if len(e) else x
        x = torch.cat([visual.class_embedding[None], x]) + visual.positional_embedding
        x = visual.ln_pre(x)
        for i, block in enumerate(visual.transformer.resblocks):
            x = block(x[None])[0]
            if i + 1 < len(e):
                x = torch.cat([x[:1], flag * x[1:] + (1 - flag) * e[i + 1]])
        y = visual.ln_post(x[0]) @ visual.proj
        rows.append(y / y.norm())
    return torch.stack(rows)


def _linear(t: State, name: str, x: Tensor) -> Tensor:
    return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]


def _norm(t: State, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * t[f"{name}.weight"] + t[f"{name}.bias"]


def _swin(t: State, s: Sizes, pixels: Tensor) -> list[Tensor]:
    x = F.conv2d(pixels, t["backbone.patch_embed.proj.weight"], t["backbone.patch_embed.proj.bias"], stride=4)
    x = _norm(t, "backbone.patch_embed.norm", x[0].permute(1, 2, 0))
    stages = []
    for i, depth in enumerate(s.depths):
        for j in range(depth):
            x = _swin_block(t, f"backbone.layers.{i}.blocks.{j}.", x, s.heads[i], s.window, s.window // 2 * (j % 2))
        stages.append(_norm(t, f"backbone.norm{i}", x).permute(2, 0, 1)[None])
        if i < 3:
            x = torch.cat([x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2]], dim=-1)
            name = f"backbone.layers.{i}.downsample."
            x = _norm(t, f"{name}norm", x) @ t[f"{name}reduction.weight"].T
    return stages


def _swin_block(t: State, name: str, x: Tensor, heads: int, window: int, shift: int) -> Tensor:
    height, width, channels = x.shape
    tall, wide = (math.ceil(n / window) * window for n in (height, width))
    y = torch.zeros(tall, wide, channels)
    y[:height, :width] = _norm(t, f"{name}norm1", x)
    out = torch.zeros_like(y)
    for top in range(0, tall, window):
        for left in range(0, wide, window):
            # places of the shifted window in the unshifted map; those that came round its border are strangers
            rows, columns = torch.arange(top, top + window) + shift, torch.arange(left, left + window) + shift
            side = (rows >= tall).long()[:, None] * 2 + (columns >= wide).long()
            rows, columns = rows % tall, columns % wide
            cells = y[rows][:, columns].reshape(-1, channels)
            qkv = _linear(t, f"{name}attn.qkv", cells).view(-1, 3, heads, channels // heads)
            table = t[f"{name}attn.relative_position_bias_table"]
            place = torch.cartesian_prod(torch.arange(window), torch.arange(window))
            offset = place[:, None] - place[None] + window - 1
            bias = table[offset[..., 0] * (2 * window - 1) + offset[..., 1]]
            strangers = -100.0 * (side.flatten()[:, None] != side.flatten()[None])
            parts = []
            for h in range(heads):
                q, k, v = qkv[:, :, h].unbind(1)
                parts.append(((q @ k.T) / math.sqrt(channels // heads) + bias[..., h] + strangers).softmax(-1) @ v)
            attended = _linear(t, f"{name}attn.proj", torch.cat(parts, dim=-1)).view(window, window, channels)
            out[rows[:, None], columns[None]] = attended
    x = x + out[:height, :width]
    y = _linear(t, f"{name}mlp.fc1", _norm(t, f"{name}norm2", x))
    return x + _linear(t, f"{name}mlp.fc2", y * 0.5 * (1 + torch.erf(y / math.sqrt(2))))


def _resnet(t: State, s: Sizes, x: Tensor) -> list[Tensor]:
    def conv(name: str, x: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
        weight = t[f"{name}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2 * dilation, dilation=dilation)
        w, b, mean, var = (
            t[f"{name}.norm.{k}"].view(-1, 1, 1) for k in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / (var + 1e-5).sqrt() * w + b

    for i, stride in ((1, 2), (2, 1), (3, 1)):
        x = conv(f"backbone.stem.conv{i}", x, stride).clamp(min=0)
    x = F.max_pool2d(x, 3, 2, 1)
    stages = []
    for stage, depth in enumerate(s.resnet or (), start=2):
        for b in range(depth):
            name = f"backbone.res{stage}.{b}."
            stride = 2 if b == 0 and stage > 2 else 1
            y = conv(f"{name}conv1", x).clamp(min=0)
            y = conv(f"{name}conv2", y, stride, (1, 2, 4)[b] if stage == 5 else 1).clamp(min=0)
            x = (conv(f"{name}conv3", y) + (conv(f"{name}shortcut", x, stride) if b == 0 else x)).clamp(min=0)
        stages.append(x)
    return stages


def _features(t: State, stages: list[Tensor]) -> Tensor:
    head = "sem_seg_head.pixel_decoder."

    def normed(name: str, x: Tensor) -> Tensor:
        x = F.conv2d(x, t[f"{name}.weight"], padding=t[f"{name}.weight"].shape[2] // 2)
        groups = x.view(32, -1)
        x = ((groups - groups.mean(1, keepdim=True)) / (groups.var(1, False, keepdim=True) + 1e-5).sqrt()).view_as(x)
        return x * t[f"{name}.norm.weight"].view(-1, 1, 1) + t[f"{name}.norm.bias"].view(-1, 1, 1)

    y = normed(f"{head}layer_4", stages[3]).clamp(min=0)
    for n in (3, 2, 1):
        left = normed(f"{head}adapter_{n}", stages[n - 1])
        y = normed(f"{head}layer_{n}", left + y.repeat_interleave(2, 2).repeat_interleave(2, 3)).clamp(min=0)
    return F.conv2d(y, t[f"{head}mask_features.weight"], t[f"{head}mask_features.bias"], padding=1)


def _decoder(t: State, s: Sizes, last: Tensor) -> Tensor:
    head = "sem_seg_head.predictor."
    memory = F.conv2d(last, t[f"{head}input_proj.weight"], t[f"{head}input_proj.bias"])[0].flatten(1).T
    where = _positions(last.shape[2], last.shape[3], s.width // 2)
    query = t[f"{head}query_embed.weight"]
    x = torch.zeros_like(query)
    for i in range(s.layers):
        name = f"{head}transformer.decoder.layers.{i}."
        x = _norm(t, f"{name}norm1", x + _attention(t, f"{name}self_attn", x + query, x + query, x))
        x = _norm(t, f"{name}norm2", x + _attention(t, f"{name}multihead_attn", x + query, memory + where, memory))
        x = _norm(t, f"{name}norm3", x + _linear(t, f"{name}linear2", _linear(t, f"{name}linear1", x).clamp(min=0)))
    return _norm(t, f"{head}transformer.decoder.norm", x)


def _attention(t: State, name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights, biases = t[f"{name}.in_proj_weight"].chunk(3), t[f"{name}.in_proj_bias"].chunk(3)
    q, k, v = (x @ w.T + b for x, w, b in zip((q, k, v), weights, biases, strict=True))
    heads = zip(*(x.split(HEAD_WIDTH, dim=1) for x in (q, k, v)), strict=True)
    parts = [(a @ b.T / math.sqrt(HEAD_WIDTH)).softmax(-1) @ c for a, b, c in heads]
    return _linear(t, f"{name}.out_proj", torch.cat(parts, dim=1))


def _positions(height: int, width: int, count: int) -> Tensor:
    """``(height * width, 2 * count)``: the row's, then the column's."""
    table = torch.zeros(height, width, 2 * count)
    for k in range(count):
        wave = torch.sin if k % 2 == 0 else torch.cos
        slow = 10000 ** (2 * (k // 2) / count)
        table[:, :, k] = wave(torch.arange(1, height + 1) / (height + 1e-6) * 2 * math.pi / slow)[:, None]
        table[:, :, count + k] = wave(torch.arange(1, width + 1) / (width + 1e-6) * 2 * math.pi / slow)
    return table.flatten(0, 1)
