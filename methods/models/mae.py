"""MAE (He et al., CVPR 2022): a ViT trained to fill in hidden patches; its encoder, read from released checkpoints.

The encoder is DINO's ViT under the same names, with fixed positions: sines and cosines, and zeros for the class token.
For grids of another shape they are interpolated as DINO's are, which is ours: MAE was released for one size.
"""

from pathlib import Path
from typing import ClassVar

import torch

from ..core.errors import UserError
from .checkpoints import check_keys, file_sha256, read_tensors
from .dino import Dino
from .dino_shapes import wanted_shapes

_DECODER = ("decoder_", "mask_token")  # in the files that come with it, for pictures of filled-in patches


class Mae(Dino):
    """The encoder of MAE, without hiding anything; what comes out is that of a ``Dino``."""

    family: ClassVar[str] = "MAE"


def load_mae(path: Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Mae:
    """Load the encoder of MAE, ViT-B or ViT-L: a released file, with or without the decoder.

    Raises ``UserError`` that names the file when it cannot be read or holds anything but one such ViT; so do files of
    DINO, whose class token has a position of its own.
    """
    state = read_tensors(path, nests=("model",))
    state = {name: value for name, value in state.items() if not name.startswith(_DECODER)}
    check_keys(path, state, wanted_shapes(path, state, Mae.family, "mae_pretrain_vit_base.pth"))
    if state["pos_embed"][0, 0].any():
        raise UserError(
            f"weights file {path} holds no MAE ViT: there the position of the class token is zero.  Pass a released "
            "file such as mae_pretrain_vit_base.pth"
        )
    return Mae(state, device, dtype, source=f"file {path.name}", sha256=f"file:{file_sha256(path)}")
