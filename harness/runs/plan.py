"""Plans: what a run is to do, and everything that decides its numbers."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...datasets import Dataset, DatasetRecord
from ...datasets.catalog import label_of
from ...datasets.invalid import explain
from ...methods import UserError
from ...methods.core.arithmetic import PLAIN, Arithmetic
from ..protocol.protocol import Protocol, Setting
from ..show.telling import Progress, unseen
from .provenance import foreign_hash, plugin_version, source_hash
from .sealed import digest_of, read_sealed, seal
from .sources import open_any

if TYPE_CHECKING:  # plans are read and shown without torch; what makes methods is imported where it does
    from ...methods.core.method import Method
    from .pipeline import Pipeline

SCHEMA = 2
"""Version of the files of a run.  1 (before digests of contents, without checksums) is no longer read."""


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

    def build_method(self, setting: Setting, allow_download: bool = False) -> "Method":
        """The method with its parts loaded."""
        import torch

        from ...methods import create_method

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
            **self.options_under(setting),
        )

    def options_under(self, setting: Setting) -> dict[str, Any]:
        """The method's options: the protocol's, and over them the user's."""
        return {**setting.options_for(self.method), **self.options}

    def method_key(self, setting: Setting) -> str:
        """Everything that ``build_method`` depends on."""
        parts = (self.method, self.backbone, self.weights, self.device, setting.precision, self.options_under(setting))
        return json.dumps(parts, sort_keys=True)


class Plan(BaseModel):
    """A run's identity and its images.

    ``planned`` is how many images the data set should have.  ``digests`` says for each of ``ids`` which image and label
    were meant (``Sample.digest``); it is empty for procedural data, whose content is decided by the code.  ``note`` is
    to be printed beside every number; ``described`` is what tables say of the method as it was built
    (``methods.core.method.describe``).  ``arithmetic`` is what all who work on it follow (``settled``).
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA
    spec: RunSpec
    identity: dict[str, Any]
    record: DatasetRecord
    ids: tuple[str, ...]
    planned: int
    digests: tuple[str, ...] = ()
    note: str = ""
    described: dict[str, Any] = Field(default_factory=dict)
    arithmetic: Arithmetic = PLAIN

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the identity: which run this is.  Every part carries it."""
        return digest_of(self.identity)

    @property
    def name(self) -> str:
        """Folder name: readable, and unique by hash."""
        method = self.spec.method.replace(":", ".").replace("/", ".")
        dataset = label_of(self.identity["dataset"]["key"], self.identity["dataset"]["split"])
        return f"{dataset}-{method}-{self.spec.protocol.name.rstrip('*')}-{self.digest[:10]}"

    @property
    def setting(self) -> Setting:
        """The protocol's values for the data set."""
        return self.spec.protocol.setting(self.record.key)

    @cached_property
    def content(self) -> dict[str, str]:
        """Digest of the image and label of each id; "" for procedural data."""
        return dict(zip(self.ids, self.digests or [""] * len(self.ids), strict=True))

    def sealed(self) -> bytes:
        """The file ``plan.json``."""
        return seal(self.model_dump(mode="json", exclude_defaults=True) | {"schema_version": self.schema_version})


def read_plan(path: Path) -> Plan:
    """Read ``plan.json``.  Raises ``UserError`` when it is absent, damaged or of an older version."""
    value = read_sealed(path)
    check_schema(value, path)
    try:
        return Plan.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{path} is no plan that this version understands:\n{explain(error, 'plan')}") from error


def check_schema(value: Mapping[str, Any], path: Path) -> None:
    """Raise ``UserError`` for a file of another version."""
    found = value.get("schema_version", 1)
    if found != SCHEMA:
        raise UserError(
            f"{path} has schema version {found}, this version of ovss-bench writes {SCHEMA}: run the same command with "
            "this version, which starts a new folder"
        )


def build_pipelines(
    specs: Sequence[RunSpec],
    data: Sequence[Dataset],
    allow_download: bool = False,
    progress: Progress = unseen,
) -> "list[Pipeline]":
    """One pipeline for each run; those that ask for the same method with the same parts share it."""
    from ...methods.blocks.dense_clip import share_layers
    from .pipeline import Pipeline

    built: dict[str, Method] = {}
    pipelines = []
    for spec, d in zip(specs, data, strict=True):
        setting = spec.setting_for(d)
        key = spec.method_key(setting)
        if key not in built:
            progress(f"loading {spec.method}" + (f" with {spec.backbone}" if spec.backbone else ""), 0, 0)
            built[key] = spec.build_method(setting, allow_download)
    share_layers(built.values())
    for spec, d in zip(specs, data, strict=True):
        setting = spec.setting_for(d)
        key = spec.method_key(setting)
        progress(f"encoding {len(d.record.classes)} classes of {d.record.key} for {spec.method}", 0, 0)
        pipelines.append(Pipeline(built[key], setting, d.record, spec.boundary, spec.confusion))
    return pipelines


def make_plan(spec: RunSpec, pipeline: "Pipeline", data: Dataset, digests: Mapping[str, str]) -> Plan:
    """Everything that decides the numbers of a run.

    ``digests`` of images and labels (``check_samples``) are part of it, for every id of the data set: other content is
    another run, the same content in another place is not.
    """
    from ...methods.core.method import describe
    from .fitted import fitted_note

    ids = data.ids
    content = tuple(digests[i] for i in ids) if any(data.files(i) for i in ids[:1]) else ()
    identity = {
        "method": pipeline.method.provenance,
        "dataset": {
            "key": data.record.key,
            "split": data.record.split,
            "hash": data.record.hash,
            "images_sha256": hashlib.sha256("\n".join(ids).encode()).hexdigest(),
            "content_sha256": hashlib.sha256("\n".join(content).encode()).hexdigest() if content else None,
        },
        "protocol": {
            "name": spec.protocol.name,
            "hash": pipeline.setting.hash,
            "version": spec.protocol.version,
        },
        "setting": pipeline.setting.model_dump(),
        "vocabulary_hash": pipeline.words.vocabulary.hash,
        "boundary": spec.boundary,
        "confusion": spec.confusion,
        "device_type": spec.device.partition(":")[0],
        "source_hash": source_hash(),
        "method_source_hash": foreign_hash(type(pipeline.method)),
        "guide": None if pipeline.guide is None else pipeline.guide.provenance,
        **({} if pipeline.voter is None else {"regions": pipeline.voter.provenance}),
    }
    fitted = fitted_note(pipeline.method, data, content or [""] * len(ids))
    note = "; ".join(filter(None, ["" if pipeline.method.note else data.note, pipeline.note, fitted]))
    described = describe(pipeline.method) | {"plugin": plugin_version(type(pipeline.method))}
    return Plan(
        spec=spec,
        identity=identity,
        record=data.record,
        ids=ids,
        planned=data.planned,
        digests=content,
        note=note,
        described=described,
    )
