"""Birds of CUB-200-2011: a mask and a species number become a label."""

from functools import partial
from pathlib import Path

import numpy as np

from ..errors import DataError, Problem
from .driver import Step, carry_out
from .files import encode_label, read_pixels, read_text
from .job import Job, Options, read_options


class SpeciesOptions(Options):
    """``index`` has lines "<number> <path of the image>", ``split_file`` lines "<number> <1 train, 0 test>".

    The path begins with a folder ``<species number>.<name>``.  Masks, in the same folders below ``masks``, count how
    many of five annotators saw the bird; above ``threshold`` is bird.
    """

    images: str = "images"
    masks: str = "segmentations"
    index: str = "images.txt"
    split_file: str = "train_test_split.txt"
    split_value: str = "0"
    threshold: int = 128


def species_mask(job: Job) -> None:
    """Write ``labels/<stem>.png`` (0 or the species number) and, for images of the split, copies ``images/<stem>.jpg``.

    They are copied because the images of all splits lie together in 200 folders.
    """
    options = read_options(job, SpeciesOptions)
    paths, splits = _pairs(job.home / options.index), _pairs(job.home / options.split_file)
    chosen = [Path(path) for number, path in paths.items() if splits.get(number) == options.split_value]
    if not chosen:
        problem = Problem(
            job.home / options.split_file, f"no image has the value {options.split_value}", "Add the file"
        )
        raise DataError("the images to convert are not there:", [problem])
    steps = []
    for path in chosen:
        image = job.home / options.images / path
        mask = job.home / options.masks / path.with_suffix(".png")
        species = _species(job.home / options.index, path)
        steps.append(Step(path.stem, (image, mask), partial(_convert, image, mask, species, options.threshold)))
    carry_out(job, "species_mask", options, steps)


def _pairs(path: Path) -> dict[str, str]:
    """First and second word of every line that has two."""
    lines = [line.split() for line in read_text(path).splitlines()]
    return {words[0]: words[1] for words in lines if len(words) == 2}


def _species(index: Path, path: Path) -> int:
    number = path.parts[0].partition(".")[0]
    if not number.isdecimal() or not 0 < int(number) < 255:
        what = f"{path} does not begin with a species number of 1 to 254"
        raise DataError("a species is unknown:", [Problem(index, what, "Download the data set again")])
    return int(number)


def _convert(image: Path, mask: Path, species: int, threshold: int) -> dict[str, bytes]:
    label = (read_pixels(mask, "L") > threshold).astype(np.uint16) * np.uint16(species)
    return {
        f"images/{image.stem}{image.suffix}": image.read_bytes(),
        f"labels/{image.stem}.png": encode_label(mask, label, ".png"),
    }
