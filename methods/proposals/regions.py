"""Regions: a proposer's masks, which may overlap, as one map at the size that the image had before it was resized.

Each pixel belongs to one region or to none.  Where masks overlap, the one that the proposer is surest of lies on top;
of a proposer that does not say, the largest, as CorrCLIP has it for SAM's masks.
"""

import torch
from torch import Tensor

from ..core.picture import Picture
from .base import Proposals, Proposer

NOWHERE = 0
"""What is in no mask."""
LEAST_OBJECTNESS, LEAST_SHARE = 0.5, 0.5
"""Masks that are less sure, and pixels of soft masks below this, count for nothing."""


def region_map(proposer: Proposer, picture: Picture) -> Tensor:
    """Number of the region of every pixel of ``picture.original``, ``(H, W)`` int64, ``NOWHERE`` where no mask is.

    Made once for all who have the same proposer; a proposer of masks from files reads them at that size.
    """
    whole = picture.unresized
    return whole.once(("regions", proposer.key), lambda: flat(proposer.look(whole)))


def flat(proposals: Proposals) -> Tensor:
    """Masks ``(Q, H, W)`` as numbers from 1, ``(H, W)`` int64; the higher the number, the nearer to the top."""
    masks, sure = proposals.masks, proposals.objectness
    if sure is not None:
        masks, sure = masks[sure[:, 0] >= LEAST_OBJECTNESS], sure[sure[:, 0] >= LEAST_OBJECTNESS]
    shown = masks >= LEAST_SHARE
    best = torch.zeros(masks.shape[1:], device=masks.device)
    regions = torch.full(masks.shape[1:], NOWHERE, dtype=torch.int64, device=masks.device)
    level = shown.flatten(1).sum(dim=1) if sure is None else sure[:, 0]
    for number, k in enumerate(level.argsort(stable=True).tolist(), start=1):
        value = shown[k] * number if sure is None else shown[k] * sure[k] * masks[k]
        above = (value >= best) & shown[k]
        best, regions = torch.where(above, value, best), regions.masked_fill(above, number)
    return regions
