"""The command line: ``bench``.  Verbs are declared here; what they do is imported when they run."""

import os
from pathlib import Path
from typing import Annotated

import typer

from .ending import run_to_end
from .groups import data_app, protocol_app, train_app, weights_app
from .options import (
    Backbone,
    DataRoot,
    Datasets,
    Device,
    Download,
    Json,
    Limit,
    Method,
    Methods,
    Option,
    OptionOfMethod,
    ProtocolName,
    Refine,
    Results,
    Set,
    Weights,
)
from .verbs_of_checks import checks_app
from .verbs_of_results import results_app
from .verbs_of_study import study_app

app = typer.Typer(
    name="bench",
    help="Compare training-free CLIP segmenters: one command per number, the same protocol for every method.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def everywhere(
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
    workers: Annotated[int, typer.Option(min=1, help="Local processes.")] = 1,
    fresh: Annotated[bool, typer.Option(help="Forget what an earlier run has done.")] = False,
    boundary: Annotated[bool, typer.Option(help="Count boundary bands too, for Boundary IoU.")] = False,
    confusion: Annotated[bool, typer.Option(help="Store which class was taken for which, per image.")] = False,
    refine: Refine = None,
    change: Set = None,
    option: OptionOfMethod = None,
    allow_download: Download = False,
    picture: Annotated[Path | None, typer.Option(help="Write a PNG of some images with labels and results.")] = None,
    results: Results = Path("results"),
    json: Json = False,
) -> None:
    """Score methods on data sets; stops and resumes, every number with its provenance."""
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
        picture=picture,
        results=results,
    )
    from .run import run_command

    run_command(
        methods=method,
        datasets=dataset,
        protocol=protocol,
        backbone=backbone,
        weights=weights,
        data_root=data_root,
        device=device,
        limit=limit,
        workers=workers,
        fresh=fresh,
        boundary=boundary,
        confusion=confusion,
        changes=changes,
        options=option or [],
        allow_download=allow_download,
        picture=picture,
        results=results,
        as_json=json,
    )


@app.command()
def segment(
    photo: Annotated[Path, typer.Argument(help="Image file.")],
    classes: Annotated[
        str | None, typer.Option(help='"cat, sofa, wall"; with synonyms "cat; sofa, couch; wall".')
    ] = None,
    classes_file: Annotated[
        Path | None, typer.Option(help="File with a class per line, as data sets have; synonyms separated by commas.")
    ] = None,
    method: Method = "sclip",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="PNG (default: PHOTO_METHOD.png in the working folder).")
    ] = None,
    protocol: Annotated[str, typer.Option(help="Geometry and scoring.")] = "unified",
    backbone: Backbone = None,
    weights: Weights = None,
    device: Device = "cpu",
    refine: Refine = None,
    change: Set = None,
    option: Option = None,
    allow_download: Download = False,
    json: Json = False,
) -> None:
    """Segment one photo and write an overlay with a legend."""
    from .segment_request import segment_request

    request, target = segment_request(
        photo=photo,
        classes=classes,
        classes_file=classes_file,
        method=method,
        output=output,
        protocol=protocol,
        backbone=backbone,
        weights=weights,
        device=device,
        allow_download=allow_download,
        changes=[*(change or []), *([f"refine={refine}"] if refine else [])],
        options=option or [],
    )
    from .segment import segment_command

    segment_command(request, target, as_json=json)


app.add_typer(results_app)
app.add_typer(checks_app)
app.add_typer(study_app)
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
