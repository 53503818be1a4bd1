"""Protocol: everything but the method that can move a number, as one hashed record.

Protocols are TOML files in ``protocols/`` beside this file or given by path.  ``unified`` is the same for all methods;
paper presets hold each method's own constants.  Values per data set stand in ``[dataset.KEY]`` tables.
"""

import hashlib
import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ...datasets import DatasetRecord
from ...datasets.invalid import message_of
from ...methods import UserError, WindowGeometry
from ...methods.core.errors import did_you_mean
from ...methods.refine.names import Fusion, GuideName, Noise
from ..decoding.rule import DecodeRule
from .bounds import Key, ListName, Name, Options, OptionsOf, Pixels, Scale, Seed, Side, Steps
from .files import name_of, read_toml
from .resize import ResizeKind
from .word_lint import Findings, lint_words
from .words import vocabulary_for

if TYPE_CHECKING:
    from ...methods.core.tokenizer import Tokenizer

_FOLDER = Path(__file__).parent / "protocols"


class Setting(BaseModel):
    """The protocol for one data set.  Units are in the names; 0 means "off" or "whole image".

    Field descriptions say why a difference in the field moves numbers; ``bench protocol diff`` prints them.  Bounds
    that fields share are in ``bounds``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    short_side_px: Pixels = Field(
        default=0, description="The patch grid grows with the input: +4 to +5 mIoU of ceiling from 336 to 448 px"
    )
    long_side_px: int = Field(
        default=2048, ge=1, le=100_000, description="Very elongated images are limited by their long side"
    )
    resize: ResizeKind = Field(
        default="opencv-linear", description="Kernels differ in pixels, most when shrinking a lot; Pillow antialiases"
    )
    size_multiple_px: Pixels = Field(
        default=0, description="Rounding both sides to whole patches changes the aspect ratio a little"
    )
    columns: Steps = Field(
        default=1, description="Parts of a wide image that are predicted apart see less context, at a finer grid"
    )
    window_px: Pixels = Field(default=0, description="Windows see less context and are averaged where they overlap")
    stride_px: Pixels = Field(default=0, description="More overlap averages more and costs more")
    average: Literal["score", "probability"] = Field(
        default="score", description="Averaging scores before the softmax does not commute with averaging probabilities"
    )
    upsample: Literal["frame", "direct", "labels"] = Field(
        default="frame",
        description="Grids go to the output by way of the resized image, at once, or as labels: edges move",
    )
    vocabulary: ListName = Field(
        default="official", description="Words are the largest single factor: 12 to 22 mIoU on VOC21"
    )
    vocabulary_form: Literal["synonyms", "background-first", "fold"] = Field(
        default="synonyms", description="How a word list is read: one class per line, background words first, or folded"
    )
    synonym_separator: str = Field(
        default=", ", max_length=16, description="The wrong separator turns a list into one sentence"
    )
    repair: bool = Field(
        default=False, description="Word lists have defects: a word that two classes share switches one of them off"
    )
    background_words: Literal["official", "shared", "none"] = Field(
        default="official", description="More background words win more pixels and lower every other probability"
    )
    allow_shared_texts: bool = Field(
        default=False,
        description="A class that shares a text with a lower one loses every tie there: an error unless it is meant",
    )
    templates: ListName = Field(default="openai80", description="Prompt templates move every text embedding")
    logit_scale: Scale = Field(
        default=100.0, gt=0, description="Decides probabilities, hence what a probability threshold cuts off"
    )
    probability_threshold: float = Field(
        default=0.0, ge=0, lt=1, description="Pixels below it become background; tuned per data set in papers"
    )
    area_threshold: float = Field(default=0.0, ge=0, lt=1, description="Small foreground classes are removed per image")
    class_scaling: Literal["none", "max", "minmax"] = Field(
        default="none", description="Maps stretched class by class let weak classes compete (CLIPer)"
    )
    class_gate: Scale | None = Field(
        default=None, ge=0, description="Classes whose image-level score is not above it are removed (CLIPer)"
    )
    complement: bool = Field(
        default=False, description="Background is (1 - best class)^2 instead of what falls below a threshold (CLIPer)"
    )
    refine: Literal["none", "pamr", "pearl", GuideName] = Field(
        default="none", description="Post-processing adds several mIoU to any method; never mix rows with and without"
    )
    refine_steps: Steps = Field(default=10, description="More steps smooth more (PAMR)")
    refine_grid: Side = Field(default=80, description="Cells a side (pearl): scores flow less far on a finer grid")
    refine_threshold: float = Field(
        default=0.1, ge=0, lt=1, description="Attention below this share of its column's maximum is dropped (diffusion)"
    )
    refine_fusion: Fusion = Field(
        default="chain", description="The product of the heads' attention maps reaches further than their mean"
    )
    refine_noise: Noise = Field(
        default="per-image", description="A diffusion guide looks at a noised image; without noise it is another method"
    )
    seed: Seed = Field(default=0, description="Another seed draws other noise: repeat a run to see its spread")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="Half precision flips labels of near ties"
    )
    averaging: Literal["mmseg", "labelled"] = Field(
        default="mmseg", description="Whether classes that are predicted but never labelled enter the mean as 0"
    )
    method_options: Options = Field(
        default_factory=dict, description="Options for every method that takes them, e.g. how odd sizes are padded"
    )
    options_of: OptionsOf = Field(
        default_factory=dict, description="Options of one method alone, by its name: constants of its paper"
    )

    @model_validator(mode="after")
    def _windows_have_a_stride(self) -> "Setting":
        _ = self.geometry  # raises for a stride that does not fit the window
        return self

    @model_validator(mode="after")
    def _labels_are_not_refined(self) -> "Setting":
        if self.upsample == "labels" and self.refine != "none":
            raise ValueError(
                f"upsample = 'labels' comes before refine = {self.refine!r}: set refine to none, or upsample to frame"
            )
        return self

    @property
    def hash(self) -> str:
        """SHA-256 over every value.  Together with the vocabulary's hash it decides what may be compared.

        Values at their defaults are left out: a field that comes later does not change the hashes of old numbers.  So a
        default must never change (a test holds them).
        """
        return hashlib.sha256(json.dumps(self.model_dump(exclude_defaults=True), sort_keys=True).encode()).hexdigest()

    @property
    def geometry(self) -> WindowGeometry:
        """Windows."""
        return WindowGeometry(self.window_px, self.stride_px)

    def options_for(self, method: str) -> dict[str, Any]:
        """Options that a method is made with under this protocol.

        ``logit_scale`` and ``method_options`` as far as it has them, and its ``options_of``.  Raises ``UserError``.
        """
        from ...methods import find_method  # here: a protocol can be read and judged without torch
        from ...methods.core.options import options_type

        taken = options_type(find_method(method)).model_fields
        offered = {"logit_scale": self.logit_scale, **self.method_options}
        return {**{k: v for k, v in offered.items() if k in taken}, **self.options_of.get(method, {})}

    def rule(self, background: int | None) -> DecodeRule:
        """How scores become classes.  Raises ``UserError`` for a threshold without a background class."""
        return DecodeRule(
            logit_scale=self.logit_scale,
            probability_threshold=self.probability_threshold,
            area_threshold=self.area_threshold,
            background=background,
            activation="none" if self.average == "probability" else "softmax",
            class_scaling=self.class_scaling,
            class_gate=self.class_gate,
            complement=self.complement,
        )


class Protocol(BaseModel):
    """A named protocol: base values and what differs per data set.

    Keys of ``dataset`` may be patterns such as ``mess_*``.  ``sources`` says for each field where its values come from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    summary: str
    source: str
    version: int = Field(ge=1)
    family: Literal["unified", "paper", "tiny"]
    base: dict[str, Any]
    dataset: dict[Key, dict[str, Any]] = Field(default_factory=dict)
    aliases: tuple[Name, ...] = ()
    sources: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _valid_settings(self) -> "Protocol":
        for key in (None, *self.dataset):
            self.setting(key)
        return self

    def setting(self, dataset: str | None) -> Setting:
        """Values for a data set key (None: the base).  Of tables whose patterns fit, the later ones win."""
        key = (dataset or "").partition("@")[0]
        tables = [table for pattern, table in self.dataset.items() if fnmatchcase(key, pattern)]
        return Setting(**{k: v for table in (self.base, *tables) for k, v in table.items()})

    def changed(self, **values: Any) -> "Protocol":
        """A copy with other values for every data set, named ``<name>*``; itself if that changes nothing.

        Raises ``UserError`` for unknown fields and values out of range.
        """
        if not values:
            return self
        tables = {key: {**table, **values} for key, table in self.dataset.items()}
        name, base = f"{self.name.rstrip('*')}*", {**self.base, **values}
        fields = {**self.model_dump(), "name": name, "base": base, "dataset": tables}
        other = _validated(fields, f"changing {', '.join(values)} of protocol {self.name!r}")
        return self if all(other.setting(key) == self.setting(key) for key in (None, *self.dataset)) else other


