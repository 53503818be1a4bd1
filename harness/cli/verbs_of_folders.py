"""Verbs that look after the results folder: ``bench clean``, ``export`` and ``import``."""

from pathlib import Path
from typing import Annotated

import typer

from . import completion
from .options import Json, Results

folders_app = typer.Typer()


@folders_app.command()
def clean(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed; remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove superseded runs without asking.")] = False,
    results: Results = Path("results"),
    json: Json = False,
) -> None:
    """Remove temporary files, damaged parts, and, where you say yes, runs that newer code or weights superseded."""
    from .clean import clean_command

    clean_command(results, dry_run, yes, as_json=json)


@folders_app.command()
def export(
    runs: Annotated[list[str], typer.Argument(help="Run folders or names.", autocompletion=completion.runs)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle, a .zip file.")],
    results: Results = Path("results"),
    json: Json = False,
) -> None:
    """Write runs to one file for others: checksums of everything, no folders and names of this machine."""
    from .bundle import export_command

    export_command(runs, output, results, as_json=json)


@folders_app.command("import")
def import_(
    bundle: Annotated[Path, typer.Argument(help="A file that `bench export` wrote.")],
    name: Annotated[str, typer.Option(help="What tables call it (default: the file's name).")] = "",
    results: Results = Path("results"),
    json: Json = False,
) -> None:
    """Check every file of a bundle and put its runs beside yours, marked with where they come from."""
    from .early import check_folder

    check_folder(results)
    from .bundle import import_command

    import_command(bundle, name, results, as_json=json)
