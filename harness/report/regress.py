"""Regression: small fixed subsets, every offline-capable method, compared with committed counts.

``cases.toml`` in the baseline folder says what is run; ``<case>.json`` beside it holds the summed counts of every class
and a mark of the platform that made them.  On that platform counts must be equal, pixel by pixel; elsewhere rounding
may flip pixels where two classes nearly tie, and ``MIOU_TOLERANCE`` applies.
"""

import hashlib
import json
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...datasets import Dataset, open_dataset
from ...datasets.invalid import explain
from ...methods import Backbone, UserError, create_method, find_method, list_methods, load_backbone
from ...methods.models.backbone import TINY_CLIP
from ..protocol.protocol import Protocol, load_protocol
from ..runs.evaluation import evaluate_together
from ..runs.provenance import environment
from ..runs.storing import store

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MIOU_TOLERANCE = 0.005
"""In percent, on another platform: half of the last digit that tables show."""
_COUNTS = ("tp", "gt", "pred")
Baseline = dict[str, Any]


class Case(BaseModel):
    """One subset under one protocol; ``dataset`` is a key, or a .toml path relative to the file of cases."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9_-]+$")
    dataset: str
    protocol: str
    limit: int | None = Field(default=None, ge=1)
    change: dict[str, Any] = Field(default_factory=dict)

    def open(self, folder: Path) -> tuple[Dataset, Protocol]:
        """Data set and protocol."""
        name = str(folder / self.dataset) if self.dataset.endswith(".toml") else self.dataset
        return open_dataset(name), load_protocol(self.protocol).changed(**self.change)


@dataclass(frozen=True)
class Outcome:
    """One method on one case: mIoU in percent, that of the baseline, and by how many pixels counts differ."""

    case: str
    method: str
    miou: float
    baseline: float | None
    different_pixels: int
    same_platform: bool

    @property
    def passed(self) -> bool:
        """Equal counts on the baseline's platform, mIoU within the tolerance elsewhere; False without a baseline."""
        if self.baseline is None:
            return False
        if self.same_platform:
            return self.different_pixels == 0
        return abs(self.miou - self.baseline) <= MIOU_TOLERANCE


def read_cases(folder: Path) -> list[Case]:
    """Cases of ``cases.toml``.  Raises ``UserError`` when the file is absent or wrong."""
    path = folder / "cases.toml"
    try:
        return [Case.model_validate(c) for c in tomllib.loads(path.read_text())["case"]]
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist: run `bench regress` in a checkout of ovss-bench, or name the folder of baselines "
            "with --baselines"
        ) from None
    except (tomllib.TOMLDecodeError, KeyError, ValidationError) as error:
        raise UserError(f"{path} is not a list of cases: {explain(error, 'case', '; ', '')}") from error


def offline_methods() -> list[str]:
    """Our own methods that need no weights beyond the embedded ones."""
    return [name for name in list_methods(plugins=False) if find_method(name).info.offline]


def measure(case: Case, folder: Path, backbone: Backbone, advance: Callable[[int], None]) -> dict[str, Baseline]:
    """Summed counts of every offline-capable method on a case."""
    data, protocol = case.open(folder)
    setting = protocol.setting(data.record.key)
    methods = {n: create_method(n, backbone=backbone, **setting.options_for(n)) for n in offline_methods()}
    found = {}
    for name, result in evaluate_together(methods, data, protocol, case.limit).items():
        total = result.counts.total()
        found[name] = {"miou": result.miou, **{k: getattr(total, k).tolist() for k in _COUNTS}}
    advance(len(methods))
    return found


def compare_case(case: Case, folder: Path, found: dict[str, Baseline]) -> list[Outcome]:
    """Outcomes of one case against its committed baseline."""
    path = folder / f"{case.name}.json"
    if not path.is_file():
        raise UserError(f"baseline {path} does not exist; write it with `bench regress --update`")
    stored = json.loads(path.read_text())
    baselines: dict[str, Baseline] = stored["methods"]
    gone = sorted(set(baselines) - set(found))
    if gone:
        raise UserError(f"{path} knows methods that are gone: {', '.join(gone)}; refresh with `bench regress --update`")
    same = stored["platform"] == platform_mark()
    return [
        Outcome(
            case=case.name,
            method=name,
            miou=now["miou"],
            baseline=baselines[name]["miou"] if name in baselines else None,
            different_pixels=_different(now, baselines[name]) if name in baselines else 0,
            same_platform=same,
        )
        for name, now in found.items()
    ]


def write_baseline(case: Case, folder: Path, found: dict[str, Baseline], backbone: Backbone) -> None:
    """Write ``<case>.json``."""
    data, protocol = case.open(folder)
    value = {
        "case": case.model_dump(),
        "protocol_hash": protocol.setting(data.record.key).hash,
        "dataset_hash": data.record.hash,
        "weights": backbone.sha256,
        "platform": platform_mark(),
        "methods": found,
    }
    store(folder / f"{case.name}.json", (json.dumps(value, indent=1) + "\n").encode())


def run_regression(folder: Path, update: bool, advance: Callable[[int], None] = lambda count: None) -> list[Outcome]:
    """Measure every case; compare with the baselines, or write them when ``update``."""
    cases = read_cases(folder)
    backbone = load_backbone(TINY_CLIP)
    outcomes = []
    for case in cases:
        found = measure(case, folder, backbone, advance)
        if update:
            write_baseline(case, folder, found, backbone)
        outcomes += compare_case(case, folder, found)
    return outcomes


def platform_mark() -> dict[str, str]:
    """What decides whether two machines round alike: library builds and the instruction set."""
    found = environment("cpu")
    flags = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
    return {
        "torch": str(found["packages"]["torch"]),
        "numpy": str(found["packages"]["numpy"]),
        "opencv": str(found["packages"]["opencv-python"]),
        "machine": f"{platform.system()} {platform.machine()}",
        "capability": str(found["cpu_capability"]),
        "cpu": f"{found['cpu']} {hashlib.sha256(flags.encode()).hexdigest()[:8]}",
    }


def _different(now: Baseline, baseline: Baseline) -> int:
    return sum(int(np.abs(np.array(now[k]) - np.array(baseline[k])).sum()) for k in _COUNTS)
