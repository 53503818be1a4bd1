"""``bench train clip-s4``: train the pixel encoder of ``clip-s4-like``; no mask is used, of classes only names.

    loss = L_t + L_e + L_s        (see ``clip_s4_losses``)

CLIP is frozen and gives, per patch, the value path of its last block with the output projection (``maskclip-value``).
It looks at the picture before it is augmented; its features are then cut like the views.  Before the first step a pool
of CLIP segment features is made (means over superpixels, since the encoder has no segments yet) and kept: prototypes of
known names come from it, and at test time those of new ones.

The result is ``clip_s4.safetensors``, for ``--option encoder=``.
"""

from contextlib import closing
from copy import deepcopy
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...datasets.shapes import Stream
from ...methods import UserError, Vocabulary
from ...methods.maskclip_value import MaskCLIPValue
from ...methods.models import vit
from ...methods.models.checkpoints import check_keys, file_sha256, read_tensors
from ...methods.models.clip_s4 import PixelEncoder, S4Parts, cluster, dump_weights, segment_means, top_prototypes
from ...methods.models.text import encode_queries
from ..runs.provenance import source_hash
from .clip_s4_losses import contrast_loss, embedding_loss, find_segments, moved, pseudo_labels, semantic_loss
from .clip_s4_recipe import Recipe
from .clip_s4_views import View, draw_view, recoloured, sample, superpixels
from .images import Images
from .loop import Record, check_losses

WEIGHTS = "clip_s4.safetensors"
MOMENTUM = 0.9
_VIEWS, _UNKNOWN = 3, 4  # keys of the random streams; 1 and 2 are those of training_images
LOSSES = ("contrast", "embedding", "semantic")


