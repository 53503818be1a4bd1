"""MaskCLIP: each patch keeps its own value.

    z = y + mlp(ln_2(y)),   y = x + v W_o            (A = identity)

This form keeps the skip connection and the MLP of the last block; the training-free literature quotes it (74.9 on
VOC20 is with, 61.4 without them).  The value-only form is ``maskclip-value``.
"""

from .blocks.dense_clip import DenseClip, LastBlock
from .core.info import MethodInfo


class MaskCLIP(DenseClip):
    """See the module docstring for the equation."""

    info = MethodInfo(
        name="maskclip",
        title="MaskCLIP (residual and FFN kept)",
        paper="Zhou et al., ECCV 2022, arXiv:2112.01071",
        published="MaskCLIP",
    )
    last_block = LastBlock((), residual=True, ffn=True)
