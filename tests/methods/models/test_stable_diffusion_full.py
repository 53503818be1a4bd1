"""Stable Diffusion 2.1-base at its full size with random weights: the real loading path, and one pass at 512 px.

It writes 2.5 GB to the disk and takes 6 GB of memory; three quarters of a minute on one core.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ovss.methods.models.stable_diffusion import StableDiffusion, load_stable_diffusion
from ovss.methods.refine.diffusion_attention import DiffusionAttention

from .stable_diffusion_parts import SCHEDULER_CONFIG, write_json

pytestmark = pytest.mark.slow
NEEDED_BYTES = 8 << 30
UNET = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "attention_head_dim": [5, 10, 20, 20],
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 1024,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "in_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "upcast_attention": False,
    "use_linear_projection": True,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 512,
}
TEXT = {
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "projection_dim": 512,
    "vocab_size": 49408,
}


def random_weights(module: nn.Module, block: Tensor) -> dict[str, Tensor]:
    """Float16 tensors for a module on the device ``meta``: cut from one random block, as drawing them all is slow."""
    state: dict[str, Tensor] = {}
    for index, (key, value) in enumerate(module.state_dict().items()):
        if value.ndim == 1:
            state[key] = torch.full(value.shape, float("norm" in key and key.endswith("weight")), dtype=torch.float16)
            continue
        flat = block.roll(997 * index).repeat(-(-value.numel() // len(block)))[: value.numel()]
        state[key] = (flat / (value.numel() // value.shape[0]) ** 0.5).half().view(value.shape)
    return state


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = tmp_path_factory.mktemp("full")
    if shutil.disk_usage(folder).free < NEEDED_BYTES:
        pytest.skip(f"needs {NEEDED_BYTES >> 30} GiB of free disk below {folder}")
    block = torch.randn((1 << 20) + 7, generator=torch.Generator().manual_seed(0))  # no width divides its length
    diffusion: dict[str, Any] = {"unet": (UNet2DConditionModel, UNET), "vae": (AutoencoderKL, VAE)}
    try:
        for part, (kind, config) in diffusion.items():
            with torch.device("meta"):
                module = kind.from_config(config)
            write_json(folder / part / "config.json", config)
            save_file(random_weights(module, block), folder / part / "diffusion_pytorch_model.fp16.safetensors")
        with torch.device("meta"):
            module = CLIPTextModel(CLIPTextConfig(**TEXT))
        write_json(folder / "text_encoder" / "config.json", TEXT)
        save_file(random_weights(module, block), folder / "text_encoder" / "model.fp16.safetensors")
        write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER_CONFIG)
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def loaded(folder: Path) -> StableDiffusion:
    return load_stable_diffusion("sd21", "cpu", folder)


def count(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def test_the_full_model_is_loaded(loaded: StableDiffusion) -> None:
    assert count(loaded.unet) == pytest.approx(866e6, rel=0.01)
    assert count(loaded.vae) == pytest.approx(34e6, rel=0.01)
    assert (loaded.dtype, loaded.unet.dtype, loaded.vae.dtype) == (torch.float32,) * 3
    assert loaded.prompt.shape == (1, 77, 1024) and loaded.prompt.isfinite().all() and loaded.prompt.std() > 0.1
    json.dumps(loaded.provenance)


def test_one_pass_at_512_px(loaded: StableDiffusion) -> None:
    """Attention over 64 x 64 places; maps in, finite maps out."""
    image = torch.randint(0, 256, (3, 375, 500), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    seen = DiffusionAttention(loaded).observe(image, "one")
    assert seen.grid == (64, 64)
    assert {heads.q.shape for heads in seen.layers} == {(5, 4096, 64)} and len(seen.layers) == 2
    maps = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(2))
    refined = seen.propagate(maps)
    assert refined.shape == maps.shape and refined.isfinite().all()
    assert refined.std() > 0 and not torch.equal(refined, maps)
