"""The pixel encoder of ``clip-s4-like``, its segments, its prototypes, and the file that a training leaves.

    z = f(image) at unit length per pixel;   segments = spherical k-means of [z, y, x];   prototype of a text = mean of
    the CLIP segment features that are most like it

The encoder's layout is ours throughout: the paper's (arXiv:2305.01040) was not readable.
"""

import json
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..core.errors import UserError
from .checkpoints import check_keys, file_sha256, read_tensors, state_sha256

_DILATIONS = (1, 2, 4, 1)
_RESNET_WIDTH = 2048
HEADER = "training"
POOL = "pool"


@dataclass(frozen=True)
class EncoderSpec:
    """Layout of a pixel encoder.

    ``trunk``: "small" (residual convolutions at a quarter of the side, ``width`` and twice ``width`` channels, ours) or
    "resnet50" (torchvision's, dilated to an eighth of the side).  ``bins`` are the grids of the pyramid pooling in
    front of the head (PSPNet: 1, 2, 3, 6); none means no pyramid.
    """

    trunk: Literal["small", "resnet50"]
    width: int = 32
    bins: tuple[int, ...] = ()

    @property
    def stride(self) -> int:
        """Side of the cell, in px, that an embedding stands for."""
        return 4 if self.trunk == "small" else 8


