"""Two views of each picture for ``clip-s4-like``: pixels, superpixels and CLIP's features, cut by one geometry.

A view is a rectangle of the picture, mirrored or not.  Everything is sampled by the same coordinates, in fractions of
the picture, whatever the resolution of its map is: pixels and features bilinearly, superpixels by the nearest.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as colour
from torch import Tensor

from ...datasets.shapes import Stream
from .clip_dinoiser_recipe import Augment
from .clip_s4_recipe import Superpixels, Views
from .images import augmented


@dataclass(frozen=True)
class View:
    """A rectangle in fractions of the picture."""

    top: float = 0.0
    left: float = 0.0
    height: float = 1.0
    width: float = 1.0
    flip: bool = False

    def coordinates(self, rows: int, columns: int) -> Tensor:
        """Centres of ``rows`` x ``columns`` cells, as ``grid_sample`` counts: ``(rows, columns, 2)``, x first."""
        y = self.top + self.height * (torch.arange(rows) + 0.5) / rows
        x = self.left + self.width * (torch.arange(columns) + 0.5) / columns
        if self.flip:
            x = x.flip(0)
        return 2 * torch.stack([x.expand(rows, -1), y[:, None].expand(-1, columns)], dim=-1) - 1


def draw_view(how: Views, picture: tuple[int, int], stream: Stream) -> View:
    """A random view of a picture of that height and width in px."""
    side = how.crop_px / stream.uniform(*how.scale)
    height, width = (min(side / length, 1.0) for length in picture)
    top, left = (stream.uniform(0.0, 1.0 - part) for part in (height, width))
    return View(top, left, height, width, stream.coin(how.flip))


def sample(maps: Tensor, views: list[View], rows: int, columns: int, nearest: bool = False) -> Tensor:
    """What each view sees: ``(V, C, H, W)`` float32 -> ``(V, C, rows, columns)``."""
    where = torch.stack([view.coordinates(rows, columns) for view in views]).to(maps)
    mode = "nearest" if nearest else "bilinear"
    return F.grid_sample(maps, where, mode=mode, padding_mode="border", align_corners=False)


def recoloured(pixels: Tensor, how: Views, stream: Stream) -> Tensor:
    """Colours of a square view distorted: ``(3, crop_px, crop_px)`` float32 in [0, 1] -> the same shape."""
    pixels = augmented(pixels, Augment(how.crop_px, (1.0, 1.0), 0.0, how.jitter), stream)
    return colour.rgb_to_grayscale(pixels, 3) if stream.coin(how.grey) else pixels


def superpixels(rgb: Tensor, how: Superpixels) -> Tensor:
    """Over-segmentation of each picture (Felzenszwalb and Huttenlocher, IJCV 2004).

    ``(B, 3, H, W)`` float32 in [0, 1] -> ``(B, H, W)`` int64, counted from 0 in each.
    """
    from skimage.segmentation import felzenszwalb

    pictures = rgb.permute(0, 2, 3, 1).cpu().numpy()
    found = [felzenszwalb(p, scale=how.scale, sigma=how.sigma, min_size=how.min_size) for p in pictures]
    return torch.from_numpy(np.stack(found)).long()
