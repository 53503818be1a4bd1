"""What a shell completes: names are read when it asks, and nothing heavy is imported for them."""

from collections.abc import Iterable
from pathlib import Path


def methods(incomplete: str) -> list[str]:
    """Listed methods."""
    from ...methods.names import list_methods

    return _last_of(incomplete, list_methods())


def datasets(incomplete: str) -> list[str]:
    """Listed data sets."""
    from ...datasets import dataset_keys

    return _last_of(incomplete, dataset_keys())


def protocols(incomplete: str) -> list[str]:
    """Listed protocols."""
    from ..protocol.protocol import list_protocols

    return _last_of(incomplete, list_protocols())


def suites(incomplete: str) -> list[str]:
    """Listed suites."""
    from ..use.suite_file import list_suites

    return [name for name in list_suites() if name.startswith(incomplete)]


def runs(incomplete: str) -> list[str]:
    """Runs below ``results`` in the working folder."""
    return sorted(p.name for p in Path("results/runs").glob("*") if p.name.startswith(incomplete))


def _last_of(incomplete: str, names: Iterable[str]) -> list[str]:
    """Completions of the last of several names with commas between them."""
    before, comma, begun = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in sorted(names) if name.startswith(begun)]
