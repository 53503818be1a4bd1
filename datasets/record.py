"""DatasetRecord: everything the harness knows about a data set, as data.

A new data set is a record, not code: a TOML file in ``datasets/records/``, or one that the user passes by path
(``read_record``).
"""

import hashlib
from typing import Annotated, Any, Literal

import regex
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .text import invisible

Index = Annotated[int, Field(ge=0, le=65535)]
Byte = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Byte, Byte, Byte]
PREPARED = "@/"
"""Paths that start so lie in the folder that ``bench data prepare`` writes, not in the user's."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HealthCheck(_Part):
    """What must hold for all labels together; ``value`` and ``than`` are values after loading.

    ``must_occur``: some label has the value.  ``must_not_occur``: none has it.  ``in_more_images``: more labels have
    ``value`` than have ``than``.  A finding of level "error" stops a run, a "warning" is printed.
    """

    kind: Literal["must_occur", "must_not_occur", "in_more_images"]
    value: Index
    than: Index | None = None
    level: Literal["error", "warning"] = "error"
    what: str
    fix: str

    @model_validator(mode="after")
    def _complete(self) -> "HealthCheck":
        if (self.kind == "in_more_images") != (self.than is not None):
            raise ValueError("`than` goes with in_more_images, and only with it")
        return self


class Lookalike(_Part):
    """Something that users mistake for the data set: if ``pattern`` matches below the data root, say ``what``."""

    pattern: str
    what: str
    fix: str


class Prepare(_Part):
    """A recipe of ``ovss.datasets.prepare`` and its options; it writes below ``folder`` (default: the key).

    It reads the first of ``places`` (default: those of the record) below the data roots that holds ``needs``.
    """

    recipe: str
    needs: str
    places: tuple[str, ...] = ()
    folder: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class Download(_Part):
    """A file at a plain public address.

    ``into`` is the folder below the data root where it, or its content, goes; ``only`` are patterns of the entries of
    an archive that are wanted (default: all).
    """

    url: str
    only: tuple[str, ...] = ()
    into: str = "."
    archive: bool = True
    md5: str | None = None
    sha256: str | None = None


class Alternative(_Part):
    """Another form in which the same data set is found on disk: fields that differ from the record's own.

    A form with another ``source`` has other labels; it is opened only when it is asked for, by ``KEY@source``.
    """

    source: str | None = None
    images: str | None = None
    labels: str | None = None
    image_suffix: str | None = None
    label_suffix: str | None = None
    list_file: str | None = None
    label_encoding: Literal["index", "colour"] | None = None
    label_map: dict[Index, Index] | None = None
    only_mapped: bool | None = None
    first_label: Index | None = None
    health: tuple[HealthCheck, ...] | None = None


class DatasetRecord(_Part):
    """A folder of images and a folder of labels with the same stems.

    ``images``, ``labels`` and ``list_file`` are relative to the data set's own folder, which is one of ``places`` below
    a data root (for a user's file: below the file's folder).  ``list_file`` names the images, one per line: by the path
    below ``images`` with or without suffix; leading folders that lead nowhere are dropped.  If it is a folder, the
    images are those with a label there.

    Labels.  ``label_encoding`` is "index" (grey or palette image, values are indices) or "colour" (RGB, looked up in
    ``palette``).  ``label_map`` renames stored indices, e.g. ``{11 = 255}``; with ``only_mapped`` a value that it does
    not list is an error.  ``first_label`` is the stored value of class 0: smaller values are ignored (what mmseg calls
    zero-label reduction).  ``alternatives`` are other forms on disk.  ``source`` names the ground truth where several
    circulate; forms with the same source hold the same labels.

    ``words`` are the official texts for prompts, one line per class, where they are not the class names.
    ``background`` is the index of a scored background class.

    Dependence.  ``block_frames`` > 0: that many neighbouring images in sequence form one unit of the bootstrap; a new
    prefix (id up to the first ``_``, else its folder) always starts a new unit.  ``cluster_pattern``: images whose id
    gives the same first group of this regular expression form one unit.

    ``unseen``, ``classes_of_interest`` and ``parents`` (class index -> parents) feed the metrics of the same names,
    ``groups`` (the group of each class) the grouped mIoU.
    """

    key: str = Field(pattern=r"^[a-z0-9_@]+$")
    title: str
    images: str
    labels: str
    classes: tuple[str, ...] = Field(min_length=1, max_length=65_535)
    words: tuple[str, ...] = ()
    split: str = "all"
    places: tuple[str, ...] = (".",)
    image_suffix: str = ".jpg"
    label_suffix: str = ".png"
    list_file: str | None = None
    label_encoding: Literal["index", "colour"] = "index"
    palette: tuple[Colour, ...] | None = None
    label_map: dict[Index, Index] = Field(default_factory=dict)
    only_mapped: bool = False
    first_label: Index = 0
    ignore_index: Index = 255
    background: int | None = Field(default=None, ge=0)
    source: str = ""
    alternatives: tuple[Alternative, ...] = ()
    block_frames: int = Field(default=0, ge=0, le=1_000_000)
    cluster_pattern: str | None = Field(default=None, max_length=500)
    expected_images: int | None = Field(default=None, ge=1, le=1_000_000_000)
    shares_images_with: tuple[str, ...] = ()
    health: tuple[HealthCheck, ...] = ()
    lookalikes: tuple[Lookalike, ...] = ()
    out_of_range: str = "Check ignore_index and label_map of the data set, and that this is the right label folder"
    unseen: tuple[str, ...] = ()
    classes_of_interest: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()
    parents: dict[int, tuple[int, ...]] = Field(default_factory=dict)
    prepare: Prepare | None = None
    downloads: tuple[Download, ...] = ()
    steps: str = ""
    protocol: str = "unified"
    licence: str = "unknown"
    home: str = ""

    @field_validator("images", "labels", "list_file", "image_suffix", "label_suffix")
    @classmethod
    def _is_a_path(cls, text: str | None) -> str | None:
        if text and (hidden := invisible(text)):
            raise ValueError(f"{text!a} holds a character that cannot be seen ({hidden})")
        return text

    @field_validator("cluster_pattern")
    @classmethod
    def _has_a_group(cls, pattern: str | None) -> str | None:
        """Found now: it is first used when all images are done."""
        if pattern is None:
            return None
        try:
            groups = regex.compile(pattern).groups
        except (regex.error, OverflowError, RecursionError) as error:
            raise ValueError(f"is no regular expression: {error}") from error
        if groups == 0:
            raise ValueError(f"{pattern!r} has no group: put ( ) around what images of one unit have in common")
        return pattern

    @model_validator(mode="after")
    def _consistent(self) -> "DatasetRecord":
        if len(set(self.classes)) != len(self.classes):
            doubled = sorted({c for c in self.classes if self.classes.count(c) > 1})
            raise ValueError(f"classes are named twice: {', '.join(doubled)}")
        if self.ignore_index < len(self.classes):
            raise ValueError(
                f"ignore_index {self.ignore_index} is also class {self.classes[self.ignore_index]!r}: rename stored "
                "values with label_map, or choose an ignore_index above the classes (65535 for 16-bit labels)"
            )
        if self.background is not None and self.background >= len(self.classes):
            raise ValueError(f"background is {self.background}, but there are {len(self.classes)} classes")
        if self.palette is not None and len(self.palette) != len(self.classes):
            raise ValueError(f"palette has {len(self.palette)} colours for {len(self.classes)} classes")
        if self.words and len(self.words) != len(self.classes):
            raise ValueError(f"words has {len(self.words)} lines for {len(self.classes)} classes")
        if self.groups and len(self.groups) != len(self.classes):
            raise ValueError(f"groups has {len(self.groups)} entries for {len(self.classes)} classes")
        unknown = sorted(set(self.unseen) - set(self.classes))
        if unknown:
            raise ValueError(f"unseen names {', '.join(unknown)}, which are no classes")
        outside = {*self.classes_of_interest, *self.parents, *(p for ps in self.parents.values() for p in ps)}
        if not outside <= set(range(len(self.classes))):
            raise ValueError(f"classes_of_interest and parents hold indices from 0 to {len(self.classes) - 1}")
        if self.block_frames and self.cluster_pattern:
            raise ValueError("block_frames and cluster_pattern exclude each other")
        return self._check_colours()

    def _check_colours(self) -> "DatasetRecord":
        if self.label_encoding == "colour":
            if self.palette is None:
                raise ValueError('label_encoding = "colour" needs a palette')
            if len(set(self.palette)) != len(self.palette):
                raise ValueError("two classes share a colour: labels cannot be told apart by colour")
        return self

    @property
    def hash(self) -> str:
        """SHA-256 of everything that decides which images and labels are scored against which classes.

        Where ``source`` names the ground truth it stands for the files: all its forms on disk hold the same labels.
        """
        deciding = {"key", "split", "classes", "ignore_index", "background", "block_frames", "cluster_pattern"}
        on_disk = {"images", "labels", "image_suffix", "label_suffix", "list_file", "label_encoding", "palette"}
        meaning = {"label_map", "only_mapped", "first_label"}
        fields = deciding | ({"source"} if self.source else on_disk | meaning)
        return hashlib.sha256(self.model_dump_json(include=fields, exclude_defaults=True).encode()).hexdigest()

    @property
    def prepared_folder(self) -> str:
        """Name of the folder that ``bench data prepare`` writes for this data set."""
        return (self.prepare and self.prepare.folder) or self.key.partition("@")[0]

    def forms(self, source: str | None = None) -> tuple["DatasetRecord", ...]:
        """The record in every form with the ground truth ``source`` (default: its own), the record itself first.

        A form of another source gets the key ``KEY@source``.
        """
        out = [self] if source in (None, self.source) else []
        for alternative in self.alternatives:
            changed = {field: value for field, value in alternative if value is not None}
            name = changed.get("source", self.source)
            if name == (self.source if source is None else source):
                key = self.key if name == self.source else f"{self.key}@{name}"
                out.append(self.model_copy(update={**changed, "key": key}))
        return tuple(out)
