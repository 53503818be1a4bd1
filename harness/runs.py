"""Runs: a plan, immutable parts, a manifest; one folder per run.

A run folder is named by what decides its numbers (method, weights, protocol, vocabulary, data, code), so the same
command finds the same folder: it goes on where it stopped, and a finished run answers at once.

    plan.json        what is to be done: spec, image ids, every hash       written first
    parts/*.parquet  per-image counts, written as the work goes on
    counts.parquet   all parts merged and sorted                           the same bytes in every history
    metrics.json     metrics of counts.parquet                             likewise
    manifest.json    provenance, timing and memory                         written last
"""

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from ..datasets import Dataset
from ..datasets.catalog import label_of
from ..methods import Segmenter, UserError, create_method
from ..methods.files import store
from ..methods.segmenter import describe
from . import parts
from .mmseg_config import open_any
from .pipeline import STAGES, Pipeline, check_sharing
from .protocol import Protocol, Setting
from .provenance import code_version, environment, foreign_hash, plugin_version, source_hash
from .result import EvalResult

PLAN, MANIFEST, METRICS, COUNTS = "plan.json", "manifest.json", "metrics.json", "counts.parquet"


class RunSpec(BaseModel):
    """What the user asked for, as JSON: enough for any process to build the same pipeline."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    dataset: str
    protocol: Protocol
    backbone: str | None = None
    weights: str | None = None
    data_root: str | None = None
    device: str = "cpu"
    options: dict[str, Any] = Field(default_factory=dict)
    boundary: bool = False
    confusion: bool = False

    def open_data(self) -> Dataset:
        """The data set."""
        return open_any(self.dataset, Path(self.data_root) if self.data_root else None)

    def setting_for(self, data: Dataset) -> Setting:
        """The protocol's values for the data set."""
        return self.protocol.setting(data.record.key)

    def build_method(self, setting: Setting, allow_download: bool = False) -> Segmenter:
        """The method with its parts loaded."""
        import torch

        reserved = {"backbone", "weights", "device", "dtype", "tokenizer", "allow_download"} & self.options.keys()
        if reserved:
            names = ", ".join(sorted(reserved))
            raise UserError(f"--option cannot set {names}: there are --backbone, --weights, --device for that")
        return create_method(
            self.method,
            backbone=self.backbone,
            device=self.device,
            dtype=getattr(torch, setting.precision),
            weights=Path(self.weights) if self.weights else None,
            allow_download=allow_download,
            **{**setting.options_for(self.method), **self.options},
        )


class Plan(BaseModel):
    """A run's identity and its images.

    ``note`` is to be printed beside every number; ``described`` are fields of the method's ``MethodInfo``, as it was
    built.
    """

    spec: RunSpec
    identity: dict[str, Any]
    ids: tuple[str, ...]
    note: str = ""
    described: dict[str, Any] = Field(default_factory=dict)

    @property
    def name(self) -> str:
        """Folder name: readable, and unique by hash."""
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
        method = self.spec.method.replace(":", ".").replace("/", ".")
        dataset = label_of(self.identity["dataset"]["key"], self.identity["dataset"]["split"])
        return f"{dataset}-{method}-{self.spec.protocol.name.rstrip('*')}-{digest[:10]}"


def build_pipelines(specs: Sequence[RunSpec], data: Sequence[Dataset], allow_download: bool = False) -> list[Pipeline]:
    """One pipeline for each data set, around one method.

    Raises ``UserError`` when the settings of the data sets do not allow to share a pass.
    """
    settings = [spec.setting_for(d) for spec, d in zip(specs, data, strict=True)]
    check_sharing(settings, [d.record.key for d in data], specs[0].method)
    method = specs[0].build_method(settings[0], allow_download)
    twins = [method, *(method.twin() for _ in specs[1:])]
    return [
        Pipeline(twin, setting, d.record, spec.boundary, spec.confusion)
        for twin, setting, d, spec in zip(twins, settings, data, specs, strict=True)
    ]


def make_plan(spec: RunSpec, pipeline: Pipeline, data: Dataset) -> Plan:
    """Everything that decides the numbers of a run."""
    ids = data.ids
    identity = {
        "method": pipeline.method.provenance,
        "dataset": {
            "key": data.record.key,
            "split": data.record.split,
            "hash": data.record.hash,
            "images_sha256": hashlib.sha256("\n".join(ids).encode()).hexdigest(),
        },
        "protocol": {
            "name": spec.protocol.name,
            "hash": pipeline.setting.hash,
            "version": spec.protocol.version,
        },
        "setting": pipeline.setting.model_dump(),
        "vocabulary_hash": pipeline.method.vocabulary.hash,
        "boundary": spec.boundary,
        "confusion": spec.confusion,
        "device_type": spec.device.partition(":")[0],
        "source_hash": source_hash(),
        "method_source_hash": foreign_hash(type(pipeline.method)),
    }
    if pipeline.guide is not None:
        identity["guide"] = pipeline.guide.provenance
    note = "; ".join(filter(None, ["" if pipeline.method.note else data.note, pipeline.note]))
    described = describe(pipeline.method) | {"plugin": plugin_version(type(pipeline.method))}
    return Plan(spec=spec, identity=identity, ids=ids, note=note, described=described)


