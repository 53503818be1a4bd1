"""``bench run``."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ...datasets import Dataset, check_samples
from ...methods import UserError, find_method
from ...methods.core.files import cache_folder, clean_cache
from ...methods.models.backbone_names import TINY_CLIP
from ...methods.registry import check_parts
from ..decoding.decode import decoder_name
from ..metrics.bootstrap import why_no_interval
from ..protocol.protocol import Setting, lint_setting
from ..runs.engine import Lane, work_in_processes, work_through
from ..runs.plan import Plan, RunSpec, build_pipelines, make_plan
from ..runs.run import Run
from ..runs.sources import PREFIX, load_any, open_any, unused_words
from ..show.progress import progress
from ..show.tables import (
    images_and_units,
    megabytes,
    print_json,
    print_line,
    print_table,
    print_warning,
    print_warnings,
    with_interval,
)
from .name_value import parse_options


def run_command(
    *,
    datasets: str,
    protocol: str | None,
    data_root: Path | None,
    limit: int | None,
    workers: int,
    fresh: bool,
    changes: list[str],
    allow_download: bool,
    picture: Path | None,
    results: Path,
    as_json: bool,
    **asked: Any,
) -> None:
    """Plan, check the data, work, merge, report.

    ``datasets`` are names separated by commas, whose images are the same; ``asked`` are the other fields of a
    ``RunSpec``.
    """
    clean_cache()
    changed = parse_options(changes, "--set")
    specs = [_spec(name.strip(), protocol, data_root, changed, asked) for name in datasets.split(",")]
    for warning in dict.fromkeys(w for name in datasets.split(",") for w in unused_words(name.strip(), protocol)):
        sys.stderr.write(f"warning: {warning}\n")
    decoder_name(asked["device"])
    check_parts(specs[0].method, specs[0].backbone, asked["weights"], allow_download)
    data = [spec.open_data() for spec in specs]
    wanted = data[0].ids[:limit]
    digests = _check(specs, data, wanted)
    pipelines = build_pipelines(specs, data, allow_download)
    for pipeline in pipelines:
        print_warnings(pipeline.findings, but=lint_setting(pipeline.setting, pipeline.record))
    plans = [make_plan(*plan) for plan in zip(specs, pipelines, data, digests, strict=True)]
    lanes = [Lane(Run.at(results, plan), p, d) for plan, p, d in zip(plans, pipelines, data, strict=True)]
    if fresh or not all(lane.run.answers(plan, wanted) for lane, plan in zip(lanes, plans, strict=True)):
        _work(lanes, plans, wanted, workers, fresh)
    if picture is not None:
        from ..report.overlay import write_contact_sheet

        write_contact_sheet(picture, pipelines[0], [data[0].load(i) for i in wanted[:6]])
    reports = [_report(lane.run, wanted) for lane in lanes]
    if as_json:
        print_json(reports[0] if len(reports) == 1 else reports)
    else:
        _print_reports([lane.run for lane in lanes], reports, picture)


def _spec(
    name: str, protocol: str | None, data_root: Path | None, changes: dict[str, Any], asked: dict[str, Any]
) -> RunSpec:
    record = open_any(name, data_root).record
    chosen = load_any(protocol or record.protocol).changed(**changes)
    backbone, weights = asked["backbone"], asked["weights"]
    tiny = record.key == "shapes" and weights is None and bool(find_method(asked["method"]).info.backbone)
    fields = {
        **asked,
        "dataset": _absolute(name),
        "protocol": chosen,
        "backbone": backbone or (TINY_CLIP if tiny else None),
        "weights": str(weights.resolve()) if weights else None,
        "data_root": str(data_root.resolve()) if data_root else None,
        "options": parse_options(asked["options"], "--option"),
    }
    return RunSpec(**fields)


def _check(specs: list[RunSpec], data: list[Dataset], wanted: tuple[str, ...]) -> list[dict[str, str]]:
    """Find everything that would stop the work, before any of it; returns the digests of every image and label."""
    _check_same_images(data)
    settings = [spec.setting_for(d) for spec, d in zip(specs, data, strict=True)]
    for setting, d in zip(settings, data, strict=True):
        _warn(d, setting)
    digests = []
    for d in data:
        with progress(f"checking {d.record.key}", len(d.ids)) as advance:
            checked = check_samples(d, wanted, cache_folder() / "checked", advance)
        for warning in checked.warnings:
            print_warning(str(warning))
        digests.append(checked.digests)
    return digests


def _absolute(name: str) -> str:
    """A name that any process understands: files by their full path."""
    prefix = PREFIX if name.startswith(PREFIX) else ""
    path = name.removeprefix(prefix)
    return f"{prefix}{Path(path).resolve()}" if path.endswith((".toml", ".py")) else name


def _check_same_images(data: list[Dataset]) -> None:
    """Data sets can share a pass when their images are the same files."""
    keys = [d.record.key for d in data]
    doubled = sorted({k for k in keys if keys.count(k) > 1})
    if doubled:
        raise UserError(f"--dataset names {', '.join(doubled)} twice: every data set of a pass needs a key of its own")
    for other in data[1:]:
        if other.ids != data[0].ids or _images(other) != _images(data[0]):
            raise UserError(
                f"{keys[0]} and {other.record.key} cannot share a pass: they do not have the same images.  Run them "
                "one after the other"
            )


def _images(data: Dataset) -> list[Path]:
    return [path.resolve() for image_id in data.ids for path in data.files(image_id)[:1]]


def _warn(data: Dataset, setting: Setting) -> None:
    """Say what looks wrong; raise ``UserError`` for what cannot work."""
    found = lint_setting(setting, data.record)
    errors = [text for level, text in found if level == "error"]
    if errors:
        raise UserError(
            f"{data.record.key} cannot be scored so:\n  " + "\n  ".join(errors) if errors[1:] else errors[0]
        )
    print_warnings(found)
    if data.record.expected_images and len(data.ids) != data.planned:
        print_warning(f"{data.record.key} has {len(data.ids)} images here, {data.planned} are expected")


def _work(lanes: list[Lane], plans: list[Plan], wanted: tuple[str, ...], workers: int, fresh: bool) -> None:
    """Score what is missing of ``wanted`` and merge, under the locks of the runs."""
    with ExitStack() as locks:
        for lane, plan in zip(lanes, plans, strict=True):
            locks.enter_context(lane.run.lock())
            lane.run.begin(plan, fresh)
        missing = [lane.run.missing(wanted) for lane in lanes]
        _score_missing(lanes, missing, plans[0].spec, workers)
        for lane in lanes:
            if not lane.run.is_merged():
                lane.run.merge()


def _score_missing(lanes: list[Lane], missing: list[tuple[str, ...]], spec: RunSpec, workers: int) -> None:
    union = tuple(sorted({i for m in missing for i in m}))
    what = f"{spec.method} on {', '.join(lane.data.record.key for lane in lanes)}"
    with progress(what, sum(map(len, missing))) as advance:
        try:
            if workers > 1 and len(union) > 1:
                work_in_processes([lane.run for lane in lanes], union, min(workers, len(union)), advance)
            else:
                work_through(lanes, union, spec.device, advance)
        except KeyboardInterrupt:
            sys.stderr.write("stopped; what was finished is kept, run the same command again to go on\n")
            sys.exit(130)


def _report(run: Run, wanted: tuple[str, ...]) -> dict[str, Any]:
    result, manifest = run.result(wanted), run.manifest()
    return {
        "method": run.plan().spec.method,
        "dataset": manifest.dataset["key"],
        "split": manifest.dataset["split"],
        "protocol": manifest.protocol["name"],
        "protocol_hash": manifest.protocol["hash"],
        "vocabulary_hash": manifest.vocabulary_hash,
        **result.summary(),
        "planned": result.planned,
        "seconds_per_image": manifest.seconds_per_image,
        "seconds_per_stage": manifest.seconds_per_stage,
        "encode_seconds": manifest.encode_seconds,
        "peak_bytes": manifest.peak_bytes,
        "weights": manifest.method.get("weights"),
        "unchecked": manifest.unchecked,
        "refine": manifest.setting["refine"],
        "guide": manifest.guide,
        "precision": manifest.setting["precision"],
        "device": manifest.environment["device"],
        "decoder": manifest.environment["decoder"],
        "code_version": manifest.code_version,
        "note": "; ".join(filter(None, [manifest.note, result.note])),
        "shared_with": manifest.shared_with,
        "run_dir": str(run.folder),
    }


def _print_reports(runs: list[Run], reports: list[dict[str, Any]], picture: Path | None) -> None:
    columns = ("method", "data set", "protocol", "mIoU [95 %]", "aAcc", "mAcc", "images", "images/s", "peak MB")
    print_table("", columns, [_row(report) for report in reports])
    report = reports[0]
    weights = _weights(report["weights"], report["unchecked"])
    print_line(
        f"{weights}, {report['precision']}, {report['device']}, decoder {report['decoder']}, "
        f"code {report['code_version']}"
    )
    guide = report["guide"]
    if guide:
        options = ", ".join(f"{k} {v}" for k, v in guide.items() if k not in ("name", "sha256", "source"))
        print_line(f"refined by {guide['name']} {guide['sha256'][:17]}, {options}")
    elif report["refine"] == "pamr":
        print_line("refined by PAMR")
    for reason in dict.fromkeys(filter(None, (why_no_interval(r["units"]) for r in reports))):
        print_line(reason)
    if len(runs) > 1:
        print_line("one pass over the images for all: encoding them, done once, is in the seconds of each")
    for run in runs:
        print_line(f"run {run.folder}" + (f", picture {picture}" if picture and run is runs[0] else ""))
    for note in dict.fromkeys(r["note"] for r in reports if r["note"]):
        print_line(f"note: {note}")


def _weights(weights: dict[str, Any] | None, unchecked: str) -> str:
    """Name and hash, and that the activation was not checked where it was not."""
    if not weights:
        return "no weights"
    return f"weights {weights['name']} {weights['sha256'][:17]}" + (f" ({unchecked})" if unchecked else "")


def _row(report: dict[str, Any]) -> tuple[str, ...]:
    partial = f"{report['images']} of {report['planned']} (partial)"
    return (
        report["method"],
        f"{report['dataset']} {report['split']}",
        f"{report['protocol']} {report['protocol_hash'][:8]}",
        with_interval(report["miou"], report["interval"]),
        with_interval(report["aacc"], None),
        with_interval(report["macc"], None),
        images_and_units(report["images"] if report["complete"] else partial, report["units"]),
        f"{1 / report['seconds_per_image']:.1f}",
        megabytes(report["peak_bytes"]),
    )
