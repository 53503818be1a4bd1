"""Verbs that read what runs have written: ``bench show``, ``compare`` and ``leaderboard``."""

from pathlib import Path
from typing import Annotated

import typer

from .options import Json, Results

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
def report(
    results: Results = Path("results"),
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder (default: RESULTS/site).")] = None,
    with_images: Annotated[
        bool, typer.Option("--with-images", help="Pictures of data sets that are not ours too: mind their licences.")
    ] = False,
    labels: Annotated[
        Path | None, typer.Option(help="Folder of `bench run --save-labels`, else they are predicted again.")
    ] = None,
    method: Annotated[str, typer.Option("--method", "-m", help="Only these methods: A,B.")] = "",
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="Only these data sets: A,B.")] = "",
    protocol: Annotated[str, typer.Option(help="Only these protocols, by name or hash: A,B.")] = "",
    json: Json = False,
) -> None:
    """Write pages of all runs that open in a browser, without a server: tables, plots, classes, pictures."""
    from .report import only_of
    from .site import report_command

    only = only_of(method, dataset, protocol, complete=False)
    report_command(results, output or results / "site", with_images, labels, only, as_json=json)


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
