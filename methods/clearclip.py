"""ClearCLIP: self-self attention, no residual, no FFN.

z = A v W_o,   A = softmax(q q^T / sqrt(d))
"""

from .blocks.dense_clip import DenseClip, LastBlock
from .core.info import MethodInfo


class ClearCLIP(DenseClip):
    """See the module docstring for the equation."""

    info = MethodInfo(
        name="clearclip",
        title="ClearCLIP",
        paper="Lan et al., ECCV 2024, arXiv:2407.12442",
        published="ClearCLIP",
    )
    last_block = LastBlock(("qq",), residual=False, ffn=False)
