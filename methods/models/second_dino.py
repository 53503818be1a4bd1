"""DINO as the second model of a method: the released one, or tiny-dino, the one that is embedded."""

from pathlib import Path

import torch

from .backbone import Backbone
from .backbone_names import TINY_CLIP
from .dino import Dino, load_dino
from .open_model import open_model, shared

TINY_DINO = "tiny-dino"
TINY_DINO_FILE = Path(__file__).parent / "tiny_clip" / "tiny_dino.safetensors"


def open_dino(
    name: str, given: str | None, backbone: Backbone, device: str | torch.device, dtype: torch.dtype = torch.float32
) -> Dino:
    """The checkpoint that the catalogue calls ``name``; ``given`` as for ``open_model``, or ``tiny-dino``.

    Where nothing is given, tiny-clip goes with tiny-dino: both were trained on scenes of ``shapes``, which look like
    nothing that the released models know.
    """
    if given == TINY_DINO or (given is None and backbone.name == TINY_CLIP):
        return shared((TINY_DINO, str(device), dtype), lambda: _load_tiny(device, dtype))
    return open_model(load_dino, name, given, device, dtype)


def _load_tiny(device: str | torch.device, dtype: torch.dtype) -> Dino:
    dino = load_dino(TINY_DINO_FILE, device, dtype)
    dino.source = f"embedded {TINY_DINO}"
    return dino
