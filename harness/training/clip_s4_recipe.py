"""Recipes of ``clip-s4-like``'s training, as data.

Of the values only ``kappa``, the k-means and most of the augmentation come from anywhere: public code of the family
that the pixel-segment loss was taken from (twke18/SPML, twke18/HSG).  Everything else is our choice, because the
paper's body was not readable: the encoder, ``tau``, ``top``, ``unknown``, ``keep``, the weights of the losses, where
the pool comes from, which names count as known, optimiser and schedule.

``photos`` is for real backbones and has not been run; ``tiny`` is for the embedded model.
"""

from dataclasses import dataclass
from typing import Literal

from ...datasets import find_record
from ...methods import UserError
from ...methods.core.errors import did_you_mean
from ...methods.models.clip_s4 import EncoderSpec
from .clip_dinoiser_recipe import Augment, Jitter


@dataclass(frozen=True)
class Views:
    """Two of them are cut from each picture: ``crop_px`` of it enlarged by a factor in ``scale``, flip, colours, grey.

    ``grey`` is the probability of losing all colour.
    """

    crop_px: int
    scale: tuple[float, float]
    flip: float
    jitter: Jitter
    grey: float


@dataclass(frozen=True)
class Superpixels:
    """Arguments of scikit-image's ``felzenszwalb``: how unlike regions are, blur in px, least size in px."""

    scale: float
    sigma: float
    min_size: int


@dataclass(frozen=True)
class Optimiser:
    """SGD with momentum 0.9, or AdamW; the rate falls as ``(1 - done) ** power``."""

    kind: Literal["sgd", "adamw"]
    rate: float
    decay: float
    power: float = 0.9

    def at(self, done: float) -> float:
        """Learning rate when the share ``done`` of the iterations is behind."""
        return self.rate * (1 - done) ** self.power


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the encoder, besides seed, images, backbone and machine.

    ``count``, ``batch``, ``epochs`` and ``pick``: see ``dinoiser_recipe.Recipe``.  ``picture_px`` is the square that a
    photo is cut to before it is looked at (scenes stay as they are).

    ``clusters`` (per side) and ``rounds`` are those of the k-means; ``kappa`` and ``tau`` the scales of the contrast
    and of the pseudo labels; ``known_of`` the data set whose class names are known, every ``known_step``-th of them;
    ``top`` the segments that make a known prototype; ``unknown`` the number of unknown prototypes, of which a step
    keeps the share ``keep``; ``pool`` the number of CLIP segment features.  ``loss_weights``: contrast, embedding,
    semantic.
    """

    name: str
    pick: Literal["with-replacement", "scenes"]
    count: int
    batch: int
    epochs: int
    picture_px: int
    views: Views
    superpixels: Superpixels
    encoder: EncoderSpec
    optimiser: Optimiser
    known_of: str
    backbone: str
    known_step: int = 1
    clusters: int = 4
    rounds: int = 10
    kappa: float = 16.0
    tau: float = 0.07
    top: int = 32
    unknown: int = 100
    keep: float = 0.99
    pool: int = 1024
    loss_weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    saved_every: int = 100

    @property
    def per_epoch(self) -> int:
        """Iterations of an epoch."""
        return -(-self.count // self.batch)

    @property
    def iterations(self) -> int:
        """Iterations of the whole training."""
        return self.epochs * self.per_epoch

    @property
    def augment(self) -> Augment | None:
        """How a photo becomes the square of ``picture_px``; the views are distorted later."""
        return None if self.pick == "scenes" else Augment(self.picture_px, (1.0, 1.0), flip=0.0, jitter=Jitter(0.0))

    def known_names(self) -> list[str]:
        """Names of the known classes."""
        return list(find_record(self.known_of).classes)[:: self.known_step]


HSG_JITTER = Jitter(0.8, 0.4, 0.4, 0.4, 0.1)
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="photos",
            pick="with-replacement",
            count=30000,
            batch=32,
            epochs=32,
            picture_px=448,
            views=Views(224, (0.5, 1.5), 0.5, HSG_JITTER, grey=0.2),
            superpixels=Superpixels(200.0, 0.8, 200),
            encoder=EncoderSpec("resnet50", bins=(1, 2, 3, 6)),
            optimiser=Optimiser("sgd", 0.02, 1e-4),
            known_of="coco_stuff",
            backbone="ViT-B-16-quickgelu/openai",
            pool=8192,
        ),
        Recipe(
            name="tiny",
            pick="scenes",
            count=8000,
            batch=8,
            epochs=1,
            picture_px=96,
            views=Views(64, (0.75, 1.5), 0.5, Jitter(0.8, brightness=0.2, contrast=0.2, saturation=0.2), grey=0.0),
            superpixels=Superpixels(100.0, 0.8, 80),
            encoder=EncoderSpec("small"),
            optimiser=Optimiser("adamw", 2e-3, 1e-2),
            known_of="shapes",
            known_step=2,
            top=8,
            unknown=32,
            pool=2048,
            backbone="tiny-clip",
        ),
    )
}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name.  Raises ``UserError`` when there is none."""
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name!r}{did_you_mean(name, RECIPES)}")
    return RECIPES[name]
