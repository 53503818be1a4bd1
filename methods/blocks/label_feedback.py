"""What a first segmentation says about which patches belong together."""

import torch
from torch import Tensor


def vote(labels: Tensor, patch_px: int, count: int) -> Tensor:
    """The most frequent of ``count`` labels in each patch, the smallest of equals: ``(H, W)`` -> ``(h, w)``.

    Patches are counted from the top left corner; what does not fill one is left out.
    """
    cells = labels.unfold(0, patch_px, patch_px).unfold(1, patch_px, patch_px).flatten(2)
    votes = torch.zeros(*cells.shape[:2], count, dtype=torch.long, device=labels.device)
    return votes.scatter_add_(2, cells, torch.ones_like(cells)).argmax(dim=2)


def feedback_matrix(labels: Tensor, paths: bool, sigma: float) -> Tensor:
    """``(h, w)`` labels -> ``(h * w, h * w)`` float32, rows of sum 1: patches of one label attend to each other.

    With ``paths`` a pair counts less when the way between the two leaves the label: ``weight_of_paths``.  Each row is
    blurred by a Gaussian over the patches in reading order, across the ends of lines.
    """
    flat = labels.flatten()
    matrix = (flat[:, None] == flat).float()
    if paths:
        matrix = matrix * weight_of_paths(labels)
    matrix = matrix @ _blur(len(flat), sigma).to(matrix)
    return matrix / (matrix.sum(dim=1, keepdim=True) + 1e-8)


def _blur(count: int, sigma: float) -> Tensor:
    """A Gaussian, cut off at three ``sigma``, between ``count`` places in a row; cuDNN would round a convolution."""
    apart = torch.arange(count) - torch.arange(count)[:, None]
    reach = min(count, int(6 * sigma) + 1) // 2
    kernel = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    return torch.where(apart.abs() <= reach, torch.exp(-(apart**2) / (2 * sigma**2)) / kernel.sum(), 0.0)


def weight_of_paths(labels: Tensor) -> Tensor:
    """1, or ``exp(-d / g)`` where the way from one patch to another leaves the first one's label; ``(N, N)`` float32.

    ``d`` is the larger of the distances in rows and in columns, ``g`` the largest on the grid.  The public code samples
    the way in g steps, but looks at the first d of them only, hence at its beginning, unless d is g.
    """
    (height, width), flat = labels.shape, labels.flatten()
    place = torch.arange(len(flat), device=flat.device)
    at = torch.stack([place // width, place % width])[:, :, None].double()
    way = at.mT - at
    distance, steps = way.abs().amax(dim=0), max(height, width) - 1
    leaves = torch.zeros_like(distance, dtype=torch.bool)
    for step in range(1, steps + 1):
        row, column = ((at * steps + step * way) / steps).round().long()
        leaves |= (flat[row * width + column] != flat[:, None]) & (step <= distance)
    return torch.where(leaves, torch.exp(-distance / max(steps, 1)), 1.0).float()
