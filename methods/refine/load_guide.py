"""Guides by name, loaded once per process."""

from functools import lru_cache
from typing import TYPE_CHECKING

from .names import DiffusionName, Fusion, GuideName, Noise, SimilarityName

if TYPE_CHECKING:
    import torch

    from ..models.stable_diffusion import StableDiffusion
    from .guide import Guide, LabelGuide


@lru_cache(maxsize=4)
def load_guide(
    name: GuideName,
    device: "str | torch.device",
    threshold: float = 0.1,
    fusion: Fusion = "chain",
    noise: Noise = "per-image",
    seed: int = 0,
) -> "Guide":
    """The guide called ``name``; equal arguments give the same object.

    ``threshold``, ``fusion``, ``noise`` and ``seed`` are those of ``DiffusionAttention``; the others have none.

    Raises ``UserError`` when its weights are not on this machine, with the command that fetches them.
    """
    if name in ("sd21", "sd15", "sd14", "tiny-sd"):
        from .diffusion_attention import DiffusionAttention

        return DiffusionAttention(_stable_diffusion(name, device), threshold, fusion, noise, seed)
    return _patch_similarity(name, device)


def load_label_guide(device: "str | torch.device", threshold: float, multiple_px: int | None) -> "LabelGuide":
    """The guide called "sam", for labels; those who ask for it share its model.

    ``threshold`` and ``multiple_px`` (None: 16) are those of ``SamPrompts``.

    Raises ``UserError`` when its weights are not on this machine, with the command that fetches them.
    """
    from .sam_prompts import load_sam_prompts

    return load_sam_prompts(threshold, device, multiple_px)


@lru_cache(maxsize=1)
def _patch_similarity(name: SimilarityName, device: "str | torch.device") -> "Guide":
    from .patch_similarity import load_patch_similarity

    return load_patch_similarity(name, device)


@lru_cache(maxsize=1)
def _stable_diffusion(name: DiffusionName, device: "str | torch.device") -> "StableDiffusion":
    from ..models.stable_diffusion import load_stable_diffusion

    return load_stable_diffusion(name, device)
