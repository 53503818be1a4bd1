"""The command line: ``bench``.  Verbs are declared here; what they do is imported when they run."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from .ending import run_to_end
from .groups import data_app, protocol_app, train_app, weights_app
from .options import (
    Backbone,
    Boundary,
    CacheDecoded,
    Confusion,
    DataRoot,
    Datasets,
    Detach,
    Device,
    Download,
    Engine,
    Fresh,
    Gpus,
    Json,
    Limit,
    Loaders,
    Methods,
    OptionOfMethod,
    ProtocolName,
    RayAddress,
    Refine,
    Results,
    SaveLabels,
    Set,
    SlurmSettings,
    Weights,
    Workers,
)
from .verbs_of_checks import checks_app
from .verbs_of_folders import folders_app
from .verbs_of_results import results_app
from .verbs_of_study import study_app
from .verbs_of_suites import suites_app
from .verbs_of_workers import workers_app

app = typer.Typer(
    name="bench",
    help="Compare training-free CLIP segmenters: one command per number, the same protocol for every method.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        from ..runs.provenance import code_version

        typer.echo(f"ovss-bench {code_version()}")
        raise typer.Exit


@app.callback()
def everywhere(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Version, commit and source hash.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="With an error, show the traceback too (or OVSS_DEBUG=1).")
    ] = False,
) -> None:
    """Compare training-free CLIP segmenters: one command per number, the same protocol for every method."""
    # ``run_to_end`` takes the flag off the line wherever it stands; here it is declared for --help


@app.command()
def run(
    method: Methods,
    dataset: Datasets,
    protocol: ProtocolName = None,
    backbone: Backbone = None,
    weights: Weights = None,
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
    fresh: Fresh = False,
    boundary: Boundary = False,
    confusion: Confusion = False,
    refine: Refine = None,
    change: Set = None,
    option: OptionOfMethod = None,
    allow_download: Download = False,
    picture: Annotated[Path | None, typer.Option(help="Write a PNG of some images with labels and results.")] = None,
    save_labels: SaveLabels = None,
    results: Results = Path("results"),
    json: Json = False,
) -> None:
    """Score methods on data sets; stops and resumes, every number with its provenance."""
    from .early import check_run

    chosen: dict[str, Any] = {
        "methods": method,
        "datasets": dataset,
        "protocol": protocol,
        "backbone": backbone,
        "weights": weights,
        "data_root": data_root,
        "device": device,
        "changes": [*(change or []), *([f"refine={refine}"] if refine else [])],
        "options": option or [],
        "picture": picture,
    }
    check_run(**chosen, folders={"--results": results, "--save-labels": save_labels})
    from .run import run_command

    run_command(
        **chosen,
        limit=limit,
        loading=(loaders, cache_decoded),
        where=(workers, engine, gpus, slurm or [], ray, detach),
        fresh=fresh,
        boundary=boundary,
        confusion=confusion,
        allow_download=allow_download,
        labels=save_labels,
        results=results,
        as_json=json,
    )


@app.command()
def segment(
    photos: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    classes: Annotated[
        str | None, typer.Option(help='"cat, sofa, wall"; with synonyms "cat; sofa, couch; wall".')
    ] = None,
    classes_file: Annotated[
        Path | None, typer.Option(help="File with a class per line, as data sets have; synonyms separated by commas.")
    ] = None,
    method: Methods = "sclip",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="PNG (default: PHOTO_METHOD.png here); a folder for several photos."),
    ] = None,
    save_labels: Annotated[
        bool, typer.Option("--save-labels", help="Write label maps and areas too: *_labels.png and *.json.")
    ] = False,
    heat: Annotated[str, typer.Option(help="Show how sure each method is of this class, too.")] = "",
    protocol: Annotated[str, typer.Option(help="Geometry and scoring.")] = "unified",
    backbone: Backbone = None,
    weights: Weights = None,
    device: Device = "cpu",
    refine: Refine = None,
    change: Set = None,
    option: OptionOfMethod = None,
    allow_download: Download = False,
    json: Json = False,
) -> None:
    """Segment photos with one method or several, side by side; writes overlays with a legend."""
    from .segment_request import segment_sheets

    sheets = segment_sheets(
        photos=photos,
        classes=classes,
        classes_file=classes_file,
        methods=method,
        output=output,
        protocol=protocol,
        backbone=backbone,
        weights=weights,
        device=device,
        allow_download=allow_download,
        changes=[*(change or []), *([f"refine={refine}"] if refine else [])],
        options=option or [],
        heat=heat,
    )
    from .segment import segment_command

    segment_command(sheets, save_labels, as_json=json)


app.add_typer(results_app)
app.add_typer(checks_app)
app.add_typer(folders_app)
app.add_typer(study_app)
app.add_typer(suites_app)
app.add_typer(workers_app)
app.add_typer(data_app, name="data")
app.add_typer(protocol_app, name="protocol")
app.add_typer(weights_app, name="weights")
app.add_typer(train_app, name="train")


def main() -> None:
    """Entry point: errors that users can cause become one paragraph and exit code 2 (``ending``)."""
    # Threads that wait must not spin: beside another busy process a small model was 38 times slower for it (measured on
    # two cores).  Read when torch loads its OpenMP library, so it has to be set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    run_to_end(app)
