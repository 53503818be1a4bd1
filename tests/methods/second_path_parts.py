"""What the tests of GEM and CLIPSurgery share: vectors of the original programs and the CLIP they were made with."""

import open_clip
from torch import Tensor

from ovss.methods import Backbone, Method, Picture, ScoreField, Vocabulary, WindowGeometry
from ovss.methods.blocks.clip_method import ClipWords

from .oracle_parts import oracle_backbone

VOCABULARY = Vocabulary.from_names(list("abcdef"), templates=["{}"])
TOLERANCE = 1e-5


def oracle_clip(oracle: dict[str, Tensor]) -> Backbone:
    """Seven blocks with the oracle's weights."""
    return oracle_backbone(oracle, 7, (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))


def oracle_field(method: Method, oracle: dict[str, Tensor], image: str) -> ScoreField:
    """What a method says of the oracle's image, in one window, in the oracle's words."""
    picture = Picture.of(oracle[f"{image}.image_u8"].permute(2, 0, 1))
    return method.score(method.encode_image(picture, WindowGeometry()), ClipWords(VOCABULARY, oracle["text"]))
