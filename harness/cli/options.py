"""Options that several verbs of the command line share."""

from pathlib import Path
from typing import Annotated

import typer

from ..engines.names import EngineName
from .completion import datasets, methods, protocols

Method = Annotated[
    str,
    typer.Option("--method", "-m", help="A listed method, or package.module:Class.", autocompletion=methods),
]
Methods = Annotated[
    str,
    typer.Option(
        "--method",
        "-m",
        help="Listed methods or package.module:Class; several: A,B.",
        autocompletion=methods,
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--dataset",
        "-d",
        help="A listed data set, or the path of its .toml file.",
        autocompletion=datasets,
    ),
]
Datasets = Annotated[
    str,
    typer.Option(
        "--dataset",
        "-d",
        help="Listed data sets or .toml files; several: A,B.",
        autocompletion=datasets,
    ),
]
Backbone = Annotated[str | None, typer.Option(help="tiny-clip, NAME/TAG, or NAME together with --weights.")]
Weights = Annotated[Path | None, typer.Option(help="Local checkpoint of the backbone.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder of the data set (default: $OVSS_DATA).")]
ProtocolName = Annotated[
    str | None,
    typer.Option(help="A listed protocol or a .toml file (default: the data set's).", autocompletion=protocols),
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
Results = Annotated[Path, typer.Option(help="Folder that holds runs/ and the leaderboard.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N images (a partial result).")]
Loaders = Annotated[
    int | None,
    typer.Option(min=0, max=64, help="Threads that load ahead of the model (default: 0 on a CPU, up to 4 on a GPU)."),
]
CacheDecoded = Annotated[
    Path | None, typer.Option(help="Folder that keeps decoded images and labels, for formats that are slow to read.")
]
Option = Annotated[list[str] | None, typer.Option("--option", help="NAME=VALUE for the method; repeatable.")]
OptionOfMethod = Annotated[
    list[str] | None, typer.Option("--option", help="NAME=VALUE or METHOD.NAME=VALUE; repeatable.")
]
Set = Annotated[list[str] | None, typer.Option("--set", help="FIELD=VALUE changes the protocol; repeatable.")]
Download = Annotated[bool, typer.Option(help="Fetch absent weights from the Hugging Face hub.")]
Refine = Annotated[str | None, typer.Option(help="none, pamr, pearl, sd21, sd15, ... (as --set refine=NAME).")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes (default: 1, or one for each GPU).")]
Engine = Annotated[
    EngineName, typer.Option(help="Where the workers are: this machine, a SLURM cluster, a Ray cluster.")
]
Gpus = Annotated[str, typer.Option(help="all, or ids and UUIDs: 0,1; one worker each.")]
SlurmSettings = Annotated[list[str] | None, typer.Option("--slurm", help="KEY=VALUE of sbatch, time=60; repeatable.")]
RayAddress = Annotated[str, typer.Option("--ray", help="Address of a Ray cluster (default: one on this machine).")]
Detach = Annotated[bool, typer.Option("--detach", help="With slurm: do not wait; run it again to.")]
Fresh = Annotated[bool, typer.Option(help="Forget what an earlier run has done.")]
Boundary = Annotated[bool, typer.Option(help="Count boundary bands too, for Boundary IoU.")]
Confusion = Annotated[bool, typer.Option(help="Store which class was taken for which, per image.")]
SaveLabels = Annotated[
    Path | None, typer.Option(help="Folder for every label map, RUN/IMAGE.png, with the data set's palette.")
]
