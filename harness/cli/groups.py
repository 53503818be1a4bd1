"""Verbs in groups: ``bench data``, ``protocol``, ``weights`` and ``train``."""

from pathlib import Path
from typing import Annotated

import typer

from .options import Backbone, DataRoot, Device, Download, Json, Weights

protocol_app = typer.Typer(help="Look at protocols and compare them.", no_args_is_help=True)
data_app = typer.Typer(help="Find, check, prepare and download data sets.", no_args_is_help=True)
weights_app = typer.Typer(help="List, fetch and check the checkpoints that methods need.", no_args_is_help=True)
train_app = typer.Typer(help="Train what the embedded default needs.", no_args_is_help=True)


@data_app.command("list")
def data_list(data_root: DataRoot = None, json: Json = False) -> None:
    """Which data sets are found, where, and which are missing."""
    from .data import list_command

    list_command(data_root, as_json=json)


@data_app.command("check")
def data_check(
    dataset: Annotated[str, typer.Argument(help="A listed data set, or the path of its .toml file.")],
    data_root: DataRoot = None,
    fast: Annotated[bool, typer.Option(help="Read a sample of the images only.")] = False,
    expect: Annotated[int | None, typer.Option(min=1, help="Images there should be, for a part of a data set.")] = None,
    json: Json = False,
) -> None:
    """Read every image and label; say what is wrong and how to mend it."""
    from .data import check_command

    check_command(dataset, data_root, fast, expect, as_json=json)


@data_app.command("prepare")
def data_prepare(
    dataset: Annotated[str, typer.Argument(help="A listed data set.")],
    data_root: DataRoot = None,
    archive: Annotated[Path | None, typer.Option(help="Unpack this archive first and prepare from it.")] = None,
    json: Json = False,
) -> None:
    """Convert labels as they are distributed into labels that are read here; the originals are not touched."""
    from .data import prepare_command

    prepare_command(dataset, data_root, archive, as_json=json)


@data_app.command("download")
def data_download(
    dataset: Annotated[str, typer.Argument(help="A listed data set.")],
    into: Annotated[
        Path | None, typer.Option(help="Data root to fetch into; without it the steps are printed.")
    ] = None,
    json: Json = False,
) -> None:
    """Fetch what has a plain public address, and say how to get the rest."""
    from .data import download_command

    download_command(dataset, into, as_json=json)


@protocol_app.command("show")
def protocol_show(
    name: Annotated[str, typer.Argument(help="Protocol, or PROTOCOL/DATASET.")],
    dataset: Annotated[str | None, typer.Option(help="Values for this data set.")] = None,
    json: Json = False,
) -> None:
    """Every value of a protocol, why it matters, where it comes from, and its hash."""
    from .protocol import protocol_show_command

    protocol_show_command(name, dataset, as_json=json)


@protocol_app.command("diff")
def protocol_diff(
    first: Annotated[str, typer.Argument(help="Protocol.")],
    second: Annotated[str, typer.Argument(help="Protocol.")],
    dataset: Annotated[str | None, typer.Option(help="Compare the values for this data set.")] = None,
    json: Json = False,
) -> None:
    """What differs between two protocols, and why numbers may move."""
    from .protocol import protocol_diff_command

    protocol_diff_command(first, second, dataset, as_json=json)


@protocol_app.command("lint")
def protocol_lint(
    name: Annotated[str, typer.Argument(help="Protocol, or PROTOCOL/DATASET.")],
    dataset: Annotated[
        str | None, typer.Option("--dataset", "-d", help="Data set (default: all that the protocol names).")
    ] = None,
    json: Json = False,
) -> None:
    """Mistakes in a protocol and its words, for one data set or for all that it names."""
    from .protocol_words import protocol_lint_command

    protocol_lint_command(name, dataset, as_json=json)


@protocol_app.command("words")
def protocol_words(
    name: Annotated[str, typer.Argument(help="PROTOCOL/DATASET, or PROTOCOL together with --dataset.")],
    dataset: Annotated[str | None, typer.Option("--dataset", "-d", help="Data set, or its .toml file.")] = None,
    json: Json = False,
) -> None:
    """Every text that speaks for a class, its prompt, and how many tokens it has."""
    from .protocol_words import protocol_words_command

    protocol_words_command(name, dataset, as_json=json)


