"""The command line: ``bench``.  Verbs are declared here; what they do is imported when they run."""

import os
from pathlib import Path
from typing import Annotated

import typer

from .ending import run_to_end
from .groups import data_app, protocol_app, train_app, weights_app
from .options import (
    Backbone,
    Data,
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


app.add_typer(data_app, name="data")
app.add_typer(protocol_app, name="protocol")
app.add_typer(weights_app, name="weights")
app.add_typer(train_app, name="train")


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


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="methods, proposers, datasets, protocols or backbones.")],
    name: Annotated[str | None, typer.Argument(help="One method or proposer, with its options.")] = None,
    json: Json = False,
) -> None:
    """List methods, mask proposers, data sets, protocols or backbones, or one of the first two with its options."""
    from .list import list_command

    list_command(what, name, as_json=json)


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="Run folder, or its name (a unique beginning will do).")],
    results: Results = Path("results"),
    json: Json = False,
) -> None:
    """Per-class table and provenance of a run."""
    from .show import show_command

    show_command(run, results, as_json=json)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="Run folder or name.")],
    second: Annotated[str, typer.Argument(help="Run folder or name.")],
    results: Results = Path("results"),
    json: Json = False,
) -> None:
    """Paired difference of two runs on the same images, with interval and p value."""
    from .compare import compare_command

    compare_command(first, second, results, as_json=json)


@app.command()
def ceiling(
    dataset: Data,
    patch_px: Annotated[int, typer.Option(min=1, help="Side of a patch in px.")] = 16,
    short_side_px: Annotated[int, typer.Option(min=0, help="Resize to this short side first (0: no).")] = 448,
    data_root: DataRoot = None,
    limit: Limit = None,
    json: Json = False,
) -> None:
    """The mIoU of a perfect classifier of patches: how much of a score resolution can cost."""
    from .ceiling import ceiling_command

    ceiling_command(dataset, patch_px, short_side_px, data_root, limit, as_json=json)


@app.command()
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


@app.command()
def regress(
    baselines: Annotated[Path, typer.Option(help="Folder of committed baselines.")] = Path("results/baselines"),
    update: Annotated[bool, typer.Option(help="Write new baselines instead of comparing.")] = False,
    json: Json = False,
) -> None:
    """Run every offline-capable method on small fixed subsets and compare with the committed counts."""
    from .report import regress_command

    regress_command(baselines, update, as_json=json)


@app.command("test")
def test_(
    method: Method,
    backbone: Annotated[str, typer.Option(help="Backbone to test with.")] = "tiny-clip",
    weights: Weights = None,
    device: Device = "cpu",
    option: Option = None,
    json: Json = False,
) -> None:
    """Check that a method keeps the contract: shapes, determinism, batches, vocabularies, untouched parts."""
    from .conformity import test_command

    test_command(method, backbone, weights, device, option or [], as_json=json)


@app.command()
def doctor(results: Results = Path("results"), json: Json = False) -> None:
    """What is installed, which weights are present, where data are looked for, and whether there is a GPU."""
    from .doctor import doctor_command

    doctor_command(results, as_json=json)


def main() -> None:
    """Entry point: errors that users can cause become one paragraph and exit code 2 (``ending``)."""
    # Threads that wait must not spin: beside another busy process a small model was 38 times slower for it (measured on
    # two cores).  Read when torch loads its OpenMP library, so it has to be set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    run_to_end(app)
