"""``bench suite``."""

from pathlib import Path
from typing import Annotated

import typer

from . import completion
from .options import (
    CacheDecoded,
    DataRoot,
    Detach,
    Device,
    Download,
    Engine,
    Gpus,
    Json,
    Limit,
    Loaders,
    RayAddress,
    Results,
    SlurmSettings,
    Workers,
)

suites_app = typer.Typer()


@suites_app.command()
def suite(
    name: Annotated[
        str, typer.Argument(help="A listed suite, or the path of a .toml file.", autocompletion=completion.suites)
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run, how long, and what is missing; run nothing.")
    ] = False,
    method: Annotated[str, typer.Option("--method", "-m", help="Only these methods of it: A,B.")] = "",
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="Only these data sets of it: A,B.")] = "",
    data_root: DataRoot = None,
    device: Device = "cpu",
    limit: Limit = None,
    workers: Workers = None,
    loaders: Loaders = None,
    cache_decoded: CacheDecoded = None,
    engine: Engine = "local",
    gpus: Gpus = "",
    slurm: SlurmSettings = None,
    ray: RayAddress = "",
    detach: Detach = False,
    allow_download: Download = False,
    results: Results = Path("results"),
    json: Json = False,
) -> None:
    """Run methods on data sets as a file says; stops and resumes, and one that fails stops no other."""
    from .early import check_device, check_folder

    check_device(device)
    check_folder(results)
    from .suite import suite_command

    suite_command(
        name,
        dry_run=dry_run,
        methods=method,
        datasets=dataset,
        as_json=json,
        data_root=data_root,
        device=device,
        limit=limit,
        loading=(loaders, cache_decoded),
        where=(workers, engine, gpus, slurm or [], ray, detach),
        allow_download=allow_download,
        results=results,
    )
