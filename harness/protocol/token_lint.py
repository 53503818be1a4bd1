"""What is wrong with the words of a protocol once they are tokens: texts that are cut, and classes that become one.

CLIP reads 77 tokens (others less) and cuts what is longer without a word.  Two classes whose texts differ only where
nothing is read, or only in how they are spelt, get one embedding: the lower class wins every pixel of both.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from ...datasets import DatasetRecord
from ...methods import Vocabulary
from ...methods.core.tokenizer import Tokenizer
from ...methods.core.vocabulary import as_read
from .word_lint import HOW_TO_SHARE, SHOWN, Findings, and_more, may_share
from .words import vocabulary_for

if TYPE_CHECKING:
    from torch import Tensor

    from .protocol import Setting

_WIDE = 1024
"""Tokens that are counted of a text; no prompt is longer on purpose."""
_BATCH = 4096
_SLACK = 8
"""A prompt that stays this far below the context in the longest template is not cut in any other: where a word meets
the template a few tokens may differ."""
Row = tuple[int, ...]


@dataclass(frozen=True)
class TextTokens:
    """A text, its class, the longest of its prompts and how many tokens that has (None: more than fit, not known)."""

    class_index: int
    text: str
    prompt: str
    tokens: int | None


@cache
def openai_tokenizer() -> Tokenizer:
    """The tokenizer of OpenAI's CLIP, which comes with open_clip: what is counted with where no method was built."""
    from ...methods.models.clip_library import SimpleTokenizer

    tokenizer: Tokenizer = SimpleTokenizer()
    return tokenizer


def context_of(tokenizer: Tokenizer) -> int:
    """How many tokens it gives, the marks of start and end included."""
    return int(tokenizer(["a"]).shape[1])


def count_tokens(vocabulary: Vocabulary, tokenizer: Tokenizer) -> list[TextTokens]:
    """The longest prompt of every text and its tokens: start and end included, nothing cut, in the order of queries."""
    longest = _longest_template(vocabulary, tokenizer)
    prompts = [longest.format(query) for query in vocabulary.queries]
    counts, context = _counts(tokenizer, prompts), context_of(tokenizer)
    out = []
    for query, index, prompt, count in zip(vocabulary.queries, vocabulary.query_to_class, prompts, counts, strict=True):
        if len(vocabulary.templates) > 1 and (count is None or count > context - _SLACK):
            every = [template.format(query) for template in vocabulary.templates]
            tokens = [_WIDE if n is None else n for n in _counts(tokenizer, every)]
            if count is not None and max(tokens) > count:
                prompt, count = every[tokens.index(max(tokens))], max(tokens)
        out.append(TextTokens(index, query, prompt, count))
    return out


def lint_tokens(setting: "Setting", record: DatasetRecord, tokenizer: Tokenizer) -> Findings:
    """Findings ``(level, text)``: equal rows of tokens of different classes are an error, cut texts a warning.

    What two classes may share (``may_share``) is a warning.  Classes that are one in some templates only, because
    prompts are cut, are a warning.
    """
    vocabulary = vocabulary_for(setting, record)
    found = _equal_rows(setting, record, vocabulary, tokenizer)
    context = context_of(tokenizer)
    cut = [t for t in count_tokens(vocabulary, tokenizer) if t.tokens is None or t.tokens > context]
    if cut:
        shown = "; ".join(_cut(vocabulary, t, tokenizer) for t in cut[:SHOWN])
        found.append(("warning", f"texts are cut, {context} tokens are read ({len(cut)}): {shown}{and_more(cut)}"))
    return found


def _cut(vocabulary: Vocabulary, text: TextTokens, tokenizer: Tokenizer) -> str:
    lost = lost_words(text.prompt, tokenizer)
    count = "more" if text.tokens is None else f"{text.tokens} tokens"
    what = f"{_short(lost)!r} is not read" if lost else "the last word is not read to its end"
    return f"{_short(text.text)!r} of {_class(vocabulary, text.class_index)} has {count} in its prompt, {what}"


