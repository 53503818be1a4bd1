"""Vocabulary: which texts speak for which class."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .errors import UserError, did_you_mean

_TEMPLATE_FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Vocabulary:
    """Class names with synonyms and the prompt templates they are put into.

    ``queries[i]`` is a text that speaks for class ``query_to_class[i]``; several queries may speak for one class (its
    score is the maximum over them).  ``background`` is the index of the class that collects what no other class wants,
    or None when there is none.

    >>> v = Vocabulary.from_names(["cat", "sofa, couch"], templates="simple")
    >>> v.classes, v.queries, v.query_to_class
    (('cat', 'sofa'), ('cat', 'sofa', 'couch'), (0, 1, 1))
    """

    classes: tuple[str, ...]
    queries: tuple[str, ...]
    query_to_class: tuple[int, ...]
    templates: tuple[str, ...]
    background: int | None = None

    @classmethod
    def from_names(
        cls,
        names: Sequence[str],
        templates: str | Sequence[str] = "openai80",
        separator: str | None = ", ",
        background: int | None = None,
        classes: Sequence[str] | None = None,
    ) -> "Vocabulary":
        """Build from one line per class.

        ``separator`` splits a line into synonyms (None: the whole line is one text).  ``templates`` is the name of a
        shipped list (see ``list_templates``) or the list itself.  ``classes`` are display names; without them the
        first synonym is shown.

        Raises ``UserError`` for anything that ``lint`` calls an error.
        """
        texts = [[q.strip() for q in (line.split(separator) if separator else [line])] for line in names]
        shown = classes if classes is not None else [line[0] for line in texts]
        return cls.from_texts(texts, shown, templates, background)

    @classmethod
    def from_texts(
        cls,
        texts: Sequence[Sequence[str]],
        classes: Sequence[str],
        templates: str | Sequence[str] = "openai80",
        background: int | None = None,
    ) -> "Vocabulary":
        """Build from the texts of each class.  Only the background may have none: it then wins by threshold alone.

        Raises ``UserError`` for anything that ``lint`` calls an error.
        """
        vocabulary = cls(
            classes=tuple(classes),
            queries=tuple(q for line in texts for q in line),
            query_to_class=tuple(i for i, line in enumerate(texts) for _ in line),
            templates=load_templates(templates) if isinstance(templates, str) else tuple(templates),
            background=background,
        )
        errors = [text for level, text in vocabulary.lint() if level == "error"]
        if errors:
            raise UserError("the vocabulary cannot be used:\n  " + "\n  ".join(errors))
        return vocabulary

    def lint(self) -> list[tuple[str, str]]:
        """What is wrong, as ``(level, text)`` with level "error" or "warning".

        A text that speaks for two classes is a warning, because published lists contain it: both queries score the
        same, the lower class always wins, and the other class can never be predicted.
        """
        found: list[tuple[str, str]] = []
        if not self.classes:
            found.append(("error", "there is no class"))
        every = set(range(len(self.classes)))
        if not every - {self.background} <= set(self.query_to_class) <= every:
            spoken_for = sorted(set(self.query_to_class))
            found.append(("error", f"{len(self.classes)} class names, but the texts speak for {spoken_for}"))
        if self.background is not None and not 0 <= self.background < len(self.classes):
            found.append(("error", f"background is class {self.background}, allowed is 0 to {len(self.classes) - 1}"))
        wrong = [t for t in self.templates if t.count("{}") != 1]
        found += [("error", f"template {t!r} must contain {{}} exactly once") for t in wrong]
        if not self.templates:
            found.append(("error", "there is no template"))
        if not self.queries:
            found.append(("error", "there is no text"))
        owner: dict[str, int] = {}
        for query, index in zip(self.queries, self.query_to_class, strict=True):
            key = as_read(query)
            if not key:
                found.append(("error", f"class {index} ({self.classes[index]!r}) has an empty text"))
            elif key in owner and owner[key] == index:
                found.append(("warning", f"{query!r} stands twice for {self.classes[index]!r}: it counts double"))
            elif owner.setdefault(key, index) != index:
                found.append(("warning", self.shared_text(query, owner[key], index)))
            if ";" in query or query.count(",") > 4:
                found.append(("warning", f"{query[:60]!r} looks like a list: is the separator right?"))
        return found

    def shared_text(self, query: str, kept: int, lost: int) -> str:
        """The finding that a text speaks for two classes (given by index): equal scores go to the lower one."""
        winner, loser = self.classes[kept], self.classes[lost]
        return f"{query!r} speaks for {winner!r} and {loser!r}: {loser!r} loses every tie"

    @cached_property
    def hash(self) -> str:
        """SHA-256 of texts, classes, templates and background."""
        fields = [self.classes, self.queries, self.query_to_class, self.templates, self.background]
        return hashlib.sha256(json.dumps(fields, ensure_ascii=False).encode()).hexdigest()


def as_read(text: str) -> str:
    """A text as CLIP's tokenizer reads it before it cuts words to pieces: lower case, single blanks, none at an end."""
    return " ".join(text.lower().split())


def list_templates() -> list[str]:
    """Names of the shipped template lists."""
    return sorted(p.stem for p in _TEMPLATE_FOLDER.glob("*.txt"))


def load_templates(name: str) -> tuple[str, ...]:
    """The templates of a shipped list, e.g. ``openai80`` (the 80 of Radford et al., 2021)."""
    path = _TEMPLATE_FOLDER / f"{name}.txt"
    if not path.is_file():
        raise UserError(f"unknown template list {name!r}{did_you_mean(name, list_templates())}")
    return tuple(line for line in path.read_text().splitlines() if line)
