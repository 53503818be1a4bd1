"""The checkpoint of TCL: its names and shapes, and the parts that are read from it.

Names and shapes follow the public code (kakaobrain/tcl, models/tcl/: clip_builder.py, masker.py, decoders.py).

The file holds a whole CLIP ViT-B/16, frozen and split into towers and a projection; a trained copy of its last image
block; and a decoder.  The first becomes an open_clip model, the rest plain records.

The tensors lie under "model" ("state_dict" and none are tried too); the convolutions have a bias; the epsilon of the
decoder's norms is 1e-5, as in CLIP.  The file itself was not available.  Unsure: where its two unused ``logit_scale``
lie (any is passed over); the shape of the learned scalars.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import vit
from .backbone import Backbone
from .checkpoints import check_keys, file_sha256, read_tensors

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HEAD_SIZE = 64
LEVELS = 2
SCALE = 2**LEVELS
"""Cells of a mask per side of a patch."""
NESTS = ("model", "state_dict")
_VISION, _TEXT, _PROJECTION = "clip_image_encoder.clip_visual.", "clip_text_encoder.", "clip_image_encoder.clip_proj."
_BLOCK = "masker.image_encoder.backbone.transformer.resblocks"  # then the number that the block has in CLIP
_CONVS = [
    [f"masker.image_encoder.decoder.decoder.net.{level}.{conv}" for conv in ("conv", "conv2")]
    for level in range(LEVELS)
]
_HEAD = "masker.image_encoder.decoder.image_proj"
_SCALARS = ("masker.sim2mask.w", "masker.sim2mask.b")


@dataclass(frozen=True)
class TclSizes:
    """Sizes of the towers; by default those of CLIP ViT-B/16, which the released checkpoint has."""

    width: int = 768
    layers: int = 12
    patch_px: int = 16
    image_px: int = 224
    dim: int = 512
    text_width: int = 512
    text_layers: int = 12
    context_length: int = 77
    vocab_size: int = 49408

    def make_clip(self) -> Any:
        """An open_clip model of these sizes, with random weights."""
        from .clip_library import open_clip

        vision = {"head_width": HEAD_SIZE, "image_size": self.image_px}
        vision |= {"width": self.width, "layers": self.layers, "patch_size": self.patch_px}
        text = {"context_length": self.context_length, "vocab_size": self.vocab_size}
        text |= {"width": self.text_width, "layers": self.text_layers, "heads": self.text_width // HEAD_SIZE}
        return open_clip.CLIP(embed_dim=self.dim, vision_cfg=vision, text_cfg=text, quick_gelu=True).eval()


@dataclass(frozen=True)
class GatedConv:
    """``x + conv3x3(GELU(norm(x)))``; weight and bias are multiplied by the tanh of the gate already."""

    norm: vit.Affine
    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """``(1, D, h, w)`` -> the same shape."""
        active = F.gelu(vit.norm(x.permute(0, 2, 3, 1), self.norm)).permute(0, 3, 1, 2)
        # contiguous: on a CPU, torch takes twice as long for channels that lie together
        return x + F.conv2d(active.contiguous(), self.weight, self.bias, padding=1)


@dataclass(frozen=True)
class Masker:
    """The trained part: a copy of CLIP's last block, the decoder, and the line from cosines to logits of masks."""

    block: vit.Block
    levels: tuple[tuple[GatedConv, GatedConv], ...]
    ln: vit.Affine
    projection: Tensor
    scale: float
    shift: float

    def embed(self, maps: Tensor) -> Tensor:
        """Pixel embedding: ``(1, D, h, w)`` of the trained block -> ``(4h * 4w, dim)`` float32, unit length."""
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):  # else TF32 by default
            for first, second in self.levels:
                maps = second(first(F.interpolate(maps, scale_factor=2, mode="nearest")))
        pixels = (vit.norm(maps.permute(0, 2, 3, 1), self.ln) @ self.projection).float()
        return F.normalize(pixels[0].flatten(0, 1), dim=-1, eps=1e-6)


@dataclass(frozen=True)
class TclModel:
    """A checkpoint that was read: the frozen CLIP, and the tensors of the trained part by their names in the file."""

    clip: Backbone
    trained: Mapping[str, Tensor]

    def masker(self, device: torch.device, dtype: torch.dtype) -> Masker:
        """The trained part on ``device`` in ``dtype``; LayerNorms in float32."""
        state, frozen = self.trained, self.clip.model.visual.transformer.resblocks
        scale, shift = (float(state[name]) for name in _SCALARS)
        levels = [[_read_conv(state, name, device, dtype) for name in pair] for pair in _CONVS]
        return Masker(
            block=_read_block(state, f"{_BLOCK}.{len(frozen) - 1}", frozen[-1].attn.num_heads, device, dtype),
            levels=tuple((first, second) for first, second in levels),
            ln=_read_norm(state, f"{_HEAD}.ln", device),
            projection=state[f"{_HEAD}.proj"].to(device, dtype),
            scale=scale,
            shift=shift,
        )


