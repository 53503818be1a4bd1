"""``bench suite``: what a suite would do, and doing it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from shutil import disk_usage
from typing import Any

from ..engines.names import EngineName
from ..runs.loading import Loading
from ..runs.run import Finished
from ..show.progress import bars
from ..show.tables import (
    bytes_text,
    fitted,
    lasting,
    print_json,
    print_line,
    print_table,
    print_warning,
    terminal_width,
    with_interval,
)
from ..use.needs import Need
from ..use.suite import Outcome, run_suite
from ..use.suite_file import read_suite
from ..use.suite_plan import SuitePlan, SuiteRun, plan_suite
from ..use.suite_request import SuiteRequest
from .workforce import workforce

_PLANNED = ("pass", "method", "data set", "protocol", "images", "done", "time", "missing")
_ENDED = ("method", "data set", "protocol", "mIoU [95 %]", "images", "images/s", "run")
_SPARED_PLANNED, _SPARED_ENDED = (0, 5), (6, 5, 4)


def suite_command(
    name: str,
    *,
    dry_run: bool,
    methods: str,
    datasets: str,
    device: str,
    results: Path,
    loading: tuple[int | None, Path | None],
    where: tuple[int | None, EngineName, str, list[str], str, bool],
    as_json: bool,
    **asked: Any,
) -> None:
    """Run a suite, or say what it would do.  Exit code 1 if a run failed, or in a dry run something is missing."""
    only = [tuple(part.strip() for part in text.split(",") if part.strip()) for text in (methods, datasets)]
    force = workforce(device, results, *where)
    request = SuiteRequest(
        **asked,
        device=device,
        results=results,
        methods=only[0],
        datasets=only[1],
        loading=Loading(*loading),
        workers=force.count,
        where=force.where,
    )
    plan = plan_suite(read_suite(name), request)
    if dry_run:
        if as_json:
            print_json(_plan_value(plan))
        else:
            _print_plan(plan)
        raise SystemExit(1 if plan.missing else 0)
    try:
        with bars() as progress:
            outcomes = run_suite(plan, progress, print_warning)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; what was finished is kept, run the same command again to go on\n")
        sys.exit(130)
    if as_json:
        print_json({"suite": plan.suite.name, "runs": [_outcome_value(one) for one in outcomes]})
    else:
        _print_outcomes(plan, outcomes)
    raise SystemExit(1 if any(one.problem for one in outcomes) else 0)


# ---- before


def _print_plan(plan: SuitePlan) -> None:
    rows = [_planned_row(number, run) for number, one in enumerate(plan.passes, 1) for run in one]
    table = fitted(_PLANNED, rows, terminal_width(), _SPARED_PLANNED, wraps=7)
    print_table(plan.suite.title or plan.suite.name, table.columns, table.rows)
    for line in _in_all(plan):
        print_line(line)
    unknown = sorted(
        {need.name for run in plan.runs for need in run.needs if need not in run.missing and not need.here}
    )
    if unknown:
        print_line(f"whether these weights are here is seen when their runs begin: {', '.join(unknown)}")
    if plan.missing:
        print_line("to get what is missing:")
    for need in plan.missing:
        print_line(f"  {need.name}: {_how(need)}")


def _planned_row(number: int, run: SuiteRun) -> tuple[str, ...]:
    return (
        str(number),
        run.label,
        run.spec.dataset,
        _protocol(run),
        "unknown" if run.wanted is None else str(run.wanted),
        str(run.done),
        "unknown" if run.seconds is None else lasting(run.seconds),
        ", ".join(need.name for need in run.missing),
    )


def _in_all(plan: SuitePlan) -> list[str]:
    """Runs, images, time and disk; what is not known of some runs is said."""
    runs = plan.runs
    known = [run.seconds for run in runs if run.seconds is not None]
    images = sum(run.wanted or 0 for run in runs)
    left = len(runs) - len(known)
    time = f"about {lasting(sum(known))} on {plan.asked.device}" if known else "time unknown"
    unsure = f" without {_counted(left, 'run')} whose time no earlier run tells" if left and known else ""
    place = next(p for p in (plan.asked.results, *plan.asked.results.absolute().parents) if p.exists())
    passes = _counted(len(plan.passes), "pass", "es")
    return [
        f"{_counted(len(runs), 'run')} in {passes} over the images, {images} images in all; {time}{unsure}",
        f"at most {bytes_text(sum(run.most_bytes for run in runs))} in {plan.asked.results}, "
        f"{bytes_text(disk_usage(place).free)} are free there",
    ]


def _counted(number: int, word: str, plural: str = "s") -> str:
    return f"{number} {word}" + (plural if number != 1 else "")


def _how(need: Need) -> str:
    commands = ", then ".join(f"`{command}`" for command in need.commands)
    return f"{commands} ({need.note})" if need.note and commands else commands or need.note


# ---- after


def _print_outcomes(plan: SuitePlan, outcomes: Sequence[Outcome]) -> None:
    table = fitted(_ENDED, [_ended_row(one) for one in outcomes], terminal_width(), _SPARED_ENDED, wraps=6)
    print_table(plan.suite.title or plan.suite.name, table.columns, table.rows)
    found = [one.finished for one in outcomes if one.finished is not None]
    for words in dict.fromkeys(_made_with(one) for one in found):
        print_line(words)
    for note in dict.fromkeys(one.manifest.note for one in found if one.manifest.note):
        print_line(f"note: {note}")
    failed = [one for one in outcomes if one.problem]
    for one in failed:
        print_line(f"failed: {one.run.label} on {one.run.spec.dataset}: {one.problem}")
        print_line(f"  again: {one.run.command}")
    print_line(
        f"{_counted(len(outcomes), 'run')}: {len(found)} done, {len(failed)} failed; `bench leaderboard` compares them"
    )
    jobs = dict.fromkeys(name for one in outcomes for name in one.jobs)
    if jobs:
        left = len(outcomes) - len(found) - len(failed)
        print_line(
            f"{_counted(left, 'run')} left to jobs {', '.join(jobs)}: the same command without --detach waits for "
            "them, and merges"
        )


def _ended_row(one: Outcome) -> tuple[str, ...]:
    before = (one.run.label, one.run.spec.dataset, _protocol(one.run))
    if one.finished is None:
        return (*before, "failed" if one.problem else "in jobs", "", "", "")
    result, manifest = one.finished.result, one.finished.manifest
    images = str(result.planned) if result.complete else f"{len(result.ids)} of {result.planned} (partial)"
    value = with_interval(one.finished.summary["miou"], one.finished.summary["interval"])
    return (*before, value, images, f"{1 / manifest.seconds_per_image:.1f}", one.finished.name)


def _made_with(one: Finished) -> str:
    manifest = one.manifest
    weights = (
        f"weights {manifest.weights['name']} {manifest.weights['sha256'][:17]}" if manifest.weights else "no weights"
    )
    unchecked = f" ({manifest.unchecked})" if manifest.unchecked else ""
    device = f"{manifest.environment['device']}, {manifest.setting['precision']}"
    return f"{weights}{unchecked}, {device}, code {manifest.code_version}"


def _protocol(run: SuiteRun) -> str:
    return f"{run.spec.protocol.name} {run.setting.hash[:8]}"


# ---- JSON


def _plan_value(plan: SuitePlan) -> dict[str, Any]:
    return {
        "suite": plan.suite.name,
        "runs": [{**_run_value(run), "pass": n} for n, one in enumerate(plan.passes, 1) for run in one],
        "missing": [{**vars(need), "where": str(need.where) if need.where else None} for need in plan.missing],
    }


def _run_value(run: SuiteRun) -> dict[str, Any]:
    return {
        "method": run.spec.method,
        "options": run.spec.options,
        "dataset": run.spec.dataset,
        "protocol": run.spec.protocol.name,
        "protocol_hash": run.setting.hash,
        "asked_by": run.key,
        "images": run.wanted,
        "done": run.done,
        "seconds": run.seconds,
        "measured_in": run.expected.run if run.expected else None,
        "most_bytes": run.most_bytes,
        "missing": [need.name for need in run.missing],
        "command": run.command,
    }


def _outcome_value(one: Outcome) -> dict[str, Any]:
    value = {k: v for k, v in _run_value(one.run).items() if k in ("method", "options", "dataset", "protocol")}
    value |= {"protocol_hash": one.run.setting.hash, "command": one.run.command, "problem": one.problem or None}
    value |= {"jobs": list(one.jobs)}
    if one.finished is None:
        return value
    manifest, summary = one.finished.manifest, one.finished.summary
    return {
        **value,
        "miou": summary["miou"],
        "interval": summary["interval"],
        "images": summary["images"],
        "planned": one.finished.result.planned,
        "weights": manifest.weights or None,
        "device": manifest.environment["device"],
        "code_version": manifest.code_version,
        "run_dir": str(one.finished.folder),
    }
