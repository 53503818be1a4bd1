"""``bench protocol lint`` and ``words``: what a protocol lets CLIP read, and what is wrong with it."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from ...datasets import DatasetRecord, dataset_keys, find_record
from ...methods import UserError
from ...methods.core.errors import did_you_mean
from ..protocol.protocol import Protocol, lint_setting, split_name
from ..protocol.token_lint import TextTokens, context_of, count_tokens, openai_tokenizer
from ..protocol.word_lint import Findings
from ..protocol.words import vocabulary_for
from ..runs.sources import load_any
from ..show.tables import print_json, print_line, print_table
from .protocol import load_with_record

COUNTED = "tokens are counted as OpenAI's CLIP does; a run counts with its method's own tokenizer"
_TINY = "shapes"


def protocol_lint_command(name: str, dataset: str | None, as_json: bool) -> None:
    """Findings for a protocol on a data set, or on each that it names; exit code 1 if one is an error."""
    linted = list(_linted(name, dataset))
    found = [{"dataset": key, "level": level, "text": text} for key, rows in linted for level, text in rows]
    if as_json:
        print_json(found)
    elif found:
        print_table("", ("data set", "level", "finding"), [list(row.values()) for row in found])
    if not as_json:
        clean = [key for key, rows in linted if not rows]
        if clean:
            print_line(f"protocol {split_name(name)[0]} on {', '.join(clean)}: nothing found")
        print_line(COUNTED)
    if any(row["level"] == "error" for row in found):
        raise SystemExit(1)


def _linted(name: str, dataset: str | None) -> Iterator[tuple[str, Findings]]:
    protocol, key, record = load_with_record(name, dataset)
    if key is not None and record is None:
        raise UserError(f"data set {key!r} is not in the catalogue; name the path of its .toml file")
    if record is not None:
        yield record.key, lint_data(protocol, record)
        return
    unknown = [k for k in protocol.dataset if not any(fnmatchcase(known, k) for known in dataset_keys())]
    for key in unknown:
        text = (
            f"[dataset.{key}] fits no data set of the catalogue{did_you_mean(key, dataset_keys())}.  If it is one of "
            f"yours: bench protocol lint {name} --dataset PATH.toml"
        )
        yield key, [("warning", text)]
    for key in named_datasets(protocol) or ([] if unknown else [_TINY]):
        yield key, lint_data(protocol, find_record(key))


def named_datasets(protocol: Protocol) -> list[str]:
    """Keys of the catalogue that a protocol has a table for, or that name it as their own protocol."""
    return [
        key
        for key in dataset_keys()
        if any(fnmatchcase(key, pattern) for pattern in protocol.dataset) or find_record(key).protocol == protocol.name
    ]


def lint_data(protocol: Protocol | str, record: DatasetRecord) -> Findings:
    """Findings for a protocol (or its name) on a data set; what hinders its words from being used at all is one too."""
    try:
        setting = (load_any(protocol) if isinstance(protocol, str) else protocol).setting(record.key)
        return lint_setting(setting, record, openai_tokenizer())
    except UserError as error:
        return [("error", str(error))]


def protocol_words_command(name: str, dataset: str | None, as_json: bool) -> None:
    """Every text with its class, its prompt and its tokens."""
    name, suffix = split_name(name)
    protocol, key, record = load_with_record(name, suffix or dataset)
    if record is None:
        what = "needs a data set" if key is None else f"data set {key!r} is not in the catalogue"
        raise UserError(f"{what}: bench protocol words {name}/DATASET, or --dataset DATASET, or --dataset PATH.toml")
    vocabulary, tokenizer = vocabulary_for(protocol.setting(key), record), openai_tokenizer()
    texts, context = count_tokens(vocabulary, tokenizer), context_of(tokenizer)
    if as_json:
        rows = [_as_dict(text, vocabulary.classes, vocabulary.templates[0], context) for text in texts]
        print_json(
            {
                "protocol": protocol.name,
                "dataset": record.key,
                "tokenizer": "OpenAI",
                "context": context,
                "background": vocabulary.background,
                "templates": vocabulary.templates,
                "texts": rows,
            }
        )
        return
    rows_shown = [
        (vocabulary.classes[t.class_index], vocabulary.templates[0].format(t.text), _count(t, context)) for t in texts
    ]
    silent = sorted(set(range(len(vocabulary.classes))) - set(vocabulary.query_to_class))
    rows_shown += [(vocabulary.classes[k], "no text: wins by threshold alone", "") for k in silent]
    print_table(f"words of {protocol.name} on {record.key}", ("class", "prompt", "tokens"), rows_shown)
    if (count := len(vocabulary.templates)) > 1:
        print_line(f"each text stands in {count} prompts; the first is shown, tokens are those of the longest")
    print_line(COUNTED)


def _count(text: TextTokens, context: int) -> str:
    assert text.tokens is not None  # OpenAI's tokenizer can always say
    return f"{text.tokens}, cut to {context}" if text.tokens > context else str(text.tokens)


def _as_dict(text: TextTokens, classes: tuple[str, ...], template: str, context: int) -> dict[str, Any]:
    return {
        "class": classes[text.class_index],
        "text": text.text,
        "prompt": template.format(text.text),
        "longest_prompt": text.prompt,
        "tokens": text.tokens,
        "cut": text.tokens is None or text.tokens > context,
    }
