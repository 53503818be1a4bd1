"""Verbs that read what runs have written: ``bench show``, ``compare``, ``leaderboard`` and ``reproduce``."""

from pathlib import Path
from typing import Annotated

import typer

from .options import DataRoot, Device, Json, Limit, Results

results_app = typer.Typer()


@results_app.command()
def show(
    run: Annotated[str, typer.Argument(help="Run folder, or its name (a unique beginning will do).")],
    results: Results = Path("results"),
    json: Json = False,
) -> None:
    """Per-class table and provenance of a run."""
    from .show import show_command

    show_command(run, results, as_json=json)


@results_app.command()
def compare(
    first: Annotated[str, typer.Argument(help="Run folder or name.")],
    second: Annotated[str, typer.Argument(help="Run folder or name.")],
    results: Results = Path("results"),
    json: Json = False,
) -> None:
    """Paired difference of two runs on the same images, with interval and p value."""
    from .compare import compare_command

    compare_command(first, second, results, as_json=json)


@results_app.command()
def leaderboard(
    results: Results = Path("results"),
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: RESULTS/LEADERBOARD.md.")] = None,
    method: Annotated[str, typer.Option("--method", "-m", help="Only these methods: A,B.")] = "",
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="Only these data sets: A,B.")] = "",
    protocol: Annotated[str, typer.Option(help="Only these protocols, by name or hash: A,B.")] = "",
    complete: Annotated[
        bool, typer.Option("--complete", help="Only methods with all images of all data sets.")
    ] = False,
    sort: Annotated[str, typer.Option(help="rank, mean, method, images/s, or a data set.")] = "rank",
    json: Json = False,
) -> None:
    """Write tables of all runs: Markdown, with CSV, JSON and LaTeX beside it; of a part only with --output."""
    from .report import leaderboard_command, only_of

    leaderboard_command(results, output, only_of(method, dataset, protocol, complete), sort, as_json=json)


@results_app.command()
def reproduce(
    claims: Annotated[
        list[str] | None, typer.Argument(help="METHOD/DATASET as sclip/voc21, or patterns: 'sclip/*'.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every reported value that is known here.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is needed and known; run nothing.")] = False,
    tolerance: Annotated[float, typer.Option(min=0, help="mIoU within which a value reproduces.")] = 0.5,
    data_root: DataRoot = None,
    device: Device = "cpu",
    workers: Annotated[int, typer.Option(min=1, help="Local processes.")] = 1,
    limit: Limit = None,
    results: Results = Path("results"),
    json: Json = False,
) -> None:
    """Run what a paper reports, with its weights and protocol, and say whether its value comes out."""
    from .early import check_device, check_results

    check_device(device)
    check_results(results)
    from ..use.reproduce import ReproduceRequest
    from .reproduce import reproduce_command

    asked = ReproduceRequest(results, data_root, device, workers, limit, tolerance)
    reproduce_command(claims or [], everything, dry_run, asked, as_json=json)
