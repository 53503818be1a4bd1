"""OVSeg's mask network: a MaskFormer whose queries end in CLIP's embedding space instead of in classes.

    h   = decoder(res5), 100 queries
    M   = sigmoid(up(mask_embed(h) . F))        F is the pixel decoder's map at a quarter of the image's size
    e   = class_embed(h)                        compared with the texts by cosine

transformers' MaskFormer runs the Swin backbone, the pixel decoder (a plain FPN) and the transformer decoder; the two
heads are here, and so is the ResNet-101c, which transformers does not have.  Read in the released code:
facebookresearch/ov-seg, open_vocab_seg/modeling/heads/open_vocab_mask_former_head.py, and
facebookresearch/MaskFormer.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN = (123.675, 116.280, 103.530)
STD = (58.395, 57.120, 57.375)
PAD_PX = 32
HEAD_WIDTH = 32
"""Channels of a head of the transformer decoder.  No tensor tells it; the released networks have 8 heads on 256."""

_STAGES = ["stage1", "stage2", "stage3", "stage4"]
_PREDICTOR = "sem_seg_head.predictor."
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class MaskNetOutput:
    """``masks`` ``(Q, h, w)`` float32 in [0, 1] and ``embeddings`` ``(Q, D)`` float32, not normalised."""

    masks: Tensor
    embeddings: Tensor


class MaskNet(nn.Module):
    """The mask network with the sizes of a checkpoint whose tensors have ``shapes``, in the released names.

    In eval mode, without gradients, with random weights.  Kept in float32, whatever the precision of CLIP is.  Raises
    ``KeyError`` with the name when a tensor is missing that a size is read off, ``ValueError`` when sizes contradict
    each other.
    """

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.model = _transformers_model(shapes)
        masks = [shapes[f"{_PREDICTOR}mask_embed.layers.{i}.weight"] for i in range(3)]
        classes = [shapes[f"{_PREDICTOR}class_embed.layers.{i}.weight"] for i in range(2)]
        self.mask_embed, self.class_embed = _MLP(masks), _MLP(classes)
        self.eval().requires_grad_(False)

    @torch.inference_mode()
    def forward(self, image: Tensor) -> MaskNetOutput:
        """Masks and embeddings of one image, ``(3, h, w)`` uint8 RGB of any size.

        It is normalised first and then padded with zeros at the right and below.  Logits are upsampled to the padded
        size and cropped; the sigmoid comes last.
        """
        height, width = image.shape[1:]
        mean, std = (torch.tensor(v, device=image.device).view(3, 1, 1) for v in (MEAN, STD))
        pixels = F.pad((image.float() - mean) / std, (0, -width % PAD_PX, 0, -height % PAD_PX))[None]
        cudnn = torch.backends.cudnn
        with cudnn.flags(cudnn.enabled, cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False):
            out = self.model(pixels)  # else a GPU rounds convolutions to TF32 by default
        hidden = out.transformer_decoder_last_hidden_state
        logits = torch.einsum("bqc,bchw->bqhw", self.mask_embed(hidden), out.pixel_decoder_last_hidden_state)
        logits = F.interpolate(logits, pixels.shape[2:], mode="bilinear", align_corners=False)
        return MaskNetOutput(logits[0, :, :height, :width].sigmoid(), self.class_embed(hidden)[0])


class _MLP(nn.Module):
    """Linear layers with ReLU between them; ``shapes`` are those of their weights."""

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(columns, rows) for rows, columns in shapes)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


def _transformers_model(shapes: Shapes) -> nn.Module:
    """transformers' MaskFormer without its heads, with random weights."""
    from transformers import MaskFormerConfig, MaskFormerModel

    resnet = "backbone.stem.conv1.weight" in shapes
    queries, width = shapes[f"{_PREDICTOR}query_embed.weight"]
    layers = f"{_PREDICTOR}transformer.decoder.layers."
    decoder = {
        "model_type": "detr",
        "num_queries": queries,
        "d_model": width,
        "decoder_layers": count(shapes, layers),
        "decoder_attention_heads": width // HEAD_WIDTH,
        "encoder_attention_heads": width // HEAD_WIDTH,
        "decoder_ffn_dim": shapes[f"{layers}0.linear1.weight"][0],
    }
    masks, features, *_ = shapes["sem_seg_head.pixel_decoder.mask_features.weight"]
    model: Any = MaskFormerModel(
        MaskFormerConfig(
            backbone_config=_resnet_config(shapes) if resnet else _swin_config(shapes),
            decoder_config=decoder,
            fpn_feature_size=features,
            mask_feature_size=masks,
        )
    )
    if resnet:
        model.pixel_level_module.encoder = ResNetC(shapes)
    return model