def _conv(width_in: int, width_out: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution without bias, then BatchNorm; kernel 4 with stride 2 halves exactly, cell by cell."""
    padding = dilation * (kernel - 1) // 2
    return nn.Sequential(
        nn.Conv2d(width_in, width_out, kernel, stride, padding, dilation, bias=False), nn.BatchNorm2d(width_out)
    )


class Residual(nn.Module):
    """Two 3x3 convolutions around a skip connection; at first it passes on what it gets, which trains much faster."""

    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.first, self.second = _conv(width, width, 3, 1, dilation), _conv(width, width, 3, 1, dilation)
        nn.init.zeros_(self.second.get_parameter("1.weight"))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` -> the same shape."""
        return F.relu(x + self.second(F.relu(self.first(x))))


def _small_trunk(width: int) -> nn.Module:
    deep = [Residual(2 * width, dilation) for dilation in _DILATIONS]
    stem, down = _conv(3, width, 4, 2), _conv(width, 2 * width, 4, 2)
    return nn.Sequential(stem, nn.ReLU(), Residual(width), down, nn.ReLU(), *deep)


def _resnet_trunk() -> nn.Module:
    """torchvision's ResNet-50 up to its last map, with torchvision's names and random weights."""
    from torchvision.models import resnet50

    whole = resnet50(weights=None, replace_stride_with_dilation=[False, True, True])
    return nn.Sequential(OrderedDict((n, m) for n, m in whole.named_children() if n not in ("avgpool", "fc")))


class Head(nn.Module):
    """Pyramid pooling (Zhao et al., CVPR 2017), 3x3 convolution, 1x1 convolution to the embedding."""

    def __init__(self, width: int, bins: tuple[int, ...], dim: int) -> None:
        super().__init__()
        share = width // max(len(bins), 1)
        self.bins = bins
        self.levels = nn.ModuleList(_conv(width, share, 1) for _ in bins)
        self.mix = _conv(width + share * len(bins), dim, 3)
        self.out = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` -> ``(B, dim, h, w)``."""
        pooled = (F.relu(level(F.adaptive_avg_pool2d(x, n))) for n, level in zip(self.bins, self.levels, strict=True))
        wide = [F.interpolate(p, x.shape[2:], mode="bilinear", align_corners=False) for p in pooled]
        return self.out(F.relu(self.mix(torch.cat([x, *wide], dim=1))))


class PixelEncoder(nn.Module):
    """``(B, 3, H, W)`` pixels -> embeddings of unit length, ``(B, dim, H / stride, W / stride)`` float32.

    Pixels are normalised as the backbone's; both sides are multiples of the stride.
    """

    def __init__(self, spec: EncoderSpec, dim: int) -> None:
        super().__init__()
        self.spec, self.dim = spec, dim
        self.trunk = _small_trunk(spec.width) if spec.trunk == "small" else _resnet_trunk()
        width = 2 * spec.width if spec.trunk == "small" else _RESNET_WIDTH
        self.head = Head(width, spec.bins, dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        with torch.backends.cudnn.flags(allow_tf32=False):  # else a GPU rounds to TF32 by default
            return F.normalize(self.head(self.trunk(pixels)).float(), dim=1)


def cluster(z: Tensor, side: int, rounds: int) -> Tensor:
    """Spherical k-means inside each image: ``(B, d, h, w)`` unit length -> cluster of each pixel, ``(B, h * w)`` int64.

    Features are ``[z, y, x]`` at unit length again, coordinates from -0.5 to 0.5.  It starts from a grid of ``side`` x
    ``side`` cells; each round takes the normalised sums as centres and the nearest centre by dot product.  A centre
    that has lost all its pixels stays out.
    """
    height, width = z.shape[2:]
    y, x = (torch.linspace(-0.5, 0.5, n, device=z.device, dtype=z.dtype) for n in (height, width))
    place = torch.stack(torch.meshgrid(y, x, indexing="ij")).expand(len(z), -1, -1, -1)
    features = F.normalize(torch.cat([z, place], dim=1), dim=1).flatten(2).transpose(1, 2)
    rows, columns = (torch.arange(n, device=z.device) * side // n for n in (height, width))
    labels = (rows[:, None] * side + columns).flatten().expand(len(z), -1)
    for _ in range(rounds):
        members = F.one_hot(labels, side * side).to(z.dtype)
        centres = F.normalize(members.transpose(1, 2) @ features, dim=2)
        likeness = features @ centres.transpose(1, 2)
        labels = likeness.masked_fill((members.sum(1) == 0)[:, None], -torch.inf).argmax(dim=2)
    return labels


def segment_means(features: Tensor, segment: Tensor, count: int) -> Tensor:
    """Normalised means: ``(N, d)`` and the segment of each, ``(N,)`` in ``0 .. count - 1`` -> ``(count, d)``."""
    sums = torch.zeros(count, features.shape[1], device=features.device, dtype=features.dtype)
    return F.normalize(sums.index_add(0, segment, features), dim=1)


def top_prototypes(text: Tensor, pool: Tensor, top: int) -> Tensor:
    """Prototype of each text: normalised mean of the ``top`` rows of ``pool`` that are most like it (all, if fewer).

    ``(Q, d)`` and ``(P, d)``, both at unit length -> ``(Q, d)``.
    """
    nearest = (text @ pool.T).topk(min(top, len(pool)), dim=1).indices
    return F.normalize(torch.stack([pool[rows].mean(dim=0) for rows in nearest]), dim=1)


@dataclass(frozen=True)
class S4Parts:
    """What a training leaves: the encoder, ``pool`` ``(P, dim)`` of CLIP segment features, and ``top`` of the recipe.

    ``clip_sha256`` is the hash of the CLIP whose space the embeddings live in, empty if it is not known.
    """

    encoder: PixelEncoder
    pool: Tensor | None
    top: int
    clip_sha256: str = ""
    source: str = "weights given by the caller"
    sha256: str = ""

    @property
    def provenance(self) -> dict[str, Any]:
        """Source, hash, and size of the pool, as JSON values."""
        sha256 = self.sha256 or f"state:{state_sha256(_tensors(self))}"
        return {"source": self.source, "sha256": sha256, "pool": 0 if self.pool is None else len(self.pool)}


def _tensors(weights: S4Parts) -> dict[str, Tensor]:
    state = {f"encoder.{name}": tensor for name, tensor in weights.encoder.state_dict().items()}
    return state if weights.pool is None else {**state, POOL: weights.pool}


def dump_weights(weights: S4Parts, about: dict[str, Any]) -> bytes:
    """The file: safetensors, floats as fp16, with the layout and ``about`` as one JSON document in its header.

    One document, because the order of several entries would not be fixed.
    """
    layout = {"encoder": asdict(weights.encoder.spec), "dim": weights.encoder.dim, "top": weights.top}
    header = {**about, "layout": layout, "clip_sha256": weights.clip_sha256}
    state = {k: (t.half() if t.is_floating_point() else t).cpu().contiguous() for k, t in _tensors(weights).items()}
    return safetensors.torch.save(state, metadata={HEADER: json.dumps(header, sort_keys=True)})


def load_weights(path: Path) -> S4Parts:
    """Read a file of ``dump_weights``; float32 on the CPU.

    Raises ``UserError`` that names the file, and the keys and shapes that do not fit its own layout.
    """
    state = read_tensors(path)
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})[HEADER])
        layout = header["layout"]
        spec = EncoderSpec(**{**layout["encoder"], "bins": tuple(layout["encoder"]["bins"])})
        encoder, top = PixelEncoder(spec, int(layout["dim"])), int(layout["top"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} does not say how its encoder is built ({type(error).__name__}: {error}): it is not a file that "
            "`bench train clip-s4` wrote"
        ) from error
    pool = state.get(POOL)
    wanted = {f"encoder.{name}": tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    if pool is not None:
        wanted[POOL] = (len(pool), encoder.dim)
    check_keys(path, state, wanted)
    encoder.load_state_dict({name.removeprefix("encoder."): t for name, t in state.items() if name != POOL})
    encoder.eval()
    sha256 = f"file:{file_sha256(path)}"
    kept = None if pool is None else F.normalize(pool.float(), dim=1)
    return S4Parts(encoder, kept, top, header.get("clip_sha256", ""), f"file {path.name}", sha256)
