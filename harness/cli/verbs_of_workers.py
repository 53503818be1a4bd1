"""Verbs that do a run in three steps: ``bench plan``, ``worker`` and ``merge``."""

from pathlib import Path
from typing import Annotated

import typer

from .options import (
    Backbone,
    Boundary,
    Confusion,
    DataRoot,
    Datasets,
    Device,
    Download,
    Fresh,
    Json,
    Limit,
    Methods,
    OptionOfMethod,
    ProtocolName,
    Refine,
    Results,
    Set,
    SlurmSettings,
    Weights,
)

workers_app = typer.Typer()
Runs = Annotated[list[str], typer.Argument(help="Run folders, as `bench plan` prints them; or names in --results.")]


@workers_app.command()
def plan(
    method: Methods,
    dataset: Datasets,
    protocol: ProtocolName = None,
    backbone: Backbone = None,
    weights: Weights = None,
    data_root: DataRoot = None,
    device: Device = "cpu",
    fresh: Fresh = False,
    boundary: Boundary = False,
    confusion: Confusion = False,
    refine: Refine = None,
    change: Set = None,
    option: OptionOfMethod = None,
    allow_download: Download = False,
    sbatch: Annotated[bool, typer.Option("--sbatch", help="Print a script for sbatch instead of the folders.")] = False,
    slurm: SlurmSettings = None,
    results: Results = Path("results"),
    json: Json = False,
) -> None:
    """Write what is to be done, for workers on any machines: prints the run folders."""
    from .early import check_run

    changes = [*(change or []), *([f"refine={refine}"] if refine else [])]
    check_run(
        methods=method,
        datasets=dataset,
        protocol=protocol,
        backbone=backbone,
        weights=weights,
        data_root=data_root,
        device=device,
        changes=changes,
        options=option or [],
        picture=None,
        folders={"--results": results},
    )
    from .workers import plan_command

    plan_command(
        methods=method,
        datasets=dataset,
        protocol=protocol,
        backbone=backbone,
        weights=weights,
        data_root=data_root,
        device=device,
        fresh=fresh,
        boundary=boundary,
        confusion=confusion,
        changes=changes,
        options=option or [],
        allow_download=allow_download,
        sbatch=(slurm or []) if sbatch else None,
        results=results,
        as_json=json,
    )


@workers_app.command()
def worker(
    runs: Runs,
    shard: Annotated[
        str | None,
        typer.Option(help="i/n: every n-th image from the i-th, without leases; auto: as the launcher says."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="How many are expected to be at it: sizes what one takes.")] = 8,
    limit: Limit = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N (default: that of the plan).")] = None,
    data_root: DataRoot = None,
    lease_seconds: Annotated[float, typer.Option(min=0.1, help="A worker that is silent for so long is gone.")] = 120,
    image_seconds: Annotated[
        float, typer.Option(min=0.1, help="One that is at an image for longer hangs, and ends.")
    ] = 3600,
    results: Results = Path("results"),
) -> None:
    """Do what is missing of planned runs, and write parts; any number of workers, anywhere.

    Exit code 0: nothing is missing; 3: stopped by a signal, or images were given up: run it again.
    """
    from .workers import worker_command

    worker_command(
        runs,
        results,
        shard,
        limit,
        workers,
        device=device,
        data_root=data_root,
        lease_seconds=lease_seconds,
        image_seconds=image_seconds,
    )


@workers_app.command()
def merge(
    runs: Runs,
    limit: Limit = None,
    partial: Annotated[bool, typer.Option(help="Merge what is there, and call it a part.")] = False,
    results: Results = Path("results"),
    json: Json = False,
) -> None:
    """Merge what workers did, and show it; refuses when an image is missing."""
    from .workers import merge_command

    merge_command(runs, results, limit, partial, as_json=json)