def list_protocols() -> list[str]:
    """Names of the shipped protocols."""
    return sorted(p.stem for p in _FOLDER.glob("*.toml"))


def load_protocol(name: str) -> Protocol:
    """A shipped protocol by its name, an alias, or ``FAMILY:NAME``; or one by the path of its TOML file.

    Raises ``UserError`` when it is unknown or its values are not allowed.
    """
    if name.endswith(".toml"):
        return _read(Path(name))
    family, _, short = name.rpartition(":")
    if (path := _FOLDER / f"{short}.toml").is_file():
        protocol = _read(path)
    else:
        named = [p for p in map(_read, sorted(_FOLDER.glob("*.toml"))) if short in p.aliases]
        if not named:
            plain, dataset = split_name(short)
            hint = f" (the data set has its own option: --dataset {dataset})" if dataset else ""
            raise UserError(
                f"unknown protocol {name!r}{hint}{did_you_mean(plain, list_protocols())}, or the path of a .toml file"
            )
        protocol = named[0]
    if family not in ("", protocol.family):
        raise UserError(f"protocol {short!r} belongs to the family {protocol.family!r}, not to {family!r}")
    return protocol


def split_name(name: str) -> tuple[str, str | None]:
    """``NAME/DATASET`` as its two parts; a path has no second part.

    >>> split_name("paper:cliper/voc21")
    ('paper:cliper', 'voc21')
    """
    if name.endswith((".toml", ".py")) or "/" not in name:
        return name, None
    protocol, _, dataset = name.partition("/")
    return protocol, dataset


