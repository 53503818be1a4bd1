"""The page of benchmarks: rows as Markdown, the machine, and what the figures mean."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.machine import Machine
from benchmarks.scaling import Curve
from benchmarks.table import MEBIBYTE, Goal, Line, Result

_HEAD = (
    "| line | what | peer | ours | peer | ratio | quartiles | goal here | goal on AMD Zen 5 | |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Row:
    """A line of the table as text; ``skipped`` says why it was not measured.  ``met`` is None without a goal."""

    name: str
    what: str = ""
    peer: str = ""
    costs: tuple[str, str] = ("", "")
    ratio: str = ""
    quartiles: str = ""
    goals: tuple[str, str] = ("", "")
    met: bool | None = None
    skipped: str = ""

    @property
    def markdown(self) -> str:
        if self.skipped:
            return f"| {self.name} | not measured: {self.skipped} |" + " |" * 8
        verdict = {None: "", True: "met", False: "**MISSED**"}[self.met]
        cells = (self.name, self.what, self.peer, *self.costs, self.ratio, self.quartiles, *self.goals, verdict)
        return f"| {' | '.join(cells)} |"


def row_of(name: str, line: Line, found: Result, zen5: bool) -> Row:
    """The lower quartile decides, against the goal of this kind of machine."""
    goal = line.goal.zen5 if zen5 else line.goal.elsewhere
    return Row(
        name,
        line.what,
        line.peer,
        (_cost(found.ours, line.unit), _cost(found.peer, line.unit)),
        _ratio(found.middle),
        f"{_ratio(found.low)} - {_ratio(found.high)}",
        _goals(line.goal),
        None if goal is None else found.low >= goal,
    )


def page(rows: Sequence[Row], curves: Sequence[Curve], rounds: int, machine: Machine) -> str:
    """The whole page."""
    text = [
        "# Benchmarks",
        "",
        "Written by `tests/benchmarks/speed.py` (`make benchmarks`), which says how: agreement asserted first, "
        f"{rounds} rounds in alternating order, CPU time of one thread unless a line says wall time. The ratio is "
        "peer / ours, median and quartiles over rounds of the ratio of a round; the lower quartile decides. A limit "
        "stands as a peer. Peers are described in [docs/speed.md](../docs/speed.md).",
        "",
        f"* Machine: {machine.cpu}, {machine.instructions}, {machine.cores} cores, {machine.threads} thread; load "
        f"{machine.load} before and after, share of all cores used by others {machine.others}.",
        f"* Code: {machine.code}; torch {machine.torch}.",
        "",
        _HEAD,
        *(row.markdown for row in rows),
    ]
    if curves:
        text += ["", "## Scaling", "", *(line for curve in curves for line in (curve.markdown, ""))]
    return "\n".join(text).rstrip() + "\n"


def _cost(value: float, unit: str) -> str:
    if unit == "MiB":
        return f"{value / MEBIBYTE:.1f} MiB"
    return f"{value:.2f} s" if value >= 10 else f"{1e3 * value:.2f} ms"


def _ratio(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _goals(goal: Goal) -> tuple[str, str]:
    here, zen5 = ("" if g is None else f"{g:.3g}" for g in (goal.elsewhere, goal.zen5))
    return here, zen5
