"""SegCLIP: a CLIP ViT in which eight learned centres gather the patches before its last two blocks.

CLIP's class token is dropped behind its first LayerNorm.  The patches t pass blocks 0 to 9; then centres q look twice
at themselves and the patches, and every patch goes to the centre that its key fits best:

    q <- q + attention(LN(q), LN([q; t]));  q <- q + mlp(LN(q))          (twice, then q <- LN(q))
    soft = softmax over centres of q LN(K LN(t))^T,   hard = the one-hot of its maximum
    g = quick_gelu(fc2(gelu(fc1(LN(q + (hard V LN(t)) / max(count, 1))))))

The products are not divided by the root of the width, so soft is nearly hard.  g passes blocks 10 and 11; the token of
the image is the largest value of each channel.  What follows is in ``group_scores``.

Luo et al., ICML 2023, arXiv:2211.14813, in the form of the public code (ArrowLuo/SegCLIP,
modules/module_clip_vtransformer.py, seg_segmentation/evaluation/vit_seg.py).

Not training-free: trained on image-text pairs, CC3M and the captions of COCO 2014 train, without masks.
Weights: ``segclip.bin``, release checkpoint_v0 of the public repository, which has no licence file: all rights are
reserved by default.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .blocks.clip_method import ClipMethod
from .blocks.group_scores import GroupMethod, GroupOptions, Groups, SeenGroups, pixel_owner
from .core.info import MethodInfo
from .models import vit
from .models.checkpoints import state_sha256
from .models.open_model import open_model
from .models.segclip_checkpoint import AFTER, SegCLIPParts, load_segclip
from .models.vit import Affine


class SegCLIP(GroupMethod, ClipMethod[SeenGroups]):
    """See the module docstring for the equations.

    ``weights`` is the released file, or the parts themselves; without it the one that ``bench weights`` knows is used.
    The public configurations have a ``background_threshold`` of 0.80 (VOC21), 0.25 (Context60) and 0.65 (COCO-Object),
    for a background without a text.

    The numbers belong to windows of 224 px, 196 patches.  The group module works for any number of patches, and so does
    this class, with a position embedding that is interpolated bicubically by target size, as in the public code.  There
    any number but 196 and 784 takes the path of masked reconstruction, without a word.

    In the public code the cross-attention takes the batch for the sequence, which is right for one window alone: that
    is how it evaluates, and what is computed here.  The released weights were presumably trained with the defect
    (unsure: derived from code and pinned version).  Texts are averaged over templates before they are normalised.
    """

    info = MethodInfo(
        name="segclip",
        title="SegCLIP",
        paper="Luo et al., ICML 2023, arXiv:2211.14813",
        training_free=False,
        trained_on="image-text pairs of CC3M and COCO captions, without masks",
        backbone="",
        published="SegCLIP",
        offline=False,
    )

    unit_prompts = False

    def __init__(
        self,
        options: GroupOptions | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        weights: str | Path | SegCLIPParts | None = None,
    ) -> None:
        if not isinstance(weights, SegCLIPParts):
            weights = open_model(load_segclip, "segclip", weights)
        super().__init__(weights.backbone, options, device, dtype)
        self.grouping = read_grouping(weights.grouping, self.device, dtype)
        self.group_count = len(self.grouping.centres)
        self.logit_scale = float(weights.backbone.model.logit_scale.detach().exp().clamp(max=100))
        self._grouping_sha256 = state_sha256(weights.grouping)

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Method.provenance``."""
        return {**super().provenance, "grouping_sha256": self._grouping_sha256}

    def group(self, window: Tensor) -> Groups:
        """See ``GroupMethod.group``."""
        x, grid = vit.embed(self.tower, self.normalised(window[None]), "size")
        x = x[:, 1:]
        for block in self.tower.blocks[:-AFTER]:
            x = vit.run_block(block, x)
        x, soft = gather(self.grouping, x)
        for block in self.tower.blocks[-AFTER:]:
            x = vit.run_block(block, x)
        tokens = torch.cat([x, x.amax(dim=1, keepdim=True)], dim=1)
        unit = F.normalize(vit.project(self.tower, tokens)[0], dim=-1)
        return Groups(unit[:-1], unit[-1], pixel_owner(soft[0].unflatten(1, grid), *window.shape[1:]))


@dataclass(frozen=True)
class CrossBlock:
    """A block whose queries are centres; ``ln_keys`` belongs to what they look at."""

    block: vit.Block
    ln_keys: Affine


@dataclass(frozen=True)
class Grouping:
    """The group module.  ``keys`` and ``values`` are ``(heads, d, d)``: each head's channels for themselves."""

    centres: Tensor
    cross: tuple[CrossBlock, ...]
    ln_centres: Affine
    ln_tokens: Affine
    keys: Tensor
    ln_keys: Affine
    values: Tensor
    ln_out: Affine
    fc1: Affine
    fc2: Affine


