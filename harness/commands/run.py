"""``bench run``."""

import sys
from pathlib import Path
from typing import Any

from ...datasets import Dataset, check_samples, open_dataset
from ...methods import UserError
from ...methods.backbone import TINY_CLIP
from ...methods.files import cache_folder
from .. import engine
from ..pipeline import Pipeline
from ..progress import progress
from ..protocol import Setting, lint_setting, load_protocol
from ..result import EvalResult
from ..runs import Run, RunSpec, make_plan
from ..tables import megabytes, print_json, print_line, print_table, with_interval
from .options import parse_options


def run_command(
    *,
    method: str,
    dataset: str,
    protocol: str | None,
    backbone: str | None,
    weights: Path | None,
    data_root: Path | None,
    device: str,
    limit: int | None,
    workers: int,
    fresh: bool,
    boundary: bool,
    changes: list[str],
    options: list[str],
    allow_download: bool,
    picture: Path | None,
    results: Path,
    as_json: bool,
) -> None:
    """Plan, check the data, work, merge, report."""
    if picture is not None and picture.suffix.lower() != ".png":
        raise UserError(f"--picture writes a PNG, so it must end in .png, not {picture.name!r}")
    data = open_dataset(dataset, data_root)
    chosen = load_protocol(protocol or data.record.protocol).changed(**parse_options(changes, "--set"))
    spec = RunSpec(
        method=method,
        dataset=str(Path(dataset).resolve()) if dataset.endswith(".toml") else dataset,
        protocol=chosen,
        backbone=backbone or (TINY_CLIP if data.record.key == "shapes" and weights is None else None),
        weights=str(weights.resolve()) if weights else None,
        data_root=str(data_root.resolve()) if data_root else None,
        device=device,
        options=parse_options(options, "--option"),
        boundary=boundary,
    )
    setting = spec.setting_for(data)
    _warn(data, setting)
    wanted = data.ids[:limit]
    with progress("checking data", len(wanted)) as advance:
        check_samples(data, wanted, cache_folder() / "checked", advance)
    pipeline = Pipeline(spec.build_method(setting, allow_download), setting, data.record, boundary)
    plan = make_plan(spec, pipeline, data)
    run = Run.open(results, plan)
    with run.lock():
        run.begin(plan, fresh)
        # A run that is done keeps the provenance of who did it.
        if _work(run, pipeline, data, wanted, workers) or not run.is_merged():
            run.finish(data, pipeline.encode_seconds, workers)
    if picture is not None:
        from ..overlay import write_contact_sheet

        write_contact_sheet(picture, pipeline, [data.load(i) for i in wanted[:6]])
    report = _report(run, data, wanted)
    if as_json:
        print_json(report)
    else:
        _print_report(run, report, picture)


def _warn(data: Dataset, setting: Setting) -> None:
    """Say what looks wrong; raise ``UserError`` for what cannot work."""
    for level, text in lint_setting(setting, data.record):
        if level == "error":
            raise UserError(text)
        sys.stderr.write(f"{level}: {text}\n")
    if len(data.ids) != data.planned:
        sys.stderr.write(f"warning: {data.record.key} has {len(data.ids)} images here, {data.planned} are expected\n")


def _work(run: Run, pipeline: Pipeline, data: Dataset, wanted: tuple[str, ...], workers: int) -> bool:
    """Score what is missing of ``wanted``; says whether there was anything to do."""
    missing = run.missing(wanted)
    spec = run.plan().spec
    with progress(f"{spec.method} on {data.record.key}", len(missing)) as advance:
        try:
            if workers > 1 and len(missing) > 1:
                engine.work_in_processes(run, missing, min(workers, len(missing)), advance)
            else:
                engine.work_through(run, pipeline, data, missing, spec.device, advance)
        except KeyboardInterrupt:
            sys.stderr.write("stopped; what was finished is kept, run the same command again to go on\n")
            sys.exit(130)
    return bool(missing)


def _report(run: Run, data: Dataset, wanted: tuple[str, ...]) -> dict[str, Any]:
    result: EvalResult = run.result(data, wanted)
    manifest = run.manifest()
    return {
        "method": run.plan().spec.method,
        "dataset": data.record.key,
        "split": data.record.split,
        "protocol": manifest["protocol"]["name"],
        "protocol_hash": manifest["protocol"]["hash"],
        "vocabulary_hash": manifest["vocabulary_hash"],
        **result.summary(),
        "planned": result.planned,
        "seconds_per_image": manifest["seconds_per_image"],
        "seconds_per_stage": manifest["seconds_per_stage"],
        "encode_seconds": manifest["encode_seconds"],
        "peak_bytes": manifest["peak_bytes"],
        "weights": manifest["method"].get("weights"),
        "precision": manifest["setting"]["precision"],
        "device": manifest["environment"]["device"],
        "code_version": manifest["code_version"],
        "note": manifest["note"],
        "run_dir": str(run.folder),
    }


def _print_report(run: Run, report: dict[str, Any], picture: Path | None) -> None:
    weights = report["weights"] or {}
    images = f"{report['images']}" if report["complete"] else f"{report['images']} of {report['planned']} (partial)"
    columns = ("method", "data set", "protocol", "mIoU [95 %]", "aAcc", "mAcc", "images", "images/s", "peak MB")
    row = (
        report["method"],
        f"{report['dataset']} {report['split']}",
        f"{report['protocol']} {report['protocol_hash'][:8]}",
        with_interval(report["miou"], report["interval"]),
        with_interval(report["aacc"], None),
        with_interval(report["macc"], None),
        images,
        f"{1 / report['seconds_per_image']:.1f}",
        megabytes(report["peak_bytes"]),
    )
    print_table("", columns, [row])
    print_line(
        f"weights {weights.get('name', '?')} {str(weights.get('sha256', '?'))[:17]}, {report['precision']}, "
        f"{report['device']}, code {report['code_version']}"
    )
    print_line(f"run {run.folder}" + (f", picture {picture}" if picture else ""))
    if report["note"]:
        print_line(f"note: {report['note']}")
