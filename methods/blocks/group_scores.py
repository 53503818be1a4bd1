"""From groups of a window to scores of its pixels: the head that GroupViT has and SegCLIP took over.

With the tokens G of the groups and the token c of the whole window (both projected, unit length), texts T and the logit
scale s = min(exp(.), 100)

    P0 = softmax_q(s G T^T),    P1 = softmax over the 5 queries with the largest c T^T alone of s G T^T,    P = P1 * P0

with 0 in P1 for the other queries: the window only chooses the five, each group has its own logits over them.  Every
pixel has the row of P of its group: the one with the largest value of the soft assignment, interpolated bilinearly to
the window's size.  With a threshold, the background scores 1 where the largest of that row is below min(threshold,
max P), and 0 elsewhere; the maximum is over all groups, so that one group is always foreground.

Xu et al., CVPR 2022, arXiv:2202.11094, in the form of the public code.
"""

from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..core.method import Method
from ..core.options import Options
from ..core.picture import Picture
from ..core.score_field import ScoreField
from ..core.windows import Box, WindowGeometry, cut
from .clip_method import ClipWords

KEPT = 5  # queries that the window as a whole lets pass


@dataclass(frozen=True)
class Groups:
    """Groups of one window of H x W px.

    ``tokens`` ``(g, dim)`` and ``image`` ``(dim,)`` are float32 of unit length; ``owner`` ``(H, W)`` int64 is the group
    of each pixel.
    """

    tokens: Tensor
    image: Tensor
    owner: Tensor


@dataclass(frozen=True)
class SeenGroups:
    """Groups of the windows of an image of ``frame`` (height, width) px."""

    windows: tuple[Groups, ...]
    boxes: tuple[Box, ...]
    frame: tuple[int, int]


class GroupOptions(Options):
    """Options of both methods."""

    background_threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="probability below which a group is background, for a background without a text; 0 or nothing: no "
        "rule, and the background is scored by its texts like any class, or not at all if it has none",
    )


class GroupMethod(Method[SeenGroups, ClipWords]):
    """A method that scores groups of pixels, and gives every pixel the scores of its group.

    Windows go through one at a time.  Which group a patch belongs to, which five queries pass and what is below the
    threshold are decisions: a sum that is rounded otherwise, as in a batch of another size, could change one, and a
    pixel with it.  The released code takes one window at a time, too.

    Where a class has several texts, each is a query of its own, and the five are queries, not classes; the original
    methods have one text per class.
    """

    options: GroupOptions
    group_count: int
    """How many groups a window has."""
    logit_scale: float
    """``min(exp(.), 100)`` of the checkpoint's."""

    @abstractmethod
    def group(self, window: Tensor) -> Groups:
        """Groups of one window, ``(3, H, W)`` uint8 RGB."""

    @torch.inference_mode()
    def encode_image(self, picture: Picture, geometry: WindowGeometry) -> SeenGroups:
        """See ``Method.encode_image``."""
        boxes = geometry.boxes(*picture.size)
        return SeenGroups(tuple(self.group(window) for window in cut(picture.pixels, boxes)), boxes, picture.size)

    @torch.inference_mode()
    def score(self, seen: SeenGroups, words: ClipWords) -> ScoreField:
        """Scores of every pixel, in [0, 1]; one plane more, the last, where the background has a rule.

        They are constant on each group, so where the groups of all windows are fewer than the queries, the field has
        one mask per group, and ``mixing`` has the groups' scores.
        """
        background = words.vocabulary.background
        threshold = 0.0 if background is None else self.options.background_threshold or 0.0
        values = [self._values(groups, words.text, threshold) for groups in seen.windows]
        owners, mixing = words.query_to_class, None
        if threshold and background is not None:
            owners = (*owners, background)
        if len(values) * self.group_count < len(owners):
            masks = torch.block_diag(*[self._masks(groups.owner).flatten(1) for groups in seen.windows])
            scores = masks.unflatten(1, (len(values), -1)).transpose(0, 1).unflatten(2, seen.windows[0].owner.shape)
            mixing = torch.cat(values)
        else:
            scores = torch.stack([v.T[:, g.owner] for v, g in zip(values, seen.windows, strict=True)])
        return ScoreField(scores, seen.boxes, seen.boxes, seen.frame, owners, activated=True, mixing=mixing)

    def _masks(self, owner: Tensor) -> Tensor:
        """One mask per group: ``(H, W)`` -> ``(g, H, W)`` float32."""
        return F.one_hot(owner, self.group_count).permute(2, 0, 1).float()

    def _values(self, groups: Groups, text: Tensor, threshold: float) -> Tensor:
        """Score of each group for each plane, ``(g, Q)`` float32, or one more with a ``threshold`` above 0."""
        products = class_products(groups.tokens, groups.image, text, self.logit_scale)
        return torch.cat([products, background_column(products, threshold)], dim=1) if threshold else products


def class_products(tokens: Tensor, image: Tensor, text: Tensor, scale: float) -> Tensor:
    """P of the module's docstring: ``(g, dim)``, ``(dim,)`` and ``(Q, dim)`` -> ``(g, Q)``."""
    logits = scale * tokens @ text.T
    kept = (text @ image).topk(min(KEPT, len(text))).indices
    passed = torch.full_like(logits, float("-inf")).index_copy(1, kept, logits[:, kept])
    return passed.softmax(dim=1) * logits.softmax(dim=1)


def background_column(products: Tensor, threshold: float) -> Tensor:
    """1 for groups that are background, 0 for the others: ``(g, Q)`` -> ``(g, 1)``."""
    best = products.amax(dim=1, keepdim=True)
    return (best < best.max().clamp(max=threshold)).to(products.dtype)


def pixel_owner(soft: Tensor, height: int, width: int) -> Tensor:
    """Group of each pixel from the soft assignment of the patches: ``(g, h, w)`` -> ``(height, width)`` int64."""
    soft = F.interpolate(soft[None].float(), (height, width), mode="bilinear", align_corners=False)
    return soft[0].argmax(dim=0)
