"""What was timed, as a typed and versioned record: a file in ``RESULTS/timings``."""

from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from ..runs.sealed import seal

SCHEMA = 1


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Spread(_Record):
    """Median and quartiles over passes."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """Of at least one value."""
        low, middle, high = np.percentile(values, [25, 50, 75])
        return cls(median=float(middle), low=float(low), high=float(high))


class TimedMethod(_Record):
    """Seconds per image of a method, whole and by stage; ``passes`` are the means of each pass, in order."""

    method: str
    plan: str
    protocol: str
    protocol_hash: str
    weights: dict[str, Any]
    note: str
    encode_seconds: float
    seconds_per_image: Spread
    seconds_per_stage: dict[str, Spread]
    passes: tuple[float, ...]


class Ratio(_Record):
    """Seconds of ``method`` over those of ``against``, pass by pass."""

    method: str
    against: str
    ratio: Spread


class Machine(_Record):
    """Load average of a minute before and after; share of all cores that others used meanwhile (0 to 1).

    What the system does not tell is None.
    """

    cores: int
    load_before: float | None
    load_after: float | None
    others_share: float | None
    governor: str | None

    @property
    def busy(self) -> bool:
        """Whether more wanted to run than there are cores."""
        return any(load is not None and load > self.cores for load in (self.load_before, self.load_after))


class Timing(_Record):
    """Repeated passes of methods over the same images in one process, on one device, after a pass to warm up."""

    schema_version: int = SCHEMA
    name: str
    dataset: str
    split: str
    images: int
    planned: int
    repeats: int
    images_per_batch: int
    methods: tuple[TimedMethod, ...]
    ratios: tuple[Ratio, ...]
    machine: Machine
    environment: dict[str, Any]
    code_version: str
    finished: str

    def sealed(self) -> bytes:
        """The file."""
        return seal(self.model_dump(mode="json"))
