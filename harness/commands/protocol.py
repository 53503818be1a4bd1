"""``bench protocol show``, ``diff`` and ``lint``."""

from ...datasets import list_datasets, open_dataset
from ...methods import UserError
from ...methods.errors import did_you_mean
from ..protocol import Protocol, Setting, diff_settings, lint_setting, load_protocol
from ..tables import print_json, print_line, print_table


def protocol_show_command(name: str, dataset: str | None, as_json: bool) -> None:
    """Every value with its reason."""
    protocol = load_protocol(name)
    _refuse_unknown(dataset, protocol)
    setting = protocol.setting(dataset)
    if as_json:
        print_json({**protocol.model_dump(), "hash": setting.hash, "setting": setting.model_dump()})
        return
    print_line(f"{protocol.name} v{protocol.version} ({protocol.family}): {protocol.summary}")
    print_line(f"source: {protocol.source}")
    print_line(f"hash: {setting.hash}" + (f" on {dataset}" if dataset else ""))
    fields = Setting.model_fields
    rows = [(k, v, fields[k].description) for k, v in setting.model_dump().items()]
    print_table(f"values for {dataset}" if dataset else "", ("field", "value", "why it matters"), rows)
    for key in protocol.dataset if dataset is None else ():
        changes = ", ".join(f"{k} = {v}" for k, v in protocol.dataset[key].items())
        print_line(f"on {key}: {changes}")


def _refuse_unknown(dataset: str | None, *protocols: Protocol) -> None:
    known = {*list_datasets(), *(key for p in protocols for key in p.dataset)}
    if dataset is not None and dataset not in known:
        raise UserError(f"unknown data set {dataset!r}{did_you_mean(dataset, known)}")


def protocol_diff_command(first: str, second: str, dataset: str | None, as_json: bool) -> None:
    """What differs, and why numbers may move."""
    a, b = load_protocol(first), load_protocol(second)
    _refuse_unknown(dataset, a, b)
    settings = a.setting(dataset), b.setting(dataset)
    found = diff_settings(*settings)
    if as_json:
        keys = ("field", "first", "second", "why")
        rows = [dict(zip(keys, row, strict=True)) for row in found]
        print_json({"first": settings[0].hash, "second": settings[1].hash, "differences": rows})
    elif not found:
        print_line(f"{first} and {second} are the same" + (f" on {dataset}" if dataset else ""))
    else:
        print_table("", ("field", first, second, "why numbers may move"), found)


def protocol_lint_command(name: str, dataset: str, as_json: bool) -> None:
    """Findings for a protocol on a data set; exit code 1 if one is an error."""
    records = list_datasets()
    if dataset in records:
        record = records[dataset]
    elif dataset.endswith(".toml"):
        record = open_dataset(dataset).record
    else:
        raise UserError(f"unknown data set {dataset!r}{did_you_mean(dataset, records)}")
    found = lint_setting(load_protocol(name).setting(record.key), record)
    if as_json:
        print_json([{"level": level, "text": text} for level, text in found])
    elif found:
        print_table("", ("level", "finding"), found)
    else:
        print_line(f"protocol {name} on {record.key}: nothing found")
    if any(level == "error" for level, _ in found):
        raise SystemExit(1)
