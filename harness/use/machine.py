"""What else the machine was doing while something was timed, as far as the system tells."""

import os
from dataclasses import dataclass
from pathlib import Path

_STAT = Path("/proc/stat")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_WAITING = (3, 4)
"""Fields of the line ``cpu`` in /proc/stat (proc_stat(5)) in which no work is done: idle, iowait."""
_FIELDS = 8
"""Fields of that line without those of guests, which are in the others already."""


@dataclass(frozen=True)
class Moment:
    """CPU seconds of this process, and of all cores since the machine started; None where the system does not tell."""

    own: float
    busy: float | None
    total: float | None
    load: float | None


def now() -> Moment:
    """This moment."""
    times = os.times()
    busy, total = _all_cores()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return Moment(times.user + times.system + times.children_user + times.children_system, busy, total, load)


def share_of_others(before: Moment, after: Moment) -> float | None:
    """Share of all cores that other processes used in between, 0 to 1; None where the system does not tell."""
    if before.busy is None or after.busy is None or before.total is None or after.total is None:
        return None
    total = after.total - before.total
    if total <= 0:
        return None
    return max(0.0, after.busy - before.busy - (after.own - before.own)) / total


def governor() -> str | None:
    """How the frequency of the first core is chosen; None where the system does not tell."""
    try:
        return _GOVERNOR.read_text().strip()
    except OSError:
        return None


def _all_cores() -> tuple[float | None, float | None]:
    try:
        line = _STAT.read_text().partition("\n")[0]
    except OSError:
        return None, None
    ticks = [int(text) for text in line.split()[1 : 1 + _FIELDS]]
    second = os.sysconf("SC_CLK_TCK")
    return (sum(ticks) - sum(ticks[k] for k in _WAITING)) / second, sum(ticks) / second
