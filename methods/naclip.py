"""NACLIP: neighbourhood-aware attention.

    z = A v W_o,   A = softmax(k k^T / sqrt(d) + omega),   omega_ij = exp(-|p_i - p_j|^2 / (2 * 5^2))

``p`` are patch positions in patches; omega is added after scaling and is 0 for every pair with the class token.  The
published default also refines with PAMR: that is ``refine`` of the protocol (``ovss.methods.refine.pamr``).
"""

from .blocks.dense_clip import DenseClip, LastBlock
from .core.info import MethodInfo


class NACLIP(DenseClip):
    """See the module docstring for the equation."""

    info = MethodInfo(
        name="naclip",
        title="NACLIP",
        paper="Hajimiri et al., WACV 2025, arXiv:2404.08181",
        published="NACLIP",
    )
    last_block = LastBlock(("kk",), residual=False, ffn=False, gaussian_sigma=5.0)
