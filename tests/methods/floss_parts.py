"""The vectors of FLOSS as this package's parts: its encoders are tables, as in the vectors."""

from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.methods import Picture, ScoreField, Vocabulary, WindowGeometry, Windows
from ovss.methods import floss as floss_module
from ovss.methods.blocks.clip_method import ClipWords
from ovss.methods.blocks.dense_clip import SeenPatches
from ovss.methods.blocks.experts import Experts
from ovss.methods.floss import FLOSS, FLOSSOptions
from ovss.methods.naclip import NACLIP

GEOMETRY = WindowGeometry(64, 32)
SIZES = {"img0": ((96, 96), (120, 120)), "img1": ((64, 112), (50, 90))}
"""Of the image and of its labels."""
TEMPLATES = tuple(f"template {k} {{}}" for k in range(80))
RANKED = 12
VOCABULARY = Vocabulary.from_texts([[f"text {c}"] for c in range(5)], [str(c) for c in range(5)], TEMPLATES)


class Tabled(NACLIP):
    """NACLIP whose features are those of a table, window by window."""

    table: ClassVar[dict[str, Tensor]] = {}

    def encode_windows(self, windows: Windows) -> SeenPatches:
        found = self.table[windows.picture.name][: len(windows.pixels), 1:]
        return SeenPatches(F.normalize(found, dim=-1).unflatten(1, (8, 8)))


def unit_texts(oracle: dict[str, Tensor], template: str) -> Tensor:
    return F.normalize(oracle["text_raw"][TEMPLATES.index(template)], dim=-1)


def experts_of(oracle: dict[str, Tensor], **changes: Any) -> Experts:
    """The experts of the vectors as a file has them."""
    chosen = tuple(tuple(t for t in row if t >= 0) for row in oracle["experts"].tolist())
    fields: dict[str, Any] = {
        "method": {"method": "naclip"},
        "dataset": {"key": "made-up", "split": "train"},
        "protocol": {"name": "p", "hash": "0" * 64},
        "vocabulary_hash": VOCABULARY.hash,
        "device_type": "cpu",
        "note": "",
        "images": 2,
        "planned": 2,
        "image_names": ("a", "b"),
        "count": 4,
        "classes": VOCABULARY.classes,
        "templates": TEMPLATES[:RANKED],
        "entropy": tuple(map(tuple, oracle["entropy"].tolist())),
        "pixels": ((1,) * RANKED,) * 5,
        "chosen": chosen,
        "code_version": "",
        "environment": {},
        "finished": "",
    }
    return Experts(**{**fields, **changes})


def make_floss(backbone: Any, oracle: dict[str, Tensor], monkeypatch: Any, **options: Any) -> FLOSS:
    """The method over tables; call it anew for other options."""
    Tabled.table = {name: oracle[f"{name}.window_features"] for name in SIZES}
    monkeypatch.setattr(floss_module, "BASES", {"naclip": Tabled, "maskclip": Tabled})
    texts = lambda _, vocabulary, device: unit_texts(oracle, vocabulary.templates[0])  # noqa: E731
    monkeypatch.setattr(floss_module, "encode_queries", texts)
    return FLOSS(backbone, FLOSSOptions(**options), experts=experts_of(oracle))


def picture_of(name: str) -> Picture:
    pixels = torch.zeros(3, *SIZES[name][0], dtype=torch.uint8)
    return replace(Picture.of(pixels), name=name)


def field_of_template(base: Tabled, oracle: dict[str, Tensor], name: str, template: int) -> ScoreField:
    """Cosines of an image with the texts of one template."""
    words = ClipWords(VOCABULARY, unit_texts(oracle, TEMPLATES[template]))
    return base.score(base.encode_image(picture_of(name), GEOMETRY), words)
