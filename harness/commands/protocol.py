"""``bench protocol show``, ``diff`` and ``lint``."""

from pathlib import Path

from ...datasets import DatasetRecord, dataset_keys, find_record, read_record
from ...methods import UserError
from ...methods.errors import did_you_mean
from ..protocol import Protocol, Setting, diff_settings, lint_setting, load_protocol, split_name
from ..tables import print_json, print_line, print_table
from ..words import class_texts, list_words


def protocol_show_command(name: str, dataset: str | None, as_json: bool) -> None:
    """Every value with its reason and its source."""
    protocol, dataset = _load(name, dataset)
    setting = protocol.setting(dataset)
    if as_json:
        print_json({**protocol.model_dump(), "hash": setting.hash, "setting": setting.model_dump()})
        return
    print_line(f"{protocol.name} v{protocol.version} ({protocol.family}): {protocol.summary}")
    print_line(f"source: {protocol.source}")
    print_line(f"hash: {setting.hash}" + (f" on {dataset}" if dataset else ""))
    default = "default of every protocol"
    rows = [
        (k, v, Setting.model_fields[k].description, protocol.sources.get(k, default))
        for k, v in setting.model_dump().items()
    ]
    columns = ("field", "value", "why it matters", "where the value comes from")
    print_table(f"values for {dataset}" if dataset else "", columns, rows)
    if dataset is not None and dataset in dataset_keys():
        _print_words(setting, find_record(dataset))
    for key in protocol.dataset if dataset is None else ():
        changes = ", ".join(f"{k} = {v}" for k, v in protocol.dataset[key].items())
        print_line(f"on {key}: {changes}")


def _print_words(setting: Setting, record: DatasetRecord) -> None:
    """The classes whose texts are not simply their names."""
    texts, background = class_texts(setting, record)
    names = [*record.classes, "(none of the classes)"]
    rows = [(names[k], ", ".join(line)) for k, line in enumerate(texts) if line != [names[k]] or k == background]
    if rows:
        print_table(f"words of {record.key}, where they are not the name of the class", ("class", "texts"), rows)
    print_line(f"word lists for {record.key}: {', '.join(['official', *list_words(record.key)])}")


def _load(name: str, dataset: str | None) -> tuple[Protocol, str | None]:
    """A protocol by ``NAME`` or ``NAME/DATASET``."""
    name, suffix = split_name(name)
    protocol = load_protocol(name)
    dataset = dataset or suffix
    known = [*dataset_keys(), *protocol.dataset]
    if dataset is not None and dataset.partition("@")[0] not in known:
        raise UserError(f"unknown data set {dataset!r}{did_you_mean(dataset, known)}")
    return protocol, dataset


def protocol_diff_command(first: str, second: str, dataset: str | None, as_json: bool) -> None:
    """What differs, and why numbers may move."""
    sides = [_load(first, dataset), _load(second, dataset)]
    settings = [protocol.setting(key) for protocol, key in sides]
    found = [
        (name, a, b, why, " | ".join(p.sources.get(name, "default") for p, _ in sides))
        for name, a, b, why in diff_settings(settings[0], settings[1])
    ]
    if as_json:
        keys = ("field", "first", "second", "why", "sources")
        rows = [dict(zip(keys, row, strict=True)) for row in found]
        print_json({"first": settings[0].hash, "second": settings[1].hash, "differences": rows})
    elif not found:
        print_line(f"{first} and {second} are the same" + (f" on {dataset}" if dataset else ""))
    else:
        print_table("", ("field", first, second, "why numbers may move", "where the values come from"), found)


def protocol_lint_command(name: str, dataset: str, as_json: bool) -> None:
    """Findings for a protocol on a data set; exit code 1 if one is an error."""
    name, suffix = split_name(name)
    dataset = suffix or dataset
    record = read_record(Path(dataset)) if dataset.endswith(".toml") else find_record(dataset)
    found = lint_setting(load_protocol(name).setting(record.key), record)
    if as_json:
        print_json([{"level": level, "text": text} for level, text in found])
    elif found:
        print_table("", ("level", "finding"), found)
    else:
        print_line(f"protocol {name} on {record.key}: nothing found")
    if any(level == "error" for level, _ in found):
        raise SystemExit(1)
