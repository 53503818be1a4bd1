"""``bench train clip-dinoiser``: train the two heads of CLIP-DINOiser; no text and no mask is used.

    affinity  = BCE(sigmoid(max(A, 0)), T),  mean over B N N;  A = cosines of the projected patches, T of a teacher
    saliency  = BCE(sigmoid(b), M),          mean over B N;    b = bkg_decoder(I / |I|), M of a teacher
    loss      = affinity + saliency

The clipped cosine is the logit itself, as in the released code (wysoczanska/clip_dinoiser, train.py): the affinity term
cannot fall below log(1 + 1/e) = 0.313 for a pair that belongs together and log 2 = 0.693 for one that does not, and a
negative cosine gets no gradient.  CLIP is frozen; the features I are those of the method's own walk.

The result is ``last.pt``, the released format.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...methods.clip_dinoiser import CLIPDINOiser
from ...methods.models.dinoiser_heads import AFFINITY_WIDTH, NEST, DinoiserHeads, heads_of
from ..runs.provenance import source_hash
from .clip_dinoiser_recipe import Recipe
from .clip_dinoiser_teachers import Teachers, look
from .images import SHAPES, Images, voc_home
from .loop import Record, check_losses, torch_bytes

HEADS = "last.pt"


def initial_heads(width: int, seed: int, device: torch.device) -> DinoiserHeads:
    """PyTorch's default initialisation of both convolutions, as tensors to train; ``width`` is that of I."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = {"obj_proj": nn.Conv2d(width, AFFINITY_WIDTH, 3), "bkg_decoder": nn.Conv2d(width, 1, 1)}
    tensors = {
        f"{head}.{name}": parameter.detach().to(device).requires_grad_()
        for head, module in heads.items()
        for name, parameter in module.named_parameters()
    }
    return heads_of(tensors, f"training, seed {seed}")


def affinity_loss(heads: DinoiserHeads, inner: Tensor, grid: tuple[int, int], alike: Tensor) -> Tensor:
    """Mean over all pairs: ``inner`` ``(B, N, D)`` and ``alike`` ``(B, N, N)`` bool -> a scalar."""
    logits = F.relu(heads.affinity(inner, grid))
    return F.binary_cross_entropy_with_logits(logits, alike.to(logits.dtype))


def saliency_loss(heads: DinoiserHeads, inner: Tensor, objects: Tensor) -> Tensor:
    """Mean over all patches: ``inner`` ``(B, N, D)`` and ``objects`` ``(B, N)`` bool -> a scalar."""
    logits = heads.saliency_logit(inner)
    return F.binary_cross_entropy_with_logits(logits, objects.to(logits.dtype))


class Trainer:
    """Heads and optimiser after ``iteration`` steps.

    ``model`` is frozen and gives the features; its own heads, if it has any, are not used.
    """

    def __init__(self, recipe: Recipe, model: CLIPDINOiser, teachers: Teachers, seed: int = 0) -> None:
        self.recipe, self.model, self.teachers, self.seed = recipe, model, teachers, seed
        self.device, self.iteration = model.device, 0
        self.heads = initial_heads(model.tower.class_token.shape[-1], seed, self.device)
        groups = {
            "affinity": [self.heads.obj_weight, self.heads.obj_bias],
            "saliency": [self.heads.bkg_weight, self.heads.bkg_bias],
        }
        self._rates = {"affinity": recipe.affinity, "saliency": recipe.saliency}
        self.optimiser = torch.optim.AdamW(
            [{"params": groups[name], "lr": rate.start} for name, rate in self._rates.items()]
        )

    @property
    def provenance(self) -> Record:
        """What decides the result besides images and machine, as JSON values."""
        return {
            "recipe": asdict(self.recipe),
            "seed": self.seed,
            "backbone": self.model.backbone.provenance,
            "layer": self.model.options.layer,
            "teachers": self.teachers.provenance,
        }

    def prepare(self, images: Images) -> None:
        """Nothing has to be there before the first step."""

    def step(self, rgb: Tensor) -> dict[str, float]:
        """One update on ``(B, 3, H, W)`` float32 RGB in [0, 1]; returns the loss of every head that is trained.

        Raises ``UserError`` for a loss that is not finite, before it reaches the weights.
        """
        seen = look(self.model, rgb)
        rates = {name: rate.at(self.iteration) for name, rate in self._rates.items()}
        losses = {}
        if rates["affinity"]:
            losses["affinity"] = affinity_loss(self.heads, seen.inner, seen.grid, self.teachers.alike(seen))
        if rates["saliency"]:
            losses["saliency"] = saliency_loss(self.heads, seen.inner, self.teachers.objects(seen))
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        check_losses(values, self.iteration)
        for group, rate in zip(self.optimiser.param_groups, rates.values(), strict=True):
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)  # a head without a loss has no gradient, so the step leaves it alone
        torch.stack(list(losses.values())).sum().backward()
        self.optimiser.step()
        self.iteration += 1
        return values

    def trained(self) -> DinoiserHeads:
        """A copy of the heads on the CPU, to segment with."""
        state = {name: tensor.detach().cpu().clone() for name, tensor in self.heads.state.items()}
        return heads_of(state, self.heads.source)

    def embedded(self) -> bytes:
        """The heads as the file that is embedded for tiny-clip: safetensors, fp16, with what they were trained on.

        The metadata are one JSON document under ``training``: the order of several entries would not be fixed.
        """
        about = {**self.provenance, "iterations": self.iteration, "code": source_hash()}
        state = {name: tensor.half() for name, tensor in self.trained().state.items()}
        return safetensors.torch.save(state, metadata={"training": json.dumps(about, sort_keys=True)})

    def state(self) -> dict[str, Any]:
        """Everything that ``resume`` needs."""
        return {
            "iteration": self.iteration,
            NEST: self.trained().state,
            "optimizer": self.optimiser.state_dict(),
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` gave."""
        with torch.no_grad():
            for name, tensor in self.heads.state.items():
                tensor.copy_(state[NEST][name])
        self.optimiser.load_state_dict(state["optimizer"])
        self.iteration = state["iteration"]

    def results(self, about: Record) -> dict[str, bytes]:  # noqa: ARG002
        """The released format, which has no place for what the heads were trained on."""
        epoch = self.iteration // self.recipe.per_epoch
        return {HEADS: torch_bytes({"epoch": epoch, NEST: self.trained().state})}


def default_recipe(data: str) -> str:
    """Name of the recipe that goes with ``--data``."""
    if data == SHAPES:
        return "tiny"
    return "voc1464" if voc_home(Path(data)) else "in1k-1000"
