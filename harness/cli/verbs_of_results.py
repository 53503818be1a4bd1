"""Verbs that read what runs have written: ``bench show``, ``compare``, ``leaderboard`` and ``reproduce``."""

from pathlib import Path
from typing import Annotated

import typer

from . import completion
from .options import DataRoot, Device, Json, Limit, Results

results_app = typer.Typer()


@results_app.command()
def show(
    run: Annotated[
        str,
        typer.Argument(help="Run folder, or its name (a unique beginning will do).", autocompletion=completion.runs),
    ],
    worst: Annotated[
        int, typer.Option(min=0, help="List the N images with the lowest IoU, and draw them with labels and result.")
    ] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="PNG of the worst (default: RESULTS/RUN-worst.png).")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Folder of `bench run --save-labels`, else they are predicted again.")
    ] = None,
    confusion: Annotated[bool, typer.Option("--confusion", help="Which class was taken for which.")] = False,
    results: Results = Path("results"),
    json: Json = False,
) -> None:
    """Per-class table and provenance of a run, its worst images, what it took for what."""
    from .show import show_command

    show_command(run, results, worst, output, labels, confusion, as_json=json)


@results_app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Run folders or names: the first is compared with the others.", autocompletion=completion.runs
        ),
    ],
    every: Annotated[bool, typer.Option("--all", help="Every class, and every entry of a list.")] = False,
    results: Results = Path("results"),
    json: Json = False,
) -> None:
    """How runs on the same images differ: mIoU, classes and images, with intervals and p values."""
    from .compare import compare_command

    compare_command(runs, results, every, as_json=json)


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
    interval: Annotated[str, typer.Option(help="How LaTeX sets intervals: pm, brackets or none.")] = "pm",
    plot: Annotated[Path | None, typer.Option(help="NAME.svg or .pdf: write NAME-miou and NAME-speed.")] = None,
    json: Json = False,
) -> None:
    """Write tables of all runs: Markdown, with CSV, JSON and LaTeX beside it; of a part only with --output."""
    from .report import leaderboard_command, only_of

    leaderboard_command(
        results, output, only_of(method, dataset, protocol, complete), sort, interval, plot, as_json=json
    )


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
    from .early import check_device, check_folder

    check_device(device)
    check_folder(results)
    from ..use.reproduce import ReproduceRequest
    from .reproduce import reproduce_command

    asked = ReproduceRequest(results, data_root, device, workers, limit, tolerance)
    reproduce_command(claims or [], everything, dry_run, asked, as_json=json)