def _read(path: Path) -> Protocol:
    what = f"protocol file {path}"
    return _validated({"name": name_of(path), **read_toml(path, what)}, what)


def _validated(fields: dict[str, Any], what: str) -> Protocol:
    try:
        return Protocol.model_validate(fields)
    except ValidationError as error:
        lines = []
        for e in error.errors():
            place = ".".join(map(str, e["loc"])) or "protocol"
            known = (Protocol if place in fields else Setting).model_fields  # a table of values, or the file itself
            says = f"no such field{did_you_mean(place, known)}" if e["type"] == "extra_forbidden" else message_of(e)
            if isinstance(e["input"], int | float | str) and e["type"] not in ("extra_forbidden", "value_error"):
                says += f", not {str(e['input'])[:60]!r}"
            lines.append(f"  {place}: {says}")
        raise UserError(f"{what} does not work:\n" + "\n".join(lines)) from error


def diff_settings(a: Setting, b: Setting) -> list[tuple[str, Any, Any, str]]:
    """Fields that differ: ``(field, value in a, value in b, why it matters)``."""
    return [
        (name, getattr(a, name), getattr(b, name), field.description or "")
        for name, field in Setting.model_fields.items()
        if getattr(a, name) != getattr(b, name)
    ]


def changes_of(protocol: Protocol, dataset: str) -> str:
    """What was changed by hand in a protocol called ``NAME*``, as ``--set`` takes it; empty for any other."""
    try:
        original = load_protocol(protocol.name.removesuffix("*")) if protocol.name.endswith("*") else protocol
    except UserError:
        return ""  # a file of the user's, which is not here
    rows = diff_settings(original.setting(dataset), protocol.setting(dataset))
    return ", ".join(f"{field}={value}" for field, _, value, _ in rows)


def lint_setting(setting: Setting, record: DatasetRecord, tokenizer: "Tokenizer | None" = None) -> Findings:
    """Findings ``(level, text)`` for a protocol on a data set, including those of its words, and of their tokens.

    Without a ``tokenizer`` nothing is said of tokens.
    """
    found = lint_words(setting, record)
    if tokenizer is not None:
        from .token_lint import lint_tokens

        found = list(dict.fromkeys([*found, *lint_tokens(setting, record, tokenizer)]))
    background = vocabulary_for(setting, record).background
    thresholds = setting.probability_threshold or setting.area_threshold or setting.class_scaling != "none"
    if thresholds and background is None:
        text = f"a threshold is set, but {record.key} has no background: class 0 would collect uncertain pixels"
        found.append(("error", text))
    if setting.window_px and setting.short_side_px and setting.window_px > setting.short_side_px:
        found.append(("warning", f"windows of {setting.window_px} px are larger than the short side: they shrink"))
    return found
