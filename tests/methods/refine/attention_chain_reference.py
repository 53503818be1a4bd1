"""Attention of Stable Diffusion as plainly as CLIPer's formulas stand: dense matrices, left to right.

Nothing of ``ovss`` is used: maps come from hooks on a whole pass of the UNet, and their product is built from the
identity.  ``Rules`` turns single details off or to what a reader might take them for; a right implementation has to
differ from each.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LATER = "up_blocks.3.attentions.1.transformer_blocks.0."
EARLIER = "up_blocks.3.attentions.0.transformer_blocks.0."


@dataclass(frozen=True)
class Rules:
    """The released code's; see each field's use."""

    squash: str = "nearest"
    posterior: str = "mean"
    timestep: int = 101
    attention: str = "attn1"
    maximum_over: str = "queries"
    epsilon: float = 1e-5
    thresholded: bool = True
    rows_normalised: bool = True
    transposed: bool = False
    reversed_order: bool = False
    layers_swapped: bool = False


def latent_of(parts: Any, image: Tensor, noise: Tensor, rules: Rules) -> Tensor:
    """z of an image, ``(3, H, W)`` uint8, with the noise given."""
    size = (parts.image_px, parts.image_px)
    rgb = image[None].float() / 255
    if rules.squash == "nearest":
        height, width = image.shape[1:]
        rows = [math.floor(y * height / size[0]) for y in range(size[0])]
        columns = [math.floor(x * width / size[1]) for x in range(size[1])]
        rgb = rgb[:, :, rows][:, :, :, columns]
    else:
        rgb = torch.nn.functional.interpolate(rgb, size, mode=rules.squash)
    posterior = parts.vae.encode(rgb * 2 - 1).latent_dist
    latent = posterior.mean
    if rules.posterior == "sample":
        latent = latent + posterior.std * torch.randn(latent.shape, generator=torch.Generator().manual_seed(9))
    scaled = latent * parts.vae.config.scaling_factor
    kept = torch.tensor(parts.alpha_bar, dtype=latent.dtype)
    return kept**0.5 * scaled + (1 - kept) ** 0.5 * noise


def attention_maps(parts: Any, latent: Tensor, rules: Rules) -> list[Tensor]:
    """A_1, A_2, ...: ``(N, keys)`` float32 each, from a pass of the whole UNet."""
    seen: dict[str, Tensor] = {}
    hooks = []
    wanted = [block + rules.attention for block in (LATER, EARLIER)]
    for name, module in parts.unet.named_modules():
        if name.removesuffix(".to_q").removesuffix(".to_k") in wanted and name.endswith((".to_q", ".to_k")):
            hooks.append(module.register_forward_hook(lambda m, i, out, name=name: seen.update({name: out[0]})))
    parts.unet(latent, rules.timestep, encoder_hidden_states=parts.prompt)
    for hook in hooks:
        hook.remove()
    maps = []
    for name in wanted:
        heads = parts.unet.get_submodule(name).heads
        for q, k in zip(seen[name + ".to_q"].chunk(heads, 1), seen[name + ".to_k"].chunk(heads, 1), strict=True):
            logits = torch.einsum("id,jd->ij", q, k) / math.sqrt(q.shape[1])
            weights = torch.exp(logits - logits.max(1, keepdim=True).values)
            maps.append(weights / weights.sum(1, keepdim=True))
    return maps


def normalise(a: Tensor, threshold: float, rules: Rules) -> Tensor:
    """R of one A."""
    maximum = a.max(0).values if rules.maximum_over == "queries" else a.max(1, keepdim=True).values
    b = a / (maximum + rules.epsilon)
    t = torch.where(b >= threshold, b, torch.zeros_like(b)) if rules.thresholded else b
    return t / (t.sum(1, keepdim=True) + 1e-5) if rules.rows_normalised else t


def refine(maps: list[Tensor], scores: Tensor, threshold: float, fusion: str, rules: Rules) -> Tensor:
    """S_f: ``(k, rows, columns)`` -> the same."""
    normalised = [normalise(a, threshold, rules) for a in maps]
    if rules.transposed:
        normalised = [r.T for r in normalised]
    if rules.reversed_order:
        normalised = normalised[::-1]
    if rules.layers_swapped:
        half = len(normalised) // 2
        normalised = normalised[half:] + normalised[:half]
    product = torch.eye(len(normalised[0]))
    if fusion == "chain":
        for r in normalised:
            product = product @ r
    elif fusion == "mean":
        product = torch.stack(normalised).mean(0)
    else:
        product = normalised[1]
    flat = scores.reshape(len(scores), -1).T
    return (product @ flat).T.reshape(scores.shape)


def undecided(maps: list[Tensor], threshold: float) -> int:
    """Entries so close to the threshold that rounding decides: there, two right programs may differ by a lot."""
    shares = [a / (a.max(0).values + 1e-5) / threshold for a in maps]
    return sum(int(((share - 1).abs() < 5e-6).sum()) for share in shares)
