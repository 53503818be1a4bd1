"""Recipes of CLIP-DINOiser's training, as data.

``in1k-1000`` is the released code's (wysoczanska/clip_dinoiser, train.py and configs/clip_dinoiser.yaml), with which
the released heads were trained.  ``voc1464`` is the first arXiv version's (arXiv:2312.12359v1); it states neither
learning rates, optimiser nor the range of scales and distortion, so those of ``in1k-1000`` stand in for the rates, and
the ranges are ours.  ``tiny`` is ours, for the embedded model.
"""

from dataclasses import dataclass
from typing import Literal

from ...methods import UserError
from ...methods.core.errors import did_you_mean

DROP = 0.1


@dataclass(frozen=True)
class Rate:
    """Learning rate of a head: ``start``, a tenth of it from iteration ``drop_at`` on, nothing from ``stop_at`` on.

    Iterations are counted from 0.  A head that has stopped keeps its weights, and its loss is no longer computed.
    """

    start: float
    drop_at: int | None = None
    stop_at: int | None = None

    def at(self, iteration: int) -> float:
        """Learning rate of the step of that number."""
        if self.stop_at is not None and iteration >= self.stop_at:
            return 0.0
        return self.start * DROP if self.drop_at is not None and iteration >= self.drop_at else self.start


@dataclass(frozen=True)
class Jitter:
    """Distortions of colour, each drawn for ``probability`` of the images.

    Brightness, contrast and saturation are multiplied by a factor in ``1 +- value``, hue is turned by up to ``hue`` of
    the circle either way; values are clipped to [0, 1] after each.
    """

    probability: float
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0


@dataclass(frozen=True)
class Augment:
    """A photo becomes a square: short side to ``crop_px`` times a factor in ``scale``, random crop, flip, colours."""

    crop_px: int
    scale: tuple[float, float]
    flip: float
    jitter: Jitter


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the heads, besides seed, images, backbone and machine.

    ``count`` images make an epoch.  ``pick`` says which: "all", and there have to be that many; "with-replacement",
    drawn once from however many there are; "scenes", drawn on the fly, every one new.  The last batch of an epoch may
    be smaller.  ``saved_every`` is the number of iterations between checkpoints and between lines of the log.
    ``gamma`` has no part in training: it is the threshold to segment with.
    """

    name: str
    pick: Literal["all", "with-replacement", "scenes"]
    count: int
    batch: int
    epochs: int
    affinity: Rate
    saliency: Rate
    augment: Augment | None
    backbone: str
    teachers: Literal["dino-found", "tiny-world"] = "dino-found"
    gamma: float = 0.2
    saved_every: int = 100

    @property
    def per_epoch(self) -> int:
        """Iterations of an epoch."""
        return -(-self.count // self.batch)

    @property
    def iterations(self) -> int:
        """Iterations of the whole training."""
        return self.epochs * self.per_epoch


REAL_BACKBONE = "ViT-B-16/laion2b_s34b_b88k"
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="in1k-1000",
            pick="with-replacement",
            count=1000,
            batch=16,
            epochs=100,
            affinity=Rate(5e-5, drop_at=5000),
            saliency=Rate(1e-2, drop_at=5000),
            augment=Augment(448, scale=(1.0, 1.0), flip=0.5, jitter=Jitter(1.0, brightness=0.5)),
            backbone=REAL_BACKBONE,
        ),
        Recipe(
            name="voc1464",
            pick="all",
            count=1464,
            batch=32,
            epochs=20,
            affinity=Rate(5e-5, stop_at=230),
            saliency=Rate(1e-2, drop_at=690),
            augment=Augment(448, scale=(1.0, 2.0), flip=0.5, jitter=Jitter(0.5, 0.125, 0.5, 0.5, 0.1)),
            backbone=REAL_BACKBONE,
        ),
        Recipe(
            name="tiny",
            pick="scenes",
            count=9600,
            batch=16,
            epochs=1,
            affinity=Rate(1e-3, drop_at=450),
            saliency=Rate(1e-2, drop_at=450),
            augment=None,
            backbone="tiny-clip",
            teachers="tiny-world",
            gamma=0.55,
        ),
    )
}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name.  Raises ``UserError`` when there is none."""
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name!r}{did_you_mean(name, RECIPES)}")
    return RECIPES[name]
