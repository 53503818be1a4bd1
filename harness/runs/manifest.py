"""The manifest of a run: its provenance, cost and extent, as a function of its plan and parts alone.

Nothing about the process that merges enters, so merging again, elsewhere or later, gives the same file.
"""

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from ...datasets import clusters_of
from ...datasets.invalid import explain
from ...methods import UserError
from .plan import SCHEMA, Plan, check_schema
from .scored import STAGES
from .sealed import read_sealed, seal
from .survey import Survey


class Manifest(BaseModel):
    """What a finished run says of itself.  ``method`` to ``regions`` are the plan's identity; ``regions`` are those
    that vote.

    ``environment``, ``code_version``, ``workers``, ``loaders``, ``encode_seconds`` and ``shared_with`` are those of the
    part that was written last; ``environments`` lists all different ones where parts come from several.

    ``arithmetic`` says by which programs large layers were computed, and how others compare; "" for torch's own that
    nobody timed.

    ``seconds_per_image`` is the sum of its stages: what an image takes when nothing is loaded ahead.
    ``wait_seconds_per_image`` is what the model waited for data; None in files from before it was measured.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA
    run: str
    plan: str
    counts_sha256: str
    metrics_sha256: str
    note: str
    described: dict[str, Any]
    title: str
    method: dict[str, Any]
    dataset: dict[str, Any]
    protocol: dict[str, Any]
    setting: dict[str, Any]
    vocabulary_hash: str
    boundary: bool
    confusion: bool
    device_type: str
    source_hash: str
    method_source_hash: str | None
    guide: dict[str, Any] | None
    regions: dict[str, Any] | None = None
    code_version: str
    environment: dict[str, Any]
    environments: tuple[dict[str, Any], ...] = ()
    arithmetic: str = ""
    workers: int
    loaders: int = 0
    shared_with: tuple[str, ...]
    finished: str
    seconds_per_image: float
    seconds_per_stage: dict[str, float]
    wait_seconds_per_image: float | None = None
    peak_bytes: int
    encode_seconds: float
    images: int
    images_sha256: str
    planned: int
    clusters: tuple[int, ...]

    @property
    def weights(self) -> dict[str, Any]:
        """The method's weights; empty for a method without."""
        return self.method.get("weights") or {}

    @property
    def unchecked(self) -> str:
        """That the activation of the weights was not checked, and why it was chosen; "" where it was, or is none."""
        return "" if self.weights.get("activation_checked", True) else str(self.weights["activation_note"])

    @property
    def voted_by(self) -> str:
        """Whose regions voted, with what it was made with; "" without a vote."""
        said = {k: v for k, v in (self.regions or {}).items() if k != "name" and isinstance(v, str | int | float)}
        return ", ".join([str(self.regions["name"]), *(f"{k} {v}" for k, v in said.items())]) if self.regions else ""

    def beside(self, metrics: bytes) -> "Manifest":
        """The manifest that stands beside this file of metrics."""
        return self.model_copy(update={"metrics_sha256": hashlib.sha256(metrics).hexdigest()})

    def sealed(self) -> bytes:
        """The file ``manifest.json``."""
        return seal(self.model_dump(mode="json"))


def read_manifest(path: Path) -> Manifest:
    """Read ``manifest.json``.  Raises ``UserError`` when it is absent, damaged or of an older version."""
    value = read_sealed(path)
    check_schema(value, path)
    try:
        return Manifest.model_validate(value)
    except ValidationError as error:
        raise UserError(
            f"{path} is no manifest that this version understands:\n{explain(error, 'manifest')}"
        ) from error


def make_manifest(folder: str, plan: Plan, found: Survey, counts_sha256: str) -> Manifest:
    """The manifest for all images in the parts, without metrics (``beside``)."""
    frame, last = found.frame, found.stamps[-1]
    different: list[dict[str, Any]] = []
    for stamp in found.stamps:
        if stamp.environment not in different:
            different.append(stamp.environment)
    return Manifest(
        run=folder,
        plan=plan.digest,
        counts_sha256=counts_sha256,
        metrics_sha256="",
        note=plan.note,
        described=plan.described,
        title=plan.record.title,
        **plan.identity,
        code_version=last.code_version,
        environment=last.environment,
        environments=tuple(different) if len(different) > 1 else (),
        arithmetic=plan.arithmetic.told,
        workers=last.workers,
        loaders=last.loaders,
        shared_with=last.shared_with,
        finished=last.written,
        **cost(frame),
        encode_seconds=last.encode_seconds,
        images=len(frame),
        images_sha256=images_sha256(frame),
        planned=plan.planned,
        clusters=tuple(clusters_of(plan.record, tuple(frame["image"])).tolist()),
    )


def images_sha256(frame: pd.DataFrame) -> str:
    """Which images, with which content, the rows are of."""
    digest, between = hashlib.sha256(), ""
    for image, content in zip(frame["image"], frame["content"], strict=True):
        digest.update(f"{between}{image} {content}".encode())
        between = "\n"
    return digest.hexdigest()


def cost(frame: pd.DataFrame) -> dict[str, Any]:
    """Mean seconds per image and stage (warm-up left out where possible) and peak memory."""
    typical = frame[frame["warm"]] if frame["warm"].any() else frame
    stages = {stage: float(typical[f"{stage}_seconds"].mean()) for stage in STAGES}
    return {
        "seconds_per_image": sum(stages.values()),
        "seconds_per_stage": stages,
        "wait_seconds_per_image": float(typical["wait_seconds"].mean()) if "wait_seconds" in typical else None,
        "peak_bytes": int(frame["peak_bytes"].max()),
    }
