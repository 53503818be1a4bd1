"""Training as a folder that can be gone on with: one loop for whatever is trained on batches of pictures.

A folder of a training holds its results; ``state.pt``, from which the same command goes on; and ``log.jsonl``.
Everything is written by rename.  On a CPU a training that was stopped, or killed, ends with the same bits as one that
was not.
"""

import io
import json
import math
import pickle
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ...datasets import open_dataset
from ...methods import Method, UserError
from ..runs.evaluation import evaluate
from ..runs.storing import store
from .images import Images

Record = dict[str, Any]
VALIDATION_SCENES = 30
STATE, LOG = "state.pt", "log.jsonl"


class Schedule(Protocol):
    """What the loop has to know of a recipe."""

    @property
    def iterations(self) -> int:
        """Iterations of the whole training."""

    @property
    def saved_every(self) -> int:
        """Iterations between checkpoints, and between lines of the log."""


class Trainer(Protocol):
    """What is trained, after ``iteration`` steps."""

    @property
    def recipe(self) -> Schedule:
        """Decides the result, besides what else ``provenance`` has."""

    @property
    def device(self) -> torch.device:
        """Where it is trained."""

    @property
    def iteration(self) -> int:
        """Steps done."""

    @property
    def provenance(self) -> Record:
        """What decides the result besides images and machine, as JSON values."""

    def prepare(self, images: Images) -> None:
        """Make of ``images`` what has to be there before the first step; a training that goes on has it already."""

    def step(self, rgb: Tensor) -> dict[str, float]:
        """One update on ``(B, 3, H, W)`` float32 RGB in [0, 1]; returns the losses, see ``check_losses``."""

    def state(self) -> dict[str, Any]:
        """Everything that ``resume`` needs: tensors and plain values."""

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` gave."""

    def results(self, about: Record) -> dict[str, bytes]:
        """Files for those who use what is trained, by name; ``about`` is ``provenance`` with that of the images."""


def check_losses(losses: dict[str, float], iteration: int) -> None:
    """Raises ``UserError`` for a loss that is not finite; to be called before it reaches the weights."""
    if not all(map(math.isfinite, losses.values())):
        raise UserError(
            f"the loss is not finite in iteration {iteration} ({losses}): training stops here, and the last "
            "checkpoint is sound.  Look for broken images or weights, or lower the learning rate of the recipe"
        )


def score_on_scenes(method: Callable[[], Method]) -> Callable[[], float]:
    """A function that scores what ``method`` makes: mIoU in percent on the first scenes of ``shapes:val``."""
    scenes = open_dataset("shapes:val")
    return lambda: evaluate(method(), scenes, limit=VALIDATION_SCENES).miou


def train(
    output: Path,
    trainer: Trainer,
    images: Images,
    stop_after: int | None = None,
    validate: Callable[[], float] | None = None,
    report: Callable[[Record], None] = lambda record: None,
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Train to the end of the recipe, or up to iteration ``stop_after``.

    Goes on where an earlier training in ``output`` stopped.  ``report`` gets each line of the log, ``advance`` the
    number of iterations newly done; ``validate`` is called at every checkpoint and returns a mIoU in percent.

    Raises ``UserError`` when ``output`` holds something else or another training.
    """
    total = trainer.recipe.iterations
    last = total if stop_after is None else min(stop_after, total)
    about = {**trainer.provenance, "images": images.provenance}
    records = _begin(output, trainer, images, about)
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
                record["val_miou"] = round(validate(), 2)
            record["seconds"] = round(time.perf_counter() - started, 1)
            started, since, sums = time.perf_counter(), trainer.iteration, {}
            records.append(record)
            report(record)
            _save(output, trainer, about, records)


def torch_bytes(value: dict[str, Any]) -> bytes:
    """``value`` as ``torch.save`` writes it."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _save(output: Path, trainer: Trainer, about: Record, records: list[Record]) -> None:
    """The state first: what a kill leaves out here is written again when the training goes on."""
    lines = [json.dumps(record) for record in records]
    store(output / STATE, torch_bytes({**trainer.state(), "about": json.dumps(about), "log": lines}))
    _save_results(output, trainer, about, lines)


def _save_results(output: Path, trainer: Trainer, about: Record, lines: list[str]) -> None:
    for name, content in trainer.results(about).items():
        store(output / name, content)
    store(output / LOG, "".join(f"{line}\n" for line in lines).encode())


def _begin(output: Path, trainer: Trainer, images: Images, about: Record) -> list[Record]:
    """Lines of the log so far; the first says what is trained, on what and where."""
    path = output / STATE
    if path.exists():
        lines = _resume(path, trainer, about)
        _save_results(output, trainer, about, lines)
        return [json.loads(line) for line in lines]
    if output.exists() and (not output.is_dir() or any(not p.name.startswith(".") for p in output.iterdir())):
        raise UserError(f"{output} is not empty and holds no {STATE} to go on from: choose another with --output")
    trainer.prepare(images)
    machine = {"device": str(trainer.device), "threads": torch.get_num_threads(), "torch": torch.__version__}
    return [{**about, **machine}]


def _resume(path: Path, trainer: Trainer, about: Record) -> list[str]:
    """Lines of the log of the training that ``path`` is the state of."""
    output = path.parent
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
    return list(state["log"])
