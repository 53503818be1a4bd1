"""``bench train clip-dinoiser``: train the two heads of CLIP-DINOiser; no text and no mask is used.

    affinity  = BCE(sigmoid(max(A, 0)), T),  mean over B N N;  A = cosines of the projected patches, T of a teacher
    saliency  = BCE(sigmoid(b), M),          mean over B N;    b = bkg_decoder(I / |I|), M of a teacher
    loss      = affinity + saliency

The clipped cosine is the logit itself, as in the released code (spec: maskclip-dinoiser, 5.4 and 9): the affinity term
cannot fall below 0.313 for a pair that belongs together and 0.693 for one that does not, and a negative cosine gets no
gradient.  CLIP is frozen; the features I are those of the method's own walk.

A folder of a training holds ``last.pt``, the released format; ``state.pt``, from which the same command goes on; and
``log.jsonl``.  On a CPU a training that was stopped, or killed, ends with the same bits as one that was not.
"""

import io
import json
import math
import pickle
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..datasets import open_dataset
from ..methods import UserError
from ..methods.backbone import Backbone
from ..methods.clip_dinoiser import CLIPDINOiser
from ..methods.dinoiser_heads import AFFINITY_WIDTH, NEST, DinoiserHeads, heads_of
from ..methods.files import store
from .dinoiser_images import Images
from .dinoiser_recipe import Recipe
from .dinoiser_teachers import Teachers, look
from .evaluation import evaluate
from .provenance import source_hash

Record = dict[str, Any]
VALIDATION_SCENES = 30
STATE, HEADS, LOG = "state.pt", "last.pt", "log.jsonl"


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
        self.iteration = 0
        self.heads = initial_heads(model.weights.class_token.shape[-1], seed, model.device)
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
            "layer": self.model.layer,
            "teachers": self.teachers.provenance,
        }

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
        if not all(map(math.isfinite, values.values())):
            raise UserError(
                f"the loss is not finite in iteration {self.iteration} ({values}): training stops here, and the last "
                "checkpoint is sound.  Look for broken images or weights, or lower the learning rate of the recipe"
            )
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


def score_on_scenes(backbone: Backbone, device: str, gamma: float) -> Callable[[DinoiserHeads], float]:
    """A function that scores heads: mIoU in percent on a few scenes of ``shapes:val``, protocol ``tiny``."""
    scenes = open_dataset("shapes:val")

    def score(heads: DinoiserHeads) -> float:
        return evaluate(CLIPDINOiser(backbone, device, heads=heads, gamma=gamma), scenes, limit=VALIDATION_SCENES).miou

    return score


def train(
    output: Path,
    trainer: Trainer,
    images: Images,
    stop_after: int | None = None,
    validate: Callable[[DinoiserHeads], float] | None = None,
    report: Callable[[Record], None] = lambda record: None,
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Train to the end of the recipe, or up to iteration ``stop_after``.

    Goes on where an earlier training in ``output`` stopped.  ``report`` gets each line of the log, ``advance`` the
    number of iterations newly done, ``validate`` the heads at every checkpoint; it returns a mIoU in percent.

    Raises ``UserError`` when ``output`` holds something else or another training.
    """
    total = trainer.recipe.iterations
    last = total if stop_after is None else min(stop_after, total)
    about = {**trainer.provenance, "images": images.provenance}
    records = _resume(output, trainer, about)
    advance(trainer.iteration)
    started, since = time.perf_counter(), trainer.iteration
    sums: dict[str, float] = {}
    with closing(images.batches(since)) as batches:
        for _, rgb in zip(range(since, last), batches, strict=False):
            for name, loss in trainer.step(rgb).items():
                sums[name] = sums.get(name, 0.0) + loss
            advance(1)
            if trainer.iteration % trainer.recipe.saved_every and trainer.iteration != last:
                continue
            record: Record = {"iteration": trainer.iteration, "iterations": total}
            record |= {name: round(value / (trainer.iteration - since), 5) for name, value in sums.items()}
            if validate is not None:
                record["val_miou"] = round(validate(trainer.trained()), 2)
            record["seconds"] = round(time.perf_counter() - started, 1)
            started, since, sums = time.perf_counter(), trainer.iteration, {}
            records.append(record)
            report(record)
            _save(output, trainer, about, records)


def _save(output: Path, trainer: Trainer, about: Record, records: list[Record]) -> None:
    """The state first: what a kill leaves out here is written again when the training goes on."""
    lines = [json.dumps(record) for record in records]
    store(output / STATE, _torch_bytes({**trainer.state(), "about": json.dumps(about), "log": lines}))
    _save_results(output, trainer, lines)


def _save_results(output: Path, trainer: Trainer, lines: list[str]) -> None:
    epoch = trainer.iteration // trainer.recipe.per_epoch
    store(output / HEADS, _torch_bytes({"epoch": epoch, NEST: trainer.trained().state}))
    store(output / LOG, "".join(f"{line}\n" for line in lines).encode())


def _torch_bytes(value: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _resume(output: Path, trainer: Trainer, about: Record) -> list[Record]:
    """Lines of the log so far; the first says what is trained, on what and where."""
    path = output / STATE
    if not path.exists():
        if output.exists() and (not output.is_dir() or any(not p.name.startswith(".") for p in output.iterdir())):
            raise UserError(f"{output} is not empty and holds no {STATE} to go on from: choose another with --output")
        machine = {"device": str(trainer.model.device), "threads": torch.get_num_threads(), "torch": torch.__version__}
        return [{**about, **machine}]
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        before = json.loads(state["about"])
        differing = [name for name in about if before.get(name) != json.loads(json.dumps(about[name]))]
        if not differing:
            trainer.resume(state)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} cannot be read ({error}): remove {output}, or choose another with --output") from error
    if differing:
        raise UserError(
            f"{output} holds another training: {', '.join(differing)} differ.  Choose another folder with --output, or "
            "repeat the command that began it"
        )
    _save_results(output, trainer, state["log"])
    return [json.loads(line) for line in state["log"]]
