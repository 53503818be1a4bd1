"""PAMR by the compiled kernels: the sums of ``Pamr``, with the same bits.

torch's ``addcmul`` rounds a product and a sum once together on some processors and apart on others.  The kernels know
the first alone, so torch is asked which it does.  A step goes from one set of planes to another: beside the result
there is one more set, of ``_PLANES`` planes at most.
"""

from functools import lru_cache

import torch
from torch import Tensor

from ...methods.refine.pamr import Pamr, offsets
from ..native.door import kernels

_PLANES = 32


def refined(pamr: Pamr, maps: Tensor) -> Tensor:
    """``pamr(maps)``."""
    if not _takes(pamr, maps):
        return pamr(maps)
    out, spare = torch.empty_like(maps), torch.empty_like(maps[:_PLANES] if pamr.steps > 1 else maps[:0])
    down, right = (side.contiguous() for side in torch.tensor(offsets(pamr.dilations), dtype=torch.int32).T)
    for chunk, result in zip(maps.split(_PLANES), out.split(_PLANES), strict=True):
        source = chunk
        for step in range(pamr.steps):
            target = result if (pamr.steps - step) % 2 else spare[: len(chunk)]
            if _failed(pamr, source, target, down, right):
                return pamr(maps)
            source = target
    return out


def _failed(pamr: Pamr, source: Tensor, target: Tensor, down: Tensor, right: Tensor) -> int:
    library = kernels()
    assert library is not None
    failed: int = library.ovss_pamr(
        *(source.data_ptr(), target.data_ptr(), *source.shape),
        *(pamr.affinity.data_ptr(), down.data_ptr(), right.data_ptr(), len(down), max(pamr.dilations)),
        torch.get_num_threads(),
    )
    return failed


def _takes(pamr: Pamr, maps: Tensor) -> bool:
    """Whether the kernels can: contiguous float32 on a CPU, of the size of the output, and at least one step."""
    if maps.device.type != "cpu" or maps.dtype != torch.float32 or maps.shape[1:] != pamr.size:
        return False
    parts = maps.is_contiguous() and pamr.affinity.is_contiguous()
    return parts and bool(pamr.steps) and len(maps) > 0 and kernels() is not None and _torch_fuses()


@lru_cache
def _torch_fuses() -> bool:
    """Whether ``addcmul`` rounds once: then ``x * x`` less its rounded value is what rounding took away."""
    x = torch.full((4 * 8 + 1,), 1 + 2**-12)
    return bool((torch.addcmul(-(x * x), x, x) != 0).all())
