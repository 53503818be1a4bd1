"""Verbs that study a number, or what moves it: ``bench sweep``, ``bench time`` and ``bench experts``."""

from pathlib import Path
from typing import Annotated

import typer

from .options import (
    Backbone,
    CacheDecoded,
    Data,
    DataRoot,
    Device,
    Download,
    Json,
    Limit,
    Loaders,
    Methods,
    OptionOfMethod,
    ProtocolName,
    Refine,
    Results,
    Set,
    Weights,
)

study_app = typer.Typer()


@study_app.command()
def sweep(
    method: Methods,
    dataset: Data,
    change: Annotated[
        list[str], typer.Option("--set", help="FIELD=START:STOP:STEP or FIELD=A,B,C is swept; others as in bench run.")
    ],
    protocol: ProtocolName = None,
    backbone: Backbone = None,
    weights: Weights = None,
    data_root: DataRoot = None,
    device: Device = "cpu",
    limit: Limit = None,
    loaders: Loaders = None,
    cache_decoded: CacheDecoded = None,
    fresh: Annotated[bool, typer.Option(help="Forget a finished sweep of the same identity.")] = False,
    option: OptionOfMethod = None,
    allow_download: Download = False,
    results: Results = Path("results"),
    json: Json = False,
) -> None:
    """Try many values of a threshold in one pass; the best is chosen on half of the images, reported on the other."""
    from .early_study import check_sweep

    check_sweep(method, dataset, protocol, backbone, weights, data_root, device, change, option or [], results)
    from .sweep import sweep_command

    sweep_command(
        methods=method,
        dataset=dataset,
        protocol=protocol,
        backbone=backbone,
        weights=weights,
        data_root=data_root,
        device=device,
        limit=limit,
        loading=(loaders, cache_decoded),
        fresh=fresh,
        changes=change,
        options=option or [],
        allow_download=allow_download,
        results=results,
        as_json=json,
    )


@study_app.command("time")
def time_(
    method: Annotated[str, typer.Argument(help="Listed methods or package.module:Class; several, in turns: A,B.")],
    dataset: Data,
    repeats: Annotated[int, typer.Option(min=1, help="Passes over the images that count.")] = 5,
    protocol: ProtocolName = None,
    backbone: Backbone = None,
    weights: Weights = None,
    data_root: DataRoot = None,
    device: Device = "cpu",
    limit: Limit = None,
    refine: Refine = None,
    change: Set = None,
    option: OptionOfMethod = None,
    allow_download: Download = False,
    results: Results = Path("results"),
    json: Json = False,
) -> None:
    """Time methods over the same images again and again, in turns, with quartiles and what the machine did besides."""
    from .early import check_run
    from .early_study import check_one_data_set

    check_one_data_set(dataset)
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
    from .timing import time_command

    time_command(
        methods=method,
        dataset=dataset,
        repeats=repeats,
        protocol=protocol,
        backbone=backbone,
        weights=weights,
        data_root=data_root,
        device=device,
        limit=limit,
        changes=changes,
        options=option or [],
        allow_download=allow_download,
        results=results,
        as_json=json,
    )


@study_app.command()
def experts(
    method: Annotated[str, typer.Option("--method", "-m", help="One method that scores texts: naclip, maskclip, ...")],
    dataset: Data,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("experts.json"),
    count: Annotated[int, typer.Option(min=1, help="Templates of each class.")] = 4,
    protocol: ProtocolName = None,
    backbone: Backbone = None,
    weights: Weights = None,
    data_root: DataRoot = None,
    device: Device = "cpu",
    limit: Limit = None,
    change: Set = None,
    option: OptionOfMethod = None,
    allow_download: Download = False,
    json: Json = False,
) -> None:
    """Choose templates for every class, without labels; --method floss --option experts=FILE runs with them."""
    from .early_study import check_experts

    chosen = {
        "protocol": protocol,
        "backbone": backbone,
        "weights": weights,
        "data_root": data_root,
        "device": device,
    }
    check_experts(method, dataset, out, changes=change or [], options=option or [], **chosen)
    from .experts import experts_command

    experts_command(
        method=method,
        dataset=dataset,
        out=out,
        limit=limit,
        count=count,
        changes=change or [],
        options=option or [],
        allow_download=allow_download,
        as_json=json,
        **chosen,
    )
