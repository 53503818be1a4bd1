"""The rooms of the house and the arrows between them: who imports whom, lazy imports inside functions included.

    python tests/rooms.py        counts, arrows, circles
    python tests/rooms.py --dot  the same as a graph for Graphviz

A room is a package; a module beside packages (a method, the registry) counts to the room of its folder.  Imports for
type checkers alone are no arrows.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("methods", "datasets", "harness")
Arrows = dict[str, set[str]]


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Dotted names below ``ovss`` and their files."""
    found = {}
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def module_arrows(root: Path = ROOT) -> Arrows:
    """Module -> modules that it imports, at its top or inside a function."""
    known = modules(root)
    return {name: set(_imported(name, path, known)) - {name} for name, path in known.items()}


def room_arrows(arrows: Arrows, root: Path = ROOT) -> Arrows:
    """Room -> other rooms that it imports.  What a package's ``__init__`` hands on is its own room's affair."""
    known = modules(root)
    found: Arrows = defaultdict(set)
    for name, targets in arrows.items():
        found[room_of(name, known)] |= {room_of(t, known) for t in targets} - {room_of(name, known)}
    return dict(found)


def room_of(name: str, known: dict[str, Path]) -> str:
    """The package that a module lies in."""
    return name if known[name].name == "__init__.py" else name.rpartition(".")[0]


def circles(arrows: Arrows) -> list[list[str]]:
    """Groups that can reach each other (Tarjan's strongly connected components with more than one member)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(arrows.get(name, ())):
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            start = stack.index(name)
            if len(stack) - start > 1:
                found.append(sorted(stack[start:]))
            del stack[start:]

    for name in sorted(arrows):
        if name not in index:
            visit(name)
    return found


def _imported(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or id(node) in for_types:
            continue
        base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        target = ".".join([*base, *filter(None, [node.module])])
        for alias in node.names:
            inner = f"{target}.{alias.name}"
            if inner in known or target in known:
                yield inner if inner in known else target


def main() -> None:
    """Print the drawing."""
    arrows = module_arrows()
    rooms = room_arrows(arrows)
    pairs = [(a, b) for a in sorted(rooms) for b in sorted(rooms[a])]
    if "--dot" in sys.argv[1:]:
        print("digraph rooms {", *(f'  "{a}" -> "{b}"' for a, b in pairs), "}", sep="\n")
        return
    print(f"{len(arrows)} modules, {sum(map(len, arrows.values()))} arrows, circles: {circles(arrows) or 'none'}")
    print(f"{len(rooms)} rooms, {len(pairs)} arrows, circles: {circles(rooms) or 'none'}")
    for room in sorted(rooms):
        print(f"  {room} -> {', '.join(sorted(rooms[room])) or 'nothing'}")


if __name__ == "__main__":
    main()
