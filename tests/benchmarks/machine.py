"""The machine that a table was made on."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from ovss.harness.runs.provenance import code_version, device_name
from ovss.harness.use.machine import Moment, share_of_others

_CPUS = Path("/proc/cpuinfo")
_ZEN5_FAMILY = 26
"""AMD's family 1Ah."""


def is_zen5() -> bool:
    """Whether this is an AMD Zen 5 (or a later one of that family) that has AVX-512."""
    text = _CPUS.read_text() if _CPUS.exists() else ""
    family = re.search(r"^cpu family\s*:\s*(\d+)", text, re.MULTILINE)
    amd, wide = "AuthenticAMD" in text, "AVX512" in torch.backends.cpu.get_cpu_capability()
    return amd and wide and family is not None and int(family[1]) >= _ZEN5_FAMILY


@dataclass(frozen=True)
class Machine:
    """In words; loads and shares are those while lines were measured."""

    cpu: str
    instructions: str
    cores: int
    threads: int
    load: str
    others: str
    torch: str
    code: str

    @classmethod
    def between(cls, before: Moment, after: Moment) -> "Machine":
        others = share_of_others(before, after)
        return cls(
            device_name("cpu"),
            torch.backends.cpu.get_cpu_capability(),
            os.cpu_count() or 1,
            torch.get_num_threads(),
            ", ".join("unknown" if moment.load is None else f"{moment.load:.2f}" for moment in (before, after)),
            "unknown" if others is None else f"{100 * others:.0f} %",
            torch.__version__,
            code_version(),
        )
