"""What a photo is to be segmented with, judged before torch or a model is loaded."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...datasets import DatasetRecord
from ...datasets.lists import class_lines
from ...datasets.loader import ImageFile, read_image_file
from ...methods import UserError
from ...methods.core.errors import did_you_mean
from ..protocol.protocol import Protocol, Setting
from ..protocol.words import OFFICIAL, vocabulary_for
from ..runs.sources import load_any

Classes = Path | Sequence[str | Sequence[str]]
"""Names of classes, each with its synonyms if it has some; or a file with a class per line, as data sets have."""


@dataclass(frozen=True)
class PhotoRequest:
    """A photo with its facts, the method and its parts, the protocol, and the words as the record of a data set.

    ``heat``: the class whose map is asked for too, "" for none.
    """

    photo: Path
    file: ImageFile
    method: str
    options: dict[str, Any]
    protocol: Protocol
    setting: Setting
    record: DatasetRecord
    backbone: str | None
    weights: Path | None
    device: str
    allow_download: bool
    heat: str = ""

    @property
    def options_under_setting(self) -> dict[str, Any]:
        """The method's options: the protocol's, and over them those that were asked for."""
        return self.setting.options_for(self.method) | self.options

    @property
    def method_key(self) -> str:
        """Which method with which parts and words: requests with the same one differ in the photo alone."""
        words = dict(zip(self.record.classes, self.record.words, strict=True))
        parts = (self.method, self.options_under_setting, self.setting.hash, words)
        return json.dumps([*parts, self.backbone, str(self.weights), self.device], sort_keys=True)


def photo_request(
    photo: Path,
    classes: Classes,
    *,
    method: str,
    protocol: str | Protocol,
    changes: Mapping[str, Any],
    options: Mapping[str, Any],
    backbone: str | None,
    weights: Path | None,
    device: str,
    allow_download: bool,
    heat: str = "",
) -> PhotoRequest:
    """Raise ``UserError`` or ``DataError`` for whatever is wrong and can be seen now."""
    chosen = _protocol(protocol, changes)
    setting = chosen.setting(None)
    record = _record(photo, *_texts(classes, setting), setting)
    if heat and heat not in record.classes:
        raise UserError(f"there is no class {heat!r} to show a heat map of{did_you_mean(heat, record.classes)}")
    file = read_image_file(photo, decode=False)

    from ...methods.registry import check_options, check_parts, find_device, find_method  # with torch

    find_device(device)
    check_options(find_method(method), options)
    check_parts(method, backbone, weights, allow_download)
    return PhotoRequest(
        photo, file, method, dict(options), chosen, setting, record, backbone, weights, device, allow_download, heat
    )


def _protocol(protocol: str | Protocol, changes: Mapping[str, Any]) -> Protocol:
    """The protocol with the words of the photo, whatever list it has for data sets."""
    if "vocabulary" in changes:
        raise UserError("--set vocabulary has no effect here: the words are those of --classes or --classes-file")
    loaded = protocol if isinstance(protocol, Protocol) else load_any(protocol)
    return loaded.changed(**{**changes, "vocabulary": OFFICIAL})


def _texts(classes: Classes, setting: Setting) -> tuple[list[list[str]], str]:
    """Texts of every class, and where they come from."""
    if not isinstance(classes, Path):
        return [[one] if isinstance(one, str) else list(one) for one in classes], "--classes"
    source = f"class file {classes}"
    lines, separator = class_lines(classes, source), setting.synonym_separator
    return [split_texts(line, separator) if separator else [line] for line in lines], source


def split_texts(line: str, separator: str) -> list[str]:
    """``"sofa, couch"`` -> ``["sofa", "couch"]``."""
    return [text.strip() for text in line.split(separator) if text.strip()]


def _record(photo: Path, texts: list[list[str]], source: str, setting: Setting) -> DatasetRecord:
    """Classes as a data set has them; the first text of each is its name.

    Raises ``UserError`` when there is no class, two have one name, or the protocol cannot use them.
    """
    names = [line[0] for line in texts if line]
    doubled = sorted({n for n in names if names.count(n) > 1})
    if doubled:
        raise UserError(f"{source} names {', '.join(doubled)} twice: every class needs a name of its own")
    if not names:
        raise UserError(
            f'{source} names no class.  Classes are separated by commas ("cat, sofa"), synonyms by commas '
            'between semicolons ("cat; sofa, couch; wall"); in a file a class has a line'
        )
    separator = setting.synonym_separator
    if not separator and any(len(line) > 1 for line in texts):
        raise UserError('this protocol takes a line as one text: for synonyms --set synonym_separator=", "')
    words = tuple(separator.join(line) for line in texts)
    record = DatasetRecord(
        key="photo", title=photo.name, images="", labels="", classes=tuple(names), words=words, protocol="unified"
    )
    vocabulary_for(setting, record)
    setting.rule(record.background)
    return record