def lost_words(prompt: str, tokenizer: Tokenizer) -> str:
    """The words at the end of a prompt that move no token; "" if there are none."""
    words = prompt.split(" ")
    rows = _rows(tokenizer, [" ".join(words[:k]) for k in range(1, len(words) + 1)])
    kept = next(k for k, row in enumerate(rows, 1) if row == rows[-1])
    return " ".join(words[kept:])


def _equal_rows(setting: "Setting", record: DatasetRecord, vocabulary: Vocabulary, tokenizer: Tokenizer) -> Findings:
    longest = _longest_template(vocabulary, tokenizer)
    rows = _rows(tokenizer, [longest.format(query) for query in vocabulary.queries])
    owner: dict[Row, tuple[str, int]] = {}
    found = []
    for query, index, row in zip(vocabulary.queries, vocabulary.query_to_class, rows, strict=True):
        first, kept = owner.setdefault(row, (query, index))
        if kept == index:
            continue
        level, fix = ("warning", "") if may_share(setting, record, query) else ("error", f"; {HOW_TO_SHARE}")
        if as_read(first) == as_read(query):
            found.append((level, vocabulary.shared_text(query, kept, index) + fix))
            continue
        pairs = [_rows(tokenizer, [t.format(first), t.format(query)]) for t in vocabulary.templates]
        equal = sum(a == b for a, b in pairs)
        where = "" if equal == len(pairs) else f" in {equal} of {len(pairs)} templates, as they are cut"
        text = (
            f"{_short(first)!r} of {_class(vocabulary, kept)} and {_short(query)!r} of {_class(vocabulary, index)} are "
            f"the same tokens{where}: class {index} loses every tie"
        )
        found.append(("warning", text) if where else (level, text + fix))
    return found


def _longest_template(vocabulary: Vocabulary, tokenizer: Tokenizer) -> str:
    """The template that leaves the least room for a text."""
    counts = _counts(tokenizer, [template.format("a") for template in vocabulary.templates])
    return max(zip((_WIDE if n is None else n for n in counts), vocabulary.templates, strict=True), key=lambda c: c[0])[
        1
    ]


def _counts(tokenizer: Tokenizer, prompts: Sequence[str]) -> list[int | None]:
    """Tokens of prompts as if nothing were cut; None where more than fit and the tokenizer cannot say how many."""
    padding = int(tokenizer([""])[0, -1])
    counts: list[int | None] = []
    for tokens in _batches(tokenizer, prompts):
        counts += [_filled(row, padding) for row in tokens]
    context = context_of(tokenizer)
    full = [k for k, count in enumerate(counts) if count == context]
    wide = _widened(tokenizer)
    for k in full:
        if wide is not None:
            counts[k] = _filled(wide([prompts[k]])[0], padding)
        elif lost_words(prompts[k], tokenizer):
            counts[k] = None
    return counts


def _filled(row: "Tensor", padding: int) -> int:
    """Length of a row without the padding at its end."""
    used = (row != padding).nonzero()
    return int(used[-1]) + 1 if len(used) else 0


def _widened(tokenizer: Tokenizer) -> "Callable[[list[str]], Tensor] | None":
    """The tokenizer with room for every prompt, if it takes ``context_length`` as those of open_clip do."""
    if "context_length" not in inspect.signature(tokenizer).parameters:
        return None
    return lambda prompts: tokenizer(prompts, context_length=_WIDE)  # type: ignore[call-arg]


def _rows(tokenizer: Tokenizer, prompts: Sequence[str]) -> list[Row]:
    return [tuple(row) for tokens in _batches(tokenizer, prompts) for row in tokens.tolist()]


def _batches(tokenizer: Tokenizer, prompts: Sequence[str]) -> "list[Tensor]":
    return [tokenizer(list(prompts[k : k + _BATCH])) for k in range(0, len(prompts), _BATCH)]


def _class(vocabulary: Vocabulary, index: int) -> str:
    return f"class {index} ({_short(vocabulary.classes[index])!r})"


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
