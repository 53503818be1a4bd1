"""What a caller wants of a suite, and the ``bench run`` that does one of its runs alike."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..engines.choose import Where
from ..runs.loading import BY_DEVICE, Loading
from ..runs.plan import RunSpec


@dataclass(frozen=True)
class SuiteRequest:
    """What a caller wants of a suite: ``methods`` and ``datasets`` leave all others out, ``limit`` holds for all.

    ``workers``, ``loading`` and ``where`` are those of ``run``, for every pass; they move no number.
    """

    results: Path = Path("results")
    data_root: Path | None = None
    device: str = "cpu"
    workers: int = 1
    limit: int | None = None
    methods: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    allow_download: bool = False
    loading: Loading = BY_DEVICE
    where: Where | None = None

    def command(self, spec: RunSpec, changes: Mapping[str, object], protocol: str | None, limit: int | None) -> str:
        """The ``bench run`` that does one run, at the same place; it waits for jobs that were left alone."""
        values = {
            "--method": spec.method,
            "--dataset": spec.dataset,
            "--protocol": protocol,
            "--backbone": spec.backbone,
            "--weights": spec.weights,
            "--data-root": spec.data_root,
            "--device": spec.device if spec.device != "cpu" else None,
            "--limit": limit,
            "--results": self.results if self.results != Path("results") else None,
        }
        words = ["bench", "run", *_flags(values)]
        words += [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
        words += [word for key, value in spec.options.items() for word in ("--option", f"{key}={value}")]
        words += [flag for flag, wanted in (("--boundary", spec.boundary), ("--confusion", spec.confusion)) if wanted]
        return shlex.join([*words, *self._place()])

    def _place(self) -> list[str]:
        """Flags that say who works, and how images come to the model."""
        where = self.where or Where()
        values = {
            "--workers": self.workers if self.workers > 1 else None,
            "--loaders": self.loading.threads,
            "--cache-decoded": self.loading.decoded,
            "--engine": where.engine if where.engine != "local" else None,
            "--gpus": where.gpus or None,
            "--ray": where.ray or None,
        }
        return [*_flags(values), *(w for key, value in where.slurm.items() for w in ("--slurm", f"{key}={value}"))]


def _flags(values: Mapping[str, object]) -> list[str]:
    return [word for flag, value in values.items() if value is not None for word in (flag, str(value))]
