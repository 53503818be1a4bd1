"""Images that CLIP-DINOiser's heads and clip-s4-like's encoder are trained on: photos, or scenes of the tiny world.

What iteration ``i`` gets depends on the recipe, the seed and ``i`` alone, never on what was drawn before: a training
that was stopped needs no random state to go on.
"""

import hashlib
import os
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as colour
from numpy.typing import NDArray
from torch import Tensor

from ...datasets.loader import read_image
from ...datasets.shapes import Stream, make_scene
from ...methods import UserError
from .clip_dinoiser_recipe import Augment, Jitter

SHAPES = "shapes"
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
VOC_LIST, VOC_IMAGES = "ImageSets/Segmentation/train.txt", "JPEGImages"
VOC_PLACES = ("", "VOC2012", "VOCdevkit/VOC2012")
_ORDER, _AUGMENT = 1, 2  # keys of the random streams
_AHEAD = 2


class Recipe(Protocol):
    """What a recipe of either training says of its images; ``dinoiser_recipe.Recipe`` tells what the fields mean."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def pick(self) -> Literal["all", "with-replacement", "scenes"]:
        """Which images make an epoch."""

    @property
    def count(self) -> int:
        """Images of an epoch."""

    @property
    def batch(self) -> int:
        """Images of an iteration."""

    @property
    def per_epoch(self) -> int:
        """Iterations of an epoch."""

    @property
    def iterations(self) -> int:
        """Iterations of the whole training."""

    @property
    def augment(self) -> Augment | None:
        """What is done to a photo; None for scenes, which stay as they are."""


class Images(Protocol):
    """Where batches come from."""

    @property
    def provenance(self) -> dict[str, Any]:
        """What was trained on, as JSON values."""

    def batches(self, first: int) -> Generator[Tensor, None, None]:
        """Batches of iteration ``first`` and all later ones, ``(B, 3, H, W)`` float32 RGB in [0, 1]."""


@dataclass(frozen=True)
class Scenes:
    """Scenes of the train split of ``shapes``, every one used once; another seed has other scenes."""

    recipe: Recipe
    seed: int

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Images``."""
        return {"data": f"{SHAPES}:train", "images": self.recipe.count, "first": self.seed * self.recipe.count}

    def batches(self, first: int) -> Generator[Tensor, None, None]:
        """See ``Images``."""
        for iteration in range(first, self.recipe.iterations):
            start = iteration * self.recipe.batch
            places = range(start, min(start + self.recipe.batch, self.recipe.count))
            scenes = (make_scene("train", self.seed * self.recipe.count + place) for place in places)
            yield torch.stack([_as_tensor(scene.image) for scene in scenes])


