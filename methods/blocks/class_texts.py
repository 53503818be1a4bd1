"""A second text for every class: a file of the user's, and mixing it into the queries."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.vocabulary import Vocabulary

_MOST_BYTES = 1_000_000


@dataclass(frozen=True)
class ClassTexts:
    """Lines of a file, one for each class that is no background."""

    lines: tuple[str, ...]
    source: str
    sha256: str

    def of(self, vocabulary: Vocabulary) -> Vocabulary:
        """The texts as a vocabulary with the same classes but the background, which has none.

        Raises ``UserError`` when there is not one line for each.
        """
        classes = [name for i, name in enumerate(vocabulary.classes) if i != vocabulary.background]
        if len(self.lines) != len(classes):
            raise UserError(
                f"{self.source} has {len(self.lines)} lines, the vocabulary {len(classes)} classes beside the "
                "background: one line is wanted for each of them, in their order"
            )
        return Vocabulary.from_texts([[line] for line in self.lines], classes, vocabulary.templates)


def read_class_texts(path: Path) -> ClassTexts:
    """The lines of a file, blank ones left out.  Raises ``UserError`` when it cannot be read as text."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"{path} has more than the {_MOST_BYTES} bytes that a file of texts may have")
        content = path.read_bytes()
        lines = tuple(line.strip() for line in content.decode("utf-8-sig").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the texts of classes in {path} cannot be read as UTF-8: {error}") from error
    return ClassTexts(lines, f"file {path.name}", hashlib.sha256(content).hexdigest())


def mix_class_texts(text: Tensor, owners: tuple[int, ...], others: Tensor, share: float, skipped: int | None) -> Tensor:
    """``(1 - share) t + share u`` for queries ``(Q, dim)``, with u the text of the query's class, of ``others``.

    ``owners`` are the classes of the queries.  Class ``skipped`` has no row in ``others``; its queries stay.
    """
    mixed = text.clone()
    for query, owner in enumerate(owners):
        if owner != skipped:
            row = owner - (skipped is not None and owner > skipped)
            mixed[query] = torch.lerp(text[query], others[row], share)
    return mixed
