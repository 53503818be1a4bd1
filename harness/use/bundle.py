"""Bundles: a zip of runs with the checksum of every member, and the bounds that reading one keeps.

bundle.json              which runs, and size and SHA-256 of every other member; sealed
runs/RUN/plan.json       as in a run folder, without places and names of the machine
runs/RUN/parts/*.parquet, counts.parquet, metrics.json, manifest.json
"""

import re

from pydantic import BaseModel, ConfigDict, Field

from ..runs.plan import Plan
from ..runs.run import COUNTS, MANIFEST, METRICS, PLAN

RECORD = "bundle.json"
SCHEMA = 1
"""Version of the form of a bundle."""
MOST_BYTES = 8 << 30
"""All members of a bundle, unpacked."""
MOST_JSON_BYTES = 1 << 28
"""One JSON file: a plan of a million images has about 100 MB."""
MOST_MEMBERS = 100_000
FILES = (PLAN, COUNTS, METRICS, MANIFEST)
MEMBER = re.compile(
    rf"runs/(?P<run>[^/\\\x00-\x1f.][^/\\\x00-\x1f]*)/"
    rf"(?P<file>{'|'.join(map(re.escape, FILES))}|parts/part-[0-9a-f]{{32}}-[0-9]+-[0-9a-f]{{16}}\.parquet)"
)
"""Names that a member may have: nothing absolute, no ``..``, no folder but a run's own."""
_FILE_BYTES, _ROW_BYTES = 1 << 16, 4096
"""What a parquet file has besides its rows, and a row besides its counts."""


class Member(BaseModel):
    """A file of a bundle."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size_bytes: int = Field(ge=0)
    sha256: str


class Bundle(BaseModel):
    """The record of a bundle: ``runs`` by name, and every member but the record itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA
    runs: tuple[str, ...] = Field(min_length=1)
    members: dict[str, Member]


def most_parquet_bytes(plan: Plan) -> int:
    """The largest that a parquet file of the plan's rows can be, packed or not.

    Three numbers of eight bytes for each class, as many for boundaries, three for each cell of a confusion matrix.
    """
    classes = len(plan.record.classes)
    cells = (classes + 1) * classes if plan.spec.confusion else 0
    longest = max((len(i.encode()) for i in plan.ids), default=0)
    return _FILE_BYTES + len(plan.ids) * (_ROW_BYTES + longest + 24 * (2 * classes + cells))