@dataclass(frozen=True)
class Photos:
    """Photos of a folder: picked, shuffled and augmented as the recipe says.  Raises ``UserError`` if it cannot be."""

    recipe: Recipe
    seed: int
    folder: Path
    files: tuple[Path, ...]

    def __post_init__(self) -> None:
        if self.recipe.pick == "all" and len(self.files) != self.recipe.count:
            raise UserError(
                f"recipe {self.recipe.name} is for the {self.recipe.count} images of VOC2012's {VOC_LIST}; "
                f"{self.folder} has {len(self.files)}.  For any other folder: --recipe in1k-1000"
            )

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Images``.  The hash is over the names below the folder, not over pixels."""
        names = "\n".join(f.relative_to(self.folder).as_posix() for f in self.files)
        sha256 = hashlib.sha256(names.encode()).hexdigest()
        return {"data": self.folder.name, "images": len(self.files), "names_sha256": sha256}

    def picked(self) -> NDArray[np.int64]:
        """Index into ``files`` of each image of an epoch, ``(count,)``, not yet shuffled.

        With replacement they are those that NumPy's legacy generator draws, as in the released code.
        """
        if self.recipe.pick == "all":
            return np.arange(len(self.files))
        return np.random.RandomState(self.seed).choice(len(self.files), self.recipe.count)

    def chosen(self, iteration: int) -> list[Path]:
        """Files of a batch."""
        epoch, step = divmod(iteration, self.recipe.per_epoch)
        order = Stream(self.seed, _ORDER, epoch).uniforms(self.recipe.count).argsort(kind="stable")
        batch = order[step * self.recipe.batch : (step + 1) * self.recipe.batch]
        return [self.files[i] for i in self.picked()[batch]]

    def batches(self, first: int) -> Generator[Tensor, None, None]:
        """See ``Images``.  Files are read ahead in threads.  Raises ``DataError`` for one that cannot be read."""
        pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        waiting: deque[list[Future[Tensor]]] = deque()
        try:
            for iteration in range(first, self.recipe.iterations):
                while len(waiting) <= _AHEAD and iteration + len(waiting) < self.recipe.iterations:
                    waiting.append(self._submit(pool, iteration + len(waiting)))
                yield torch.stack([f.result() for f in waiting.popleft()])
        finally:
            pool.shutdown(cancel_futures=True)

    def _submit(self, pool: ThreadPoolExecutor, iteration: int) -> list[Future[Tensor]]:
        assert self.recipe.augment is not None
        read = partial(_read, self.recipe.augment, self.seed, iteration)
        return [pool.submit(read, place, path) for place, path in enumerate(self.chosen(iteration))]


def _read(how: Augment, seed: int, iteration: int, place: int, path: Path) -> Tensor:
    return augmented(_as_tensor(read_image(path)), how, Stream(seed, _AUGMENT, iteration, place))


def _as_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def augmented(image: Tensor, how: Augment, stream: Stream) -> Tensor:
    """A square for training: ``(3, H, W)`` float32 in [0, 1] -> ``(3, crop_px, crop_px)``.

    Bilinear without antialiasing, as torchvision resized tensors until 0.17.
    """
    short = round(how.crop_px * stream.uniform(*how.scale))
    height, width = image.shape[1:]
    size = [int(short * side / min(height, width)) for side in (height, width)]
    image = F.interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=False)[0]
    top, left = (stream.integer(0, side - how.crop_px + 1) for side in size)
    image = image[:, top : top + how.crop_px, left : left + how.crop_px]
    if stream.coin(how.flip):
        image = image.flip(-1)
    return _jittered(image, how.jitter, stream)


def _jittered(image: Tensor, jitter: Jitter, stream: Stream) -> Tensor:
    changes = (
        (colour.adjust_brightness, 1.0, jitter.brightness),
        (colour.adjust_contrast, 1.0, jitter.contrast),
        (colour.adjust_saturation, 1.0, jitter.saturation),
        (colour.adjust_hue, 0.0, jitter.hue),
    )
    for change, middle, reach in changes:
        if reach and stream.coin(jitter.probability):
            image = change(image, stream.uniform(middle - reach, middle + reach))
    return image


def find_images(data: str, recipe: Recipe, seed: int) -> Images:
    """The images that ``--data`` names: ``shapes``, a folder with VOC2012, or any folder of images.

    In a VOC folder those of the train list are used, else all in the folder and below it, sorted by name.
    Raises ``UserError`` when there are none, or when they do not go with the recipe.
    """
    if (data == SHAPES) != (recipe.pick == "scenes"):
        wanted = "--data shapes" if recipe.pick == "scenes" else "--data FOLDER, a folder of photos"
        raise UserError(f"recipe {recipe.name} trains on other images than {data!r}: it needs {wanted}")
    if data == SHAPES:
        return Scenes(recipe, seed)
    folder = Path(data)
    if not folder.is_dir():
        raise UserError(f"--data {data!r} is neither 'shapes' nor a folder: name a folder of images, or VOC2012's")
    voc = voc_home(folder)
    files = _voc_files(voc) if voc else _files_below(folder)
    return Photos(recipe, seed, voc or folder, files)


def voc_home(folder: Path) -> Path | None:
    """The folder of VOC2012 in ``folder``, told by its train list; None if there is none."""
    return next((folder / p for p in VOC_PLACES if (folder / p / VOC_LIST).is_file()), None)


def _voc_files(home: Path) -> tuple[Path, ...]:
    names = (home / VOC_LIST).read_text(encoding="utf-8").split()
    files = tuple(home / VOC_IMAGES / f"{name}.jpg" for name in names)
    missing = [f for f in files if not f.is_file()]
    if missing or not files:
        what = f"{len(missing)} of its images are missing, first {missing[0]}" if missing else "it is empty"
        raise UserError(f"{home / VOC_LIST} lists the images to train on, but {what}: unpack VOC2012 whole")
    return files


def _files_below(folder: Path) -> tuple[Path, ...]:
    found = (Path(place, n) for place, _, names in os.walk(folder) for n in names if not n.startswith("."))
    files = sorted((f for f in found if f.suffix.lower() in SUFFIXES), key=lambda f: f.parts)
    if not files:
        raise UserError(f"folder {folder} has no image ({', '.join(SUFFIXES)}) in it or below it")
    return tuple(files)
