"""``bench plan``, ``bench worker`` and ``bench merge``."""

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from ..runs.ranks import shard_of
from ..runs.run import Run
from ..runs.worker_task import WorkerTask, threads_for
from ..show.progress import bars
from ..show.tables import print_json, print_line, print_warning
from ..use.pairs import every_pair
from ..use.workers import check_shared, do_work, merge_runs, plan_runs, planned_run
from .name_value import names_of, parse_options, texts_of
from .run import print_reports, report_of

INCOMPLETE = 3
"""Exit code: run the same command again."""


def plan_command(
    *,
    methods: str,
    datasets: str,
    fresh: bool,
    changes: list[str],
    options: list[str],
    allow_download: bool,
    results: Path,
    sbatch: list[str] | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Write plans and say where they are, or print a batch script with the commands that work on them."""
    pairs = every_pair(
        names_of(methods),
        names_of(datasets),
        changes=parse_options(changes, "--set"),
        options=parse_options(options, "--option"),
        say=print_warning,
        **asked,
    )
    with bars() as progress:
        runs = plan_runs(pairs, results, fresh, progress, print_warning, allow_download)
    if sbatch is not None:
        sys.stdout.write(batch_script(runs, texts_of(sbatch, "--slurm")))
    elif as_json:
        print_json([{"run_dir": str(run.folder), "images": len(run.plan().ids)} for run in runs])
    else:
        for run in runs:
            print_line(str(run.folder))


def batch_script(runs: list[Run], settings: dict[str, str]) -> str:
    """A script for ``sbatch`` in which every task is a worker; it needs this environment and the run folders.

    ``settings`` are for ``#SBATCH --KEY=VALUE``.
    """
    folders = " ".join(shlex.quote(str(run.folder.resolve())) for run in runs)
    asked = {"job-name": "ovss-bench", "array": "0-3", "requeue": "", "signal": "B:USR1@120", "open-mode": "append"}
    asked |= settings
    lines = ["#!/bin/sh", *(f"#SBATCH --{key}" + (f"={value}" if value else "") for key, value in asked.items())]
    bench = shlex.quote(str(Path(sys.executable).with_name("bench")))
    return "\n".join(
        [
            *lines,
            "# Every task is a worker; they share the images out among themselves.  One that is stopped early ends",
            f"# with {INCOMPLETE}, and its task is queued again; what it had finished is kept.",
            f"{bench} worker {folders} &",
            "worker=$!",
            "trap 'kill -USR1 \"$worker\"' USR1 TERM",
            'while kill -0 "$worker" 2>/dev/null; do wait "$worker"; code=$?; done',
            f'[ "$code" -ne {INCOMPLETE} ] || scontrol requeue "${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}'
            '${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"',
            'exit "$code"',
            f"# afterwards, anywhere: {bench} merge {folders}",
            "",
        ]
    )


def worker_command(
    names: list[str], results: Path, shard: str | None, limit: int | None, workers: int, **asked: Any
) -> None:
    """Do what is missing.  Exit code 0: nothing is; 3: it was stopped, or images were given up."""
    runs = [planned_run(name, results) for name in names]
    check_shared(runs)
    task = WorkerTask(
        runs=tuple(run.folder for run in runs),
        limit=limit,
        shard=shard_of(shard, os.environ) if shard else None,
        workers=workers,
        threads=threads_for(1),
        **asked,
    )
    with ends_on_signals(), bars() as progress:
        hopeless = do_work(task, lambda: False, progress)
    if hopeless:
        print_warning(f"given up, since they ended every worker that began them: {', '.join(hopeless)}")
        sys.exit(INCOMPLETE)


def merge_command(names: list[str], results: Path, limit: int | None, partial: bool, as_json: bool) -> None:
    """Merge runs and print a row for each."""
    found = merge_runs([planned_run(name, results) for name in names], limit, partial)
    reports = [report_of(one) for one in found]
    if as_json:
        print_json(reports[0] if len(reports) == 1 else reports)
    else:
        print_reports(reports, None)


@contextmanager
def ends_on_signals() -> Iterator[None]:
    """End in good order when a scheduler says so: what is finished is written, what was claimed is given back.

    A second signal changes nothing: it would only interrupt the writing.
    """
    kinds = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]

    def end(number: int, _: FrameType | None) -> None:
        for kind in kinds:
            signal.signal(kind, signal.SIG_IGN)
        sys.stderr.write(f"stopped by {signal.Signals(number).name}; what was finished is kept, run it again\n")
        sys.exit(INCOMPLETE)

    before = {kind: signal.signal(kind, end) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
