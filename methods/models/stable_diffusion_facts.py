"""What the configuration files of the Stable Diffusion checkpoints say that CLIPer can use.

Heads, widths, prediction type, prompt ids and the step of the noise were read in the released code
(linsun449/cliper.code, diffusion_model/stable_diffusion.py) and in diffusers and transformers, with which it runs.  The
checkpoints were not at hand; what is said here of text encoder, VAE and block types was read on public copies of their
configurations.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

STEPS, STEP, TIMESTEP = 50, 45, 101
"""CLIPer names the noise as element 45 of PNDM's schedule of 50 steps, which has 51 entries.  DDIM has t = 81 there."""
ALPHA_BAR = 0.8929802
CONTEXT = 77
START, END = 49406, 49407


_UNET = {
    "_class_name": "UNet2DConditionModel",
    "in_channels": 4,  # 9 in inpainting models
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    "class_embed_type": None,
    "upcast_attention": False,
}
_VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "latent_channels": 4,
    "scaling_factor": 0.18215,
    "shift_factor": None,
}
_TEXT = {"model_type": "clip_text_model", "vocab_size": 49408, "max_position_embeddings": CONTEXT}
_SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "prediction_type": "epsilon",
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


@dataclass(frozen=True)
class Architecture:
    """What the configuration files of a checkpoint have to say, and the id that pads a prompt.

    ``weights`` is its name in the catalogue, whose entry lists the files in the order: configuration and tensors of
    UNet, VAE and text encoder, configuration of the scheduler.
    """

    weights: str
    padding: int
    unet: Mapping[str, Any]
    text: Mapping[str, Any]
    vae: Mapping[str, Any] = field(default_factory=lambda: _VAE)
    scheduler: Mapping[str, Any] = field(default_factory=lambda: _SCHEDULER)
    image_px: int = 512


def _version_1(weights: str) -> Architecture:
    unet = {"cross_attention_dim": 768, "attention_head_dim": 8, "use_linear_projection": False}
    text = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "hidden_act": "quick_gelu"}
    return Architecture(weights, END, _UNET | unet, _TEXT | text)


def _version_2(weights: str) -> Architecture:
    # diffusers calls the numbers of heads "attention_head_dim"; id 0, "!", pads, whatever tokenizers make of it today
    unet = {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}
    text = {"hidden_size": 1024, "num_hidden_layers": 23, "num_attention_heads": 16, "hidden_act": "gelu"}
    return Architecture(weights, 0, _UNET | unet, _TEXT | text)


ARCHITECTURES = {
    "sd21": _version_2("stable-diffusion-2-1-base"),
    "sd15": _version_1("stable-diffusion-v1-5"),
    "sd14": _version_1("stable-diffusion-v1-4"),
}
