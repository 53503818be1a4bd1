"""Engines by name, imported when they are asked for."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from ...methods import UserError
from .door import Engine
from .local import Local
from .names import EngineName


@dataclass(frozen=True)
class Where:
    """Where workers are started.

    ``gpus``: of this machine, one worker each, as ids or UUIDs; "all" of them, or "" for no choice.  ``slurm``:
    settings of the jobs.  ``ray``: address of a cluster.  ``detach``: do not wait for the workers.
    """

    engine: EngineName = "local"
    gpus: str = ""
    slurm: dict[str, str] = field(default_factory=dict)
    ray: str = ""
    detach: bool = False

    def check(self, device: str, results: Path) -> None:
        """Raise ``UserError`` for what does not go together, and for a cluster that cannot be asked from here."""
        if self.gpus and (self.engine != "local" or not device.startswith("cuda")):
            raise UserError("--gpus is for --engine local with --device cuda: clusters give each worker its GPU")
        if self.slurm and self.engine != "slurm":
            raise UserError("--slurm is for --engine slurm")
        if self.ray and self.engine != "ray":
            raise UserError("--ray is for --engine ray")
        if self.detach and self.engine != "slurm":
            raise UserError("--detach is for --engine slurm: other workers end with the process that started them")
        if self.engine == "slurm":
            from . import slurm

            slurm.check_here(results)
        if self.engine == "ray":
            from . import ray

            ray.check_here()

    def gpu_ids(self) -> list[str]:
        """The GPUs of ``gpus``."""
        return gpu_ids(self.gpus)

    def start(self, folder: Path) -> Engine:
        """The engine; ``folder`` is for what it writes itself."""
        if self.engine == "slurm":
            from .slurm import Slurm

            return Slurm(folder / "slurm", self.slurm)
        if self.engine == "ray":
            from .ray import Ray

            return Ray(self.ray)
        return Local(self.gpu_ids())


def gpu_ids(text: str, visible: str | None = None) -> list[str]:
    """``"all"`` or ids and UUIDs with commas -> those that this process may use.  Raises ``UserError`` for others.

    ``visible``: what CUDA_VISIBLE_DEVICES says (default: that of this process); the ids are names in it.
    """
    if not text:
        return []
    there = _visible(os.environ.get("CUDA_VISIBLE_DEVICES") if visible is None else visible)
    if text == "all":
        if not there:
            raise UserError("--gpus all: this machine has no GPU that torch can use")
        return there
    asked = [name.strip() for name in text.split(",")]
    unknown = [name for name in asked if name not in there and not name.startswith(("GPU-", "MIG-"))]
    if unknown or len(set(asked)) < len(asked):
        raise UserError(f"--gpus {text}: name each GPU once; there are {', '.join(there) or 'none'}")
    return asked


def _visible(variable: str | None) -> list[str]:
    if variable is not None:
        return [name.strip() for name in variable.split(",") if name.strip()]
    import torch

    return [str(k) for k in range(torch.cuda.device_count())]