class Run:
    """A run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts_folder = folder / "parts"

    @classmethod
    def open(cls, results: Path, plan: Plan) -> "Run":
        """The folder of ``plan`` below ``results``, made if it is not there."""
        run = cls(results / "runs" / plan.name)
        try:
            run.parts_folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"run folder {run.folder} cannot be written: {error.strerror}") from error
        return run

    def begin(self, plan: Plan, fresh: bool = False) -> None:
        """Write the plan, and first delete what was done if ``fresh``.  To be called under the lock.

        The plan is written each time: paths of data and weights may have changed, its identity has not.
        """
        if fresh:
            for name in (MANIFEST, METRICS, COUNTS):
                (self.folder / name).unlink(missing_ok=True)
            shutil.rmtree(self.parts_folder)
            self.parts_folder.mkdir()
        store(self.folder / PLAN, _json(plan.model_dump(mode="json")))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Refuse to work on a run that another process works on."""
        try:
            file = (self.folder / ".lock").open("w")
        except OSError as error:
            raise UserError(f"run folder {self.folder} cannot be written: {error.strerror}") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"another process is working on {self.folder}: wait for it, or stop it") from None
            yield

    def plan(self) -> Plan:
        """Raises ``UserError`` when the folder is no run or its plan is damaged."""
        try:
            return Plan.model_validate_json((self.folder / PLAN).read_bytes())
        except (OSError, ValueError) as error:
            raise UserError(f"{self.folder} is not a run folder with a readable {PLAN}: {error}") from error

    def done(self) -> set[str]:
        """Images that some part holds."""
        return set(parts.read_parts(self.parts_folder)["image"])

    def missing(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """Images of ``wanted`` that no part holds yet."""
        done = self.done()
        return tuple(i for i in wanted if i not in done)

    def is_merged(self) -> bool:
        """Whether the summary files speak of every image in the parts."""
        if not (self.folder / MANIFEST).is_file():
            return False
        return int(self.manifest()["images"]) == len(parts.read_parts(self.parts_folder))

    def finish(self, data: Dataset, encode_seconds: float, workers: int = 1, shared_with: Sequence[str] = ()) -> None:
        """Merge parts and write the summary files.

        ``encode_seconds`` is what the vocabulary took this time, ``workers`` how many processes worked last,
        ``shared_with`` the data sets that were scored in the same pass.
        """
        plan, frame = self.plan(), parts.read_parts(self.parts_folder)
        setting = plan.spec.setting_for(data)
        result = _evaluated(frame, data, setting)
        (self.folder / MANIFEST).unlink(missing_ok=True)  # an old one must never stand beside new counts
        parts.write_parquet(self.folder / COUNTS, parts.counts_frame(frame))
        store(self.folder / METRICS, _json(result.summary()))
        manifest = {
            "run": self.folder.name,
            "note": plan.note,
            "described": plan.described,
            "title": data.record.title,
            **plan.identity,
            "code_version": " ".join(filter(None, [code_version(), plan.described.get("plugin")])),
            "environment": environment(plan.spec.device),
            "workers": workers,
            "shared_with": list(shared_with),
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            **cost(frame),
            "encode_seconds": encode_seconds,
            "images": len(frame),
            "images_sha256": hashlib.sha256("\n".join(frame["image"]).encode()).hexdigest(),
            "planned": data.planned,
            "clusters": result.clusters.tolist(),
        }
        store(self.folder / MANIFEST, _json(manifest))

    def result(self, data: Dataset, wanted: tuple[str, ...] | None = None) -> EvalResult:
        """Result over ``wanted`` (default: all images done so far)."""
        frame = parts.read_parts(self.parts_folder)
        if wanted is not None:
            frame = frame[frame["image"].isin(wanted)].reset_index(drop=True)
        return _evaluated(frame, data, self.plan().spec.setting_for(data))

    def manifest(self) -> dict[str, Any]:
        """Raises ``UserError`` when the run was never finished."""
        return _read_json(self.folder / MANIFEST)

    def metrics(self) -> dict[str, Any]:
        """Metrics over all images done so far."""
        return _read_json(self.folder / METRICS)

    def counts(self) -> pd.DataFrame:
        """Merged counts, one row per image.  Raises ``UserError`` when the run was never finished."""
        try:
            return pd.read_parquet(self.folder / COUNTS)
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{self.folder} has no readable {COUNTS}: finish it with `bench run`") from error


def list_runs(results: Path) -> list[Run]:
    """Finished (complete or partial) runs below ``results``, by name."""
    return [Run(p.parent) for p in sorted((results / "runs").glob(f"*/{MANIFEST}"))]


def cost(frame: pd.DataFrame) -> dict[str, Any]:
    """Mean seconds per image and stage (warm-up left out where possible) and peak memory."""
    typical = frame[frame["warm"]] if frame["warm"].any() else frame
    stages = {stage: float(typical[f"{stage}_seconds"].mean()) for stage in STAGES}
    return {
        "seconds_per_image": sum(stages.values()),
        "seconds_per_stage": stages,
        "peak_bytes": int(frame["peak_bytes"].max()),
    }


def _evaluated(frame: pd.DataFrame, data: Dataset, setting: Setting) -> EvalResult:
    ids = tuple(frame["image"])
    classes = len(data.record.classes)
    return EvalResult(
        record=data.record,
        ids=ids,
        counts=parts.counts_of(frame, classes),
        clusters=data.clusters(ids),
        planned=data.planned,
        averaging=setting.averaging,
        boundary=parts.counts_of(frame, classes, "boundary_") if "boundary_tp" in frame else None,
        confusion=parts.confusion_of(frame),
    )


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.  Run `bench run` for it again") from error
    return value
