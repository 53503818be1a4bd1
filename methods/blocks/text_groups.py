"""Queries that mean about the same, and moving one of each group towards what the image shows."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Linkage = Literal["complete", "ward"]


def group_texts(text: Tensor, distance: float, linkage: Linkage = "complete") -> Tensor:
    """Group of each query, ``(Q,)`` int64, by linkage on ``1 - cosine`` of unit ``text`` ``(Q, dim)``.

    With "complete" no two queries of a group are further apart than ``distance``; with "ward" that is compared with
    Ward's distance of groups, as if ``1 - cosine`` were Euclidean.
    """
    if len(text) == 1:
        return torch.zeros(1, dtype=torch.int64, device=text.device)
    hierarchy = _hierarchy()
    unit = text.double().cpu()
    rows, columns = torch.triu_indices(len(text), len(text), 1)
    apart = (1 - unit @ unit.T)[rows, columns].clamp(min=0)
    labels = hierarchy.fcluster(hierarchy.linkage(apart.numpy(), linkage), distance, "distance")
    return torch.from_numpy(labels.astype("int64") - 1).to(text.device)


def _hierarchy() -> Any:
    from scipy.cluster import hierarchy

    return hierarchy


def move_texts(text: Tensor, groups: Tensor, relevance: Tensor, features: Tensor, share: float) -> Tensor:
    """Texts for each window, ``(B, Q, dim)``: in every group that of the largest ``relevance`` ``(B, Q)`` is moved.

    It becomes the unit vector of ``(1 - share) t + share p``, where p is the unit mean of the two patches that are
    nearest to it, of unit ``features`` ``(B, N, dim)``.  Of equal relevance the first is moved.
    """
    near = (features @ text.T).topk(min(2, features.shape[1]), dim=1).indices  # (B, 2, Q)
    shown = torch.stack([one[where].mean(dim=0) for one, where in zip(features, near, strict=True)])
    moved = F.normalize((1 - share) * text + share * F.normalize(shown, dim=-1), dim=-1)
    return torch.where(_first_of_groups(groups, relevance)[..., None], moved, text)


def _first_of_groups(groups: Tensor, relevance: Tensor) -> Tensor:
    """Where the most relevant query of each group is, ``(B, Q)`` bool."""
    order = relevance.argsort(dim=1, descending=True, stable=True)
    ordered = groups[order]
    same = (ordered[:, :, None] == ordered[:, None]).tril(-1).any(dim=2)
    return torch.zeros_like(same).scatter_(1, order, ~same)
