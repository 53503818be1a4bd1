"""Vectors of original programs (tests/data/oracles) as this package's parts."""

import os
from pathlib import Path

import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file
from torch import Tensor

from ovss.methods import Backbone, Picture, Vocabulary, WindowGeometry
from ovss.methods.blocks.clip_method import ClipMethod, ClipWords
from ovss.methods.models.dino import Dino

TOLERANCE = 2e-5
VOCABULARY = Vocabulary.from_texts([["a", "b", "c"], ["d"], ["e", "f"], ["g"]], ["0", "1", "2", "3"], ["{}"])
"""Seven texts of four classes, as the vectors of one CLIP have them."""
_FOLDER = Path(__file__).parents[1] / "data" / "oracles"
_MEAN = (122.771 / 255, 116.746 / 255, 104.094 / 255)
_STD = (68.501 / 255, 66.632 / 255, 70.323 / 255)
RECORD = "OVSS_VECTOR_RECORD"
"""Names a file that comparisons are written to."""
_LOADED: dict[int, tuple[str, str, Tensor]] = {}
"""Tensors of vectors by identity, which the last entry keeps from being given to another."""
Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]


def load_oracle(name: str) -> dict[str, Tensor]:
    """Tensors of ``name``, numbers with a fraction as float32."""
    tensors = load_file(_FOLDER / f"{name}.safetensors")
    found = {k: t.float() if t.is_floating_point() else t for k, t in tensors.items()}
    _LOADED.update({id(tensor): (name, key, tensor) for key, tensor in found.items()})
    return found


def oracle_backbone(
    oracle: dict[str, Tensor],
    layers: int = 12,
    statistics: Statistics = (_MEAN, _STD),
    quick_gelu: bool = True,
) -> Backbone:
    """A CLIP with the vectors' image tower, and no text tower to speak of."""
    width = len(oracle["clip.visual.class_embedding"])
    vision = {"image_size": 224, "layers": layers, "width": width, "head_width": 64, "patch_size": 16}
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1}
    model = open_clip.CLIP(embed_dim=64, vision_cfg=vision, text_cfg=text, quick_gelu=quick_gelu).eval()
    missing, unexpected = model.load_state_dict(part_of(oracle, "clip"), strict=False)
    assert not unexpected and not [name for name in missing if name.startswith("visual")]
    return Backbone(model, SimpleTokenizer(context_length=16), "tiny", "oracle", *statistics)


def part_of(oracle: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Weights of one model of the vectors, under their released names."""
    return {k.removeprefix(f"{name}."): t for k, t in oracle.items() if k.startswith(f"{name}.")}


def oracle_dino(oracle: dict[str, Tensor]) -> Dino:
    """The vectors' DINO, whose last block's attention alone is asked: what comes after it is 0."""
    state = part_of(oracle, "dino")
    first = {name.removeprefix("blocks.0."): t for name, t in state.items() if name.startswith("blocks.0.")}
    last = max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    absent = {f"blocks.{last}.{name}": torch.zeros_like(t) for name, t in first.items()}
    norm = {f"norm.{part}": torch.zeros_like(first["norm1.weight"]) for part in ("weight", "bias")}
    return Dino({**absent, **norm, **state})


def scores_of(
    method: ClipMethod, oracle: dict[str, Tensor], image: str, geometry: WindowGeometry = WindowGeometry()
) -> Tensor:
    """Scores ``(windows, Q, h, w)`` of the vectors' image and texts, by the method's own way."""
    seen = method.encode_image(Picture.of(oracle[f"{image}.image"].permute(2, 0, 1)), geometry)
    return method.score(seen, ClipWords(VOCABULARY, oracle["text"])).dense().scores


def error(got: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    assert got.shape == wanted.shape
    found = float((got - wanted).abs().max() / wanted.abs().max())
    _note(wanted, found)
    return found


def _note(wanted: Tensor, found: float) -> None:
    """For ``make vectors``: what was compared with a vector and agrees; the others are deliberate mistakes."""
    source = _LOADED.get(id(wanted)) or _LOADED.get(id(wanted._base))
    if source and found <= TOLERANCE and os.environ.get(RECORD):
        with Path(os.environ[RECORD]).open("a") as file:
            file.write(f"{source[0]}\t{source[1]}\t{found!r}\n")