def _read_norm(state: Mapping[str, Tensor], name: str, device: torch.device) -> vit.Affine:
    return vit.Affine(state[f"{name}.weight"].to(device).float(), state[f"{name}.bias"].to(device).float())


def _read_block(
    state: Mapping[str, Tensor], name: str, heads: int, device: torch.device, dtype: torch.dtype
) -> vit.Block:
    def linear(part: str) -> vit.Affine:
        weight, bias = (state[f"{name}.{part}{kind}"].to(device, dtype) for kind in ("weight", "bias"))
        return vit.Affine(weight, bias)

    return vit.Block(
        ln_1=_read_norm(state, f"{name}.ln_1", device),
        qkv=linear("attn.in_proj_"),
        out=linear("attn.out_proj."),
        ln_2=_read_norm(state, f"{name}.ln_2", device),
        fc=linear("mlp.c_fc."),
        proj=linear("mlp.c_proj."),
        scale_1=None,
        scale_2=None,
        activation=vit.quick_gelu,
        heads=heads,
    )


def _read_conv(state: Mapping[str, Tensor], name: str, device: torch.device, dtype: torch.dtype) -> GatedConv:
    gate, bias = state[f"{name}.gate.gate"].float().tanh(), state.get(f"{name}.conv.bias")
    return GatedConv(
        norm=_read_norm(state, f"{name}.norm", device),
        weight=(gate * state[f"{name}.conv.weight"].float()).to(device, dtype),
        bias=None if bias is None else (gate * bias.float()).to(device, dtype),
    )


def load_tcl(path: Path, sizes: TclSizes = TclSizes()) -> TclModel:
    """Read ``tcl.pth``: the file itself, or what lies under "model" or "state_dict" of it, without ``module.``.

    ``logit_scale`` and all of ``pamr`` have no use here and are passed over.  Raises ``UserError`` that names the file
    and every other key which is missing, unknown, or of another shape.
    """
    state = read_tensors(path, nests=NESTS, prefixes=("module.",))
    state = {name: _scalar(name, tensor) for name, tensor in state.items() if not _is_unused(name)}
    clip = sizes.make_clip()
    check_keys(path, state, _shapes(clip, any(name.endswith(".conv.bias") for name in state)))
    return model_of(state, clip, f"file {path.name}", file_sha256(path))


def model_of(state: Mapping[str, Tensor], clip: Any, source: str, sha256: str) -> TclModel:
    """Parts from all tensors of a checkpoint; ``clip`` (see ``TclSizes.make_clip``) receives the frozen ones."""
    from .clip_library import SimpleTokenizer

    frozen = {name: state[there] for name, there in _frozen_names(clip).items()}
    clip.load_state_dict({**frozen, "logit_scale": clip.logit_scale})
    tokenizer = SimpleTokenizer(context_length=clip.context_length)
    backbone = Backbone(clip, tokenizer, "CLIP of TCL", source, IMAGENET_MEAN, IMAGENET_STD, sha256)
    return TclModel(backbone, {name: tensor for name, tensor in state.items() if name.startswith("masker.")})


def _frozen_names(clip: Any) -> dict[str, str]:
    """Name in open_clip -> name in the checkpoint, for all parameters but the ``logit_scale``."""

    def there(name: str) -> str:
        if name == "visual.proj":
            return f"{_PROJECTION}proj"
        if name.startswith("visual.ln_post."):
            return name.replace("visual.ln_post.", f"{_PROJECTION}ln.")
        return _VISION + name.removeprefix("visual.") if name.startswith("visual.") else _TEXT + name

    return {name: there(name) for name in clip.state_dict() if name != "logit_scale"}


def _shapes(clip: Any, conv_bias: bool) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that is needed; ``conv_bias``: of the decoder's biases too."""
    state = clip.state_dict()
    shapes = {there: tuple(state[name].shape) for name, there in _frozen_names(clip).items()}
    last = f"transformer.resblocks.{len(clip.visual.transformer.resblocks) - 1}."
    shapes |= {
        f"{_BLOCK}.{name.removeprefix(_VISION + 'transformer.resblocks.')}": shape
        for name, shape in shapes.items()
        if name.startswith(_VISION + last)
    }
    width, dim = state["visual.proj"].shape
    for name in (name for pair in _CONVS for name in pair):
        shapes |= {f"{name}.norm.{part}": (width,) for part in ("weight", "bias")}
        shapes |= {f"{name}.conv.weight": (width, width, 3, 3), f"{name}.gate.gate": ()}
        shapes |= {f"{name}.conv.bias": (width,)} if conv_bias else {}
    shapes |= {f"{_HEAD}.ln.{part}": (width,) for part in ("weight", "bias")}
    return shapes | {f"{_HEAD}.proj": (width, dim)} | dict.fromkeys(_SCALARS, ())


def _is_unused(name: str) -> bool:
    return name.rpartition(".")[2] == "logit_scale" or name.startswith("pamr.")


def _scalar(name: str, tensor: Tensor) -> Tensor:
    """The learned scalars as such, whatever shape their one element has."""
    return tensor.reshape(()) if tensor.numel() == 1 and name in _SCALARS else tensor
