"""Recipes that make one label of one label file: renamed indices, colours, masks and MATLAB arrays.

All write ``labels/<stem><target_suffix>``, with the folders below the source folder, and ``list.txt`` with the stems.
"""

import zlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..errors import DataError, Problem
from .driver import Step, carry_out, text_step
from .files import checked_index, encode_label, find_stems, listed_stems, read_index, read_pixels
from .job import Job, Options, optional_module, read_options
from .tables import Table, colour_table, recolour, relabel

Convert = Callable[[Path], NDArray[np.uint16]]
_BAD_MAT = (OSError, ValueError, TypeError, IndexError, NotImplementedError, zlib.error)


class LabelOptions(Options):
    """``labels`` is the folder of the files that end with ``label_suffix``, below the data set's own.

    ``list_file`` names the stems to convert (default: all), ``skip`` leaves out that many at the beginning of the
    sorted list.  A ``target_suffix`` with ``.png`` stands for 8-bit, with ``.tif`` for 16-bit labels.
    """

    labels: str
    label_suffix: str = ".png"
    target_suffix: str = ".png"
    list_file: str | None = None
    skip: int = Field(default=0, ge=0)


class RemapOptions(LabelOptions):
    """``table`` must hold every stored value."""

    table: Table


class ColourOptions(LabelOptions):
    """``table`` is a file with the columns red, green, blue and to."""

    table: str


class BinariseOptions(LabelOptions):
    """Grey values above ``threshold`` are class 1, all others class 0."""

    threshold: int = Field(ge=0, le=255)


class MatOptions(RemapOptions):
    """``variable`` is the name of the array in the ``.mat`` file."""

    label_suffix: str = ".mat"
    variable: str


def remap(job: Job) -> None:
    """Index images to index images through a complete table (COCO-Stuff, COCO-Object, Cityscapes ...)."""
    options = read_options(job, RemapOptions)
    mapping = options.table.mapping()
    _convert_each(job, "remap", options, lambda p: relabel(p, read_index(p), mapping), options.table.files())


def colours(job: Job) -> None:
    """RGB colour labels to index images (the original CamVid release)."""
    options = read_options(job, ColourOptions)
    path, table = colour_table(options.table)
    _convert_each(job, "colours", options, lambda p: recolour(p, read_pixels(p, "RGB"), table), [path])


def binarise(job: Job) -> None:
    """Masks to index images of two classes (the binary sets of MESS)."""
    options = read_options(job, BinariseOptions)
    _convert_each(job, "binarise", options, lambda p: (read_pixels(p, "L") > options.threshold).astype(np.uint16))


def mat_labels(job: Job) -> None:
    """MATLAB arrays to index images (PASCAL Context 459, COCO-Stuff 10k)."""
    options = read_options(job, MatOptions)
    mapping = options.table.mapping()
    read = partial(_read_mat, optional_module("scipy.io", "scipy"), variable=options.variable)
    _convert_each(job, "mat_labels", options, lambda p: relabel(p, read(p), mapping), options.table.files())


def _convert_each(job: Job, recipe: str, options: LabelOptions, convert: Convert, tables: Iterable[Path] = ()) -> None:
    """One label of every file that the options choose."""
    folder = job.home / options.labels
    stems = _chosen(job, options, find_stems(folder, options.label_suffix))

    def step(stem: str) -> Step:
        source, target = folder / f"{stem}{options.label_suffix}", f"labels/{stem}{options.target_suffix}"
        return Step(target, (source,), lambda: {target: encode_label(source, convert(source), target)})

    carry_out(job, recipe, options, [*map(step, stems), text_step("list.txt", stems)], tables)


def _chosen(job: Job, options: LabelOptions, found: list[str]) -> list[str]:
    """Of the stems found, those listed.  Raises ``DataError`` that names every listed one without a file."""
    if options.list_file is None:
        return found[options.skip :]
    by_name = {stem.rpartition("/")[2]: stem for stem in found}
    names = sorted(set(listed_stems(job.home / options.list_file)))[options.skip :]
    absent = [job.home / options.labels / f"{n}{options.label_suffix}" for n in names if n not in by_name]
    if absent or not names:
        problems = [Problem(p, f"the file does not exist, but {options.list_file} names it", "Add it") for p in absent]
        raise DataError(f"the labels that {job.home / options.list_file} names are not all there:", problems)
    return [by_name[n] for n in names]


def _read_mat(scipy_io: Any, path: Path, variable: str) -> NDArray[np.uint16]:
    """An array of a ``.mat`` file; raises ``DataError`` that names file and variable."""
    try:
        content = scipy_io.loadmat(path, variable_names=[variable])
        return checked_index(np.asarray(content[variable]))
    except KeyError:
        what = f"the file has no array {variable!r}"
    except (*_BAD_MAT, scipy_io.matlab.MatReadError) as error:
        what = f"the file cannot be read as a MATLAB array ({error})"
    raise DataError("a file of the data set is not usable:", [Problem(path, what, "Copy or download it again")])
