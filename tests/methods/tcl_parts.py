"""TCL with random weights, and its formulas written down plainly.

Names and shapes of the checkpoint are listed here once more, by hand; the formulas share nothing with the package.
"""

import math

import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from ovss.methods.models.checkpoints import state_sha256
from ovss.methods.models.tcl_checkpoint import TclModel, TclSizes, model_of

from .refine.test_pamr import pamr_reference

State = dict[str, Tensor]
SMALL = TclSizes(width=128, layers=2, image_px=64, dim=32, text_width=64, text_layers=1)
DECODER = "masker.image_encoder.decoder"
DILATIONS = (1, 2, 4, 8, 12, 24)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def random_tcl(sizes: TclSizes = SMALL) -> TclModel:
    """A model that no file holds."""
    return tcl_of(random_state(sizes), sizes)


def tcl_of(state: State, sizes: TclSizes) -> TclModel:
    return model_of(state, sizes.make_clip(), "random", f"state:{state_sha256(state)}")


def block_shapes(prefix: str, width: int) -> dict[str, tuple[int, ...]]:
    shapes = {"attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,)}
    shapes |= {"attn.out_proj.weight": (width, width), "attn.out_proj.bias": (width,)}
    shapes |= {"mlp.c_fc.weight": (4 * width, width), "mlp.c_fc.bias": (4 * width,)}
    shapes |= {"mlp.c_proj.weight": (width, 4 * width), "mlp.c_proj.bias": (width,)}
    shapes |= {f"ln_{n}.{part}": (width,) for n in (1, 2) for part in ("weight", "bias")}
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def all_shapes(sizes: TclSizes, conv_bias: bool = True) -> dict[str, tuple[int, ...]]:
    width, dim, wide = sizes.width, sizes.dim, sizes.text_width
    image, text = "clip_image_encoder.clip_visual", "clip_text_encoder"
    shapes: dict[str, tuple[int, ...]] = {
        f"{image}.class_embedding": (width,),
        f"{image}.positional_embedding": (1 + (sizes.image_px // sizes.patch_px) ** 2, width),
        f"{image}.conv1.weight": (width, 3, sizes.patch_px, sizes.patch_px),
        "clip_image_encoder.clip_proj.proj": (width, dim),
        f"{text}.token_embedding.weight": (sizes.vocab_size, wide),
        f"{text}.positional_embedding": (sizes.context_length, wide),
        f"{text}.text_projection": (wide, dim),
        f"{DECODER}.image_proj.proj": (width, dim),
        "masker.sim2mask.w": (),
        "masker.sim2mask.b": (),
    }
    norms = {f"{image}.ln_pre": width, "clip_image_encoder.clip_proj.ln": width, f"{text}.ln_final": wide}
    norms[f"{DECODER}.image_proj.ln"] = width
    for name in (f"{DECODER}.decoder.net.{level}.{conv}" for level in (0, 1) for conv in ("conv", "conv2")):
        norms[f"{name}.norm"] = width
        shapes |= {f"{name}.conv.weight": (width, width, 3, 3), f"{name}.gate.gate": ()}
        shapes |= {f"{name}.conv.bias": (width,)} if conv_bias else {}
    shapes |= {f"{name}.{part}": (size,) for name, size in norms.items() for part in ("weight", "bias")}
    for number in range(sizes.layers):
        shapes |= block_shapes(f"{image}.transformer.resblocks.{number}", width)
    for number in range(sizes.text_layers):
        shapes |= block_shapes(f"{text}.transformer.resblocks.{number}", wide)
    last = sizes.layers - 1
    return shapes | block_shapes(f"masker.image_encoder.backbone.transformer.resblocks.{last}", width)


def random_state(sizes: TclSizes = SMALL, conv_bias: bool = True, seed: int = 0) -> State:
    """Every parameter random, gates included: zeros and ones hide errors."""
    generator = torch.Generator().manual_seed(seed)

    def normal(name: str, shape: tuple[int, ...]) -> Tensor:
        fixed = {"masker.sim2mask.w": 30.0, "masker.sim2mask.b": -1.0}
        if name in fixed:
            return torch.tensor(fixed[name])
        noise = torch.empty(shape).uniform_(-(3**0.5), 3**0.5, generator=generator)
        if name.endswith("gate.gate"):
            return 0.8 + 0.2 * noise
        if ("ln" in name or ".norm." in name) and name.endswith("weight"):
            return 1 + 0.3 * noise
        if len(shape) == 1:
            return 0.1 * noise
        if "embedding" in name:
            return 0.5 * noise
        fan_in = shape[0] if name.endswith(("proj", "projection")) else math.prod(shape[1:])
        return noise * (1.75 if "in_proj" in name else 1.0) / math.sqrt(fan_in)

    return {name: normal(name, shape) for name, shape in all_shapes(sizes, conv_bias).items()}


# --- the formulas ---------------------------------------------------------------------------------------------------


def plain_norm(x: Tensor, state: State, name: str) -> Tensor:
    """LayerNorm over the last axis."""
    centred = x - x.mean(dim=-1, keepdim=True)
    unit = centred / (centred.pow(2).mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    return unit * state[f"{name}.weight"] + state[f"{name}.bias"]


def plain_linear(x: Tensor, state: State, name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def plain_mlp(x: Tensor, state: State, name: str) -> Tensor:
    y = plain_linear(plain_norm(x, state, f"{name}.ln_2"), state, f"{name}.mlp.c_fc")
    return x + plain_linear(y * torch.sigmoid(1.702 * y), state, f"{name}.mlp.c_proj")


def plain_block(x: Tensor, state: State, name: str, mask: Tensor | str | None = None) -> Tensor:
    """Tokens ``(T, D)``; ``mask`` is added to every head's logits, "identity" is the identity as attention matrix."""
    tokens, width = x.shape
    qkv = plain_norm(x, state, f"{name}.ln_1") @ state[f"{name}.attn.in_proj_weight"].T
    q, k, v = (qkv + state[f"{name}.attn.in_proj_bias"]).split(width, dim=1)
    heads = []
    for part in range(0, width, 64):
        here = slice(part, part + 64)
        logits = q[:, here] @ k[:, here].T / 8
        weights = torch.eye(tokens, dtype=x.dtype) if isinstance(mask, str) else logits.softmax(dim=1)
        if isinstance(mask, Tensor):
            weights = (logits + mask).softmax(dim=1)
        heads.append(weights @ v[:, here])
    x = x + plain_linear(torch.cat(heads, dim=1), state, f"{name}.attn.out_proj")
    return plain_mlp(x, state, name)


def plain_text(state: State, sizes: TclSizes, prompts: list[str]) -> Tensor:
    """Features that are not normalised, ``(N, dim)``."""
    rows, causal = [], torch.full((77, 77), -math.inf, dtype=torch.float64).triu(1)
    for tokens in SimpleTokenizer()(prompts):
        x = state["clip_text_encoder.token_embedding.weight"][tokens] + state["clip_text_encoder.positional_embedding"]
        for number in range(sizes.text_layers):
            x = plain_block(x, state, f"clip_text_encoder.transformer.resblocks.{number}", causal)
        x = plain_norm(x, state, "clip_text_encoder.ln_final")
        rows.append(x[int(tokens.argmax())] @ state["clip_text_encoder.text_projection"])
    return torch.stack(rows)


def plain_pixels(image: Tensor) -> Tensor:
    """``(1, 3, H, W)`` float64, normalised, zeros on all sides up to multiples of 16."""
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (MEAN, STD))
    pixels = ((image.double() / 255 - mean) / std)[None]
    (down, right) = (-side % 16 for side in image.shape[1:])
    return F.pad(pixels, (right // 2, right - right // 2, down // 2, down - down // 2))


def plain_trunk(state: State, sizes: TclSizes, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
    name = "clip_image_encoder.clip_visual"
    x = F.conv2d(pixels, state[f"{name}.conv1.weight"], stride=16)
    height, width = x.shape[2:]
    position, side = state[f"{name}.positional_embedding"], sizes.image_px // 16
    table = position[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    table = F.interpolate(table, (height, width), mode="bicubic", align_corners=False)[0]
    patches = x[0].flatten(1).T + table.flatten(1).T
    x = torch.cat([(state[f"{name}.class_embedding"] + position[0])[None], patches])
    x = plain_norm(x, state, f"{name}.ln_pre")
    for number in range(sizes.layers - 1):
        x = plain_block(x, state, f"{name}.transformer.resblocks.{number}")
    return x, (height, width)


def plain_decoder(state: State, maps: Tensor) -> Tensor:
    """``(1, D, h, w)`` -> unit pixels ``(4h, 4w, dim)``."""
    for level in (0, 1):
        maps = maps.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        for conv in ("conv", "conv2"):
            name = f"{DECODER}.decoder.net.{level}.{conv}"
            y = plain_norm(maps.permute(0, 2, 3, 1), state, f"{name}.norm").permute(0, 3, 1, 2)
            y = y * 0.5 * (1 + torch.erf(y / math.sqrt(2)))
            y = F.conv2d(y, state[f"{name}.conv.weight"], state.get(f"{name}.conv.bias"), padding=1)
            maps = maps + torch.tanh(state[f"{name}.gate.gate"]) * y
    head = f"{DECODER}.image_proj"
    pixels = plain_norm(maps[0].permute(1, 2, 0), state, f"{head}.ln") @ state[f"{head}.proj"]
    return pixels / pixels.norm(dim=2, keepdim=True)


def plain_masks(
    state: State, sizes: TclSizes, image: Tensor, text: Tensor, pamr: bool = True, mix: float = 0.3
) -> Tensor:
    """``(Q, 4h, 4w)`` for one window; ``state`` and ``text`` (unit length) are float64."""
    pixels = plain_pixels(image)
    tokens, grid = plain_trunk(state, sizes, pixels)
    last = f"transformer.resblocks.{sizes.layers - 1}"
    z = plain_block(tokens, state, f"clip_image_encoder.clip_visual.{last}", "identity")[1:]
    x = plain_block(tokens, state, f"masker.image_encoder.backbone.{last}", "identity")[1:]
    embedding = plain_decoder(state, x.T.reshape(1, -1, *grid))
    cosines = (embedding @ text.T).permute(2, 0, 1)
    masks = torch.sigmoid(state["masker.sim2mask.w"] * cosines + state["masker.sim2mask.b"])
    size = embedding.shape[:2]
    if pamr:
        small = F.interpolate(pixels, size, mode="bilinear", align_corners=True)[0]
        masks = pamr_reference(small, masks, 10, DILATIONS)
    name = "clip_image_encoder.clip_proj"
    z = plain_norm(z, state, f"{name}.ln") @ state[f"{name}.proj"]
    cosines = (z / z.norm(dim=1, keepdim=True) @ text.T).T.reshape(1, -1, *grid)
    frozen = torch.sigmoid(10 * (cosines - 0.25))
    return mix * F.interpolate(frozen, size, mode="bilinear", align_corners=False)[0] + (1 - mix) * masks
