"""Verbs that study a number: ``bench sweep`` and ``bench time``."""

from pathlib import Path
from typing import Annotated

import typer

from .options import (
    Backbone,
    Data,
    DataRoot,
    Device,
    Download,
    Json,
    Limit,
    Methods,
    OptionOfMethod,
    ProtocolName,
    Results,
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
        fresh=fresh,
        changes=change,
        options=option or [],
        allow_download=allow_download,
        results=results,
        as_json=json,
    )
