"""What is wrong with the words of a protocol for a data set, as far as it can be seen without a tokenizer.

``token_lint`` goes on where one is at hand.  A finding is ``(level, text)``: an "error" stops a run, a "warning" is
printed and shows the prompt, an "info" is printed by ``bench protocol lint`` alone.
"""

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ...datasets import DatasetRecord
from ...methods import Vocabulary
from ...methods.core.vocabulary import as_read
from ..show.escaping import is_hidden
from .words import JOINED, Texts, class_texts, joined_name, list_forms, mend, vocabulary_for

if TYPE_CHECKING:
    from .protocol import Setting

_KNOWN = Path(__file__).parent / "vocabularies" / "KNOWN.tsv"
Findings = list[tuple[str, str]]
SHOWN = 3
"""Examples that one finding shows; ``bench protocol words`` shows every text."""
HOW_TO_SHARE = "give each class a text of its own, or say --set allow_shared_texts=true if it is meant"
_REST = {"background", "bg", "unlabeled", "unlabelled", "void", "ignore", "ignored", "other", "others", "unknown"}
_REST |= {"none", "nothing", "undefined", "unclassified", "no data", "rest", "dontcare", "dont care"}
"""Names of what is not a thing of its own: the rest, or what was not labelled."""
_ODD: tuple[tuple[str, str], ...] = (
    ("begins with '#', like a comment", r"^\s*#"),
    ("begins with a number, like a line of a table", r"^\s*\d+(\s*[:.)=|\t]|\s+[^\W\d])"),
    ("holds '_', which the prompt keeps", r"_"),
    ("is in CamelCase, which is read as one word in lower case", r"[^\W\d_A-Z][A-Z]"),
    ("begins or ends with a blank, or holds two in a row", r"^\s|\s$|\s\s"),
    ("looks like text in the wrong encoding", "\N{REPLACEMENT CHARACTER}|Ã[\x80-\xbf€-™]|Â[\x80-\xbf]|â€"),
    ("holds an escape of HTML", r"&#?\w+;"),
    ("holds a token of CLIP's own, which ends the text for it", r"(?i)<(start|end)_of_text>"),
    ("stands in quotes or brackets", r"^([\"'`]|\[|\().*([\"'`]|\]|\))$"),
    ("ends with a mark of punctuation", r"[.:,!?|]$"),
    ("holds no letter", r"^[\W\d_]*$"),
)


def lint_words(setting: "Setting", record: DatasetRecord) -> Findings:
    """What is wrong with the texts; see also ``Vocabulary.lint``.

    A text that two classes share is an error, unless ``allow_shared_texts`` says that it is meant, or it is a defect of
    a released list (``vocabularies/KNOWN.tsv``): published numbers were made with those.
    """
    vocabulary, (texts, background) = vocabulary_for(setting, record), class_texts(setting, record)
    # An official name may look like a list (ade847).  A protocol without a separator wants it as one text.
    names = set() if setting.synonym_separator else {f"{name[:60]!r} looks like a list" for name in record.classes}
    found = [f for f in vocabulary.lint() if f[1].partition(":")[0] not in names]
    refused = set(_refused(setting, record, vocabulary))
    found = [("error", f"{text}; {HOW_TO_SHARE}") if text in refused else (level, text) for level, text in found]
    said = [*_form(setting, record), *_defects(texts, record), *_silent(texts, vocabulary)]
    said += [*_odd_texts(setting, vocabulary), *_blank_names(record), *_undeclared_rest(setting, record)]
    found += [("warning", text) for text in said]
    if background is not None and not texts[background] and not _has_threshold(setting):
        found.append(
            ("warning", "the background has no text, and no threshold gives it pixels: only a method's own rule can")
        )
    if not setting.repair and mend(texts, record, background) != texts:
        found.append(("info", "--set repair=true mends what can be mended; it is another protocol then"))
    return found


def may_share(setting: "Setting", record: DatasetRecord, text: str) -> bool:
    """Whether two classes may share a text: the protocol allows it, or the released list is known for it."""
    return setting.allow_shared_texts or _is_known(setting, record, text)


def _is_known(setting: "Setting", record: DatasetRecord, text: str) -> bool:
    """Whether ``vocabularies/KNOWN.tsv`` lists a text of a released list as odd."""
    key = record.key.partition("@")[0]
    return any(
        fnmatchcase(key, data) and setting.vocabulary == name and fnmatchcase(as_read(text), known)
        for data, name, known in _known_defects()
    )


