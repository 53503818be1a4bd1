"""Job: what a recipe is given.  The recipes by name."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import DataError
from ..invalid import explain


@dataclass(frozen=True)
class Job:
    """``home`` is the data set's own folder and only read, ``output`` the folder that is written.

    ``advance`` is told how many steps are done, and of how many.
    """

    home: Path
    output: Path
    options: Mapping[str, Any]
    advance: Callable[[int, int], None] = lambda done, total: None


Recipe = Callable[[Job], None]

RECIPES = {
    "ade_full": ".ade_full:ade_full",
    "binarise": ".label_files:binarise",
    "colours": ".label_files:colours",
    "context_json": ".context:context_json",
    "mat_labels": ".label_files:mat_labels",
    "remap": ".label_files:remap",
    "species_mask": ".species:species_mask",
    "tile": ".tiles:tile",
}
"""Name of a recipe -> module (of this package) and function; a module is imported when its recipe is asked for."""


def find_recipe(name: str) -> Recipe:
    """The recipe of that name.  Raises ``DataError`` that lists the known ones."""
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=1)
        meant = f"; did you mean {close[0]}?" if close else "."
        raise DataError(f"unknown recipe {name!r}{meant} Known: {', '.join(RECIPES)}")
    module, _, function = RECIPES[name].partition(":")
    recipe: Recipe = getattr(import_module(module, __package__), function)
    return recipe


class Options(BaseModel):
    """Options of a recipe; an unknown one is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


O = TypeVar("O", bound=Options)  # noqa: E741


def read_options(job: Job, kind: type[O]) -> O:
    """The job's options, checked.  Raises ``DataError`` that names every wrong one."""
    try:
        return kind.model_validate(dict(job.options))
    except ValidationError as error:
        raise DataError(f"the options of the recipe are not usable:\n{explain(error, 'options')}") from error


def optional_module(name: str, package: str) -> Any:
    """Import a library that only some recipes need.  Raises ``DataError`` with the command that installs it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise DataError(
            f"this recipe needs {package}, which cannot be imported ({error}): pip install {package}"
        ) from error
