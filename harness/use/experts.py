"""``choose_experts``: FLOSS's first stage, which looks at images without labels and ranks templates for every class."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from ...methods import UserError
from ..runs.plan import Plan, RunSpec
from ..runs.provenance import code_version, environment
from ..runs.storing import store
from ..show.telling import Progress, Say, counting, each_once, unsaid, unseen
from .run import check_call, planned

if TYPE_CHECKING:
    from ...datasets import Dataset
    from ...methods.blocks.experts import Experts
    from ..decoding.entropy import Entropy
    from ..runs.engine import Lane
    from ..runs.pipeline import Pipeline

COUNT = 4
"""Templates of a class, as published."""


def choose_experts(
    spec: RunSpec,
    out: Path,
    limit: int | None = None,
    count: int = COUNT,
    progress: Progress = unseen,
    say: Say = unsaid,
    allow_download: bool = False,
) -> "Experts":
    """Rank every template of the protocol on the first ``limit`` images (default: all), and write the file ``out``.

    Of each class the ``count`` templates with the least mean entropy are chosen, over all pixels that a template alone
    gives to the class.  Labels are checked with the images, as before a run, and not looked at again.

    Raises ``UserError`` and ``DataError`` for what a user can mend.
    """
    check_call([spec], limit, 1)
    _check(spec, count)
    lanes, plans, wanted = planned([spec], out.parent, limit, progress, each_once(say), allow_download)
    lane, plan = lanes[0], plans[0]
    variants = _variants(lane.pipeline)
    advance = counting(progress, f"{len(variants)} templates of {spec.method} on {plan.record.key}", len(wanted))
    found = _rank(variants, lane.data, wanted, advance)
    experts = _record(plan, lane, wanted, found, count)
    store(out, experts.written())
    return experts


def _check(spec: RunSpec, count: int) -> None:
    setting = spec.setting_for(spec.open_data())
    if setting.refine != "none":
        raise UserError(
            f"templates are ranked by scores before they are refined, and refine is {setting.refine!r}: add "
            "--set refine=none.  A run with the experts may refine all the same"
        )
    if count < 1:
        raise UserError(f"every class needs at least one template, not {count}")


def _variants(pipeline: "Pipeline") -> "list[Pipeline]":
    """The pipeline with each template alone.  Raises ``UserError`` for a method that has no use of them."""
    from ...methods.blocks.clip_method import ClipMethod

    method, vocabulary = pipeline.method, pipeline.words.vocabulary
    if not isinstance(method, ClipMethod):
        raise UserError(
            f"method {method.info.name!r} does not score texts of CLIP, so templates cannot be ranked by it: choose "
            "another, for example --method naclip"
        )
    if len(vocabulary.templates) < 2:
        raise UserError("the protocol has a single template, so there is nothing to choose: --set templates=openai80")
    variants = []
    for template in vocabulary.templates:
        one = copy(pipeline)
        one.words = method.encode_text(replace(vocabulary, templates=(template,)))
        variants.append(one)
    return variants


def _rank(
    variants: "list[Pipeline]", data: "Dataset", ids: Sequence[str], advance: Callable[[int], None]
) -> "list[Entropy]":
    """Entropies of each template over all images, each of which is read and encoded once."""
    from ...methods.core.picture import Memo
    from ..decoding.entropy import entropy_of
    from ..runs.photo import Photo
    from ..runs.pipeline import Clock

    found: list[Entropy | None] = [None] * len(variants)
    clock, setting, classes = Clock(), variants[0].setting, variants[0].num_classes
    for image_id in ids:
        with Memo() as memo:
            for picture in Photo(data.load(image_id).image, image_id, memo).pictures(setting):
                for k, variant in enumerate(variants):
                    decision = variant.decision(variant.observe(picture, clock), clock)
                    more = entropy_of(decision.scores, decision.size, decision.rule, classes)
                    known = found[k]
                    found[k] = more if known is None else known + more
        advance(1)
    return [one for one in found if one is not None]


def _record(plan: Plan, lane: "Lane", ids: Sequence[str], found: "list[Entropy]", count: int) -> "Experts":
    from ...methods.blocks.experts import Experts, choose
    from ..runs.fitted import image_names

    vocabulary = lane.pipeline.words.vocabulary
    pixels = tuple(zip(*(one.pixels.tolist() for one in found), strict=True))
    totals = zip(*(one.total.tolist() for one in found), strict=True)
    entropy = tuple(
        tuple(total / n if n else None for total, n in zip(*row, strict=True))
        for row in zip(totals, pixels, strict=True)
    )
    return Experts(
        method=plan.identity["method"],
        dataset=plan.identity["dataset"],
        protocol=plan.identity["protocol"],
        vocabulary_hash=plan.identity["vocabulary_hash"],
        device_type=plan.identity["device_type"],
        note=plan.note,
        images=len(ids),
        planned=plan.planned,
        image_names=image_names(lane.data, ids, [plan.content[i] for i in ids]),
        count=count,
        classes=vocabulary.classes,
        templates=vocabulary.templates,
        entropy=entropy,
        pixels=pixels,
        chosen=choose(entropy, count),
        code_version=code_version(),
        environment=environment(plan.spec.device),
        finished=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
