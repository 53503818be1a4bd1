"""What a sweep found, as a typed and versioned record: the file ``sweep.json``.  Percent throughout."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ...methods import UserError
from ..runs.sealed import read_sealed, seal

SCHEMA = 1
Bounds = tuple[float, float]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Score(_Record):
    """mIoU with its 95 % interval; None where there are no valid pixels, or too few units."""

    miou: float | None
    interval: Bounds | None


class Point(Score):
    """The score under a value, over all images."""

    value: float


class Gap(_Record):
    """A paired difference of mIoU on the half to report on, 95 % interval and p value (None with few units)."""

    estimate: float | None
    interval: Bounds | None
    p_value: float | None


class SweptMethod(_Record):
    """A method under every value.

    ``own`` is the value of the protocol, ``paper`` that of ``paper_protocol``, the preset of the method's paper for
    this data set, if there is one.  ``tuned`` is the best on the tuning half, where it scores ``tuned_on_tuning``.
    Every other score that is no point is over the other half; ``gain`` is that of ``tuned`` over ``own``.
    ``one_decode`` says whether one decode of each image served all values.
    """

    method: str
    plan: str
    protocol: str
    protocol_hash: str
    weights: dict[str, Any]
    note: str
    own: float
    paper: float | None
    paper_protocol: str | None
    tuned: float
    points: tuple[Point, ...]
    tuned_on_tuning: Score
    tuned_on_test: Score
    own_on_test: Score
    paper_on_test: Score | None
    gain: Gap
    one_decode: bool


class SweptPair(_Record):
    """``method`` minus ``against`` on the half to report on.

    ``at_own``: each under its protocol's value.  ``at_tuned``: each under its tuned value.  ``of_value``: how much of
    the first is the value and not the method, that is the first minus the second.
    """

    method: str
    against: str
    at_own: Gap
    at_tuned: Gap
    of_value: Gap


class Sweep(_Record):
    """A finished sweep: what was asked, the two halves, and what each method scores under each value.

    ``tuning_ids`` are the images of the tuning half; the other ``test_images`` are those to report on.
    """

    schema_version: int = SCHEMA
    name: str
    identity: str
    field: str
    values: tuple[float, ...]
    dataset: str
    split: str
    images: int
    planned: int
    units: int
    averaging: str
    split_seed: int
    tuning_ids: tuple[str, ...]
    tuning_units: int
    test_images: int
    test_units: int
    methods: tuple[SweptMethod, ...]
    pairs: tuple[SweptPair, ...]
    environment: dict[str, Any]
    code_version: str
    finished: str

    def sealed(self) -> bytes:
        """The file ``sweep.json``."""
        return seal(self.model_dump(mode="json"))


def read_sweep(path: Path) -> Sweep:
    """Read ``sweep.json``.  Raises ``UserError`` when it is absent, damaged or of another version."""
    value = read_sealed(path)
    if value.get("schema_version") != SCHEMA:
        raise UserError(f"{path} is of another version of ovss-bench: repeat the `bench sweep` that made it")
    try:
        return Sweep.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{path} is no sweep that this version understands: repeat the `bench sweep`") from error
