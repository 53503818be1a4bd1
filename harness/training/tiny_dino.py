"""``bench train tiny-dino``: train the embedded DINO on scenes of ``shapes``; no mask, no caption and no class is used.

    loss = H(teacher's code of a view, student's code of another view) + H(teacher's, student's code of hidden patches)

Self-distillation (DINO: Caron et al., ICCV 2021) with patches that are hidden from the student (iBOT: Zhou et al., ICLR
2022), as DINOv2 joins them (Oquab et al., 2023), with Sinkhorn-Knopp's codes.  The teacher is the student's moving
average; its weights are what is kept, under the names of the released files.  The ViT is timm's.

The result is ``tiny_dino.safetensors``, which DINO's door reads.
"""

import copy
import json
import math
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import safetensors.torch
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ...datasets.shapes import SIZE_PX, Stream
from ...methods.models.dino import NORM_EPS, Dino
from ...methods.models.dino_shapes import HEAD_SIZE
from ..runs.provenance import source_hash
from .clip_dinoiser_recipe import Augment, Jitter
from .clip_s4_recipe import Views
from .clip_s4_views import draw_view, recoloured, sample
from .images import Images
from .loop import Record, check_losses

WEIGHTS = "tiny_dino.safetensors"
PATCH_PX = 8
_VIEWS, _HIDDEN = 5, 6  # keys of the random streams; 1 to 4 are those of the other trainings
_JITTER = Jitter(0.8, brightness=0.4, contrast=0.4, saturation=0.2)
WHOLE = Views(72, (0.75, 1.15), 0.5, _JITTER, grey=0.0)
PARTIAL = Views(40, (0.66, 1.5), 0.5, _JITTER, grey=0.0)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, besides seed and machine; all of it is our choice.

    Of each scene ``views`` whole and as many partial views are cut.  ``hidden`` is the range of the share of patches
    that every second whole view hides.  The learning rate rises over ``warmup`` iterations and falls as a cosine, the
    teacher's ``momentum`` rises to 1 likewise.
    """

    name: str = "tiny"
    pick: Literal["scenes"] = "scenes"
    count: int = 36_000
    batch: int = 24
    width: int = 128
    depth: int = 4
    codes: int = 512
    views: int = 2
    whole: Views = WHOLE
    partial: Views = PARTIAL
    hidden: tuple[float, float] = (0.1, 0.5)
    rate: float = 1e-3
    decay: float = 0.04
    warmup: int = 100
    momentum: float = 0.99
    teacher_temperature: float = 0.05
    student_temperature: float = 0.1
    saved_every: int = 100

    @property
    def per_epoch(self) -> int:
        """Iterations of an epoch."""
        return -(-self.count // self.batch)

    @property
    def iterations(self) -> int:
        """Iterations of the whole training: every scene is used once."""
        return self.per_epoch

    @property
    def augment(self) -> Augment | None:
        """Scenes stay as they are; views are distorted later."""
        return None


class Coder(nn.Module):
    """A ViT, and the heads that give codes for its class token and for its patches."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.vit = VisionTransformer(
            img_size=SIZE_PX,
            patch_size=PATCH_PX,
            embed_dim=recipe.width,
            depth=recipe.depth,
            num_heads=recipe.width // HEAD_SIZE,
            num_classes=0,
            global_pool="",
            dynamic_img_size=True,
            norm_layer=partial(nn.LayerNorm, eps=NORM_EPS),
        )
        blocks: Any = self.vit.blocks
        for block in blocks:
            block.attn.fused_attn = False  # the backward pass of plain products is faster on a CPU
        self.mask_token = nn.Parameter(torch.randn(recipe.width) * 0.02)
        self.of_class, self.of_patches = Head(recipe), Head(recipe)

    def tokens(self, pixels: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Output of the final norm: ``(B, 3, H, W)`` -> ``(B, 1 + N, D)``; ``hidden`` ``(B, N)`` bool."""
        x = self.vit.patch_embed(pixels)
        if hidden is not None:
            x = torch.where(hidden.view(*x.shape[:3], 1), self.mask_token, x)
        found: Tensor = self.vit.norm(self.vit.blocks(self.vit._pos_embed(x)))
        return found


class Head(nn.Module):
    """Cosines with learnt prototypes, after a small MLP: ``(..., D)`` -> ``(..., codes)``."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(recipe.width, 256), nn.GELU(), nn.Linear(256, 64))
        self.prototypes = nn.Parameter(torch.randn(recipe.codes, 64))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return F.normalize(self.mlp(x), dim=-1) @ F.normalize(self.prototypes, dim=-1).T


def balanced(logits: Tensor, temperature: float, rounds: int = 3) -> Tensor:
    """Codes of the teacher: ``(n, K)`` -> the same shape, rows sum to 1 and all columns get about the same.

    Sinkhorn-Knopp as in SwAV (Caron et al., NeurIPS 2020).
    """
    shares = ((logits - logits.max()) / temperature).exp()
    for _ in range(rounds):
        shares = shares / shares.sum(dim=0, keepdim=True) / shares.shape[1]
        shares = shares / shares.sum(dim=1, keepdim=True) / shares.shape[0]
    return shares * shares.shape[0]


def disagreement(wanted: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy of codes ``(..., K)`` and the student's logits of the same shape."""
    return -(wanted * F.log_softmax(logits / temperature, dim=-1)).sum(dim=-1).mean()


class Trainer:
    """Student, teacher and optimiser after ``iteration`` steps."""

    def __init__(self, recipe: Recipe, device: torch.device, seed: int = 0) -> None:
        self.recipe, self.device, self.seed, self.iteration = recipe, device, seed, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.student = Coder(recipe).to(device)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        matrices = [p for p in self.student.parameters() if p.ndim > 1]
        vectors = [p for p in self.student.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": recipe.decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, recipe.rate)

    @property
    def provenance(self) -> Record:
        """What decides the result besides images and machine, as JSON values."""
        return {"recipe": asdict(self.recipe), "seed": self.seed}

    def prepare(self, images: Images) -> None:
        """Nothing is needed before the first step."""

    def step(self, rgb: Tensor) -> dict[str, float]:
        """One update on scenes ``(B, 3, H, W)`` float32 in [0, 1]; returns both losses."""
        how = self.recipe
        whole, parts = (self._views(rgb, views, number) for number, views in enumerate((how.whole, how.partial)))
        hidden = self._hidden(len(whole), how.whole.crop_px // PATCH_PX)
        with torch.no_grad():
            seen = self.teacher.tokens(whole)
            code = balanced(self.teacher.of_class(seen[:, 0]), how.teacher_temperature).unflatten(0, (how.views, -1))
            patch_code = balanced(self.teacher.of_patches(seen[:, 1:][hidden]), how.teacher_temperature)
        tokens = self.student.tokens(whole, hidden)
        logits = self.student.of_class(torch.cat([tokens[:, 0], self.student.tokens(parts)[:, 0]]))
        logits = logits.unflatten(0, (2 * how.views, -1))
        pairs = [(i, j) for i in range(how.views) for j in range(2 * how.views) if i != j]
        losses = {
            "class": sum((disagreement(code[i], logits[j], how.student_temperature) for i, j in pairs), torch.zeros(()))
            / len(pairs),
            "patches": disagreement(
                patch_code, self.student.of_patches(tokens[:, 1:][hidden]), how.student_temperature
            ),
        }
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        check_losses(values, self.iteration)
        self._update(losses["class"] + losses["patches"])
        return values

    def _update(self, loss: Tensor) -> None:
        how, done = self.recipe, self.iteration / self.recipe.iterations
        cosine = (1 + math.cos(math.pi * done)) / 2
        for group in self.optimiser.param_groups:
            group["lr"] = how.rate * min(1.0, (self.iteration + 1) / how.warmup) * (0.02 + 0.98 * cosine)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 3.0)
        self.optimiser.step()
        kept = (1 - how.momentum) * cosine
        with torch.no_grad():
            torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), kept)
        self.iteration += 1

    def _views(self, rgb: Tensor, how: Views, kind: int) -> Tensor:
        """``views`` of each scene, first ones first: ``(views * B, 3, crop_px, crop_px)``, normalised."""
        count = self.recipe.views * len(rgb)
        streams = [Stream(self.seed, _VIEWS, self.iteration, kind, place) for place in range(count)]
        views = [draw_view(how, (rgb.shape[2], rgb.shape[3]), stream) for stream in streams]
        pixels = sample(rgb.repeat(self.recipe.views, 1, 1, 1), views, how.crop_px, how.crop_px)
        pixels = torch.stack([recoloured(p, how, stream) for p, stream in zip(pixels, streams, strict=True)])
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (Dino.mean, Dino.std))
        return ((pixels - mean) / std).to(self.device)

    def _hidden(self, views: int, side: int) -> Tensor:
        """Patches that the student does not see, ``(views, side * side)`` bool: none in every second view."""
        stream = Stream(self.seed, _HIDDEN, self.iteration)
        low, high = self.recipe.hidden
        share = low + (high - low) * stream.uniforms(views, 1)
        share[::2] = 0
        return torch.from_numpy(stream.uniforms(views, side * side) < share).to(self.device)

    def trained(self) -> dict[str, Tensor]:
        """The teacher's ViT on the CPU, under the names of DINO's released files, rounded as it is stored."""
        return {k: t.detach().cpu().half().contiguous() for k, t in self.teacher.vit.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """Everything that ``resume`` needs."""
        return {
            "iteration": self.iteration,
            "student": self.student.state_dict(),
            "teacher": self.teacher.state_dict(),
            "optimizer": self.optimiser.state_dict(),
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` gave."""
        self.student.load_state_dict(state["student"])
        self.teacher.load_state_dict(state["teacher"])
        self.optimiser.load_state_dict(state["optimizer"])
        self.iteration = state["iteration"]

    def results(self, about: Record) -> dict[str, bytes]:
        """The weights, with the command that makes the same again."""
        command = f"bench train tiny-dino --seed {self.seed}"
        header = {**about, "command": command, "iterations": self.iteration, "code": source_hash()}
        return {WEIGHTS: safetensors.torch.save(self.trained(), {"training": json.dumps(header)})}