def _swin_config(shapes: Shapes) -> Any:
    from transformers import SwinConfig

    tables = [shapes[f"backbone.layers.{i}.blocks.0.attn.relative_position_bias_table"] for i in range(4)]
    sizes: dict[str, Any] = {
        "image_size": 384,  # of no effect: there is no absolute position
        "embed_dim": shapes["backbone.patch_embed.proj.weight"][0],
        "depths": [count(shapes, f"backbone.layers.{i}.blocks.") for i in range(4)],
        "num_heads": [heads for _, heads in tables],
        "window_size": (round(tables[0][0] ** 0.5) + 1) // 2,
        "out_features": _STAGES,
    }
    return SwinConfig(**sizes)


def _resnet_config(shapes: Shapes) -> Any:
    """The smallest backbone that has the widths of ``ResNetC``, to be replaced by it."""
    from transformers import ResNetConfig

    sizes: dict[str, Any] = {
        "embedding_size": 8,
        "hidden_sizes": [shapes[f"backbone.res{stage}.0.conv3.weight"][0] for stage in (2, 3, 4, 5)],
        "depths": [1] * 4,
        "layer_type": "basic",
        "out_features": _STAGES,
    }
    return ResNetConfig(**sizes)


def count(shapes: Shapes, prefix: str) -> int:
    """One more than the largest number that follows ``prefix`` in a name."""
    found = [re.match(rf"{re.escape(prefix)}(\d+)\.", name) for name in shapes]
    return max((int(match[1]) + 1 for match in found if match), default=0)


class ResNetC(nn.Module):
    """ResNet with a stem of three convolutions, in detectron2's names.

    Settings: facebookresearch/ov-seg, configs/ovseg_R101c_vitB_bs32_120k.yaml.

    With random weights it equals timm's resnet101s, given the same dilations; it was not compared with detectron2's.

    The stride is in the 3 x 3 convolution; the last stage's are dilated by 1, 2, 4.  Called with ``(B, 3, H, W)``; the
    stages' outputs, of strides 4, 8, 16, 32, are ``feature_maps`` of what is returned.
    """

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.stem = nn.Module()
        for i, stride in ((1, 2), (2, 1), (3, 1)):
            self.stem.add_module(f"conv{i}", _conv(shapes[f"backbone.stem.conv{i}.weight"], stride))
        for stage in (2, 3, 4, 5):
            prefix = f"backbone.res{stage}."
            blocks = [
                _Bottleneck(shapes, f"{prefix}{b}.", 2 if stage > 2 and b == 0 else 1, 2**b if stage == 5 else 1)
                for b in range(count(shapes, prefix))
            ]
            self.add_module(f"res{stage}", nn.Sequential(*blocks))

    def forward(self, pixels: Tensor) -> SimpleNamespace:
        x = pixels
        for conv in self.stem.children():
            x = conv(x).relu()
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        maps = []
        for stage in (2, 3, 4, 5):
            x = self.get_submodule(f"res{stage}")(x)
            maps.append(x)
        return SimpleNamespace(feature_maps=tuple(maps))


class _Bottleneck(nn.Module):
    def __init__(self, shapes: Shapes, prefix: str, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = _conv(shapes[f"{prefix}conv1.weight"])
        self.conv2 = _conv(shapes[f"{prefix}conv2.weight"], stride, dilation)
        self.conv3 = _conv(shapes[f"{prefix}conv3.weight"])
        shortcut = shapes.get(f"{prefix}shortcut.weight")
        self.shortcut = _conv(shortcut, stride) if shortcut else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x).relu()).relu()
        return (self.conv3(y) + self.shortcut(x)).relu()


class _NormedConv(nn.Conv2d):
    """A convolution without bias, then a frozen batch norm, which lies in the convolution's own namespace."""

    norm: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


def _conv(shape: tuple[int, ...], stride: int = 1, dilation: int = 1) -> _NormedConv:
    rows, columns, side, _ = shape
    conv = _NormedConv(columns, rows, side, stride, padding=side // 2 * dilation, dilation=dilation, bias=False)
    conv.norm = _FrozenNorm(rows)
    return conv


class _FrozenNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        for name, value in {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}.items():
            self.register_buffer(name, torch.full((width,), value))

    def forward(self, x: Tensor) -> Tensor:
        # mypy takes registered buffers for modules
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=1e-5)  # type: ignore[arg-type]
