"""The three losses of ``clip-s4-like`` and what they are taken over.

    contrast   L_t = mean over p of  -log( sum over s in S+ of e_ps / sum over s of e_ps ),  e_ps = exp(kappa z_p . v_s)
    embedding  L_e = mean over s of  1 - v_s . i_s
    semantic   L_s = mean over s of  CE(argmax over l of i_s . c_l,  softmax over l of v_s . c_l / tau)

for pixels p, segments s of the batch with the encoder's mean v_s and CLIP's mean i_s, and prototypes c_l.

S+ are the segments in the pixel's superpixel of the same picture, in either view, without the pixel's own segment where
another is left.  It stays in the denominator: ours.  The public code that L_t is taken from (twke18/HSG,
hsg/utils/segsort/loss.py, "segsort+") leaves it out there, too.  L_e and L_s are made from a summary of CLIP-S4
(arXiv:2305.01040), whose body was not readable: the form 1 - cos and tau are ours, and so are means over segments that
are not weighted by their size.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Segments:
    """The segments of a batch of views: those of k-means, cut along the superpixels.

    ``of_pixel`` ``(N,)`` is the segment of each pixel, views one after the other; ``region`` ``(S,)`` tells, for each
    segment, which superpixel of which picture it lies in.  Both int64.
    """

    of_pixel: Tensor
    region: Tensor

    @property
    def count(self) -> int:
        """Number of segments, S."""
        return len(self.region)


def find_segments(clusters: Tensor, superpixels: Tensor, picture: Tensor) -> Segments:
    """Intersect: clusters and superpixels ``(V, n)`` int64 of V views, and the picture of each view, ``(V,)``."""
    view = torch.arange(len(clusters), device=clusters.device)[:, None].expand_as(clusters)
    keys = torch.stack([view, clusters, superpixels, picture[:, None].expand_as(clusters)], dim=-1).flatten(0, 1)
    found, of_pixel = keys.unique(dim=0, return_inverse=True)
    _, region = found[:, 2:].unique(dim=0, return_inverse=True)
    return Segments(of_pixel, region)


def contrast_loss(z: Tensor, means: Tensor, segments: Segments, kappa: float) -> Tensor:
    """L_t: pixels ``(N, d)`` and segment embeddings ``(S, d)``, at unit length -> a scalar.

    Both sums are divided by exp(kappa), which no term exceeds; kappa may be up to 40 in float32.
    """
    likeness = (kappa * (z @ means.T - 1)).exp()
    same = segments.region[segments.of_pixel][:, None] == segments.region
    own = segments.of_pixel[:, None]
    alone = same.sum(dim=1, keepdim=True) == 1
    positive = same.scatter(1, own, alone)
    return (likeness.sum(dim=1).log() - (likeness * positive).sum(dim=1).log()).mean()


def embedding_loss(means: Tensor, targets: Tensor) -> Tensor:
    """L_e: segment embeddings and CLIP's segment features, both ``(S, d)`` at unit length -> a scalar."""
    return (1 - (means * targets).sum(dim=1)).mean()


def semantic_loss(means: Tensor, labels: Tensor, prototypes: Tensor, tau: float) -> Tensor:
    """L_s: segment embeddings ``(S, d)``, pseudo labels ``(S,)`` and prototypes ``(C, d)`` -> a scalar."""
    return F.cross_entropy(means @ prototypes.T / tau, labels)


def pseudo_labels(targets: Tensor, prototypes: Tensor) -> Tensor:
    """Nearest prototype of each CLIP segment feature: ``(S, d)`` and ``(C, d)`` -> ``(S,)`` int64."""
    return (targets @ prototypes.T).argmax(dim=1)


def moved(prototypes: Tensor, targets: Tensor, labels: Tensor, keep: float) -> Tensor:
    """Each prototype drawn towards the CLIP features that chose it, ``(C, d)`` at unit length.

    ``keep`` of the old one plus the rest of their normalised mean; one that nobody chose stays.  That they move towards
    the segments assigned to them is the paper's, the moving average is ours.
    """
    sums = torch.zeros_like(prototypes).index_add(0, labels, targets)
    chosen = torch.zeros(len(prototypes), dtype=torch.bool, device=prototypes.device)
    chosen[labels] = True
    new = F.normalize(keep * prototypes + (1 - keep) * F.normalize(sums, dim=1), dim=1)
    return torch.where(chosen[:, None], new, prototypes)
