"""Dense CLIP whose texts lean towards the image, and whose scores have a share of the image's own.

    score = (1 - g) f . t' + g a,   a = cosines of the image's class token and the texts

``f`` are unit features of patches.  Texts that are near each other make groups.  In each group the text with the
largest a is moved: ``t' = unit((1 - m) t + m unit(mean of the two f nearest to t))``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from ..core.picture import Windows
from ..core.vocabulary import Vocabulary
from .clip_method import ClipWords
from .dense_clip import DenseClip, DenseClipOptions, SeenPatches
from .text_groups import Linkage, group_texts, move_texts


class MovedTextsOptions(DenseClipOptions):
    """The three numbers, whose defaults are those published for PASCAL Context, and what a is the score of."""

    overall_weight: float = Field(0.25, ge=0, le=1, description="g: share of the image's own score of a text")
    image_weight: float = Field(0.04, ge=0, le=1, description="m: how far a text is moved to the image's patches")
    text_distance: float = Field(0.09, ge=0, le=2, description="how near texts of a group are, in 1 - cosine")
    overall: Literal["image", "window"] = Field(
        "image", description="what a is the score of: the whole image (published), or each window (on Cityscapes)"
    )


@dataclass(frozen=True)
class SeenWithOverall(SeenPatches):
    """Patches, and ``overall`` ``(B, dim)`` or ``(1, dim)`` float32: unit class tokens of the window or the image."""

    overall: Tensor = field(kw_only=True)


@dataclass(frozen=True)
class GroupedWords(ClipWords):
    """Texts with ``groups`` ``(Q,)`` int64, the group of each."""

    groups: Tensor


class MovedTexts(DenseClip):
    """See the module docstring for the equation; ``encode_windows`` is the method's own."""

    options: MovedTextsOptions
    linkage: ClassVar[Linkage]

    @property
    def sees_whole_image(self) -> bool:
        """See ``Method.sees_whole_image``."""
        return self.options.overall == "image"

    def encode_text(self, vocabulary: Vocabulary) -> GroupedWords:
        """Texts and their groups."""
        return self.grouped(super().encode_text(vocabulary))

    def grouped(self, words: ClipWords) -> GroupedWords:
        """``words`` with the groups of their texts."""
        groups = group_texts(words.text, self.options.text_distance, self.linkage)
        return GroupedWords(words.vocabulary, words.text, groups)

    def score_windows(self, seen: SeenPatches, words: ClipWords) -> Tensor:
        """See ``DenseClip.score_windows``; with moved texts and the image's own scores."""
        assert isinstance(seen, SeenWithOverall) and isinstance(words, GroupedWords)
        features, g = seen.features.flatten(1, 2), self.options.overall_weight
        overall = (seen.overall @ words.text.T).expand(len(features), -1)
        moved = move_texts(words.text, words.groups, overall, features, self.options.image_weight)
        scores = (1 - g) * features @ moved.mT + g * overall[:, None]
        return scores.transpose(1, 2).unflatten(2, seen.features.shape[1:3])

    def overall_of(self, windows: Windows, of_window: Tensor, of_image: Callable[[Windows], Tensor]) -> Tensor:
        """Class tokens that a is made of: ``of_window``, or ``of_image`` of the whole image where that is another."""
        if self.options.overall == "window" or windows.pixels.shape[2:] == windows.picture.size:
            return of_window
        return of_image(Windows(windows.picture.pixels[None], windows.picture))
