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
from torch import Tensor

from ..core.errors import UserError
from ..core.method import Method
from ..core.score_field import ScoreField
from ..core.windows import WindowGeometry, cut

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


class GroupMethod(Method):
    """A segmenter that scores groups of pixels, and gives every pixel the scores of its group.

    Windows go through one at a time, whatever the batch.  Which group a patch belongs to, which five queries pass and
    what is below the threshold are decisions: a sum that is rounded otherwise, as in a batch of another size, could
    change one, and a pixel with it.  The released code takes one window at a time, too.

    Where a class has several texts, each is a query of its own, and the five are queries, not classes; the original
    methods have one text per class.
    """

    group_count: int
    """How many groups a window has."""
    logit_scale: float
    """``min(exp(.), 100)`` of the checkpoint's."""
    background_threshold: float
    """0: no rule; the background is scored by its texts like any class, or not at all if it has none."""

    @abstractmethod
    def group(self, window: Tensor) -> Groups:
        """Groups of one window, ``(3, H, W)`` uint8 RGB."""

    @property
    @abstractmethod
    def text(self) -> Tensor:
        """Embeddings of the queries, ``(Q, dim)`` float32, unit length.  Raises ``UserError`` before ``encode``."""

    @property
    def activated(self) -> bool:
        """See ``Method.activated``."""
        return True

    @property
    def query_to_class(self) -> tuple[int, ...]:
        """Class of each plane: those of the queries, and last the background's where it has a threshold."""
        vocabulary = self.vocabulary
        if not self.background_threshold or vocabulary.background is None:
            return vocabulary.query_to_class
        return (*vocabulary.query_to_class, vocabulary.background)

    def segment(self, image: Tensor, geometry: WindowGeometry = WindowGeometry(), batch_size: int = 8) -> ScoreField:
        """See ``Method.segment``.

        Scores are constant on each group, so where the groups of all windows are fewer than the queries, the field has
        one mask per group, and ``mixing`` has the groups' scores.
        """
        boxes = geometry.boxes(*image.shape[1:])
        owners = self.query_to_class
        if len(boxes) * self.group_count >= len(owners):
            return super().segment(image, geometry, batch_size)
        windows = self.encode_windows(cut(image, boxes))
        masks = torch.block_diag(*[self._masks(groups.owner).flatten(1) for groups in windows])
        scores = masks.unflatten(1, (len(windows), -1)).transpose(0, 1).unflatten(2, windows[0].owner.shape)
        mixing = torch.cat([self._values(groups) for groups in windows])
        frame = (image.shape[1], image.shape[2])
        return ScoreField(scores, boxes, boxes, frame, owners, activated=self.activated, mixing=mixing)

    def score_windows(self, windows: Tensor) -> Tensor:
        """Scores of every pixel: ``(B, 3, H, W)`` uint8 RGB -> ``(B, Q, H, W)`` float32 in [0, 1].

        One plane more, the last, where the background has a threshold.
        """
        return self.score_features(self.encode_windows(windows))

    @torch.inference_mode()
    def encode_windows(self, windows: Tensor) -> list[Groups]:
        """Groups of each window, ``(B, 3, H, W)`` uint8 RGB."""
        _ = self.vocabulary  # the clear error, before the image is encoded for nothing
        return [self.group(window) for window in windows]

    @torch.inference_mode()
    def score_features(self, features: list[Groups]) -> Tensor:
        """Scores of every pixel, ``(B, Q, H, W)`` float32, from the groups."""
        return torch.stack([self._values(groups).T[:, groups.owner] for groups in features])

    def _masks(self, owner: Tensor) -> Tensor:
        """One mask per group: ``(H, W)`` -> ``(g, H, W)`` float32."""
        return F.one_hot(owner, self.group_count).permute(2, 0, 1).float()

    @torch.inference_mode()
    def _values(self, groups: Groups) -> Tensor:
        """Score of each group for each plane, ``(g, Q)`` float32."""
        products = class_products(groups.tokens, groups.image, self.text, self.logit_scale)
        if len(self.query_to_class) == len(self.text):
            return products
        return torch.cat([products, background_column(products, self.background_threshold)], dim=1)


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


def checked_threshold(threshold: float | None) -> float:
    """A background threshold as it was given, None as 0.  Raises ``UserError`` when it is no probability."""
    value = threshold or 0.0
    if not 0 <= value <= 1:
        raise UserError(f"background_threshold is {threshold}: a probability is wanted, or 0 for none")
    return float(value)
