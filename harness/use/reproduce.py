"""``reproduce``: whether a reported value comes out here, with the weights, data and protocol that it was for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ...datasets import DataError, find_record
from ...methods import UserError
from ..report.claims import TOLERANCE, Claim, Kind, judge
from ..report.published import weights_of
from ..runs.manifest import Manifest
from ..runs.plan import RunSpec
from ..runs.provenance import device_name
from ..runs.run import Finished, Run, list_runs
from ..show.tables import lasting
from ..show.telling import Progress, Say, unsaid, unseen
from .needs import Need, backbone_file, model_of, needs
from .released import said_of_weights
from .run import run

FIRST_IMAGES = 8
"""Images that are timed before the rest, where no run tells how long it takes."""
COSTS = ("short_side_px", "long_side_px", "window_px", "stride_px", "columns", "refine", "region_vote", "precision")
"""Fields of a protocol that decide how long an image takes."""

Standing = Literal[Kind, "needs", "not run", "not reported", "failed"]
Done = tuple[Run, Manifest]


@dataclass(frozen=True)
class Expected:
    """How long all images take: ``seconds_per_image`` as measured in ``run`` on this device."""

    images: int
    seconds_per_image: float
    run: str

    @property
    def seconds(self) -> float:
        """For all of them."""
        return self.images * self.seconds_per_image


@dataclass(frozen=True)
class Verdict:
    """How a claim stands here.

    ``expected`` is None where no run tells the time.  ``finished`` is the run that the verdict is of, if there is one,
    ``evidence`` what is known of its weights, ``problem`` why it could not be done.
    """

    claim: Claim
    tolerance: float
    needs: tuple[Need, ...]
    expected: Expected | None = None
    finished: Finished | None = None
    evidence: tuple[str, ...] = ()
    problem: str = ""

    @property
    def missing(self) -> tuple[Need, ...]:
        """What is not here."""
        return tuple(need for need in self.needs if not need.here)

    @property
    def difference(self) -> float | None:
        """Our mIoU minus the reported one, in percent; None unless there are both."""
        ours = None if self.finished is None else self.finished.summary["miou"]
        return None if ours is None or self.claim.reported is None else ours - self.claim.reported

    @property
    def kind(self) -> Standing:
        """A verdict is over all images only; "partial" is none."""
        if self.claim.reported is None:
            return "not reported"
        if self.problem:
            return "failed"
        if self.finished is not None:
            result = self.finished.result
            return judge(self.claim.reported, result.miou, result.complete, self.tolerance)
        return "needs" if self.missing else "not run"


@dataclass(frozen=True)
class ReproduceRequest:
    """What a caller wants of claims: ``tolerance`` is in percent, ``limit`` the first images only."""

    results: Path = Path("results")
    data_root: Path | None = None
    device: str = "cpu"
    workers: int = 1
    limit: int | None = None
    tolerance: float = TOLERANCE


def reproduce(
    claim: Claim,
    asked: ReproduceRequest = ReproduceRequest(),
    progress: Progress = unseen,
    say: Say = unsaid,
    note: Say = unsaid,
) -> Verdict:
    """Run what a claim is about and compare; where something is missing nothing is run, and the verdict names it.

    ``say`` is told warnings.  Where no earlier run tells how long it takes, the first images are timed, and ``note`` is
    told what that means for all.

    Raises ``UserError`` for a claim without a reported value, and what ``run`` raises.
    """
    if claim.reported is None:
        raise UserError(f"{claim.name} is not reported: {claim.source} has no value for it")
    stands = stand(claim, finished_runs(asked.results), asked)
    if stands.missing:
        return stands
    spec = _spec(claim, asked)
    if asked.limit is None and stands.expected is None and stands.finished is None:
        (first,) = run(spec, asked.results, FIRST_IMAGES, progress=progress, say=say)
        expected = Expected(first.plan.planned, first.manifest.seconds_per_image, first.name)
        note(f"{claim.name}: {expected.seconds_per_image:.3g} s per image, all take about {lasting(expected.seconds)}")
        stands = replace(stands, expected=expected)
    (found,) = run(spec, asked.results, asked.limit, asked.workers, progress=progress, say=say)
    return replace(stands, finished=found, evidence=_evidence(stands.needs))


def reproduce_all(
    claims: Sequence[Claim],
    asked: ReproduceRequest = ReproduceRequest(),
    progress: Progress = unseen,
    say: Say = unsaid,
    note: Say = unsaid,
) -> list[Verdict]:
    """``reproduce`` for each claim that has a value and misses nothing; what fails is told in its verdict."""
    return [_tried(stands, asked, progress, say, note) for stands in stand_all(claims, asked)]


def _tried(stands: Verdict, asked: ReproduceRequest, progress: Progress, say: Say, note: Say) -> Verdict:
    if stands.claim.reported is None or stands.missing:
        return stands
    try:
        return reproduce(stands.claim, asked, progress, say, note)
    except (UserError, DataError) as error:
        return replace(stands, problem=str(error))


def stand_all(claims: Sequence[Claim], asked: ReproduceRequest = ReproduceRequest()) -> list[Verdict]:
    """``stand`` for each claim."""
    done = finished_runs(asked.results)
    return [stand(claim, done, asked) for claim in claims]


def stand(claim: Claim, done: Sequence[Done], asked: ReproduceRequest = ReproduceRequest()) -> Verdict:
    """How a claim stands without running anything: what is missing, the expected time, and the run that was made."""
    return Verdict(
        claim=claim,
        tolerance=asked.tolerance,
        needs=needs(claim, asked.data_root),
        expected=_expected(claim, done, asked.device),
        finished=_made(claim, done),
    )


def finished_runs(results: Path) -> list[Done]:
    """Finished runs with their manifests: complete ones first, newest first.  Damaged ones are left out."""
    found: list[Done] = []
    for one in list_runs(results):
        try:
            found.append((one, one.manifest()))
        except UserError:
            continue
    return sorted(found, key=lambda done: (done[1].images == done[1].planned, done[1].finished), reverse=True)


def _made(claim: Claim, done: Sequence[Done]) -> Finished | None:
    """The first run that is one of the claim and can be read."""
    for one, manifest in done:
        try:
            if _is_of(claim, one, manifest):
                return one.finished()
        except UserError:
            continue
    return None


def _is_of(claim: Claim, one: Run, manifest: Manifest) -> bool:
    if (
        (manifest.method.get("method"), manifest.described.get("published")) != (claim.method, claim.published)
        or manifest.dataset["key"] != claim.dataset
        or manifest.protocol["hash"] != claim.setting.hash
    ):
        return False
    given, own = one.plan().spec.weights, backbone_file(claim)
    handed = given is not None and own is not None and given == str(own.resolve())
    return handed or weights_of(str(manifest.weights.get("source", ""))) == claim.weights


def _expected(claim: Claim, done: Sequence[Done], device: str) -> Expected | None:
    """From a run of the same method, backbone and device, with images and refinement of the same cost."""
    costs = claim.setting.model_dump(mode="json")
    model = model_of(claim)
    alike = [
        manifest
        for _, manifest in done
        if (manifest.method.get("method"), manifest.described.get("published")) == (claim.method, claim.published)
        and (model is None or manifest.weights.get("name") == model)
        and manifest.environment["device"] == device_name(device)
        and all(manifest.setting.get(field) == costs[field] for field in COSTS)
    ]
    images = find_record(claim.dataset.partition("@")[0]).expected_images
    if not alike or images is None:
        return None
    best = max(alike, key=lambda manifest: manifest.dataset["key"] == claim.dataset)  # the first of equal ones
    return Expected(images, best.seconds_per_image, best.run)


def _spec(claim: Claim, asked: ReproduceRequest) -> RunSpec:
    file = backbone_file(claim)
    return RunSpec(
        method=claim.method,
        dataset=claim.dataset,
        protocol=claim.protocol,
        backbone=model_of(claim) if file else claim.backbone,
        weights=str(file.resolve()) if file else None,
        data_root=str(asked.data_root.resolve()) if asked.data_root else None,
        device=asked.device,
        options=claim.options,
    )


def _evidence(found: Sequence[Need]) -> tuple[str, ...]:
    return tuple(said_of_weights(need.name) for need in found if need.kind == "weights")
