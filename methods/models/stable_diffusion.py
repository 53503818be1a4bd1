"""Stable Diffusion 1.x and 2.x from a local folder in diffusers' layout: what one pass of the UNet needs.

diffusers and transformers build the modules; the tensors are read and checked here.  Their own ``from_pretrained``
fills missing keys with random values and says so in a warning at most, and without accelerate it first draws 866 M
random weights for nothing.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import UserError, did_you_mean
from .checkpoints import check_keys, file_sha256, read_tensors, state_sha256
from .stable_diffusion_facts import ALPHA_BAR, ARCHITECTURES, CONTEXT, END, START, STEP, STEPS, TIMESTEP, Architecture
from .weights import find_entry, find_weights, found_in

TINY_SD = "tiny-sd"
TINY_SD_NOTE = "random-weight stand-in for Stable Diffusion: only exercises the path, its refinement carries no meaning"
_TINY_SEED, _TINY_WIDTH = 0, 32
_TINY_CONFIG: dict[str, dict[str, Any]] = {
    "unet": {
        "block_out_channels": [_TINY_WIDTH] * 4,
        "attention_head_dim": 2,
        "cross_attention_dim": _TINY_WIDTH,
        "norm_num_groups": 8,
        "use_linear_projection": True,
    },
    "vae": {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "block_out_channels": [8, 8, 16, 16],
        "norm_num_groups": 4,
    },
}
_PEAKED = 6.0  # random queries and keys this much larger: else every row of attention is nearly uniform


@dataclass(frozen=True)
class StableDiffusion:
    """What one pass of a Stable Diffusion UNet needs, on one device, in one dtype.

    ``unet`` is a diffusers ``UNet2DConditionModel`` and ``vae`` an ``AutoencoderKL`` without its decoder, both in eval
    mode, without gradients.  ``prompt`` ``(1, 77, cross_attention_dim)`` is the text encoder's last hidden state of the
    empty prompt.  ``alpha_bar`` is the product of alphas at ``timestep``; ``image_px`` the side of the square that an
    image is squashed to.  ``sha256`` is ``file:...`` over the folder's files, ``state:...`` over random parts.  What
    ``note`` says has to stand beside every number made with it.
    """

    unet: Any
    vae: Any
    prompt: Tensor
    alpha_bar: float
    timestep: int
    image_px: int
    name: str
    source: str
    sha256: str
    note: str = ""

    @property
    def device(self) -> torch.device:
        """Where all parts lie."""
        return self.prompt.device

    @property
    def dtype(self) -> torch.dtype:
        """The working dtype of all parts."""
        return self.prompt.dtype

    @property
    def provenance(self) -> dict[str, Any]:
        """Name, source, hash, timestep and precision, as JSON values."""
        precision = str(self.dtype).removeprefix("torch.")
        named = {"name": self.name, "source": self.source, "sha256": self.sha256}
        return named | {"timestep": self.timestep, "precision": precision}


def load_stable_diffusion(name: str, device: str | torch.device = "cpu", folder: Path | None = None) -> StableDiffusion:
    """Load ``sd21``, ``sd15`` or ``sd14`` from this machine, or build ``tiny-sd``; float16 on CUDA, else float32.

    ``folder`` is in diffusers' layout; without it the catalogue's places are looked at.  Nothing is downloaded, and no
    code of a file is run.

    Raises ``UserError`` when the name is unknown, files are absent or damaged, their tensors are not those of the
    model, or their configuration is another model's.
    """
    if name == TINY_SD:
        return tiny_stable_diffusion(device)
    if name not in ARCHITECTURES:
        raise UserError(f"unknown Stable Diffusion {name!r}{did_you_mean(name, [*ARCHITECTURES, TINY_SD])}")
    return read_stable_diffusion(name, ARCHITECTURES[name], device, folder)


@torch.no_grad()
def read_stable_diffusion(
    name: str, architecture: Architecture, device: str | torch.device = "cpu", folder: Path | None = None
) -> StableDiffusion:
    """Read a folder whose models are as ``architecture`` says; everything else as ``load_stable_diffusion``."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    device, dtype = _working(device)
    folder = find_weights(architecture.weights, folder)
    paths = [path for _, path in found_in(find_entry(architecture.weights), "given", folder).files]
    unet_config, unet_file, vae_config, vae_file, text_config, text_file, scheduler_config = paths
    alpha_bar = _alpha_bar(scheduler_config, architecture.scheduler)  # a small file that tells models apart: first
    unet = _build(unet_config, UNet2DConditionModel.from_config, architecture.unet)
    vae = _build(vae_config, AutoencoderKL.from_config, architecture.vae)
    prompt = _encode_empty_prompt(text_config, text_file, architecture, device, dtype)
    _fill(unet, _read_state(unet_file, unet), device, dtype)
    state = _read_state(vae_file, vae, rename=_new_name)
    del vae.decoder, vae.post_quant_conv  # the larger half, and never used
    _fill(vae, state, device, dtype)
    return StableDiffusion(
        unet=unet,
        vae=vae,
        prompt=prompt,
        alpha_bar=alpha_bar,
        timestep=TIMESTEP,
        image_px=architecture.image_px,
        name=name,
        source=f"folder {folder.name}",
        sha256=f"file:{hashlib.sha256(''.join(file_sha256(path) for path in paths).encode()).hexdigest()}",
    )


def empty_prompt(padding: int) -> Tensor:
    """Token ids of the empty prompt, ``(1, 77)`` int64: start, end, then ``padding``."""
    return torch.tensor([[START, END] + [padding] * (CONTEXT - 2)])


