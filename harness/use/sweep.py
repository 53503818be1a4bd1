"""``sweep``: one number of the decode rule through many values, from one pass over the images.

What is chosen on some images says nothing about them.  So units of the bootstrap are split once, by a fixed seed: the
best value is chosen on the tuning half, and its mIoU is reported on the other half beside that of the protocol's own
value.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...datasets.catalog import label_of
from ...methods import UserError
from ..metrics.draws import SEED
from ..protocol.words import vocabulary_for
from ..runs.loading import BY_DEVICE, Loading
from ..runs.plan import Plan, RunSpec
from ..runs.provenance import code_version, environment
from ..runs.sealed import digest_of
from ..runs.storing import store
from ..show.telling import Progress, Say, counting, each_once, unsaid, unseen
from .run import check_call, planned
from .sweep_record import SCHEMA, Sweep, SweptMethod, read_sweep
from .sweep_scores import Halves, Scores, Tuned, pairs_of
from .sweep_values import ascending, check_field, own_value, paper_value

if TYPE_CHECKING:
    from ..runs.swept import SweptLane

FILE = "sweep.json"
_NAMED = 3


def sweep(
    pairs: RunSpec | Sequence[RunSpec],
    field: str,
    values: Sequence[float],
    results: Path = Path("results"),
    limit: int | None = None,
    fresh: bool = False,
    progress: Progress = unseen,
    say: Say = unsaid,
    allow_download: bool = False,
    loading: Loading = BY_DEVICE,
) -> Sweep:
    """Score methods on one data set under every value of ``field``, and choose the best on one half of the images.

    ``pairs`` are as ``every_pair`` makes them.  The protocol's own value, and that of the method's paper, are added to
    ``values``.  What was found is written to ``RESULTS/sweeps/NAME/sweep.json``, whole or not at all; a finished sweep
    of the same identity is answered from there, unless ``fresh``.  It is no run, and no leaderboard shows it.
    ``loading`` says how images come to the methods; it moves no number.

    Raises ``UserError`` and ``DataError`` for what a user can mend.
    """
    specs = [pairs] if isinstance(pairs, RunSpec) else list(pairs)
    every = _values(specs, field, values)
    check_call(specs, limit, 1)
    lanes, plans, wanted = planned(specs, results, limit, progress, each_once(say), allow_download)
    identity = _identity(plans, field, every, wanted)
    path = results / "sweeps" / _name(plans, field, identity) / FILE
    known = None if fresh else _known(path, identity, say)
    if known is not None:
        return known
    from ..runs.swept import SweptLane, sweep_through

    swept = [SweptLane.of(p, lane.pipeline, lane.data, field, every) for lane, p in zip(lanes, plans, strict=True)]
    data = lanes[0].data
    halves = Halves.of(data.clusters(wanted), plans[0].setting.averaging)
    title = f"{', '.join(spec.method for spec in specs)} on {data.record.key}, {len(every)} values"
    counts = sweep_through(swept, wanted, counting(progress, title, len(wanted)), loading)
    found = _record(identity, path.parent.name, swept, [Scores(c, every, halves) for c in counts], wanted)
    store(path, found.sealed())
    return found


def _values(specs: list[RunSpec], field: str, values: Sequence[float]) -> tuple[float, ...]:
    """The values with those that protocol and papers have.  Raises ``UserError`` for what cannot be swept."""
    check_field(field)
    if len({spec.dataset for spec in specs}) != 1:
        raise UserError("a sweep is on one data set: name one, and repeat the command for the others")
    for spec in specs:
        _check_decision_alone(spec.method, field)
    record = specs[0].open_data().record
    key = record.key
    papers = [paper_value(spec.method, field, key) for spec in specs]
    own = [own_value(spec.protocol, field, key) for spec in specs]
    every = ascending(field, [*values, *own, *(found[1] for found in papers if found)])
    for spec in specs:
        for value in (every[0], every[-1]):
            setting = spec.protocol.changed(**{field: value}).setting(key)
            setting.rule(vocabulary_for(setting, record).background)
    return every


def _check_decision_alone(method: str, field: str) -> None:
    """Raise ``UserError`` where the field is an option of the method too."""
    from ...methods import find_method
    from ...methods.core.options import options_type

    if field in options_type(find_method(method)).model_fields:
        raise UserError(
            f"{field} cannot be swept for {method}: it is an option of the method, whose scores change with it.  Run "
            f"`bench run --method {method} --set {field}=VALUE` once for each value"
        )


def _identity(plans: list[Plan], field: str, values: tuple[float, ...], wanted: tuple[str, ...]) -> str:
    images = hashlib.sha256("\n".join(wanted).encode()).hexdigest()
    return digest_of([SCHEMA, [plan.digest for plan in plans], field, list(values), images, SEED])


def _name(plans: list[Plan], field: str, identity: str) -> str:
    """Folder name: readable, and unique by hash."""
    methods = [plan.spec.method.replace(":", ".").replace("/", ".") for plan in plans]
    named = "+".join(methods) if len(methods) <= _NAMED else f"{len(methods)}-methods"
    dataset = plans[0].identity["dataset"]
    protocol = plans[0].spec.protocol.name.rstrip("*")
    return f"{label_of(dataset['key'], dataset['split'])}-{named}-{protocol}-{field}-{identity[:10]}"


def _known(path: Path, identity: str, say: Say) -> Sweep | None:
    if not path.exists():
        return None
    try:
        found = read_sweep(path)
    except UserError as error:
        say(f"{error}; so it is made again")
        return None
    return found if found.identity == identity else None


def _record(identity: str, name: str, lanes: "list[SweptLane]", scores: list[Scores], wanted: tuple[str, ...]) -> Sweep:
    plan, halves, data = lanes[0].plan, scores[0].halves, lanes[0].data
    methods = [_method(lane, one) for lane, one in zip(lanes, scores, strict=True)]
    tuned = [Tuned(m.method, one, m.own, m.tuned) for m, one in zip(methods, scores, strict=True)]
    units = [len(np.unique(halves.clusters[images])) for images in (halves.tuning, ~halves.tuning)]
    return Sweep(
        name=name,
        identity=identity,
        field=lanes[0].field,
        values=lanes[0].values,
        dataset=data.record.key,
        split=data.record.split,
        images=len(wanted),
        planned=data.planned,
        units=sum(units),
        averaging=halves.averaging,
        split_seed=SEED,
        tuning_ids=tuple(np.array(wanted)[halves.tuning].tolist()),
        tuning_units=units[0],
        test_images=int((~halves.tuning).sum()),
        test_units=units[1],
        methods=tuple(methods),
        pairs=pairs_of(tuned),
        environment=environment(plan.spec.device),
        code_version=code_version(),
        finished=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _method(lane: "SweptLane", scores: Scores) -> SweptMethod:
    plan, key, test = lane.plan, lane.data.record.key, ~scores.halves.tuning
    own, paper = own_value(plan.spec.protocol, lane.field, key), paper_value(plan.spec.method, lane.field, key)
    best = scores.best(own)
    return SweptMethod(
        method=plan.spec.method,
        plan=plan.digest,
        protocol=plan.spec.protocol.name,
        protocol_hash=plan.identity["protocol"]["hash"],
        weights=plan.identity["method"].get("weights") or {},
        note=plan.note,
        own=own,
        paper=paper[1] if paper else None,
        paper_protocol=paper[0] if paper else None,
        tuned=best,
        points=scores.points(),
        tuned_on_tuning=scores.score(best, scores.halves.tuning),
        tuned_on_test=scores.score(best, test),
        own_on_test=scores.score(own, test),
        paper_on_test=scores.score(paper[1], test) if paper else None,
        gain=scores.gain(best, own),
        one_decode=lane.at_once,
    )
