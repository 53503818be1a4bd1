"""Method: what a method is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .errors import UserError
from .loaded import LoadedWeights
from .score_field import ScoreField
from .tokenizer import Tokenizer
from .vocabulary import Vocabulary
from .windows import Box, WindowGeometry, cut


@dataclass(frozen=True)
class MethodInfo:
    """What tables say about a method.

    ``published`` is its name in the table of reported values, None when nothing comparable was reported.  ``backbone``
    is used on real data sets when the user names none; "" says that the method has weights of its own and takes no
    backbone.  ``offline``: runs with nothing but what is embedded.
    """

    name: str
    title: str
    paper: str
    training_free: bool = True
    trained_on: str = "nothing beyond CLIP's own pre-training"
    backbone: str = "ViT-B-16-quickgelu/openai"
    published: str | None = None
    offline: bool = True


def describe(method: "Method") -> dict[str, Any]:
    """What tables say about a method as it was built, as JSON values, by what it really loaded.

    What a trained method was trained on is unknown when its weights are a file of the user's that nothing identifies.
    """
    info = method.described
    own = [weights.name for weights in method.loaded if not weights.catalogued]
    trained_on = info.trained_on
    if own and not info.training_free:
        trained_on = f"unknown: {', '.join(own)}; the released weights: {trained_on}"
    return {
        "title": info.title,
        "training_free": info.training_free,
        "trained_on": trained_on,
        "published": info.published,
        "licences": method.licences,
    }


class Method(ABC):
    """A method with its parts and, after ``encode``, a vocabulary.

    A window-based method writes ``score_windows`` only.
    """

    info: ClassVar[MethodInfo]
    loaded: tuple[LoadedWeights, ...] = ()
    """Checkpoints that it found while it was made by ``create_method``, the backbone's apart."""
    device = torch.device("cpu")
    """Where scores are made and decoded; a method that can run elsewhere sets its own."""

    def __init__(self) -> None:
        self._vocabulary: Vocabulary | None = None

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary given to ``encode``."""
        if self._vocabulary is None:
            raise UserError(f"method {self.info.name!r} has no vocabulary yet: call encode(Vocabulary) first")
        return self._vocabulary

    def encode(self, vocabulary: Vocabulary) -> None:
        """Set the vocabulary.  Methods with a text side extend this and encode its queries once."""
        self._vocabulary = vocabulary

    def twin(self) -> "Method":
        """The same method with the same parts, for another vocabulary; see ``segment_with``.

        Lists, dicts and sets of the method are copied, so that what ``encode`` puts there (buffers of a torch module,
        say) does not reach the other.  A method whose ``encode`` changes its parts themselves extends this.
        """
        other = copy(self)
        vars(other).update({k: copy(v) for k, v in vars(self).items() if isinstance(v, (list, dict, set))})
        return other

    @property
    def query_to_class(self) -> tuple[int, ...]:
        """Class of each plane of ``score_windows``: the vocabulary's, unless a method adds planes."""
        return self.vocabulary.query_to_class

    @abstractmethod
    def score_windows(self, windows: Tensor) -> Tensor:
        """Scores of windows: ``(B, 3, H, W)`` uint8 RGB -> ``(B, Q, h, w)`` float32, higher is better."""

    def encode_windows(self, windows: Tensor) -> Any:
        """What of ``score_windows`` does not depend on the vocabulary.  Optional, together with ``score_features``.

        A method that has both is run once for several vocabularies.  What is passed between them is a record of its
        own, with a field for each thing.
        """
        raise NotImplementedError

    def score_features(self, features: Any) -> Tensor:
        """The rest of ``score_windows``, from what ``encode_windows`` returned."""
        raise NotImplementedError

    @classmethod
    def _is_split(cls) -> bool:
        """Whether ``score_windows`` is the two halves one after the other: the class that wrote it wrote them too."""
        owner = next(c for c in cls.__mro__ if "score_windows" in vars(c))
        return {"encode_windows", "score_features"} <= vars(owner).keys()

    @property
    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """Everything about weights, precision, device and options that can move a number (JSON values)."""

    @property
    def activated(self) -> bool:
        """Whether scores are probabilities (or masks) already, which no softmax must touch again."""
        return False

    @property
    def prompt_tokenizer(self) -> Tokenizer | None:
        """What turns its prompts into tokens, so that they can be looked at; None if it does not say."""
        return None

    @property
    def note(self) -> str:
        """What has to be said beside every number of this method as it was built; usually nothing."""
        return ""

    @property
    def described(self) -> MethodInfo:
        """``info`` of the method as it was built: options may change what it has seen, or what it compares with."""
        return self.info

    @property
    def licences(self) -> dict[str, str]:
        """Checkpoints that it loaded, each with the licence of its weights; those that come with the code have ours."""
        return {weights.name: weights.licence for weights in self.loaded}

    def cover(self, height: int, width: int) -> Box:
        """Rectangle, relative to a window of this size, that the grid of ``score_windows`` stretches over."""
        return Box(0, 0, height, width)

    def segment(self, image: Tensor, geometry: WindowGeometry = WindowGeometry(), batch_size: int = 8) -> ScoreField:
        """Score field of one image, ``(3, H, W)`` uint8 RGB.

        The image is cut into the windows of ``geometry`` (default: the whole image); up to ``batch_size`` windows go
        through the method in one call.
        """
        return self._segment_windows([self], image, geometry, batch_size)[0]

    def segment_with(
        self, methods: Sequence["Method"], image: Tensor, geometry: WindowGeometry, batch_size: int = 8
    ) -> list[ScoreField]:
        """Score fields of one image for each of ``methods``, this one and twins of it.

        Each field is what ``segment`` of that method returns, bit for bit.  The image is encoded once, unless the
        method replaces ``segment`` or ``score_windows`` as a whole.
        """
        if type(self).segment is not Method.segment:
            return [method.segment(image, geometry, batch_size) for method in methods]
        return self._segment_windows(methods, image, geometry, batch_size)

    @torch.inference_mode()
    def _segment_windows(
        self, methods: Sequence["Method"], image: Tensor, geometry: WindowGeometry, batch_size: int
    ) -> list[ScoreField]:
        """The product with the texts is computed for each vocabulary by itself: its shape decides how it rounds."""
        if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
            raise ValueError(f"segment takes (3, H, W) uint8, not {tuple(image.shape)} {image.dtype}")
        owners = [method.query_to_class for method in methods]
        height, width = image.shape[1:]
        boxes = geometry.boxes(height, width)
        windows = cut(image, boxes)
        scores: list[list[Tensor]] = [[] for _ in methods]
        split = self._is_split()
        for chunk in windows.split(batch_size):
            features = self.encode_windows(chunk) if split else chunk
            for method, out in zip(methods, scores, strict=True):
                out.append(method.score_features(features) if split else method.score_windows(chunk))
        shape = self.cover(*windows.shape[2:])
        covers = tuple(
            Box(b.top + shape.top, b.left + shape.left, b.top + shape.bottom, b.left + shape.right) for b in boxes
        )
        frame = (height, width)
        return [
            ScoreField(torch.cat(chunks), boxes, covers, frame, owner, activated=method.activated)
            for method, chunks, owner in zip(methods, scores, owners, strict=True)
        ]
