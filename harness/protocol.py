"""Protocol: everything but the method that can move a number, as one hashed record.

Protocols are TOML files in ``harness/protocols/`` or given by path.  ``unified`` is the same for all methods; paper
presets hold each method's own constants.  Values per data set stand in ``[dataset.KEY]`` tables.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..datasets import DatasetRecord
from ..methods import UserError, Vocabulary, WindowGeometry
from ..methods.errors import did_you_mean
from .decoding import DecodeRule

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FOLDER = Path(__file__).parent / "protocols"


class Setting(BaseModel):
    """The protocol for one data set.  Units are in the names; 0 means "off" or "whole image".

    Field descriptions say why a difference in the field moves numbers; ``bench protocol diff`` prints them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    short_side_px: int = Field(
        default=0, ge=0, description="The patch grid grows with the input: +4 to +5 mIoU of ceiling from 336 to 448 px"
    )
    long_side_px: int = Field(default=2048, ge=1, description="Very elongated images are limited by their long side")
    resize: Literal["opencv-linear"] = Field(
        default="opencv-linear", description="Kernels differ in pixels, most when shrinking a lot"
    )
    window_px: int = Field(default=0, ge=0, description="Windows see less context and are averaged where they overlap")
    stride_px: int = Field(default=0, ge=0, description="More overlap averages more and costs more")
    average: Literal["score"] = Field(
        default="score", description="Averaging scores before the softmax does not commute with averaging probabilities"
    )
    vocabulary: Literal["official"] = Field(
        default="official", description="Class names are the largest single factor: 12 to 22 mIoU on VOC21"
    )
    templates: str = Field(default="openai80", description="Prompt templates move every text embedding")
    synonym_separator: str = Field(default=", ", description="The wrong separator turns a list into one sentence")
    logit_scale: float = Field(
        default=100.0, gt=0, description="Decides probabilities, hence what a probability threshold cuts off"
    )
    probability_threshold: float = Field(
        default=0.0, ge=0, lt=1, description="Pixels below it become background; tuned per data set in papers"
    )
    area_threshold: float = Field(default=0.0, ge=0, lt=1, description="Small foreground classes are removed per image")
    refine: Literal["none", "pamr"] = Field(
        default="none", description="Post-processing adds several mIoU to any method; never mix rows with and without"
    )
    refine_steps: int = Field(default=10, ge=1, description="More steps smooth more")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="Half precision flips labels of near ties"
    )
    averaging: Literal["mmseg", "labelled"] = Field(
        default="mmseg", description="Whether classes that are predicted but never labelled enter the mean as 0"
    )
    method_options: dict[str, Any] = Field(
        default_factory=dict, description="Options passed to the method, e.g. how odd sizes are padded"
    )

    @model_validator(mode="after")
    def _windows_have_a_stride(self) -> "Setting":
        _ = self.geometry  # raises for a stride that does not fit the window
        return self

    @property
    def hash(self) -> str:
        """SHA-256 over every value.  Together with the vocabulary's hash it decides what may be compared."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()

    @property
    def geometry(self) -> WindowGeometry:
        """Windows."""
        return WindowGeometry(self.window_px, self.stride_px)

    def rule(self, background: int | None) -> DecodeRule:
        """How scores become classes.  Raises ``UserError`` for a threshold without a background class."""
        return DecodeRule(self.logit_scale, self.probability_threshold, self.area_threshold, background)

    def vocabulary_for(self, record: DatasetRecord) -> Vocabulary:
        """The texts for a data set."""
        return Vocabulary.from_names(
            record.classes,
            templates=self.templates,
            separator=self.synonym_separator,
            background=record.background,
            classes=record.classes,
        )


class Protocol(BaseModel):
    """A named protocol: base values and what differs per data set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    summary: str
    source: str
    version: int = Field(ge=1)
    family: Literal["unified", "paper", "tiny"]
    base: dict[str, Any]
    dataset: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _valid_settings(self) -> "Protocol":
        for key in (None, *self.dataset):
            self.setting(key)
        return self

    def setting(self, dataset: str | None) -> Setting:
        """Values for a data set key (None: the base)."""
        return Setting(**{**self.base, **self.dataset.get(dataset or "", {})})

    def changed(self, **values: Any) -> "Protocol":
        """A copy with other values for every data set, named ``<name>*``; itself if there is nothing to change.

        Raises ``UserError`` for unknown fields and values out of range.
        """
        if not values:
            return self
        tables = {key: {**table, **values} for key, table in self.dataset.items()}
        fields = {**self.model_dump(), "name": f"{self.name}*", "base": {**self.base, **values}, "dataset": tables}
        return _validated(fields, f"changing {', '.join(values)} of protocol {self.name!r}")


def list_protocols() -> list[str]:
    """Names of the shipped protocols."""
    return sorted(p.stem for p in _FOLDER.glob("*.toml"))


def load_protocol(name: str) -> Protocol:
    """A shipped protocol by name, or one by the path of its TOML file.

    Raises ``UserError`` when it is unknown or its values are not allowed.
    """
    path = Path(name) if name.endswith(".toml") else _FOLDER / f"{name}.toml"
    if not path.is_file():
        raise UserError(f"unknown protocol {name!r}{did_you_mean(name, list_protocols())}, or the path of a .toml file")
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"protocol file {path} is no valid TOML: {error}") from error
    return _validated({"name": path.stem, **fields}, f"protocol file {path}")


def _validated(fields: dict[str, Any], what: str) -> Protocol:
    try:
        return Protocol.model_validate(fields)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or 'protocol'}: {e['msg']}" for e in error.errors()]
        raise UserError(f"{what} does not work:\n" + "\n".join(lines)) from error


def diff_settings(a: Setting, b: Setting) -> list[tuple[str, Any, Any, str]]:
    """Fields that differ: ``(field, value in a, value in b, why it matters)``."""
    return [
        (name, getattr(a, name), getattr(b, name), field.description or "")
        for name, field in Setting.model_fields.items()
        if getattr(a, name) != getattr(b, name)
    ]


def lint_setting(setting: Setting, record: DatasetRecord) -> list[tuple[str, str]]:
    """Findings ``(level, text)`` for a protocol on a data set, including those of its vocabulary."""
    found = setting.vocabulary_for(record).lint()
    thresholds = setting.probability_threshold or setting.area_threshold
    if thresholds and record.background is None:
        text = f"a threshold is set, but {record.key} has no background: class 0 would collect uncertain pixels"
        found.append(("error", text))
    if setting.window_px and setting.short_side_px and setting.window_px > setting.short_side_px:
        found.append(("warning", f"windows of {setting.window_px} px are larger than the short side: they shrink"))
    return found
