"""``bench compare``: the paired difference of two runs."""

from pathlib import Path

import numpy as np

from ...methods import UserError
from ..metrics.bootstrap import paired_difference, why_no_interval
from ..runs.run import find_run
from ..show.tables import print_json, print_line, print_table


def compare_command(first: str, second: str, results: Path, as_json: bool) -> None:
    """Paired difference of two runs."""
    runs = [find_run(name, results).finished() for name in (first, second)]
    identities = [r.plan.identity for r in runs]
    if identities[0]["dataset"] != identities[1]["dataset"]:
        images = " and ".join(f"{d['key']} {d['split']}" for d in (i["dataset"] for i in identities))
        raise UserError(f"the two runs are not on the same images ({images}): there is nothing to pair")
    common = set(runs[0].result.ids) & set(runs[1].result.ids)
    kept = [np.isin(r.result.ids, sorted(common)) for r in runs]
    counts = [r.result.counts.at(k) for r, k in zip(runs, kept, strict=True)]
    clusters = np.unique(runs[0].result.clusters[kept[0]], return_inverse=True)[1]
    found = paired_difference(counts[0], counts[1], clusters, runs[0].result.averaging)
    same = identities[0]["protocol"]["hash"] == identities[1]["protocol"]["hash"]
    value = {
        "first": runs[0].name,
        "second": runs[1].name,
        "dataset": identities[0]["dataset"]["key"],
        "split": identities[0]["dataset"]["split"],
        "images": len(common),
        "units": found.units,
        "same_protocol": same,
        "difference": 100 * found.estimate,
        "interval": found.interval and [100 * found.interval.low, 100 * found.interval.high],
        "p_value": found.p_value,
        "note": runs[0].plan.note,
    }
    if as_json:
        print_json(value)
        return
    print_table("", ("field", "value"), [(k, v) for k, v in value.items() if k != "note"])
    if reason := why_no_interval(found.units):
        print_line(f"{reason}; so there is no p value either, and nothing is said about which is better")
    if not same:
        print_line("warning: the protocols differ, so this is not a difference of methods alone")
    if value["note"]:
        print_line(f"note: {value['note']}")
