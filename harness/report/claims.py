"""Claims: reported values that can be run here, each with what it needs, and when a value of ours agrees with one.

``claims.toml`` says for each line of a published table which method, weights and protocol made it; values and sources
are those of ``published.csv``, chosen as for the leaderboard.  A claim is a line on one data set.
"""

from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...datasets import dataset_keys
from ...datasets.invalid import explain
from ...datasets.toml import read_toml
from ...methods import UserError
from ...methods.models.weights import list_weights
from ..protocol.protocol import Protocol, Setting, load_protocol
from .published import DATASETS, Origin, Reported, kinds_under, line_of

TABLE = Path(__file__).parent / "claims.toml"
TOLERANCE = 0.5
"""mIoU, in percent, within which a value of ours reproduces a reported one."""
Kind = Literal["reproduces", "does not reproduce", "partial"]
_KEYS = {name: key for key, name in DATASETS.items()}
_QUOTED = "the value is quoted: the source is neither the method's paper nor its repository"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Line(_Part):
    """What a line of a published table needs here; the fields are explained in ``claims.toml``."""

    method: str
    published: str
    weights: str
    backbone: str | None = None
    checkpoints: tuple[tuple[str, ...], ...] = Field(min_length=1)
    protocol: str
    changes: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    on: dict[str, tuple[str, ...]] = Field(default_factory=dict)


class _Table(_Part):
    lines: dict[str, Line]
    reasons: dict[str, str]


class Claim(_Part):
    """A reported value, and everything that a run of it needs.

    ``name`` is ``LINE/DATASET``.  ``checkpoints`` are groups of catalogued weights, one of each is needed.
    ``reported`` is in percent, None where the source has no value.  ``reasons`` say why a value of ours may differ.
    """

    name: str
    line: str
    method: str
    published: str
    options: dict[str, Any]
    dataset: str
    protocol: Protocol
    backbone: str | None
    weights: str
    checkpoints: tuple[tuple[str, ...], ...]
    second_model: str
    postprocessing: str
    reported: float | None
    origin: Origin | None
    source: str
    reasons: tuple[str, ...]

    @cached_property
    def setting(self) -> Setting:
        """Values of the protocol on the data set."""
        return self.protocol.setting(self.dataset)

    @property
    def label(self) -> str:
        """The method with its options, as the leaderboard names it."""
        options = ", ".join(f"{k}={v}" for k, v in sorted(self.options.items()))
        return f"{self.method} ({options})" if options else self.method


def judge(reported: float, miou: float, complete: bool, tolerance: float = TOLERANCE) -> Kind:
    """Whether ``miou`` reproduces ``reported``, both in percent; a value of some of the images says nothing of it.

    >>> judge(59.63, 60.13, complete=True)
    'reproduces'
    >>> judge(59.63, 60.14, complete=True)
    'does not reproduce'
    """
    if not complete:
        return "partial"
    return "reproduces" if round(abs(miou - reported), 9) <= tolerance else "does not reproduce"


def list_claims(path: Path | None = None) -> dict[str, Claim]:
    """Every claim by its name, lines in the order of the table, data sets in that of ``published.DATASETS``.

    A line has a claim for each data set that its protocol or its source names; where the source has no value,
    ``reported`` is None.  Raises ``UserError`` for a table that is not valid.
    """
    return _claims(path or TABLE)


@cache
def _claims(path: Path) -> dict[str, Claim]:
    table = _read(path)
    found = [claim for name, line in table.lines.items() for claim in _claims_of(name, line, table.reasons)]
    return {claim.name: claim for claim in found}


def _read(path: Path) -> _Table:
    try:
        table = _Table.model_validate(read_toml(path, f"table of claims {path.name}"))
    except ValidationError as error:
        raise UserError(f"table of claims {path.name} does not work:\n{explain(error, 'table')}") from error
    for name, line in table.lines.items():
        reasons = {*line.reasons, *(reason for more in line.on.values() for reason in more)}
        checkpoints = {entry for group in line.checkpoints for entry in group}
        if unknown := sorted((reasons - set(table.reasons)) | (checkpoints - set(list_weights()))):
            raise UserError(f"table of claims {path.name}, line {name}: unknown {unknown[0]!r}")
    return table


def _claims_of(name: str, line: Line, reasons: Mapping[str, str]) -> list[Claim]:
    protocol = load_protocol(line.protocol).changed(**line.changes)
    kinds = kinds_under(protocol.setting(None).model_dump())
    rows = {_KEYS[row.dataset]: row for row in line_of(line.published, line.weights, kinds)}
    named = [key for key in protocol.dataset if key in dataset_keys()]
    keys = sorted({*rows, *named}, key=list(DATASETS).index)
    said = {key: tuple(reasons[r] for r in (*line.reasons, *line.on.get(key, ()))) for key in keys}
    some = next(iter(rows.values()), None)
    return [_claim(name, line, protocol, key, rows.get(key), some, said[key]) for key in keys]


def _claim(
    name: str,
    line: Line,
    protocol: Protocol,
    dataset: str,
    row: Reported | None,
    some: Reported | None,
    reasons: tuple[str, ...],
) -> Claim:
    """A line on a data set; ``row`` is its cell, ``some`` any cell of the same source."""
    guides = tuple((e.name,) for e in list_weights().values() if protocol.setting(dataset).refine in e.used_by)
    quoted = (_QUOTED,) if some and some.origin == "elsewhere" else ()
    return Claim(
        name=f"{name}/{dataset}",
        line=name,
        method=line.method,
        published=line.published,
        options=line.options,
        dataset=dataset,
        protocol=protocol,
        backbone=line.backbone,
        weights=line.weights,
        checkpoints=(*line.checkpoints, *guides),
        second_model=some.vfm if some else "",
        postprocessing=some.postproc if some else "",
        reported=row.miou if row else None,
        origin=row.origin if row else None,
        source=some.source if some else "",
        reasons=(*reasons, *quoted, *_unsure(protocol)),
    )


def _unsure(protocol: Protocol) -> tuple[str, ...]:
    """What the preset says of its own values that are not sure."""
    return tuple(f"{field}: {text}" for field, text in protocol.sources.items() if "unsure" in text)


@cache
def _by_run() -> dict[tuple[str, str, str, float | None, str], Claim]:
    """Claims by what a row of the leaderboard says: method, data set, protocol hash, reported value and its source."""
    return {(c.label, c.dataset, c.setting.hash, c.reported, c.source): c for c in list_claims().values()}


def claim_of(method: str, dataset: str, protocol_hash: str, reported: float, source: str) -> Claim | None:
    """The claim that a run beside which ``reported`` stands is a test of; None under another protocol or options."""
    return _by_run().get((method, dataset, protocol_hash, reported, source))
