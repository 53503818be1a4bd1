"""DatasetRecord: everything the harness knows about a data set, as data.

A new data set is a record, not code: a TOML file in ``datasets/records/``, or one that the user passes by path.
"""

import hashlib
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import DataError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Index = Annotated[int, Field(ge=0, le=65535)]
Byte = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Byte, Byte, Byte]


class DatasetRecord(BaseModel):
    """A folder of images and a folder of labels with the same stems.

    ``images`` and ``labels`` are folders relative to the data root (for a user's file: relative to that file).
    ``label_encoding`` is "index" (grey or palette image, values are indices) or "colour" (RGB, looked up in
    ``palette``).  ``label_map`` renames stored indices before anything else, e.g. ``{11 = 255}`` for a void class.
    ``list_file`` names the images, one per line; of a path only the stem counts.  ``background`` is the index of a
    scored background class.  ``block_frames`` > 0 says that neighbouring images are dependent: that many in sequence
    form one unit of the bootstrap; a new prefix (id up to the first ``_``, else its folder) always starts a new unit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str = Field(pattern=r"^[a-z0-9_]+$")
    title: str
    images: str
    labels: str
    classes: tuple[str, ...] = Field(min_length=1)
    split: str = "all"
    image_suffix: str = ".jpg"
    label_suffix: str = ".png"
    list_file: str | None = None
    label_encoding: Literal["index", "colour"] = "index"
    palette: tuple[Colour, ...] | None = None
    label_map: dict[Index, Index] = Field(default_factory=dict)
    ignore_index: int = Field(default=255, ge=0, le=65535)
    background: int | None = Field(default=None, ge=0)
    block_frames: int = Field(default=0, ge=0)
    expected_images: int | None = None
    protocol: str = "unified"
    licence: str = "unknown"
    home: str = ""

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
        if self.label_encoding == "colour":
            if self.palette is None:
                raise ValueError('label_encoding = "colour" needs a palette')
            if len(set(self.palette)) != len(self.palette):
                raise ValueError("two classes share a colour: labels cannot be told apart by colour")
        return self

    @property
    def hash(self) -> str:
        """SHA-256 of everything that decides which images and labels are scored against which classes."""
        moving = self.model_dump_json(exclude={"title", "licence", "home", "protocol", "expected_images"})
        return hashlib.sha256(moving.encode()).hexdigest()


def read_record(path: Path) -> DatasetRecord:
    """Read a record from a TOML file; ``classes`` may also be the name of a text file beside it, one class per line.

    Raises ``DataError`` that names the file and the field.
    """
    try:
        fields: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"data set file {path} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"data set file {path} is no valid TOML: {error}") from error
    if isinstance(fields.get("classes"), str):
        fields["classes"] = _read_lines(path.parent / fields["classes"], path)
    try:
        return DatasetRecord.model_validate(fields)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or 'record'}: {e['msg']}" for e in error.errors()]
        raise DataError(f"data set file {path} is not usable:\n" + "\n".join(lines)) from error


def _read_lines(path: Path, asked_by: Path) -> list[str]:
    if not path.is_file():
        raise DataError(f"class file {path}, named in {asked_by}, does not exist")
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
