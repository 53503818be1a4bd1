"""What the tests of GEM and CLIPSurgery share: vectors of the original programs and the CLIP they were made with."""

from pathlib import Path

import open_clip
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file
from torch import Tensor

from ovss.methods import Backbone, Method, Picture, ScoreField, Vocabulary, WindowGeometry
from ovss.methods.blocks.clip_method import ClipWords

VOCABULARY = Vocabulary.from_names(list("abcdef"), templates=["{}"])
TOLERANCE = 1e-5


def load_oracle(name: str) -> dict[str, Tensor]:
    """Tensors of ``tests/data/oracles``, float32."""
    path = Path(__file__).parents[1] / "data" / "oracles" / f"{name}.safetensors"
    return {k: t.float() if t.is_floating_point() else t for k, t in load_file(path).items()}


def oracle_backbone(oracle: dict[str, Tensor]) -> Backbone:
    """Seven blocks with the oracle's weights."""
    vision = {"image_size": 224, "layers": 7, "width": 128, "head_width": 64, "patch_size": 16}
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1}
    model = open_clip.CLIP(embed_dim=64, vision_cfg=vision, text_cfg=text, quick_gelu=True).eval()
    weights = {k.removeprefix("clip."): t for k, t in oracle.items() if k.startswith("clip.")}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and not [name for name in missing if name.startswith("visual")]
    tokenizer = SimpleTokenizer(context_length=16)
    return Backbone(model, tokenizer, "tiny", "oracle", open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)


def oracle_field(method: Method, oracle: dict[str, Tensor], image: str) -> ScoreField:
    """What a method says of the oracle's image, in one window, in the oracle's words."""
    picture = Picture.of(oracle[f"{image}.image_u8"].permute(2, 0, 1))
    return method.score(method.encode_image(picture, WindowGeometry()), ClipWords(VOCABULARY, oracle["text"]))


def error(got: Tensor, wanted: Tensor) -> float:
    """Largest difference, as a part of the largest value."""
    assert got.shape == wanted.shape
    return float((got - wanted).abs().max() / wanted.abs().max())
