"""Fine-grained compensation of CLIPer: what belongs together, from one pass of Stable Diffusion's UNet.

    z0 = scale * mean of VAE(2 x - 1)             x: RGB in [0, 1], squashed to 512 x 512, nearest neighbour
    z  = sqrt(abar_t) z0 + sqrt(1 - abar_t) eps   t = 101
    q, k of two self-attention layers of UNet(z, t, empty prompt); then see ``attention_chain``

arXiv:2411.13836, in the form of the released code (linsun449/cliper.code, diffusion_model/stable_diffusion.py and
ovs/pipeline.py).  What decides the numbers and no equation of the paper shows:

* t = 101, not 81: the paper's "step 45 of 50" is an index into PNDM's schedule, which repeats its second entry.
* The image is squashed, whatever its shape, and not smoothed before.
* The latent is the mean of the VAE's posterior, not a sample of it.
* The attention modules of a UNet are numbered in the order in which they run: down, middle, up; each block of a
  transformer has its self-attention first (even numbers), then its cross-attention.  Layers -4 and -6 are the
  self-attention of the second and first transformer of the last up block.
* eps is drawn afresh by the released code, without a seed.  Here it is a function of seed and image name (on the CPU,
  in float32), so that no order of images, device or number of processes changes a result.

Of the UNet only what is needed runs: once the later of the two layers has its q and k, the pass is broken off.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import UserError, did_you_mean
from ..models.stable_diffusion import StableDiffusion
from .attention_chain import AttentionChain, Heads
from .names import Fusion, Noise

LAYERS = (-4, -6)


class DiffusionAttention:
    """``Guide`` around Stable Diffusion; see the module docstring for the equations.

    ``threshold``: what entries of a map must reach, as a share of their column's maximum, in [0, 1).  ``fusion``: how
    maps are combined, see ``attention_chain``.  ``noise``: "per-image" from ``seed`` and the image's name, "fixed" one
    tensor from ``seed`` for every image, "zero" none (the latent is only scaled; not the published method).
    ``layers``: numbers of self-attention modules in execution order, in the order of the product.

    Raises ``UserError`` for values outside of these.
    """

    def __init__(
        self,
        parts: StableDiffusion,
        threshold: float = 0.1,
        fusion: Fusion = "chain",
        noise: Noise = "per-image",
        seed: int = 0,
        layers: Sequence[int] = LAYERS,
    ) -> None:
        if not 0 <= threshold < 1:
            raise UserError(f"the threshold of diffusion attention is {threshold}; it must be at least 0 and below 1")
        for option, given, allowed in (("fusion", fusion, get_args(Fusion)), ("noise", noise, get_args(Noise))):
            if given not in allowed:
                raise UserError(f"unknown {option} {given!r} of diffusion attention{did_you_mean(given, allowed)}")
        if not 0 <= seed < 1 << 63:
            raise UserError(f"the seed of diffusion attention is {seed}; it must be at least 0 and below 2^63")
        self.parts, self.threshold, self.fusion, self.noise, self.seed = parts, threshold, fusion, noise, seed
        self.layers = tuple(layers)
        self._modules = self_attention(parts.unet, self.layers)

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Guide.provenance``."""
        options = ("threshold", "fusion", "noise", "seed")
        return {**self.parts.provenance, **{o: getattr(self, o) for o in options}, "layers": list(self.layers)}

    @property
    def note(self) -> str:
        """See ``Guide.note``."""
        return self.parts.note

    @torch.no_grad()
    def observe(self, image: Tensor, name: str) -> AttentionChain:
        """See ``Guide.observe``."""
        if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
            raise ValueError(f"observe takes (3, H, W) uint8, not {tuple(image.shape)} {image.dtype}")
        parts = self.parts
        latent = self._add_noise(self._latent(image), name)
        with _captured(self._modules) as captured, suppress(_Stop):
            parts.unet(latent, parts.timestep, encoder_hidden_states=parts.prompt)
        heads = tuple(captured[module] for module in self._modules)
        tokens = {h.q.shape[1] for h in heads}
        if len(tokens) > 1:
            raise UserError(
                f"layers {list(self.layers)} of {parts.name} work on {sorted(tokens)} tokens, but a chain needs one "
                "resolution: choose layers of one block"
            )
        side = math.isqrt(tokens.pop())
        return AttentionChain(heads, (side, side), self.threshold, self.fusion)

    def _latent(self, image: Tensor) -> Tensor:
        """z0, ``(1, C, h, w)`` in the working dtype."""
        parts = self.parts
        squashed = F.interpolate(image[None].to(parts.device), (parts.image_px, parts.image_px), mode="nearest")
        pixels = (2 * (squashed.float() / 255) - 1).to(parts.dtype)
        return parts.vae.encode(pixels).latent_dist.mean * parts.vae.config.scaling_factor

    def _add_noise(self, latent: Tensor, name: str) -> Tensor:
        """z; the factors come from abar in the working dtype, as the scheduler has it."""
        kept = torch.tensor(self.parts.alpha_bar, dtype=latent.dtype, device=latent.device)
        if self.noise == "zero":
            return kept.sqrt() * latent
        seed = self.seed if self.noise == "fixed" else image_seed(self.seed, name)
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
        return kept.sqrt() * latent + (1 - kept).sqrt() * noise.to(latent)


