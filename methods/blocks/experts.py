"""Experts: for every class the templates under which a method was least unsure of it, on images without labels."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from ..core.errors import UserError
from ..core.vocabulary import Vocabulary

SCHEMA = 1
Table = tuple[tuple[float | None, ...], ...]


class Experts(BaseModel):
    """What a file of experts says: which method ranked templates on which images, and what came out.

    ``entropy[c][t]`` is the mean entropy in nats of the pixels that template ``t`` alone gives to class ``c``, None
    where it gives none; ``pixels[c][t]`` counts them.  ``chosen[c]`` are the best templates, best first: fewer than
    ``count`` where fewer ever gave a pixel to the class.  ``image_names`` say what was looked at, as
    ``harness.runs.fitted`` names images.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA
    method: dict[str, Any]
    dataset: dict[str, Any]
    protocol: dict[str, Any]
    vocabulary_hash: str
    device_type: str
    note: str
    images: int
    planned: int
    image_names: tuple[str, ...]
    count: int
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    entropy: Table
    pixels: tuple[tuple[int, ...], ...]
    chosen: tuple[tuple[int, ...], ...]
    code_version: str
    environment: dict[str, Any]
    finished: str

    @model_validator(mode="after")
    def _tables_fit(self) -> "Experts":
        rows = {len(table) for table in (self.classes, self.entropy, self.pixels, self.chosen)}
        columns = {len(self.templates), *map(len, self.entropy), *map(len, self.pixels)}
        inside = all(0 <= t < len(self.templates) for row in self.chosen for t in row)
        if len(rows) != 1 or len(columns) != 1 or not inside:
            raise ValueError("its tables do not fit its classes and templates")
        return self

    def templates_for(self, vocabulary: Vocabulary) -> tuple[tuple[str, ...], ...]:
        """Templates of each class of a vocabulary; all of them for a class that no template gave a pixel to.

        Raises ``UserError`` for a vocabulary of other classes.
        """
        ours, asked = self.classes, vocabulary.classes
        if ours != asked:
            raise UserError(
                f"the file of experts is for the {len(ours)} classes of {self.dataset['key']}, from {ours[0]!r} to "
                f"{ours[-1]!r}, and these are {len(asked)} classes from {asked[0]!r} to {asked[-1]!r}: choose experts "
                "for them with `bench experts`"
            )
        return tuple(tuple(self.templates[t] for t in row) or self.templates for row in self.chosen)

    def written(self) -> bytes:
        """The file, as JSON."""
        return (json.dumps(self.model_dump(mode="json"), ensure_ascii=False, allow_nan=False) + "\n").encode()


@dataclass(frozen=True, eq=False)
class ExpertsFile:
    """Experts, and the bytes that they were read from."""

    experts: Experts
    content: bytes

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Checksum of the file, and what it is of, as JSON values."""
        found = self.experts
        return {
            "sha256": hashlib.sha256(self.content).hexdigest(),
            "method": found.method["method"],
            "dataset": found.dataset["key"],
            "split": found.dataset["split"],
            "images": found.images,
            "protocol_hash": found.protocol["hash"],
        }


def choose(entropy: Table, count: int) -> tuple[tuple[int, ...], ...]:
    """The ``count`` templates of least entropy of every class, best first; the first of equal ones.

    >>> choose(((0.5, None, 0.1), (None, None, None)), 1)
    ((2,), ())
    """
    ranked = [sorted((e, t) for t, e in enumerate(row) if e is not None) for row in entropy]
    return tuple(tuple(t for _, t in row[:count]) for row in ranked)


def read_experts(path: Path) -> ExpertsFile:
    """A file that `bench experts` wrote.  Raises ``UserError`` when it is absent or no such file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"file of experts {path} cannot be read: {error.strerror}.  `bench experts` makes one"
        ) from error
    try:
        found = Experts.model_validate_json(content)
        if found.schema_version != SCHEMA:
            raise ValueError(f"schema version {found.schema_version}, wanted {SCHEMA}")
        file = ExpertsFile(found, content)
        _ = file.provenance
    except (ValidationError, ValueError, KeyError) as error:
        why = str(error).splitlines()[0][:200]
        raise UserError(f"{path} is no file of experts: {why}.  `bench experts` makes one") from error
    return file