def _refused(setting: "Setting", record: DatasetRecord, vocabulary: Vocabulary) -> Iterable[str]:
    """Texts of findings that are errors here."""
    owner: dict[str, int] = {}
    for query, index in zip(vocabulary.queries, vocabulary.query_to_class, strict=True):
        kept = owner.setdefault(as_read(query), index)
        if kept != index and not may_share(setting, record, query):
            yield vocabulary.shared_text(query, kept, index)


@cache
def _known_defects() -> tuple[tuple[str, str, str], ...]:
    with _KNOWN.open(encoding="utf-8", newline="") as table:
        rows = csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE)
        return tuple((row["dataset"], row["vocabulary"], row["text"]) for row in rows)


def _form(setting: "Setting", record: DatasetRecord) -> Iterable[str]:
    form = list_forms().get(f"{record.key.partition('@')[0]}.{setting.vocabulary}.txt", setting.vocabulary_form)
    if form != setting.vocabulary_form:
        text = f"word list {setting.vocabulary!r} is of the form {form!r}, but read as {setting.vocabulary_form!r}"
        yield f"{text}: --set vocabulary_form={form} reads it as its project does"


def _defects(texts: Texts, record: DatasetRecord) -> Iterable[str]:
    """Known defects of released lists that ``mend`` mends."""
    for text in (t for line in texts for t in line if as_read(t) in JOINED):
        yield f"{text!r} lacks a comma between {' and '.join(JOINED[as_read(text)])}"
    joined = [t for k, line in enumerate(texts) for t in line if as_read(t) == joined_name(record, k)]
    if joined:
        yield f"words of class names are joined, which gives other tokens ({len(joined)}): {quoted(joined)}"


def _silent(texts: Texts, vocabulary: Vocabulary) -> Iterable[str]:
    """Classes whose every text stands for a lower class too: they lose every tie, so no pixel becomes theirs."""
    owner: dict[str, int] = {}
    for k, line in enumerate(texts):
        for text in line:
            owner.setdefault(as_read(text), k)
    silent = [k for k, line in enumerate(texts) if line and all(owner[as_read(t)] < k for t in line)]
    if silent:
        names = quoted([vocabulary.classes[k] for k in silent])
        yield f"can never win, as each text of theirs speaks for an earlier class too: {names}"


def _odd_texts(setting: "Setting", vocabulary: Vocabulary) -> Iterable[str]:
    """Texts that hardly anybody means as they stand, kind by kind, with the prompts that they give."""
    kinds: list[tuple[str, Callable[[str], object]]] = [
        ("holds a control or an invisible character", lambda text: any(map(is_hidden, text))),
        *((what, re.compile(pattern).search) for what, pattern in _ODD),
    ]
    separator = setting.synonym_separator.strip()
    if separator != setting.synonym_separator:
        whole = setting.synonym_separator
        what = f"holds {separator!r} without a blank after it, which does not part words ({whole!r} does)"
        kinds.append((what, re.compile(re.escape(separator) + r"(?=\S)").search))
    template = vocabulary.templates[0]
    for what, is_odd in kinds:
        odd = [query for query in dict.fromkeys(vocabulary.queries) if is_odd(query)]
        if odd:
            shown = "; ".join(f"{q!r} gives the prompt {template.replace('{}', q)!r}" for q in odd[:SHOWN])
            yield f"{what} ({len(odd)}): {shown}{and_more(odd)}"


def _blank_names(record: DatasetRecord) -> Iterable[str]:
    """Class names that are shown as another's would be."""
    blank = [name for name in record.classes if name != name.strip()]
    if blank:
        yield f"class names begin or end with a blank ({len(blank)}): {quoted(blank[:SHOWN])}{and_more(blank)}"


def _undeclared_rest(setting: "Setting", record: DatasetRecord) -> Iterable[str]:
    """Classes that are called after what is left over, and are scored as a thing of their own."""
    for k, name in enumerate(record.classes):
        if k == record.background or _is_known(setting, record, name):
            continue
        if " ".join(re.findall(r"[^\W_]+", name.lower())) in _REST:
            yield (
                f"class {k} is called {name!r} and scored like any other, by that word: say `background = {k}` in the "
                f"record if it stands for all the rest, or `label_map = {{ {k} = 255 }}` if it is not to be scored"
            )


def _has_threshold(setting: "Setting") -> bool:
    return bool(setting.probability_threshold or setting.area_threshold) or setting.rule(0).gated


def quoted(texts: Iterable[str]) -> str:
    """Texts with marks around them, by commas."""
    return ", ".join(repr(t) for t in texts)


def and_more(items: Sequence[object]) -> str:
    """How many items are not among those that are shown."""
    return f"; and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
