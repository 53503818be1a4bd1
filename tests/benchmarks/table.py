"""Lines of the table of benchmarks: two sides that take turns, what both must agree on, and what decides.

A side is a function that does its work once and returns what that cost.  A round has the cost of both; the first place
changes from round to round.  The ratio of a round is peer / ours.  A goal is met when the lower quartile of the ratios
reaches it.
"""

import ctypes
import gc
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

MEBIBYTE = 1 << 20
Side = Callable[[], float]
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class AbsentError(Exception):
    """A line cannot be measured here; the message says what is missing."""


@dataclass(frozen=True)
class Goal:
    """The least ratio, on an AMD Zen 5 with AVX-512 and on any other machine; None: no goal, the figure is told."""

    elsewhere: float | None = None
    zen5: float | None = None

    @classmethod
    def same(cls, ratio: float) -> "Goal":
        """The same ratio everywhere."""
        return cls(ratio, ratio)


@dataclass(frozen=True)
class Round:
    """What both sides cost in one round."""

    ours: float
    peer: float

    @property
    def ratio(self) -> float:
        return self.peer / self.ours


@dataclass(frozen=True)
class Line:
    """One comparison: ``agree`` raises when the results of the two sides differ; ``turn(n)`` is round number n."""

    what: str
    peer: str
    agree: Callable[[], None]
    turn: Callable[[int], Round]
    goal: Goal = Goal()
    unit: str = "ms"


@dataclass(frozen=True)
class Result:
    """Median costs of both sides, and quartiles of the ratio over rounds."""

    ours: float
    peer: float
    low: float
    middle: float
    high: float


def measured(line: Line, rounds: int) -> Result:
    """Agreement first, then the rounds."""
    line.agree()
    found = [line.turn(number) for number in range(rounds)]
    low, middle, high = (float(q) for q in np.percentile([r.ratio for r in found], [25, 50, 75]))
    ours, peer = (float(np.median([getattr(r, side) for r in found])) for side in ("ours", "peer"))
    return Result(ours, peer, low, middle, high)


def turns(ours: Side, peer: Side) -> Callable[[int], Round]:
    """Rounds in which the sides take turns."""

    def turn(number: int) -> Round:
        if number % 2:
            first = ours()
            return Round(first, peer())
        last = peer()
        return Round(ours(), last)

    return turn


def compared(
    what: str,
    peer_title: str,
    ours: Callable[[], Any],
    peer: Callable[[], Any],
    agree: Callable[[Any, Any], None],
    goal: Goal = Goal(),
) -> Line:
    """The usual line: CPU time of two functions whose results ``agree`` gets."""
    return Line(what, peer_title, lambda: agree(ours(), peer()), turns(timed(ours), timed(peer)), goal)


def within(what: str, limit: float, ours: Side, agree: Callable[[], None], goal: Goal = Goal.same(1.0)) -> Line:
    """A line whose peer is a limit in seconds."""
    return Line(what, "limit", agree, lambda number: Round(ours(), limit), goal)


def timed(run: Callable[[], Any], at_least: float = 0.05) -> Side:
    """CPU seconds of this process for one call, averaged over as many as fill ``at_least`` seconds."""

    def seconds() -> float:
        calls, start = 0, time.process_time()
        while (used := time.process_time() - start) < at_least or not calls:
            run()
            calls += 1
        return used / calls

    return seconds


def peak_bytes(run: Callable[[], Any]) -> int:
    """Most bytes of tensors made by ``run`` that are alive at one time."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    live = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


def peak_resident_bytes(run: Callable[[], Any]) -> int:
    """By how much the resident memory of this process grows while ``run`` works, whoever asks for it; Linux only."""
    if not _CLEAR.exists():
        raise AbsentError("the system does not tell the peak of resident memory")
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    _CLEAR.write_text("5")  # proc(5): the peak begins anew
    before = _status("VmRSS")
    run()
    return max(1, _status("VmHWM") - before)


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    assert found, f"{_STATUS} has no {name}"
    return int(found[1]) * 1024
