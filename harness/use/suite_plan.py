"""``plan_suite``: the runs of a suite in the order that loads and encodes least, and what they need here.

No model is made: whether a run is done already is seen from plans, how long it takes from manifests.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from ...datasets import DataError, Dataset
from ...methods import UserError
from ..protocol.protocol import Setting
from ..runs.manifest import Manifest
from ..runs.parts import images_in
from ..runs.plan import Plan, RunSpec
from ..runs.provenance import device_name, source_hash
from ..runs.run import Run
from ..runs.sources import open_any
from .needs import UNKNOWN, Need, data_need, weights_needs
from .pairs import absolute_name, method_info, named_parts, options_of, parts_of
from .reproduce import COSTS, Expected, finished_runs
from .run_list import run_folders
from .suite_file import OWN, Suite, protocol_of, record_of
from .suite_request import SuiteRequest

Timed = tuple[RunSpec, Manifest]
"""What a finished run was asked for, and what it took."""
_RUN_BYTES, _ROW_BYTES = 50_000, 400
"""What is kept of a run, and of an image besides its counts, in parts, the summary and the plan together."""


@dataclass(frozen=True)
class SuiteRun:
    """One run of a suite.

    ``key`` says which table of the file asks for it.  ``images`` of the data set, as they are here or should be; None
    where neither is known.  ``done`` of them are in the run's folder.  ``expected`` is None where no run tells
    the time.
    """

    spec: RunSpec
    key: str
    command: str
    limit: int | None
    images: int | None
    done: int = 0
    expected: Expected | None = None
    needs: tuple[Need, ...] = ()

    @property
    def label(self) -> str:
        """The method with its options, as the leaderboard names it."""
        options = ", ".join(f"{k}={v}" for k, v in sorted(self.spec.options.items()))
        return f"{self.spec.method} ({options})" if options else self.spec.method

    @property
    def setting(self) -> Setting:
        """Values of the protocol on the data set."""
        return self.spec.protocol.setting(record_of(self.spec.dataset).key)

    @property
    def missing(self) -> tuple[Need, ...]:
        """What is known not to be here."""
        return tuple(need for need in self.needs if not need.here and need.state != UNKNOWN)

    @property
    def wanted(self) -> int | None:
        """Images that the run is to hold."""
        return self.images if self.limit is None or self.images is None else min(self.limit, self.images)

    @property
    def seconds(self) -> float | None:
        """How long what is left takes; None where it is not known."""
        left = None if self.wanted is None else max(0, self.wanted - self.done)
        if left == 0:
            return 0.0
        return None if left is None or self.expected is None else left * self.expected.seconds_per_image

    @property
    def most_bytes(self) -> int:
        """The most that the run takes on disk."""
        classes = len(record_of(self.spec.dataset).classes)
        counts = 48 * classes * (2 if self.spec.boundary else 1) + (48 * classes**2 if self.spec.confusion else 0)
        return _RUN_BYTES + (self.wanted or 0) * (_ROW_BYTES + counts)


@dataclass(frozen=True)
class SuitePlan:
    """The runs of a suite in passes over the same images, in the order in which they are done."""

    suite: Suite
    asked: SuiteRequest
    passes: tuple[tuple[SuiteRun, ...], ...]

    @property
    def runs(self) -> tuple[SuiteRun, ...]:
        """All runs in that order."""
        return tuple(run for one in self.passes for run in one)

    @property
    def missing(self) -> tuple[Need, ...]:
        """What any run needs and is not here, once each."""
        return tuple({(n.kind, n.name): n for run in self.runs for n in run.missing}.values())


def plan_suite(suite: Suite, asked: SuiteRequest = SuiteRequest()) -> SuitePlan:
    """Raises ``UserError`` for a run that is asked for twice, and for a method or data set that no table has."""
    runs = list(_expanded(suite, asked))
    _refuse_twice(runs, suite)
    for kind, names, there in (
        ("--method", asked.methods, {run.spec.method for run in runs}),
        ("--dataset", asked.datasets, {name for block in suite.runs for name in block.datasets}),
    ):
        strange = [name for name in names if name not in there]
        if strange:
            raise UserError(
                f"suite {suite.name} has no run of {kind} {strange[0]!r}: it has {', '.join(sorted(there))}"
            )
    wanted = [run for run in runs if _is_wanted(run, asked)]
    if not wanted:
        raise UserError(f"suite {suite.name} has no run of all that --method and --dataset name")
    opened = {run.spec.dataset: _opened(run.spec) for run in wanted}
    timed = [(one.plan().spec, manifest) for one, manifest in finished_runs(asked.results)]
    plans = _plans(asked.results)
    known = [_with_facts(run, opened[run.spec.dataset], timed, plans) for run in wanted]
    return SuitePlan(suite, asked, _passes(known, opened))


# ---- from tables to runs


def _expanded(suite: Suite, asked: SuiteRequest) -> Iterator[SuiteRun]:
    for number, block in enumerate(suite.runs, 1):
        own = options_of(block.methods, block.options)
        parts = parts_of(block.methods, block.backbone, block.weights)
        limit = asked.limit or block.limit
        for method, dataset, name in product(block.methods, block.datasets, block.protocols or (None,)):
            spec = RunSpec(
                method=method,
                dataset=absolute_name(dataset),
                protocol=protocol_of(method, dataset, name).changed(**block.set),
                data_root=str(asked.data_root.resolve()) if asked.data_root else None,
                device=asked.device,
                options=own[method],
                boundary=block.boundary,
                confusion=block.confusion,
                **named_parts(method, record_of(dataset).key, *parts[method]),
            )
            command = asked.command(spec, block.set, method if name == OWN else name, limit)
            yield SuiteRun(spec, f"runs[{number}]", command, limit, None)


def _refuse_twice(runs: Sequence[SuiteRun], suite: Suite) -> None:
    seen: dict[str, SuiteRun] = {}
    for run in runs:
        first = seen.setdefault(run.spec.model_dump_json(), run)
        if first is not run:
            raise UserError(
                f"suite {suite.name} asks twice for {run.spec.method} on {run.spec.dataset} under "
                f"{run.spec.protocol.name}: in {first.key} and in {run.key}"
            )


def _is_wanted(run: SuiteRun, asked: SuiteRequest) -> bool:
    return (not asked.methods or run.spec.method in asked.methods) and (
        not asked.datasets or run.spec.dataset in {absolute_name(name) for name in asked.datasets}
    )


# ---- what is here of a run


def _opened(spec: RunSpec) -> Dataset | None:
    try:
        return open_any(spec.dataset, Path(spec.data_root) if spec.data_root else None)
    except DataError:
        return None


def _plans(results: Path) -> list[tuple[Run, Plan]]:
    """Plans of the runs that this code has begun; damaged ones are left out."""
    found = []
    for folder in run_folders(results):
        try:
            plan = Run(folder).plan()
        except UserError:
            continue
        if plan.identity["source_hash"] == source_hash():
            found.append((Run(folder), plan))
    return found


def _with_facts(
    run: SuiteRun, data: Dataset | None, timed: Sequence[Timed], plans: Sequence[tuple[Run, Plan]]
) -> SuiteRun:
    spec = run.spec
    mine = [images_in(folder.parts_folder) for folder, plan in plans if plan.spec == spec]
    root = Path(spec.data_root) if spec.data_root else None
    record = record_of(spec.dataset)
    counted = replace(
        run,
        images=len(data.ids) if data is not None else record.expected_images,
        done=max(mine, default=0),
        needs=(*weights_needs(spec, run.setting.refine), data_need(spec.dataset, root)),
    )
    return replace(counted, expected=_expected(counted, timed))


def _expected(run: SuiteRun, timed: Sequence[Timed]) -> Expected | None:
    """From a run of the same method, options, backbone and device, with images of the same cost; best of this data."""
    spec = run.spec
    record = record_of(spec.dataset)
    costs = run.setting.model_dump(mode="json")
    backbone = spec.backbone or method_info(spec.method).backbone
    alike = [
        manifest
        for planned, manifest in timed
        if (planned.method, planned.options) == (spec.method, spec.options)
        and (not backbone or manifest.weights.get("name") == backbone.partition("/")[0])
        and manifest.environment["device"] == device_name(spec.device)
        and all(manifest.setting.get(field) == costs[field] for field in COSTS)
    ]
    if not alike:
        return None
    best = max(alike, key=lambda manifest: manifest.dataset["key"] == record.key)
    return Expected(run.images or 0, best.seconds_per_image, best.run)


# ---- order


def _passes(runs: Sequence[SuiteRun], opened: dict[str, Dataset | None]) -> tuple[tuple[SuiteRun, ...], ...]:
    """Runs on the same images with the same weights are one pass; passes with the same weights follow one another."""
    images = {name: _images(name, data) for name, data in opened.items()}
    weights: dict[tuple[str, ...], dict[tuple[object, ...], list[SuiteRun]]] = {}
    for run in runs:
        same_images = weights.setdefault(_weights(run.spec), {})
        same_images.setdefault((images[run.spec.dataset], run.limit), []).append(run)
    return tuple(tuple(one) for same_images in weights.values() for one in same_images.values())


def _weights(spec: RunSpec) -> tuple[str, ...]:
    backbone = spec.backbone or method_info(spec.method).backbone
    return (backbone, spec.weights or "") if backbone else (spec.method,)


def _images(name: str, data: Dataset | None) -> object:
    """What is equal for data sets that can share a pass: the same files, and keys that differ (not ``KEY@source``)."""
    if data is None or "@" in name or data.record.key == "shapes":
        return name
    return tuple((i, *(path.resolve() for path in data.files(i)[:1])) for i in data.ids)
