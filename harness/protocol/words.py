"""Words: which texts a protocol lets speak for the classes of a data set.

Word lists are part of a protocol, not of a method: ``vocabularies/<key>.<list>.txt``, one line per class, as the public
code of the papers has them (defects included; ``vocabularies/SOURCES.tsv`` says where each comes from).  ``mend``
repairs the defects that are known; ``word_lint`` names them.
"""

import csv
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ...datasets import DatasetRecord
from ...methods import UserError, Vocabulary
from ...methods.core.errors import did_you_mean
from ...methods.core.vocabulary import as_read

if TYPE_CHECKING:
    from .protocol import Setting

_FOLDER = Path(__file__).parent / "vocabularies"
OFFICIAL = "official"
OUTSIDE = "(none of the classes)"
JOINED = {"beachhill": ["beach", "hill"]}
"""Texts in which a comma is missing (CLIPtrase's background words)."""

Texts = list[list[str]]


def vocabulary_for(setting: "Setting", record: DatasetRecord) -> Vocabulary:
    """The texts for a data set.

    With a list of the form "background-first" on a data set without a background there is one class more than the data
    set has: what falls there is a miss, and false for no class.

    Raises ``UserError`` when the protocol's list is not there for the data set or does not fit it.
    """
    texts, background = class_texts(setting, record)
    classes = record.classes if len(texts) == len(record.classes) else (*record.classes, OUTSIDE)
    return Vocabulary.from_texts(texts, classes, setting.templates, background)


def class_texts(setting: "Setting", record: DatasetRecord) -> tuple[Texts, int | None]:
    """Texts of every class, and the index of the background."""
    texts, background = _listed(setting, record)
    if background is not None and setting.background_words == "shared":
        others = {as_read(t) for k, line in enumerate(texts) for t in line if k != background}
        texts[background] = [w for w in shared_background() if as_read(w) not in others]
    elif background is not None and setting.background_words == "none":
        texts[background] = []
    if setting.repair:
        texts = mend(texts, record, background)
    return texts, background


def _listed(setting: "Setting", record: DatasetRecord) -> tuple[Texts, int | None]:
    official = record.words or record.classes
    lines = list(official) if setting.vocabulary == OFFICIAL else read_list(record.key, setting.vocabulary)
    if setting.vocabulary == OFFICIAL or setting.vocabulary_form == "synonyms":
        _check_length(len(lines), len(record.classes), setting, record)
        return [_split(line, setting.synonym_separator) for line in lines], record.background
    if setting.vocabulary_form == "fold":
        last = len(record.classes) - 1
        _check_length(min(len(lines), last + 1), last + 1, setting, record)
        return [*([line] for line in lines[:last]), lines[last:]], record.background
    words, names = _split(lines[0], setting.synonym_separator), [[line] for line in lines[1:]]
    if record.background is None:
        _check_length(len(names), len(record.classes), setting, record)
        return [*names, words], len(names)
    names.insert(record.background, words)
    _check_length(len(names), len(record.classes), setting, record)
    return names, record.background


def read_list(key: str, name: str) -> list[str]:
    """Lines of a shipped word list, blanks at their ends included (they are part of a text that is no list).

    Raises ``UserError`` when there is none of that name for the data set.
    """
    key = key.partition("@")[0]
    path = _FOLDER / f"{key}.{name}.txt"
    if not path.is_file():
        known = list_words(key)
        raise UserError(
            f"there is no word list {name!r} for data set {key!r}{did_you_mean(name, [OFFICIAL, *known])}.  Use "
            f"--set vocabulary={OFFICIAL} for the data set's own names"
        )
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def list_words(key: str) -> list[str]:
    """Names of the shipped word lists for a data set, whatever its ground truth (``KEY@source``)."""
    return sorted(p.name.split(".")[1] for p in _FOLDER.glob(f"{key.partition('@')[0]}.*.txt"))


@cache
def list_forms() -> dict[str, str]:
    """File name of every shipped word list -> the form in which it is written (``SOURCES.tsv``)."""
    with (_FOLDER / "SOURCES.tsv").open(encoding="utf-8", newline="") as table:
        rows = csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {row["file"]: row["form"] for row in rows}


@cache
def shared_background() -> tuple[str, ...]:
    """Background phrases that `unified` gives to every method (why these: docs/protocols.md)."""
    lines = (_FOLDER / "shared-background.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


def mend(texts: Texts, record: DatasetRecord, background: int | None) -> Texts:
    """Repair known defects: missing commas, joined words, stray blanks, doubled texts, words that the background takes.

    A word of the background that is also a class goes to the class.  A text that two other classes share stays: whose
    it is cannot be known.
    """
    joined = {k: joined_name(record, k) for k in range(len(texts))}
    spelt = [
        [w for t in line for w in JOINED.get(as_read(t), [record.classes[k] if as_read(t) == joined[k] else t])]
        for k, line in enumerate(texts)
    ]
    others = {as_read(t) for k, line in enumerate(spelt) for t in line if k != background}
    out = []
    for k, line in enumerate(spelt):
        kept: dict[str, str] = {}
        for text in line:
            if k != background or as_read(text) not in others:
                kept.setdefault(as_read(text), " ".join(text.split()))
        out.append(list(kept.values()))
    return out


def _check_length(lines: int, wanted: int, setting: "Setting", record: DatasetRecord) -> None:
    if lines != wanted:
        raise UserError(
            f"word list {setting.vocabulary!r}, read as {setting.vocabulary_form!r}, speaks for {lines} classes, data "
            f"set {record.key!r} has {wanted}.  --set vocabulary_form reads it otherwise: synonyms, background-first "
            "or fold (docs/protocols.md)"
        )


def joined_name(record: DatasetRecord, index: int) -> str | None:
    """The official name of a class of several words without its blanks; None for other names."""
    name = record.classes[index] if index < len(record.classes) else ""
    return name.replace(" ", "").lower() if " " in name.strip() and "," not in name else None


def _split(line: str, separator: str) -> list[str]:
    return [t.strip() for t in line.split(separator)] if separator else [line]
