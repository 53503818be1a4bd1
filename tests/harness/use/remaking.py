"""Runs made again from one that a model made, with other plans and stamps, in milliseconds."""

import hashlib
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ovss.harness.runs.run import Run
from ovss.harness.runs.storing import store

STAMP = b"ovss"


def remake(
    made: Run,
    results: Path,
    spec: dict[str, Any] | None = None,
    identity: dict[str, Any] | None = None,
    stamp: dict[str, Any] | None = None,
    environment: dict[str, Any] | None = None,
    images: int | None = None,
    merged: bool = True,
) -> Run:
    """``made`` with changes, below ``results``; of its one part the first ``images`` rows."""
    plan = made.plan()
    changed = plan.model_copy(
        update={
            "spec": plan.spec.model_copy(update=spec or {}),
            "identity": {**plan.identity, **(identity or {})},
        }
    )
    run = Run.at(results, type(plan).model_validate(changed.model_dump()))
    store(run.folder / "plan.json", changed.sealed())
    digest = run.plan().digest
    (path,) = made.parts_folder.glob("part-*.parquet")
    table = pq.read_table(path)
    table = table.slice(0, images if images is not None else len(table))
    told = json.loads(table.schema.metadata[STAMP])
    told |= {"plan": digest, **(stamp or {}), "environment": {**told["environment"], **(environment or {})}}
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, STAMP: json.dumps(told).encode()}), sink)
    name = f"{path.name.rsplit('-', 2)[0]}-{len(table)}-{hashlib.sha256(sink.getvalue()).hexdigest()[:16]}.parquet"
    store(run.parts_folder / name, sink.getvalue())
    if merged:
        run.merge()
    return run


def age(folder: Path, seconds: float = 7200) -> None:
    """As if nothing had been written in ``folder`` for so long."""
    then = time.time() - seconds
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (then, then))
