"""``time_methods``: how fast methods are, from repeated passes over the same images.

A run times every image once, among whatever else the machine does.  Here each method goes over the images several times
in one process, after a pass that is not counted; methods take turns pass by pass, in an order that is turned round each
time, so that what drifts hits all alike.  They share nothing of an image.
"""

import os
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...datasets.catalog import label_of
from ...methods import UserError
from ..runs.plan import Plan, RunSpec
from ..runs.provenance import code_version, environment
from ..runs.scored import STAGES
from ..runs.sealed import digest_of
from ..runs.storing import store
from ..show.telling import Progress, Say, counting, each_once, unsaid, unseen
from . import machine
from .run import check_call, planned
from .timing_record import Machine, Ratio, Spread, TimedMethod, Timing

if TYPE_CHECKING:
    from ..runs.engine import Lane

Seconds = dict[str, float]
"""Seconds of a pass by stage."""
_IMAGES_PER_BATCH = 1
"""The pipeline takes one image at a time, as runs do."""


def time_methods(
    pairs: RunSpec | Sequence[RunSpec],
    repeats: int = 5,
    results: Path = Path("results"),
    limit: int | None = None,
    progress: Progress = unseen,
    say: Say = unsaid,
    allow_download: bool = False,
) -> Timing:
    """Time methods on one data set and write what was found to ``RESULTS/timings/NAME.json``.

    ``pairs`` are as ``every_pair`` makes them.  Texts are encoded before, and their seconds stand apart.  Raises
    ``UserError`` and ``DataError`` for what a user can mend; ``say`` is told when the machine was busy.
    """
    specs = [pairs] if isinstance(pairs, RunSpec) else list(pairs)
    check_call(specs, limit, 1)
    if repeats < 1:
        raise ValueError("there must be at least one pass")
    if len({spec.dataset for spec in specs}) > 1:
        raise UserError("methods are timed on one data set: name one, and repeat the command for the others")
    lanes, plans, wanted = planned(specs, results, limit, progress, each_once(say), allow_download)
    names = ", ".join(spec.method for spec in specs)
    advance = counting(progress, f"timing {names}", (repeats + 1) * len(lanes) * len(wanted))
    before = machine.now()
    passes = _passes(lanes, wanted, repeats, advance)
    state = _machine(before, machine.now())
    if state.busy:
        say(
            f"this machine was busy (load {state.load_before} before and {state.load_after} after on {state.cores} "
            "cores): seconds are too long, and only the ratios of methods in one command can be trusted"
        )
    found = _record(lanes, plans, wanted, passes, state)
    store(results / "timings" / f"{found.name}.json", found.sealed())
    return found


def _passes(
    lanes: "list[Lane]", ids: tuple[str, ...], repeats: int, advance: Callable[[int], None]
) -> list[list[Seconds]]:
    """Seconds of every pass of each lane; the first, which warms up, is left out."""
    found: list[list[Seconds]] = [[] for _ in lanes]
    for number in range(repeats + 1):
        turns = list(zip(lanes, found, strict=True))
        for lane, kept in turns if number % 2 else reversed(turns):
            seconds = _pass(lane, ids, advance)
            if number:
                kept.append(seconds)
    return found


def _pass(lane: "Lane", ids: tuple[str, ...], advance: Callable[[int], None]) -> Seconds:
    from ..runs.pipeline import Clock

    clock = Clock()
    for image_id in ids:
        sample = clock.time("load", partial(lane.data.load, image_id))
        lane.pipeline.score(sample, clock)
        advance(1)
    return clock.seconds


def _machine(before: machine.Moment, after: machine.Moment) -> Machine:
    return Machine(
        cores=os.cpu_count() or 1,
        load_before=before.load,
        load_after=after.load,
        others_share=machine.share_of_others(before, after),
        governor=machine.governor(),
    )


def _record(
    lanes: "list[Lane]", plans: list[Plan], ids: tuple[str, ...], passes: list[list[Seconds]], state: Machine
) -> Timing:
    methods = [_timed(*one, len(ids)) for one in zip(lanes, plans, passes, strict=True)]
    dataset, finished = plans[0].identity["dataset"], datetime.now(timezone.utc)
    named = "+".join(m.method.replace(":", ".").replace("/", ".") for m in methods[:3])
    digest = digest_of([[m.plan, list(m.passes)] for m in methods])
    return Timing(
        name=f"{label_of(dataset['key'], dataset['split'])}-{named}-{finished:%Y%m%dT%H%M%S}-{digest[:6]}",
        dataset=dataset["key"],
        split=dataset["split"],
        images=len(ids),
        planned=lanes[0].data.planned,
        repeats=len(passes[0]),
        images_per_batch=_IMAGES_PER_BATCH,
        methods=tuple(methods),
        ratios=tuple(_ratio(m, methods[0]) for m in methods[1:]),
        machine=state,
        environment=environment(plans[0].spec.device),
        code_version=code_version(),
        finished=finished.isoformat(timespec="seconds"),
    )


def _timed(lane: "Lane", plan: Plan, passes: list[Seconds], images: int) -> TimedMethod:
    means = [sum(seconds.values()) / images for seconds in passes]
    return TimedMethod(
        method=plan.spec.method,
        plan=plan.digest,
        protocol=plan.spec.protocol.name,
        protocol_hash=plan.identity["protocol"]["hash"],
        weights=plan.identity["method"].get("weights") or {},
        note=plan.note,
        encode_seconds=lane.pipeline.encode_seconds,
        seconds_per_image=Spread.of(means),
        seconds_per_stage={stage: Spread.of([seconds[stage] / images for seconds in passes]) for stage in STAGES},
        passes=tuple(means),
    )


def _ratio(one: TimedMethod, first: TimedMethod) -> Ratio:
    ratios = [a / b for a, b in zip(one.passes, first.passes, strict=True)]
    return Ratio(method=one.method, against=first.method, ratio=Spread.of(ratios))
