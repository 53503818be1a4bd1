"""Vanilla dense CLIP: the last block as it is, every patch through the head.

    z = x + A v W_o + mlp(.),   A = softmax(q k^T / sqrt(d))

The attention of the last block was trained for the class token only, so patches end up with global content: the
baseline that every method of the family repairs.
"""

from .blocks.dense_clip import DenseClip, LastBlock
from .core.info import MethodInfo


class CLIP(DenseClip):
    """See the module docstring for the equation."""

    info = MethodInfo(
        name="clip",
        title="CLIP (vanilla dense)",
        paper="Radford et al., ICML 2021, arXiv:2103.00020",
        published="CLIP (vanilla dense)",
    )
    last_block = LastBlock(("qk",), residual=True, ffn=True)