def read_grouping(state: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> Grouping:
    """The records, moved to ``device`` and ``dtype``; LayerNorms are float32."""

    def norm(name: str) -> Affine:
        weight, bias = (state[f"{name}.{part}"].to(device, torch.float32) for part in ("weight", "bias"))
        return Affine(weight, bias)

    def linear(name: str) -> Affine:
        return Affine(state[f"{name}.weight"].to(device, dtype), state[f"{name}.bias"].to(device, dtype))

    def convolution(name: str) -> Tensor:  # grouped, 1 x 1: a small matrix for each head
        weight = state[f"{name}.weight"][..., 0].to(device, dtype)
        return weight.unflatten(0, (-1, weight.shape[1]))

    heads = len(convolution("k_conv"))
    count = len({name.split(".")[1] for name in state if name.startswith("cross_att.")})
    return Grouping(
        centres=state["semantic_center"].to(device, dtype),
        cross=tuple(_read_cross(f"cross_att.{i}", state, norm, linear, heads) for i in range(count)),
        ln_centres=norm("cross_ln"),
        ln_tokens=norm("norm"),
        keys=convolution("k_conv"),
        ln_keys=norm("k_ln"),
        values=convolution("v_conv"),
        ln_out=norm("proj_o.ln"),
        fc1=linear("proj_o.mlp.fc1"),
        fc2=linear("proj_o.mlp.fc2"),
    )


def _read_cross(name: str, state: Mapping[str, Tensor], norm: Any, linear: Any, heads: int) -> CrossBlock:
    out = linear(f"{name}.attn.out_proj")
    weight, bias = (state[f"{name}.attn.in_proj_{part}"].to(out.weight) for part in ("weight", "bias"))
    block = vit.Block(
        ln_1=norm(f"{name}.ln_x"),
        qkv=Affine(weight, bias),
        out=out,
        ln_2=norm(f"{name}.ln_2"),
        fc=linear(f"{name}.mlp.c_fc"),
        proj=linear(f"{name}.mlp.c_proj"),
        scale_1=None,
        scale_2=None,
        activation=vit.quick_gelu,
        heads=heads,
    )
    return CrossBlock(block, norm(f"{name}.ln_k"))


def gather(grouping: Grouping, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The group module: ``(B, N, D)`` -> groups ``(B, g, D)`` and the soft assignment ``(B, g, N)`` float32."""
    q = grouping.centres.expand(len(tokens), -1, -1)
    for cross in grouping.cross:
        q = vit.add_ffn(cross.block, _look(cross, q, tokens))
    q = vit.norm(q, grouping.ln_centres)
    normed = vit.norm(tokens, grouping.ln_tokens).unflatten(2, (len(grouping.keys), -1))
    keys, values = (torch.einsum("bnhi,hoi->bnho", normed, w).flatten(2) for w in (grouping.keys, grouping.values))
    hard, soft = assign(q, vit.norm(keys, grouping.ln_keys))
    mean = (hard @ values.float()) / hard.sum(dim=2, keepdim=True).clamp(min=1)
    x = F.gelu(F.linear(vit.norm(q + mean.to(q.dtype), grouping.ln_out), grouping.fc1.weight, grouping.fc1.bias))
    return vit.quick_gelu(F.linear(x, grouping.fc2.weight, grouping.fc2.bias)), soft


def _look(cross: CrossBlock, q: Tensor, tokens: Tensor) -> Tensor:
    """``q + attention(LN(q), LN([q; tokens]))``."""
    block, width = cross.block, q.shape[2]
    weight, bias = block.qkv.weight, block.qkv.bias
    assert bias is not None
    seen = vit.norm(torch.cat([q, tokens], dim=1), cross.ln_keys)
    queries = F.linear(vit.norm(q, block.ln_1), weight[:width], bias[:width])
    keys, values = F.linear(seen, weight[width:], bias[width:]).chunk(2, dim=2)
    heads = (part.unflatten(2, (block.heads, -1)).transpose(1, 2) for part in (queries, keys, values))
    return q + vit.project_out(block, vit.merge_heads(F.scaled_dot_product_attention(*heads)))


def assign(centres: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Which centre each patch goes to: ``(B, g, D)``, ``(B, N, D)`` -> one-hot and soft ``(B, g, N)`` float32."""
    products = centres.float() @ keys.float().transpose(1, 2)
    hard = torch.zeros_like(products).scatter(1, products.argmax(dim=1, keepdim=True), 1.0)
    return hard, products.softmax(dim=1)
