"""What ``bench segment`` was asked for, judged before torch or a model is loaded."""

from dataclasses import dataclass
from pathlib import Path

from ...datasets import DatasetRecord
from ...datasets.lists import class_lines
from ...datasets.loader import ImageFile, read_image_file
from ...methods import UserError
from ..protocol.protocol import Protocol, Setting
from ..protocol.words import OFFICIAL, vocabulary_for
from ..runs.sources import load_any
from .early import check_method, check_png, check_request
from .name_value import Value, parse_options


@dataclass(frozen=True)
class SegmentRequest:
    """A photo with its facts, where the picture goes, the protocol, and the words as the record of a data set."""

    photo: Path
    file: ImageFile
    output: Path
    method: str
    options: dict[str, Value]
    protocol: Protocol
    setting: Setting
    record: DatasetRecord


def segment_request(
    *,
    photo: Path,
    classes: str | None,
    classes_file: Path | None,
    method: str,
    output: Path | None,
    protocol: str,
    backbone: str | None,
    weights: Path | None,
    device: str,
    allow_download: bool,
    changes: list[str],
    options: list[str],
) -> SegmentRequest:
    """Raise ``UserError`` or ``DataError`` for whatever is wrong and can be seen now."""
    chosen_options = parse_options(options, "--option")
    check_request(method, backbone, weights, device)
    target = _output(output, photo, method)
    chosen = _protocol(protocol, parse_options(changes, "--set"))
    setting = chosen.setting(None)
    record = photo_record(photo, *_words(classes, classes_file, setting), setting)
    file = read_image_file(photo, decode=False)
    check_method(method, device, chosen_options)

    from ...methods.registry import check_parts  # with torch

    check_parts(method, backbone, weights, allow_download)
    return SegmentRequest(photo, file, target, method, chosen_options, chosen, setting, record)


def _output(output: Path | None, photo: Path, method: str) -> Path:
    """Where the picture goes: never beside the photo, where a data set would take it for one of its images."""
    if output is None:
        name = f"{photo.stem}_{method.replace(':', '.').replace('/', '.')}.png"
        beside = photo.resolve().parent == Path.cwd()
        output = Path("results") / name if beside else Path(name)
        check_png(output, "the picture", make_folder=True)
    else:
        check_png(output, "--output")
    if output.exists() and photo.exists() and output.samefile(photo):
        raise UserError(f"the picture would overwrite the photo {photo}: name another file with --output")
    return output


def _protocol(name: str, changes: dict[str, Value]) -> Protocol:
    """The protocol with the words of ``--classes``, whatever list it has for data sets."""
    if "vocabulary" in changes:
        raise UserError("--set vocabulary has no effect here: the words are those of --classes or --classes-file")
    return load_any(name).changed(**{**changes, "vocabulary": OFFICIAL})


def _words(classes: str | None, classes_file: Path | None, setting: Setting) -> tuple[list[list[str]], str]:
    """Texts of every class, and the flag that they come from."""
    if (classes is None) == (classes_file is None):
        raise UserError('name the classes with --classes "cat, sofa, wall" or with --classes-file FILE, one of both')
    if classes_file is not None:
        lines = class_lines(classes_file, f"class file {classes_file}")
        separator = setting.synonym_separator
        return [_texts(line, separator) if separator else [line] for line in lines], f"class file {classes_file}"
    assert classes is not None
    if ";" in classes:
        return [_texts(one, ",") for one in classes.split(";") if one.strip()], "--classes"
    return [[text] for text in _texts(classes, ",")], "--classes"


def _texts(line: str, separator: str) -> list[str]:
    return [text.strip() for text in line.split(separator) if text.strip()]


def photo_record(photo: Path, texts: list[list[str]], source: str, setting: Setting) -> DatasetRecord:
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
