"""A CLIP of twelve small blocks from the weights of an original program's outputs (tests/data/oracles)."""

from pathlib import Path

import open_clip
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file
from torch import Tensor

from ovss.methods import Backbone, Vocabulary

FOLDER = Path(__file__).parents[1] / "data" / "oracles"
MEAN, STD = (122.771, 116.746, 104.094), (68.501, 66.632, 70.323)
VOCABULARY = Vocabulary.from_texts([["a", "b", "c"], ["d"], ["e", "f"], ["g"]], ["0", "1", "2", "3"], ["{}"], 0)
"""The texts' embeddings are given; these only say which speaks for which class."""


def load_oracle(name: str) -> dict[str, Tensor]:
    """Tensors of ``name``, numbers with a fraction as float32."""
    return {k: t.float() if t.is_floating_point() else t for k, t in load_file(FOLDER / f"{name}.safetensors").items()}


def oracle_backbone(oracle: dict[str, Tensor]) -> Backbone:
    """The image tower of ``oracle`` with a text tower that nobody asks."""
    vision = {"image_size": 224, "layers": 12, "width": 128, "head_width": 64, "patch_size": 16}
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1}
    model = open_clip.CLIP(embed_dim=64, vision_cfg=vision, text_cfg=text, quick_gelu=True).eval()
    weights = {k.removeprefix("clip."): t for k, t in oracle.items() if k.startswith("clip.")}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and not [name for name in missing if name.startswith("visual")]
    mean, std = (tuple(v / 255 for v in values) for values in (MEAN, STD))
    return Backbone(model, SimpleTokenizer(context_length=16), "small", "oracle", mean, std)  # type: ignore[arg-type]


def error(got: Tensor, wanted: Tensor) -> float:
    """Largest difference, in parts of the largest value."""
    return float((got - wanted).abs().max() / wanted.abs().max())
