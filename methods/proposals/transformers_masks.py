"""MaskFormer, Mask2Former and EoMT of the transformers library, from a local folder, as proposers.

Trained with masks of COCO (or of whatever the folder says): labels of their classes are ignored, but the masks are not
class-agnostic, and a method with them is not training-free.
"""

import hashlib
import pickle
from pathlib import Path
from typing import Any, ClassVar

import safetensors
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import UserError
from ..core.options import Options
from ..core.picture import Picture
from ..models.checkpoints import file_sha256
from ..models.weights import find_weights
from .base import Proposals, Proposer, ProposerParts

MULTIPLE_PX = 32
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# what the library raises on a folder that is damaged or of another kind
_DAMAGE = (
    *(OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, EOFError),
    *(pickle.UnpicklingError, safetensors.SafetensorError),
)
_LABELLED = {80: "COCO (instances)", 133: "COCO (panoptic)", 150: "ADE20K", 171: "COCO-Stuff", 19: "Cityscapes"}


class _MaskTransformer(Proposer):
    """Queries with a mask and class probabilities each; objectness is 1 minus that of "no object"."""

    soft = True
    entry: ClassVar[str]
    model_class: ClassVar[str]

    def __init__(self, parts: ProposerParts, options: Options | None = None) -> None:
        super().__init__(parts, options)
        self.folder = find_weights(self.entry, Path(parts.weights) if parts.weights else None)
        self.model = load_pretrained(self.model_class, self.folder).to(parts.device)
        count = self.model.config.num_labels
        self.supervision = f"masks of {_LABELLED.get(count, 'an unknown data set')}, {count} classes"

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Proposer.provenance``."""
        return {**super().provenance, "model": self.model_class, "sha256": weights_sha256(self.folder)}

    @torch.inference_mode()
    def propose(self, picture: Picture) -> Proposals:
        """See ``Proposer.propose``; soft masks."""
        out, logits = self.masks(picture.pixels.to(self.device))
        nothing = out.class_queries_logits[0].float().softmax(dim=-1)[:, -1:]
        return Proposals(logits.sigmoid(), 1 - nothing)

    def masks(self, image: Tensor) -> tuple[Any, Tensor]:
        """What the model says of an image ``(3, h, w)``, and its mask logits at that size, ``(Q, h, w)``."""
        pixels = padded(image, MULTIPLE_PX)
        out = self.model(pixel_values=pixels)
        whole = (pixels.shape[2], pixels.shape[3])
        logits = F.interpolate(out.masks_queries_logits.float(), whole, mode="bilinear", align_corners=False)
        return out, logits[0, :, : image.shape[1], : image.shape[2]]


class MaskFormer(_MaskTransformer):
    """MaskFormer (Cheng et al., NeurIPS 2021), Swin-B of COCO panoptic unless another folder is named."""

    name = "maskformer"
    entry = "maskformer-swinb-coco"
    model_class = "MaskFormerForInstanceSegmentation"


class Mask2Former(_MaskTransformer):
    """Mask2Former (Cheng et al., CVPR 2022), Swin-B of COCO panoptic unless another folder is named."""

    name = "mask2former"
    entry = "mask2former-swinb-coco"
    model_class = "Mask2FormerForUniversalSegmentation"


class Eomt(_MaskTransformer):
    """EoMT (Kerssies et al., CVPR 2025), ViT-L of COCO panoptic unless another folder is named.

    It sees the image with its long side as long as its square's, black below or to the right.
    """

    name = "eomt"
    entry = "eomt-l-coco-panoptic"
    model_class = "EomtForUniversalSegmentation"

    def masks(self, image: Tensor) -> tuple[Any, Tensor]:
        """See ``_MaskTransformer.masks``."""
        side, size = self.model.config.image_size, image.shape[1:]
        height, width = (max(1, int(length * side / max(size))) for length in size)
        small = F.interpolate(image[None].float(), (height, width), mode="bilinear", antialias=True)[0]
        square = F.pad(small.round().clamp(0, 255), (0, side - width, 0, side - height))
        out = self.model(pixel_values=padded(square, side))
        logits = F.interpolate(out.masks_queries_logits.float(), (side, side), mode="bilinear", align_corners=False)
        return out, F.interpolate(logits[:, :, :height, :width], size, mode="bilinear", align_corners=False)[0]


def padded(image: Tensor, multiple: int) -> Tensor:
    """Pixels by ImageNet's statistics, then zeros below and to the right: ``(3, h, w)`` uint8 -> ``(1, 3, H, W)``."""
    mean, std = (torch.tensor(v, device=image.device).view(3, 1, 1) for v in (_MEAN, _STD))
    bottom, right = (-side % multiple for side in image.shape[1:])
    return F.pad((image.float() - mean) / std, (0, right, 0, bottom))[None]


def load_pretrained(model_class: str, folder: Path) -> Any:
    """A model of transformers from a folder in its layout, float32, for inference.

    Raises ``UserError`` when the folder holds another model: the library would fill the rest with random numbers.
    """
    import transformers

    kind = getattr(transformers, model_class)
    log: Any = transformers.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()  # what it would warn of is an error here
    log.disable_progress_bar()
    try:
        model, found = kind.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
        )
    except _DAMAGE as error:
        raise UserError(f"{folder} cannot be read as a {model_class}: {error}") from error
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
    wrong = sorted({*found["missing_keys"], *(entry[0] for entry in found["mismatched_keys"])})
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            f"{folder} holds no {model_class}: {', '.join(wrong[:3])}{more} are missing or have another shape.  Name a "
            "folder in the layout of transformers with --option proposer_weights=FOLDER"
        )
    return model.eval()


def weights_sha256(folder: Path) -> str:
    """Hash over the names and contents of a folder's configurations and weights, whichever of them are read."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".bin"))
    named = "".join(f"{path.name} {file_sha256(path)}\n" for path in files)
    return hashlib.sha256(named.encode()).hexdigest()