def _encode_empty_prompt(
    config_file: Path, file: Path, architecture: Architecture, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Last hidden state after the final LayerNorm, ``(1, 77, D)``; the text encoder is freed on return."""
    from transformers import CLIPTextConfig, CLIPTextModel

    encoder = _build(config_file, lambda config: CLIPTextModel(CLIPTextConfig(**config)), architecture.text)
    inner = getattr(encoder, "text_model", encoder)  # it comes and goes between transformers' versions
    _fill(inner, _read_state(file, inner, prefixes=("text_model.",)), device, dtype)
    positions = torch.arange(CONTEXT, device=device)[None]  # the module's own are on no device
    ids = empty_prompt(architecture.padding).to(device)
    return encoder(input_ids=ids, position_ids=positions).last_hidden_state


def _alpha_bar(path: Path, facts: Mapping[str, Any]) -> float:
    """Product of alphas at ``TIMESTEP`` in the checkpoint's own schedule."""
    from diffusers import PNDMScheduler

    scheduler = _build(path, PNDMScheduler.from_config, facts, "cpu")
    scheduler.set_timesteps(STEPS)
    found, alpha_bar = int(scheduler.timesteps[STEP]), float(scheduler.alphas_cumprod[TIMESTEP])
    if found != TIMESTEP or abs(alpha_bar - ALPHA_BAR) > 1e-5:
        raise UserError(
            f"{path} is not the schedule that the method was published with: element {STEP} of {STEPS} steps is "
            f"t = {found}, not {TIMESTEP}, or alpha_bar at {TIMESTEP} is {alpha_bar:.6f}, not {ALPHA_BAR:.6f}.  These "
            "are PNDM's without Runge-Kutta steps, offset 1: take the checkpoint's original scheduler_config.json"
        )
    return alpha_bar


# ---- reading


def _build(path: Path, make: Callable[[dict[str, Any]], Any], facts: Mapping[str, Any], device: str = "meta") -> Any:
    """What a configuration file describes; on the device ``meta`` it takes neither memory nor random numbers."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        with torch.device(device):
            model = make({**config})  # a string or a list would be taken for a repository's name
    except Exception as error:  # whatever the libraries raise on values that nobody wrote on purpose
        raise UserError(f"configuration {path} is damaged or describes no model: {error}") from error
    full = model.config if isinstance(model.config, Mapping) else model.config.to_dict()  # defaults filled in
    found = {key: list(v) if isinstance(v, tuple) else v for key, v in {**full, **config}.items()}
    wrong = [f"{key} is {found.get(key)!r}, not {value!r}" for key, value in facts.items() if found.get(key) != value]
    if wrong:
        raise UserError(
            f"{path} is of another model: {'; '.join(wrong)}.  The refiner needs the 512-px text-to-image checkpoint, "
            "not one for inpainting, of 768 px (v-prediction) or SDXL: `bench weights list` names it"
        )
    return model


def _new_name(key: str) -> str:
    """Today's name of a tensor of the VAE's attention; released files have those of older diffusers."""
    names = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    return re.sub(r"(\.attentions\.\d+\.)(\w+)", lambda found: found[1] + names.get(found[2], found[2]), key)


def _read_state(
    path: Path, module: Any, prefixes: tuple[str, ...] = (), rename: Callable[[str], str] = str
) -> dict[str, Tensor]:
    """Tensors of a file under the module's names, all of them and no others."""
    state = {rename(key): value for key, value in read_tensors(path, prefixes=prefixes).items()}
    state.pop("embeddings.position_ids", None)  # 0 to 76: old files of the text encoder contain it
    check_keys(path, state, {key: tuple(value.shape) for key, value in module.state_dict().items()})
    return state


def _fill(module: Any, state: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> None:
    """Give a module its own tensors out of ``state``, and freeze it."""
    # a copy always: what is mapped from a file lies wherever its header ends, and goes when the file does
    own = {key: state[key].to(device, dtype, copy=True) for key in module.state_dict()}
    module.load_state_dict(own, assign=True)
    module.eval().requires_grad_(False)


def _working(device: str | torch.device) -> tuple[torch.device, torch.dtype]:
    device = torch.device(device)
    return device, torch.float16 if device.type == "cuda" else torch.float32


# ---- the stand-in


@torch.no_grad()
def tiny_stable_diffusion(device: str | torch.device = "cpu") -> StableDiffusion:
    """Random weights in the layout of Stable Diffusion's blocks, the same in every call: for tests and dry runs."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    kinds: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_TINY_SEED)
        modules = {part: kind(**_TINY_CONFIG[part]) for part, kind in kinds.items()}
        prompt = torch.randn(1, CONTEXT, _TINY_WIDTH)
    del modules["vae"].decoder, modules["vae"].post_quant_conv
    for key, value in modules["unet"].named_parameters():
        if re.search(r"\.attn1\.to_[qk]\.", key):
            value.mul_(_PEAKED)
    state = {"prompt": prompt}
    for part, module in modules.items():
        state |= {f"{part}.{key}": value for key, value in module.state_dict().items()}
        _fill(module, module.state_dict(), *_working(device))
    return StableDiffusion(
        **modules,
        prompt=prompt.to(*_working(device)),
        alpha_bar=ALPHA_BAR,
        timestep=TIMESTEP,
        image_px=256,
        name=TINY_SD,
        source="random weights from a fixed seed",
        sha256=f"state:{state_sha256(state)}",
        note=TINY_SD_NOTE,
    )
