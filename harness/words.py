"""Words: which texts a protocol lets speak for the classes of a data set.

Word lists are part of a protocol, not of a method: ``vocabularies/<key>.<list>.txt``, one line per class, as the public
code of the papers has them (spec: datasets and protocols, section 5; defects included).  ``mend`` repairs the defects
that are known; ``lint_words`` names them.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..datasets import DatasetRecord
from ..methods import UserError, Vocabulary
from ..methods.errors import did_you_mean

if TYPE_CHECKING:
    from .protocol import Setting

_FOLDER = Path(__file__).parent / "vocabularies"
OFFICIAL = "official"
OUTSIDE = "(none of the classes)"
_JOINED = {"beachhill": ["beach", "hill"]}
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
    if setting.background_words == "shared" and record.background is not None:
        others = {_plain(t) for k, line in enumerate(texts) for t in line if k != record.background}
        texts[record.background] = [w for w in shared_background() if _plain(w) not in others]
    elif setting.background_words == "none" and record.background is not None:
        texts[record.background] = []
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
    """Lines of a shipped word list.  Raises ``UserError`` when there is none of that name for the data set."""
    key = key.partition("@")[0]
    path = _FOLDER / f"{key}.{name}.txt"
    if not path.is_file():
        known = list_words(key)
        raise UserError(
            f"there is no word list {name!r} for data set {key!r}{did_you_mean(name, [OFFICIAL, *known])}.  Use "
            f"--set vocabulary={OFFICIAL} for the data set's own names"
        )
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def list_words(key: str) -> list[str]:
    """Names of the shipped word lists for a data set."""
    return sorted(p.name.split(".")[1] for p in _FOLDER.glob(f"{key}.*.txt"))


@cache
def shared_background() -> tuple[str, ...]:
    """Background phrases that `unified` gives to every method (why these: docs/protocols.md)."""
    lines = (_FOLDER / "shared-background.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


def mend(texts: Texts, record: DatasetRecord, background: int | None) -> Texts:
    """Repair known defects: missing commas, joined words, doubled texts, and words that the background takes away.

    A word of the background that is also a class goes to the class.
    """
    spaced = _spaced_names(record)
    texts = [[w for t in line for w in _JOINED.get(_plain(t), [spaced.get(t.lower(), t)])] for line in texts]
    others = {_plain(t) for k, line in enumerate(texts) for t in line if k != background}
    out = []
    for k, line in enumerate(texts):
        kept = {_plain(t): t for t in reversed(line) if k != background or _plain(t) not in others}
        out.append(list(reversed(kept.values())))
    return out


def lint_words(setting: "Setting", record: DatasetRecord) -> list[tuple[str, str]]:
    """What is wrong with the texts, as ``(level, text)``; see also ``Vocabulary.lint``."""
    found = vocabulary_for(setting, record).lint()
    spaced = _spaced_names(record)
    for line in class_texts(setting, record)[0]:
        for text in line:
            if _plain(text) in _JOINED:
                found.append(("warning", f"{text!r} lacks a comma between {' and '.join(_JOINED[_plain(text)])}"))
            elif text.lower() in spaced:
                name = spaced[text.lower()]
                found.append(("warning", f"{text!r} joins the words of {name!r}, which gives other tokens"))
    if any(level == "warning" for level, _ in found) and not setting.repair:
        mended = setting.model_copy(update={"repair": True})
        if class_texts(mended, record)[0] != class_texts(setting, record)[0]:
            found.append(("info", "--set repair=true mends what can be mended; it is another protocol then"))
    return found


def _check_length(lines: int, wanted: int, setting: "Setting", record: DatasetRecord) -> None:
    if lines != wanted:
        raise UserError(
            f"word list {setting.vocabulary!r} speaks for {lines} classes, data set {record.key!r} has {wanted}"
        )


def _spaced_names(record: DatasetRecord) -> dict[str, str]:
    """Official names of several words, by their joined spelling."""
    return {n.replace(" ", "").lower(): n for n in record.classes if " " in n and "," not in n}


def _split(line: str, separator: str) -> list[str]:
    return [t.strip() for t in line.split(separator)] if separator else [line]


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
