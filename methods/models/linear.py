"""Linear layers and attention of the towers, by torch's own program or by a faster one of this machine.

Nothing is patched: a layer keeps a reordered copy beside the weight that it was read from, made when it is first used.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.arithmetic import arithmetic
from ..core.errors import UserError

LARGE_WEIGHT = 512 * 512
"""Weights with fewer elements are never packed: whatever the machine, small models have the bits of ``F.linear``."""
CHUNK_QUERIES = 128


@dataclass(frozen=True)
class Affine:
    """Weight and bias of a linear layer or a LayerNorm (``eps`` is the latter's)."""

    weight: Tensor
    bias: Tensor | None
    eps: float = 1e-5

    @cached_property
    def packed(self) -> Tensor:
        """The weight in the order that oneDNN wants; takes as much memory again."""
        return pack(self.weight)


def linear(x: Tensor, affine: Affine) -> Tensor:
    """``x @ weight.T + bias``."""
    weight = affine.weight
    if arithmetic().linears == "plain" or x.device.type != "cpu" or weight.numel() < LARGE_WEIGHT:
        return F.linear(x, weight, affine.bias)
    return multiply(x, affine.packed, affine.bias)


def pack(weight: Tensor) -> Tensor:
    """A weight reordered for ``multiply``.  Raises ``UserError`` where this torch or this CPU cannot."""
    try:
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        raise UserError(
            f"linear layers cannot be packed for {str(weight.dtype).removeprefix('torch.')} here "
            f"({str(error).splitlines()[0]}): set OVSS_LINEARS=plain and begin the run again with --fresh"
        ) from error
    return packed


def multiply(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """``x @ weight.T + bias`` for a packed weight."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), packed, bias, "none", [], "")
    return result


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """``softmax(q k^T / sqrt(d)) v``, each ``(B, heads, T, d)``."""
    whole = arithmetic().attention == "whole" or causal
    if whole or q.device.type != "cpu" or q.dtype != torch.bfloat16 or q.shape[2] <= CHUNK_QUERIES:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return attention_in_chunks(q, k, v)


def attention_in_chunks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same, ``CHUNK_QUERIES`` at a time: weights of all queries at once would leave the cache."""
    scale, keys = q.shape[-1] ** -0.5, k.transpose(-1, -2)
    return torch.cat([((some * scale) @ keys).softmax(-1) @ v for some in q.split(CHUNK_QUERIES, 2)], 2)
