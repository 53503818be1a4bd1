"""Verbs that look at what is here: ``bench list``, ``doctor``, ``test``, ``regress`` and ``ceiling``."""

from pathlib import Path
from typing import Annotated

import typer

from .options import Data, DataRoot, Device, Json, Limit, Method, Option, Results, Weights

checks_app = typer.Typer()


@checks_app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="methods, proposers, datasets, protocols, backbones, suites or runs.")],
    name: Annotated[str | None, typer.Argument(help="One method or proposer, with its options.")] = None,
    results: Results = Path("results"),
    json: Json = False,
) -> None:
    """List methods, proposers, data sets, protocols, backbones, suites or runs, or one method or proposer."""
    if what == "runs" and name is None:
        from .list_runs import list_runs_command

        list_runs_command(results, as_json=json)
        return
    from .list import list_command

    list_command(what, name, as_json=json)


@checks_app.command()
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


@checks_app.command()
def regress(
    baselines: Annotated[Path, typer.Option(help="Folder of committed baselines.")] = Path("results/baselines"),
    update: Annotated[bool, typer.Option(help="Write new baselines instead of comparing.")] = False,
    json: Json = False,
) -> None:
    """Run every offline-capable method on small fixed subsets and compare with the committed counts."""
    from .report import regress_command

    regress_command(baselines, update, as_json=json)


@checks_app.command("test")
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


@checks_app.command()
def doctor(results: Results = Path("results"), json: Json = False) -> None:
    """What is installed, which weights are present, where data are looked for, and whether there is a GPU."""
    from .doctor import doctor_command

    doctor_command(results, as_json=json)
