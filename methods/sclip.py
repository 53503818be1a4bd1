"""SCLIP: correlative self-attention.

    A = softmax(q q^T / sqrt(d)) + softmax(k k^T / sqrt(d))

The two softmaxes are added without a factor 1/2, so rows of A sum to 2.  Residual and FFN stay.
"""

from .blocks.dense_clip import DenseClip, LastBlock
from .core.info import MethodInfo


class SCLIP(DenseClip):
    """See the module docstring for the equation."""

    info = MethodInfo(
        name="sclip",
        title="SCLIP",
        paper="Wang et al., ECCV 2024, arXiv:2312.01597",
        published="SCLIP",
    )
    last_block = LastBlock(("qq", "kk"), residual=True, ffn=True)