def image_seed(seed: int, name: str) -> int:
    """Seed of one image's noise, the same on every machine: 63 bits of a hash of ``seed`` and ``name``."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big") >> 1


def attention_modules(unet: Any) -> list[Any]:
    """The attention modules of a diffusers UNet in the order in which they run: down, middle, up.

    The module tree itself will not do: there the middle comes last.
    """
    blocks = (*unet.down_blocks, unet.mid_block, *unet.up_blocks)
    return [m for block in blocks for m in block.modules() if hasattr(m, "to_q")]


def self_attention(unet: Any, layers: Sequence[int]) -> list[Any]:
    """The modules numbered ``layers``, negative numbers from the end; ``UserError`` unless all are self-attention."""
    found = attention_modules(unet)
    allowed = [n - len(found) for n, module in enumerate(found) if not module.is_cross_attention]
    numbers = [n - len(found) if n >= 0 else n for n in layers]
    if not numbers or len(set(numbers)) < len(numbers) or not set(numbers) <= set(allowed):
        raise UserError(
            f"layers {list(layers)} of diffusion attention: different self-attention layers of this UNet are wanted, "
            f"which are {', '.join(map(str, allowed))}"
        )
    return [found[n] for n in numbers]


class _Stop(Exception):  # noqa: N818 - not an error: the UNet has given what was wanted
    """Ends the pass."""


@dataclass(frozen=True)
class _Capture:
    """A diffusers attention processor: keeps q and k of its module in ``into``, and ends the pass when all are there.

    Until then ``before``, the module's own processor, computes the output as ever (with q and k once more: 0.2 % of the
    pass).
    """

    into: dict[Any, Heads]
    wanted: int
    before: Any

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As diffusers calls it; ``hidden_states`` is ``(1, N, D)``."""
        q, k = (layer(hidden_states)[0].unflatten(1, (attn.heads, -1)) for layer in (attn.to_q, attn.to_k))
        self.into[attn] = Heads(q.transpose(0, 1).contiguous(), k.transpose(0, 1).contiguous())
        if len(self.into) == self.wanted:
            raise _Stop
        return self.before(attn, hidden_states, *args, **kwargs)


@contextmanager
def _captured(modules: Sequence[Any]) -> Iterator[dict[Any, Heads]]:
    """Within it, a pass puts q and k of ``modules`` into the dictionary; their processors come back in any case."""
    captured: dict[Any, Heads] = {}
    before = [module.processor for module in modules]
    try:
        for module, processor in zip(modules, before, strict=True):
            module.set_processor(_Capture(captured, len(modules), processor))
        yield captured
    finally:
        for module, processor in zip(modules, before, strict=True):
            module.set_processor(processor)
