"""``bench protocol show`` and ``diff``."""

from pathlib import Path
from typing import Any

from ...datasets import DatasetRecord, dataset_keys, find_record, read_record
from ...methods import UserError
from ...methods.core.errors import did_you_mean
from ..protocol.differences import diff_settings
from ..protocol.protocol import Protocol, Setting, split_name
from ..protocol.words import OFFICIAL, OUTSIDE, class_texts, list_words
from ..report.of_protocol import changes, source_of, value_rows, value_text
from ..runs.sources import load_any
from ..show.tables import print_json, print_line, print_table

_MOST_CLASSES = 20
"""Classes whose words `diff` prints; of more it says how many there are."""


def protocol_show_command(name: str, dataset: str | None, as_json: bool) -> None:
    """Every value with its reason and its source."""
    protocol, key, record = load_with_record(name, dataset)
    setting = protocol.setting(key)
    words = _words(setting, record) if record else {}
    if as_json:
        print_json({**protocol.model_dump(), "hash": setting.hash, "setting": setting.model_dump(), "words": words})
        return
    print_line(f"{protocol.name} v{protocol.version} ({protocol.family}): {protocol.summary}")
    if protocol.aliases:
        print_line(f"also called: {', '.join(protocol.aliases)}")
    print_line(f"source: {protocol.source}")
    print_line(f"hash: {setting.hash}" + (f" on {key}" if key else ""))
    print_line("")
    _print_values(protocol, setting, key)
    if key is None:
        _print_tables(protocol)
    if record is not None:
        print_line("")
        _print_words(words, record)


def _print_values(protocol: Protocol, setting: Setting, key: str | None) -> None:
    """What the protocol sets, with sources; then what it leaves at the defaults."""
    title = f"values on {key}" if key else "values where no table of a data set says otherwise"
    columns = ("field", "value", "why it matters", "where the value comes from")
    chosen = [name for name in Setting.model_fields if name in setting.model_fields_set]
    rows = [row for name in chosen for row in value_rows(setting, name, source_of(protocol, setting, name))]
    print_table(title, columns, rows)
    rest = [row for name in Setting.model_fields if name not in chosen for row in value_rows(setting, name)]
    if rest:
        print_line("")
        print_table("fields left at the default of every protocol", columns[:3], rest)


def _print_tables(protocol: Protocol) -> None:
    """What differs from the base, data set by data set."""
    base = protocol.setting(None)
    rows = []
    for key, table in protocol.dataset.items():
        values = {**base.model_dump(), **table}
        rows.append((key, "; ".join(changes(base.model_dump(), values)) or "nothing"))
    if rows:
        print_line("")
        print_table("data sets with a table of their own", ("data set", "what differs from the values above"), rows)


def _words(setting: Setting, record: DatasetRecord) -> dict[str, list[str]]:
    """The texts of each class."""
    return dict(zip((*record.classes, OUTSIDE), class_texts(setting, record)[0], strict=False))


def _print_words(words: dict[str, list[str]], record: DatasetRecord) -> None:
    """The classes whose texts are not simply their names."""
    rows = [(name, ", ".join(texts) or "no text") for name, texts in words.items() if texts != [name]]
    if rows:
        print_line(f"words on {record.key} that are not simply the name of the class")
        print_table("", ("class", "texts"), rows)
    else:
        print_line(f"words on {record.key}: the name of each class")
    print_line("")
    print_line(f"word lists there are for {record.key}: {', '.join([OFFICIAL, *list_words(record.key)])}")


def load_with_record(name: str, dataset: str | None) -> tuple[Protocol, str | None, DatasetRecord | None]:
    """A protocol by ``NAME`` or ``NAME/DATASET``, the key of the data set, and its record if it has one.

    Raises ``UserError`` for a data set that is neither catalogued nor a file nor named by the protocol, and for two.
    """
    name, suffix = split_name(name)
    protocol = load_any(name)
    if suffix and dataset and suffix != dataset:
        raise UserError(f"the name asks for data set {suffix!r} and --dataset for {dataset!r}: give one of them")
    dataset = suffix or dataset
    if dataset is None:
        return protocol, None, None
    if dataset.endswith(".toml"):
        record = read_record(Path(dataset))
        return protocol, record.key, record
    key = dataset.partition("@")[0].partition(":")[0]
    if key in dataset_keys():
        return protocol, key, find_record(key)
    if key not in protocol.dataset:
        known = dataset_keys()
        raise UserError(f"unknown data set {dataset!r}{did_you_mean(key, known)}, or the path of a .toml file")
    return protocol, key, None


def protocol_diff_command(first: str, second: str, dataset: str | None, as_json: bool) -> None:
    """What differs, and why numbers may move."""
    sides = [load_with_record(name, dataset) for name in (first, second)]
    settings = [protocol.setting(key) for protocol, key, _ in sides]
    found = diff_settings(settings[0], settings[1])
    sources = {
        name: [source_of(side[0], setting, name) for side, setting in zip(sides, settings, strict=True)]
        for name, *_ in found
    }
    words = _different_words(sides, settings)
    if as_json:
        rows = [
            {"field": name, "first": a, "second": b, "why": why, "sources": sources[name]} for name, a, b, why in found
        ]
        hashes = {"first": settings[0].hash, "second": settings[1].hash}
        print_json({**hashes, "differences": rows, "words": {name: list(both) for name, both in words.items()}})
    elif not found:
        print_line(f"{first} and {second} are the same" + (f" on {dataset}" if dataset else ""))
    else:
        _print_differences((first, second), found, sources)
        _print_different_words((first, second), words)


def _print_differences(
    names: tuple[str, str], found: list[tuple[str, Any, Any, str]], sources: dict[str, list[str]]
) -> None:
    rows = []
    for field, a, b, why in found:
        if isinstance(a, dict):
            a, b = ("; ".join(changes(other, value)) or "none" for value, other in ((a, b), (b, a)))
        rows.append((field, value_text(a), value_text(b), why))
    print_table("", ("field", *names, "why numbers may move"), rows)
    print_line("")
    where = [(field, *sources[field]) for field, *_ in found]
    print_table("where the values come from", ("field", *names), where)


def _different_words(
    sides: list[tuple[Protocol, str | None, DatasetRecord | None]], settings: list[Setting]
) -> dict[str, tuple[list[str], list[str]]]:
    """Classes that other words speak for, when both sides are about one data set."""
    records = [record for _, _, record in sides]
    if records[0] is None or records[0] != records[1]:
        return {}
    a, b = (_words(setting, records[0]) for setting in settings)
    return {name: (a.get(name, []), b.get(name, [])) for name in {**a, **b} if a.get(name) != b.get(name)}


def _print_different_words(names: tuple[str, str], words: dict[str, tuple[list[str], list[str]]]) -> None:
    if not words:
        return
    shown = list(words.items())[:_MOST_CLASSES]
    rows = [(name, *(", ".join(texts) or "no text" for texts in both)) for name, both in shown]
    print_line("")
    print_table(f"words that differ ({len(words)} classes)", ("class", *names), rows)
    if len(words) > len(shown):
        print_line(f"and {len(words) - len(shown)} more: --json has all")
