"""What is wrong with ``bench sweep``, ``bench time`` and ``bench experts`` and can be seen before torch is loaded."""

from pathlib import Path
from typing import Any

from ...methods import UserError
from ..use.sweep_values import asked_of
from .early import check_run
from .name_value import names_of, parse_changes


def check_sweep(
    methods: str,
    dataset: str,
    protocol: str | None,
    backbone: str | None,
    weights: Path | None,
    data_root: Path | None,
    device: str,
    changes: list[str],
    options: list[str],
    results: Path,
) -> None:
    """Raise ``UserError`` or ``DataError`` for a sweep of nothing, of another field, or of bad values."""
    check_one_data_set(dataset)
    asked = asked_of(parse_changes(changes))
    others = [text for text in changes if text.partition("=")[0].strip().replace("-", "_") != asked.field]
    for value in (asked.values[0], asked.values[-1]):
        check_run(
            methods=methods,
            datasets=dataset,
            protocol=protocol,
            backbone=backbone,
            weights=weights,
            data_root=data_root,
            device=device,
            changes=[*others, f"{asked.field}={value}"],
            options=options,
            picture=None,
            folders={"--results": results},
        )


def check_experts(method: str, dataset: str, out: Path, **asked: Any) -> None:
    """Raise ``UserError`` or ``DataError`` for several methods, and a file that cannot be written.

    ``asked`` are other arguments of ``check_run``.
    """
    check_one_data_set(dataset)
    if names_of(method)[1:]:
        raise UserError("templates are ranked for one method: name one, and repeat the command for the others")
    if out.exists() and not out.is_file():
        raise UserError(f"--out {out}: what has this name is no plain file.  Choose another name")
    check_run(methods=method, datasets=dataset, picture=None, folders={"--out": out.parent}, **asked)


def check_one_data_set(dataset: str) -> None:
    """Refuse several."""
    names = names_of(dataset)
    if names[1:]:
        raise UserError(f"--dataset names {len(names)} data sets here: name one, and repeat the command for the others")
