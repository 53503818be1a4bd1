"""MaskCLIP, value-only form: the head reads nothing but the value of each patch.

z = v W_o                                        (A = identity, no residual, no FFN)
"""

from .blocks.dense_clip import DenseClip, LastBlock
from .core.info import MethodInfo


class MaskCLIPValue(DenseClip):
    """See the module docstring for the equation."""

    info = MethodInfo(
        name="maskclip-value",
        title="MaskCLIP (value only)",
        paper="Zhou et al., ECCV 2022, arXiv:2112.01071",
    )
    last_block = LastBlock((), residual=False, ffn=False)