class Trainer:
    """Encoder, prototypes and optimiser after ``iteration`` steps; ``initial``: see ``initial_encoder``."""

    def __init__(self, recipe: Recipe, teacher: MaskCLIPValue, seed: int = 0, initial: Path | None = None) -> None:
        self.recipe, self.teacher, self.seed = recipe, teacher, seed
        self.device, self.iteration = teacher.device, 0
        self.encoder = initial_encoder(recipe, teacher.tower.projection.shape[1], seed, initial).to(self.device)
        self.initial_sha256 = None if initial is None else file_sha256(initial)
        how = recipe.optimiser
        parameters = list(self.encoder.parameters())
        self.optimiser: torch.optim.Optimizer = torch.optim.AdamW(parameters, how.rate, weight_decay=how.decay)
        if how.kind == "sgd":
            self.optimiser = torch.optim.SGD(parameters, how.rate, MOMENTUM, weight_decay=how.decay)
        self.pool = self.known = self.unknown = torch.empty(0)

    @property
    def provenance(self) -> Record:
        """What decides the result besides images and machine, as JSON values."""
        return {
            "recipe": asdict(self.recipe),
            "known": self.recipe.known_names(),
            "seed": self.seed,
            "backbone": self.teacher.backbone.provenance,
            "teacher": self.teacher.info.name,
            "initial": self.initial_sha256,
            "scikit-image": version("scikit-image"),
        }

    def prepare(self, images: Images) -> None:
        """Make the pool and the first prototypes from the first pictures of the training."""
        rows: list[Tensor] = []
        with closing(images.batches(0)) as batches:
            for rgb in batches:
                rows.append(self.region_features(rgb.to(self.device)))
                if sum(map(len, rows)) >= self.recipe.pool:
                    break
        self.pool = torch.cat(rows)[: self.recipe.pool].half().float()  # as it is stored
        chosen = Stream(self.seed, _UNKNOWN).distinct(len(self.pool), min(self.recipe.unknown, len(self.pool)))
        self.unknown = self.pool[chosen]
        self._find_known()

    def _find_known(self) -> None:
        names = [[name] for name in self.recipe.known_names()]
        vocabulary = Vocabulary.from_texts(names, [line[0] for line in names])
        text = encode_queries(self.teacher.backbone, vocabulary, self.device)
        self.known = top_prototypes(text, self.pool, self.recipe.top)

    @torch.no_grad()
    def features(self, rgb: Tensor) -> Tensor:
        """CLIP's patch features of pictures: ``(B, 3, H, W)`` in [0, 1] -> ``(B, d, h, w)`` float32, unit length."""
        teacher = self.teacher
        tokens, grid = vit.run_trunk(teacher.tower, teacher.normalised(rgb * 255), teacher.options.positions)
        return teacher.patch_features(tokens, grid).unflatten(1, grid).permute(0, 3, 1, 2)

    def region_features(self, rgb: Tensor) -> Tensor:
        """CLIP's mean feature over each superpixel of pictures, ``(R, d)`` at unit length."""
        rows, columns = (side // self.recipe.encoder.stride for side in rgb.shape[2:])
        whole = [View()] * len(rgb)
        clip = sample(self.features(rgb), whole, rows, columns)
        regions = superpixels(rgb, self.recipe.superpixels).to(self.device)
        labels = sample(regions[:, None].float(), whole, rows, columns, nearest=True)[:, 0].long().flatten(1)
        found = find_segments(torch.zeros_like(labels), labels, torch.arange(len(rgb), device=self.device))
        return segment_means(clip.flatten(2).transpose(1, 2).flatten(0, 1), found.of_pixel, found.count)

    def step(self, rgb: Tensor) -> dict[str, float]:
        """One update on ``(B, 3, H, W)`` float32 RGB in [0, 1]; returns the three losses.

        Raises ``UserError`` for a loss that is not finite, before it reaches the weights.
        """
        recipe = self.recipe
        pixels, labels, clip = self._views(rgb.to(self.device))
        picture = torch.arange(len(rgb), device=self.device).repeat(2)
        z = self.encoder.train()(self.teacher.normalised(pixels * 255))
        segments = find_segments(cluster(z.detach(), recipe.clusters, recipe.rounds), labels, picture)
        flat, targets = (maps.flatten(2).transpose(1, 2).flatten(0, 1) for maps in (z, clip))
        means = segment_means(flat, segments.of_pixel, segments.count)
        targets = segment_means(targets, segments.of_pixel, segments.count)
        prototypes = torch.cat([self.known, self.unknown])
        chosen = pseudo_labels(targets, prototypes)
        losses = (
            contrast_loss(flat, means, segments, recipe.kappa),
            embedding_loss(means, targets),
            semantic_loss(means, chosen, prototypes, recipe.tau),
        )
        values = {name: float(loss.detach()) for name, loss in zip(LOSSES, losses, strict=True)}
        check_losses(values, self.iteration)
        self._update(sum((w * loss for w, loss in zip(recipe.loss_weights, losses, strict=True)), torch.zeros(())))
        self.unknown = moved(prototypes, targets, chosen, recipe.keep)[len(self.known) :]
        self.iteration += 1
        return values

    def _update(self, loss: Tensor) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.optimiser.at(self.iteration / self.recipe.iterations)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()

    def _views(self, rgb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Both views of each picture, first ones first: pixels, superpixels ``(2B, n)`` int64, CLIP's features."""
        how = self.recipe.views
        streams = [Stream(self.seed, _VIEWS, self.iteration, place) for place in range(2 * len(rgb))]
        views = [draw_view(how, (rgb.shape[2], rgb.shape[3]), stream) for stream in streams]
        cells = how.crop_px // self.recipe.encoder.stride
        pixels = sample(rgb.repeat(2, 1, 1, 1), views, how.crop_px, how.crop_px)
        pixels = torch.stack([recoloured(p, how, stream) for p, stream in zip(pixels, streams, strict=True)])
        regions = superpixels(rgb, self.recipe.superpixels).to(self.device)[:, None].float().repeat(2, 1, 1, 1)
        labels = sample(regions, views, cells, cells, nearest=True)[:, 0].long().flatten(1)
        return pixels, labels, sample(self.features(rgb).repeat(2, 1, 1, 1), views, cells, cells)

    def trained(self) -> S4Parts:
        """A copy of encoder and pool on the CPU, to segment with."""
        encoder, pool = deepcopy(self.encoder).cpu().eval(), self.pool.cpu().clone()
        return S4Parts(encoder, pool, self.recipe.top, self.teacher.backbone.sha256, f"training, seed {self.seed}")

    def state(self) -> dict[str, Any]:
        """Everything that ``resume`` needs."""
        return {
            "iteration": self.iteration,
            "encoder": self.encoder.state_dict(),
            "optimizer": self.optimiser.state_dict(),
            "pool": self.pool,
            "unknown": self.unknown,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` gave."""
        self.encoder.load_state_dict(state["encoder"])
        self.optimiser.load_state_dict(state["optimizer"])
        self.pool, self.unknown = (state[name].to(self.device) for name in ("pool", "unknown"))
        self._find_known()
        self.iteration = state["iteration"]

    def results(self, about: Record) -> dict[str, bytes]:
        """Encoder and pool, with ``about`` and the command that makes the same again."""
        data = about["images"]["data"].partition(":")[0]
        command = f"bench train clip-s4 --data {data} --recipe {self.recipe.name} --seed {self.seed}"
        header = {**about, "command": command, "iterations": self.iteration, "code": source_hash()}
        return {WEIGHTS: dump_weights(self.trained(), header)}


def initial_encoder(recipe: Recipe, dim: int, seed: int, initial: Path | None) -> PixelEncoder:
    """PyTorch's default initialisation, the trunk from torchvision's file ``initial`` where the recipe's is a ResNet.

    Raises ``UserError`` for a ResNet without a file, a file without a ResNet, and one that does not fit.
    """
    if (recipe.encoder.trunk == "resnet50") != (initial is not None):
        needs = "starts from torchvision's ResNet-50 of ImageNet: name the file with --initial"
        raise UserError(f"recipe {recipe.name} {'starts from nothing: leave out --initial' if initial else needs}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = PixelEncoder(recipe.encoder, dim)
    if initial is not None:
        state = {k: t for k, t in read_tensors(initial).items() if not k.startswith("fc.")}
        check_keys(initial, state, {k: tuple(t.shape) for k, t in encoder.trunk.state_dict().items()})
        encoder.trunk.load_state_dict(state)
    return encoder
