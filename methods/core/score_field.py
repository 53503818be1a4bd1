"""ScoreField: class scores before they are blown up to pixels."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .windows import Box


@dataclass(frozen=True)
class ScoreField:
    """Scores on the patch grid of each window.

    ``scores`` is ``(W, Q, h, w)`` float32, one grid per window and one plane per query.  ``boxes[k]`` is the part of
    the frame that window ``k`` shows; ``covers[k]`` is the rectangle that its grid stretches over (the same, unless
    the method padded the window).  ``frame`` is the (height, width) in px that boxes refer to.  Windows form a grid,
    listed row by row.  ``query_to_class`` says which class each query speaks for.

    ``class_scores`` ``(K,)`` float32, for ``K = num_classes``, says how sure the method is that each class is in the
    image at all; only rules that rate classes use it (those of CLIPer).  None: the largest score of the class.

    ``activated``: the scores are probabilities (or masks) already, which no softmax must touch again.

    ``mixing`` ``(P, Q)`` float32, or None.  With it ``scores`` are P planes, ``(W, P, h, w)``, and the score of query q
    is ``sum over p of scores[:, p] * mixing[p, q]``: masks, and how well each fits each query.  Decoding never makes
    the sum at full size for all queries at once; ``dense`` makes it on the grid.

    Turning a field into pixels is the job of ``ovss.harness.decode`` alone.
    """

    scores: Tensor
    boxes: tuple[Box, ...]
    covers: tuple[Box, ...]
    frame: tuple[int, int]
    query_to_class: tuple[int, ...]
    class_scores: Tensor | None = None
    activated: bool = False
    mixing: Tensor | None = None

    def __post_init__(self) -> None:
        if self.scores.ndim != 4 or not len(self.boxes) == len(self.covers) == self.scores.shape[0]:
            raise ValueError(f"scores {tuple(self.scores.shape)} do not fit {len(self.boxes)} windows")
        planes, queries = self.scores.shape[1], len(self.query_to_class)
        if self.mixing is not None and self.mixing.shape != (planes, queries):
            raise ValueError(f"mixing {tuple(self.mixing.shape)} does not mix {planes} planes into {queries} queries")
        if self.mixing is None and planes != queries:
            raise ValueError(f"{planes} planes for {queries} queries")
        if self.class_scores is not None and self.class_scores.shape != (self.num_classes,):
            raise ValueError(f"class scores {tuple(self.class_scores.shape)} for {self.num_classes} classes")

    @property
    def num_classes(self) -> int:
        """Number of classes that queries speak for, counted up to the highest."""
        return max(self.query_to_class) + 1

    def dense(self) -> "ScoreField":
        """The same field with one plane per query."""
        if self.mixing is None:
            return self
        return replace(self, scores=torch.einsum("wphx,pq->wqhx", self.scores, self.mixing), mixing=None)