@weights_app.command("list")
def weights_list(json: Json = False) -> None:
    """Which checkpoints methods need, their licences, and which of them are here."""
    from .weights import list_command

    list_command(as_json=json)


@weights_app.command("fetch")
def weights_fetch(
    name: Annotated[str, typer.Argument(help="Listed weights.")],
    source: Annotated[str | None, typer.Option("--from", help="Folder or address that holds a copy.")] = None,
    json: Json = False,
) -> None:
    """Get a checkpoint, compare it with what is known about it, and put it where methods look for it."""
    from .weights import fetch_command

    fetch_command(name, source, as_json=json)


@weights_app.command("check")
def weights_check(
    names: Annotated[list[str] | None, typer.Argument(help="Listed weights (default: all that are here).")] = None,
    json: Json = False,
) -> None:
    """Compare the checkpoints that are here with the sizes and checksums that are known."""
    from .weights import check_command

    check_command(names or [], as_json=json)


@train_app.command("tiny-clip")
def train_tiny_clip(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the trained model.")],
    device: Device = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of weights and order.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw scenes.")] = 2,
    scale: Annotated[float, typer.Option(min=0.0, help="Share of the shipped schedule, for a trial.")] = 1.0,
) -> None:
    """Train the embedded CLIP on scenes and captions (about an hour on two cores; no masks)."""
    from .train import train_tiny_clip_command

    train_tiny_clip_command(output, device, seed, workers, scale)


@train_app.command("tiny-dino")
def train_tiny_dino(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the training; goes on with what it holds.")],
    device: Device = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of weights, scenes and views.")] = 0,
    stop_after: Annotated[int | None, typer.Option(min=1, help="Stop at this iteration; go on another time.")] = None,
) -> None:
    """Train the embedded DINO on scenes, without labels (about an hour on one core); stops and resumes."""
    from .train import train_tiny_dino_command

    train_tiny_dino_command(output, device, seed, stop_after)


@train_app.command("clip-dinoiser")
def train_clip_dinoiser(
    data: Annotated[str, typer.Option(help="shapes, a folder with VOC2012, or any folder of images.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the training; goes on with what it holds.")],
    recipe: Annotated[str | None, typer.Option(help="voc1464, in1k-1000 or tiny (default: by --data).")] = None,
    backbone: Backbone = None,
    weights: Weights = None,
    device: Device = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of weights, picks and order.")] = 0,
    stop_after: Annotated[int | None, typer.Option(min=1, help="Stop at this iteration; go on another time.")] = None,
    allow_download: Download = False,
) -> None:
    """Train CLIP-DINOiser's two heads without labels; stops and resumes (the tiny ones: minutes on a CPU)."""
    from .train import train_clip_dinoiser_command

    train_clip_dinoiser_command(data, output, recipe, backbone, weights, device, seed, stop_after, allow_download)


@train_app.command("clip-s4")
def train_clip_s4(
    data: Annotated[str, typer.Option(help="shapes, or any folder of images.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the training; goes on with what it holds.")],
    recipe: Annotated[str | None, typer.Option(help="photos or tiny (default: by --data).")] = None,
    initial: Annotated[Path | None, typer.Option(help="torchvision's ResNet-50 of ImageNet, for photos.")] = None,
    backbone: Backbone = None,
    weights: Weights = None,
    device: Device = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of weights, picks and views.")] = 0,
    stop_after: Annotated[int | None, typer.Option(min=1, help="Stop at this iteration; go on another time.")] = None,
    allow_download: Download = False,
) -> None:
    """Train the encoder of clip-s4-like without labels; stops and resumes (the tiny one: minutes on a CPU)."""
    from .train_clip_s4 import train_clip_s4_command

    train_clip_s4_command(data, output, recipe, initial, backbone, weights, device, seed, stop_after, allow_download)
