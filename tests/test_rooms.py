"""The house as it was drawn: arrows point one way, no circles, and sizes that were reached stay."""

import ast
import shutil
from pathlib import Path

import pytest

from .rooms import ROOT, circles, module_arrows, modules, room_arrows

FLOORS = (
    ("datasets.shapes", "methods.core", "harness.show"),
    ("datasets", "methods.models"),
    ("datasets.prepare", "methods.blocks", "methods.refine", "methods.proposals"),
    ("methods",),  # methods themselves and their registry, and the names that the package hands on
    ("harness.native",),
    ("harness.metrics",),
    ("harness.decoding",),
    ("harness.protocol",),
    ("harness.runs",),
    ("harness.engines",),
    ("harness.report", "harness.training", "harness.mmseg"),
    ("harness.site",),
    ("harness.use",),
    ("harness.cli",),
)
"""Lowest first.  A room may import from the floors below its own; ``harness`` itself only hands names on."""
HANDED_ON = "methods"
"""What every room of the harness may import: the public names of the methods."""
LINES = 300
EXCEPTIONS = {
    "harness/protocol/protocol.py": 324,
}
"""What is still longer than ``LINES``, at the length it has: shorter is welcome, longer is not."""


def floor_of(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def test_there_are_no_circles_of_modules() -> None:
    """Lazy imports inside functions included."""
    assert circles(module_arrows()) == []


def test_arrows_between_rooms_point_down() -> None:
    arrows = room_arrows(module_arrows())
    assert set(arrows) - {"harness"} == {room for rooms in FLOORS for room in rooms}
    up = [(a, b) for a, targets in arrows.items() for b in targets if a != "harness" and floor_of(a) <= floor_of(b)]
    assert up == []


def test_the_two_lower_folders_do_not_know_each_other() -> None:
    folders = {(a.partition(".")[0], b.partition(".")[0]) for a, targets in module_arrows().items() for b in targets}
    assert folders == {(f, f) for f in ("methods", "datasets", "harness")} | {
        ("harness", "methods"),
        ("harness", "datasets"),
    }


@pytest.mark.parametrize(
    ("file", "line", "circle"),
    [
        ("harness/metrics/counting.py", "from ..runs import run", ["harness.metrics.counting", "harness.runs.run"]),
        ("methods/core/errors.py", "def f():\n    from ..registry import create_method", ["methods.core.errors"]),
    ],
)
def test_a_new_circle_is_found(tmp_path: Path, file: str, line: str, circle: list[str]) -> None:
    for folder in ("methods", "datasets", "harness"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=lambda _, names: [n for n in names if _left_out(n)])
    with (tmp_path / file).open("a") as opened:
        opened.write(f"\n{line}\n")
    (found,) = circles(module_arrows(tmp_path))
    assert set(circle) <= set(found)


def _left_out(name: str) -> bool:
    return "." in name and not name.endswith(".py")


def test_modules_keep_the_size_they_reached() -> None:
    sizes = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in modules().values()}
    assert {n: s for n, s in sizes.items() if s > EXCEPTIONS.get(n, LINES)} == {}


def test_functions_keep_the_size_they_reached() -> None:
    """At most 60 lines; the median is below 10."""
    sizes = sorted(
        (node.end_lineno or 0) - node.lineno + 1
        for path in modules().values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    )
    assert sizes[-1] <= 60 and sizes[len(sizes) // 2] < 10
