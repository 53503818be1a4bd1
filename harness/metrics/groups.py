"""Which runs cannot be told apart, and p values of many comparisons."""

from collections.abc import Mapping

from .bootstrap import Replicates

_LEVEL = 0.05


def indistinct_groups(runs: Replicates) -> dict[str, int]:
    """Group number of every run, best group 1: runs of a group cannot be told apart from its best run.

    Empty with fewer than ``MIN_UNITS``, too few to say what can be told apart, and with more runs than the replicates
    can tell apart: the smallest p value of B replicates is 1 / (B + 1), and times the number of comparisons it is then
    above the level.

    Runs are ordered by mIoU.  A group starts at its best run and takes in the following ones until one differs from
    that best run: paired bootstrap, p values Holm-corrected for the number of comparisons, level 5 %.
    """
    if not runs.drawn or (len(runs.drawn) - 1) / (runs.replicates + 1) > _LEVEL:
        return {}
    order = sorted(runs.estimates, key=lambda name: (-runs.estimates[name], name))
    groups: dict[str, int] = {}
    number, left = 0, list(order)
    while left:
        number += 1
        leader = left[0]
        adjusted = holm(runs.p_values(leader, left[1:]))
        different = {name for name, p in adjusted.items() if p <= _LEVEL}
        members = [leader]
        for name in left[1:]:
            if name in different:
                break
            members.append(name)
        groups.update(dict.fromkeys(members, number))
        left = left[len(members) :]
    return groups


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P values adjusted for their number (Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979).

    >>> holm({"a": 0.02, "b": 0.01, "c": 0.5})
    {'b': 0.03, 'a': 0.04, 'c': 0.5}
    """
    found: dict[str, float] = {}
    highest = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p))
        found[name] = highest
    return found
