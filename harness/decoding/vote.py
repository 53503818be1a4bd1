"""The vote of regions after the decision: every region takes the class that most of its pixels have.

Map correction of CorrCLIP (zdk258/CorrCLIP, CorrCLIPv1): after all thresholds, at the size of the image.
"""

import torch
from torch import Tensor

from ...methods.proposals.regions import NOWHERE


def vote(labels: Tensor, regions: Tensor) -> Tensor:
    """``labels`` ``(H, W)`` with one label in each of ``regions`` ``(H, W)`` int64, the lowest among equals.

    Pixels of ``NOWHERE`` keep their own.
    """
    if labels.shape != regions.shape:
        raise ValueError(f"regions {tuple(regions.shape)} do not fit labels {tuple(labels.shape)}")
    count = int(labels.max()) + 1
    ballots = torch.bincount((regions * count + labels).flatten(), minlength=count * (int(regions.max()) + 1))
    winner = ballots.view(-1, count).argmax(dim=1).to(labels.dtype)
    return torch.where(regions == NOWHERE, labels, winner[regions])
