"""Method: a pure function of a picture and words."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic

import torch
from torch import Tensor
from typing_extensions import TypeVar  # with defaults: ``Method`` alone is a method of any kind

from .info import MethodInfo as MethodInfo
from .loaded import LoadedWeights
from .options import Options, options_type
from .picture import Picture
from .score_field import ScoreField
from .tokenizer import Tokenizer
from .vocabulary import Vocabulary
from .windows import WindowGeometry


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


@dataclass(frozen=True)
class Words:
    """A vocabulary as a method uses it.  Methods with a text side add what they encoded once."""

    vocabulary: Vocabulary

    @property
    def query_to_class(self) -> tuple[int, ...]:
        """Class of each query that is scored: the vocabulary's, unless a method adds some."""
        return self.vocabulary.query_to_class

    @property
    def unit_texts(self) -> Tensor | None:
        """Embeddings of the queries, ``(Q, dim)`` float32, unit length; None for a method without such."""
        return None


Seen = TypeVar("Seen", default=Any)
Said = TypeVar("Said", bound=Words, default=Any)


class Method(ABC, Generic[Seen, Said]):
    """A method with its parts.  No call changes it: what it sees and what it scores are values.

    ``Seen`` is a record of the method's own with a field for each thing; ``Said`` are its ``Words``.  Options are one
    record: a class with options annotates ``options`` with its type.
    """

    info: ClassVar[MethodInfo]
    options: Options
    models: ClassVar[tuple[str, ...]] = ()
    """Attributes that are models beside CLIP, or None; their ``provenance`` is part of the method's."""
    loaded: tuple[LoadedWeights, ...] = ()
    """Checkpoints that it found while it was made by ``create_method``, the backbone's apart."""
    device = torch.device("cpu")
    """Where scores are made and decoded; a method that can run elsewhere sets its own."""
    size_multiple_px: int | None = None
    """Sides of an image are cut off to multiples of this; None: the method sees every pixel of any size."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or options_type(type(self))()

    @property
    def sees_whole_image(self) -> bool:
        """Whether scores of a window depend on the image outside it."""
        return False

    @abstractmethod
    def encode_text(self, vocabulary: Vocabulary) -> Said:
        """The words, encoded once.  Raises ``UserError`` for a vocabulary that the method cannot use."""

    @abstractmethod
    def encode_image(self, picture: Picture, geometry: WindowGeometry) -> Seen:
        """Everything that does not depend on the words.

        ``geometry`` says how the protocol cuts the image into windows; a method that cuts it itself leaves it unused.
        What another method may want too (a trunk, a second model) is asked of ``picture.once``.
        """

    @abstractmethod
    def score(self, seen: Seen, words: Said) -> ScoreField:
        """Scores of the queries, before they are blown up to pixels."""

    @torch.inference_mode()
    def segment(self, image: Tensor, vocabulary: Vocabulary, geometry: WindowGeometry = WindowGeometry()) -> ScoreField:
        """The three steps for one image, ``(3, H, W)`` uint8 RGB, and one vocabulary."""
        return self.score(self.encode_image(Picture.of(image), geometry), self.encode_text(vocabulary))

    @property
    def provenance(self) -> dict[str, Any]:
        """Everything about weights, precision, device and options that can move a number (JSON values)."""
        models = {name: getattr(self, name) for name in self.models}
        own = {name: model.provenance for name, model in models.items() if model is not None}
        return {"method": self.info.name, **self.options.provenance, **own}

    @property
    def prompt_tokenizer(self) -> Tokenizer | None:
        """What turns its prompts into tokens, so that they can be looked at; None if it does not say."""
        return None

    @property
    def note(self) -> str:
        """What has to be said beside every number of this method as it was built; usually nothing."""
        return ""

    @property
    def chosen_on(self) -> tuple[str, ...]:
        """Images, as ``harness.runs.fitted`` names them, that something in it was chosen on, without their labels."""
        return ()

    @property
    def described(self) -> MethodInfo:
        """``info`` of the method as it was built: options may change what it has seen, or what it compares with."""
        return self.info

    @property
    def licences(self) -> dict[str, str]:
        """Checkpoints that it loaded, each with the licence of its weights; those that come with the code have ours."""
        return {weights.name: weights.licence for weights in self.loaded}
