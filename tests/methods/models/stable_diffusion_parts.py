"""Stable Diffusion folders with few channels, saved by diffusers and transformers themselves."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ovss.methods.models.stable_diffusion_facts import ARCHITECTURES, Architecture

WIDTHS = [16, 16, 32, 32]
VAE_CONFIG = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [4, 4, 8, 8],
    "norm_num_groups": 2,
}
UNET_CONFIG = {"block_out_channels": WIDTHS, "norm_num_groups": 4}
SMALL = {  # what differs between the versions, with few channels
    "sd21": (
        {"cross_attention_dim": 24, "attention_head_dim": [1, 2, 4, 4], "use_linear_projection": True},
        {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "hidden_act": "gelu"},
    ),
    "sd15": (
        {"cross_attention_dim": 16, "attention_head_dim": 2, "use_linear_projection": False},
        {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_act": "quick_gelu"},
    ),
}
SCHEDULER_CONFIG = {  # as the original repositories have it, defaults left out
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


@dataclass(frozen=True)
class SmallFolder:
    """A folder, the modules that were saved in it, and what their configurations say."""

    folder: Path
    architecture: Architecture
    unet: Any
    vae: Any
    text_encoder: Any


def save_small(folder: Path, name: str = "sd21", seed: int = 0) -> SmallFolder:
    """Save random modules in the shape of ``name``, but for their widths; the text encoder has all 49408 tokens."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    unet_facts, text_facts = SMALL[name]
    diffusion: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = diffusion["unet"](**UNET_CONFIG, **unet_facts).eval()
        vae = diffusion["vae"](**VAE_CONFIG).eval()
        # the ends of the original configuration, which are not those of the vocabulary
        config = CLIPTextConfig(intermediate_size=32, bos_token_id=0, eos_token_id=2, **text_facts)
        text_encoder = CLIPTextModel(config).eval()
        for value in text_encoder.parameters():
            if value.ndim == 2:
                value.data.normal_(std=0.3)  # its own start is so small that every token looks alike
    for part, module in (("unet", unet), ("vae", vae), ("text_encoder", text_encoder)):
        module.save_pretrained(folder / part)
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER_CONFIG)
    published = ARCHITECTURES[name]
    architecture = replace(
        published,
        unet={**published.unet, **unet_facts, "block_out_channels": WIDTHS},
        text={**published.text, **text_facts},
        vae={**published.vae, "block_out_channels": VAE_CONFIG["block_out_channels"]},
        image_px=64,
    )
    return SmallFolder(folder, architecture, unet, vae, text_encoder)


def write_json(path: Path, config: Any) -> None:
    """Write a configuration file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config), encoding="utf-8")


def change_json(path: Path, **changes: Any) -> None:
    """Change keys of a configuration file."""
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **changes})
