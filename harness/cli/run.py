"""``bench run``."""

import sys
from pathlib import Path
from typing import Any

from ..engines.drive import DetachedError
from ..engines.names import EngineName
from ..metrics.bootstrap import why_no_interval
from ..runs.loading import Loading
from ..runs.run import Finished
from ..show.progress import bars
from ..show.tables import (
    fitted,
    images_and_units,
    megabytes,
    print_json,
    print_line,
    print_table,
    print_warning,
    terminal_width,
    with_interval,
)
from ..use.pairs import every_pair
from ..use.run import run
from .name_value import names_of, parse_changes, parse_options
from .workforce import workforce

_SPARED = (8, 7, 4, 3, 6)
"""Columns that a narrow terminal does without, first to last."""
_REFINERS = {"pamr": "PAMR", "pearl": "PEARL's propagation"}


def run_command(
    *,
    methods: str,
    datasets: str,
    limit: int | None,
    loading: tuple[int | None, Path | None],
    where: tuple[int | None, EngineName, str, list[str], str, bool],
    fresh: bool,
    changes: list[str],
    options: list[str],
    allow_download: bool,
    picture: Path | None,
    labels: Path | None,
    results: Path,
    as_json: bool,
    **asked: Any,
) -> None:
    """Run every method on every data set and print a row for each; ``asked`` are other arguments of ``every_pair``."""
    force = workforce(asked["device"], results, *where)
    pairs = every_pair(
        names_of(methods),
        names_of(datasets),
        changes=parse_changes(changes),
        options=parse_options(options, "--option"),
        say=print_warning,
        **asked,
    )
    told = (print_warning, allow_download, picture, labels, Loading(*loading))
    try:
        with bars() as progress:
            found = run(pairs, results, limit, force.count, fresh, progress, *told, force.where)
    except DetachedError as left:
        print_line(f"jobs {left}: the same command without --detach waits for them, and merges")
        return
    except KeyboardInterrupt:
        sys.stderr.write("stopped; what was finished is kept, run the same command again to go on\n")
        sys.exit(130)
    reports = [report_of(one) | ({"labels": str(labels / one.name)} if labels else {}) for one in found]
    if as_json:
        print_json(reports[0] if len(reports) == 1 else reports)
    else:
        print_reports(reports, picture)


def report_of(one: Finished) -> dict[str, Any]:
    """A finished run as JSON values."""
    result, manifest = one.result, one.manifest
    return {
        "method": one.plan.spec.method,
        "dataset": manifest.dataset["key"],
        "split": manifest.dataset["split"],
        "protocol": manifest.protocol["name"],
        "protocol_hash": manifest.protocol["hash"],
        "vocabulary_hash": manifest.vocabulary_hash,
        **one.summary,
        "planned": result.planned,
        "seconds_per_image": manifest.seconds_per_image,
        "seconds_per_stage": manifest.seconds_per_stage,
        "wait_seconds_per_image": manifest.wait_seconds_per_image,
        "loaders": manifest.loaders,
        "encode_seconds": manifest.encode_seconds,
        "peak_bytes": manifest.peak_bytes,
        "weights": manifest.method.get("weights"),
        "unchecked": manifest.unchecked,
        "refine": manifest.setting["refine"],
        "guide": manifest.guide,
        "regions": manifest.regions,
        "voted_by": manifest.voted_by,
        "precision": manifest.setting["precision"],
        "device": manifest.environment["device"],
        "decoder": manifest.environment["decoder"],
        "code_version": manifest.code_version,
        "note": "; ".join(filter(None, [manifest.note, result.note])),
        "shared_with": manifest.shared_with,
        "run_dir": str(one.folder),
    }


def print_reports(reports: list[dict[str, Any]], picture: Path | None) -> None:
    """A row for each run, and what its number was made with."""
    columns = ("method", "data set", "mIoU [95 %]", "aAcc", "mAcc", "images", "images/s", "peak MB", "protocol")
    table = fitted(columns, [_row(report) for report in reports], terminal_width(), _SPARED, wraps=0)
    print_table("", table.columns, table.rows)
    if table.dropped:
        print_line(f"too narrow for {', '.join(table.dropped)}: `bench show RUN` has them")
    for words in dict.fromkeys(words for report in reports for words in _means(report)):
        print_line(words)
    for reason in dict.fromkeys(filter(None, (why_no_interval(r["units"]) for r in reports))):
        print_line(reason)
    if len(reports) > 1 and any(r["shared_with"] for r in reports):
        print_line("one pass over the images for all: encoding them, done once, is in the seconds of each")
    for number, report in enumerate(reports):
        files = [f"picture {picture}"] if picture and not number else []
        files += [f"label maps {report['labels']}"] if "labels" in report else []
        print_line(", ".join([f"run {report['run_dir']}", *files]))
    for note in dict.fromkeys(r["note"] for r in reports if r["note"]):
        print_line(f"note: {note}")


def _means(report: dict[str, Any]) -> list[str]:
    """What a number was made with: weights, machine, code; and what refined it."""
    weights = _weights(report["weights"], report["unchecked"])
    device, decoder, code = (report[k] for k in ("device", "decoder", "code_version"))
    said = [
        f"protocol {_protocol(report)}, {weights}, {report['precision']}",
        f"{device}, decoder {decoder}, code {code}",
    ]
    guide = report["guide"]
    if guide:
        options = ", ".join(f"{k} {v}" for k, v in guide.items() if k not in ("name", "sha256", "source"))
        said.append(f"refined by {guide['name']} {guide['sha256'][:17]}, {options}")
    elif report["refine"] in _REFINERS:
        said.append(f"refined by {_REFINERS[report['refine']]}")
    if report["regions"]:
        said.append(f"regions of {report['voted_by']} voted")
    return said


def _weights(weights: dict[str, Any] | None, unchecked: str) -> str:
    """Name and hash, and that the activation was not checked where it was not."""
    if not weights:
        return "no weights"
    return f"weights {weights['name']} {weights['sha256'][:17]}" + (f" ({unchecked})" if unchecked else "")


def _protocol(report: dict[str, Any]) -> str:
    return f"{report['protocol']} {report['protocol_hash'][:8]}"


def _row(report: dict[str, Any]) -> tuple[str, ...]:
    partial = f"{report['images']} of {report['planned']} (partial)"
    return (
        report["method"],
        f"{report['dataset']} {report['split']}",
        with_interval(report["miou"], report["interval"]),
        with_interval(report["aacc"], None),
        with_interval(report["macc"], None),
        images_and_units(report["images"] if report["complete"] else partial, report["units"]),
        f"{1 / report['seconds_per_image']:.1f}",
        megabytes(report["peak_bytes"]),
        _protocol(report),
    )
