"""``run``: plan, check the data, work, merge; one pass over the images for all runs that are asked for."""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...datasets import Checked, Dataset, check_samples
from ...methods import UserError
from ...methods.core.files import cache_folder
from ..engines.choose import Where
from ..engines.drive import drive
from ..engines.local import start_early
from ..protocol.protocol import Setting, lint_setting
from ..runs import answered
from ..runs.label_files import describe_labels, label_path
from ..runs.loading import BY_DEVICE, Loading
from ..runs.plan import Plan, RunSpec, build_pipelines, make_plan
from ..runs.run import Finished, Run
from ..runs.settled import settled
from ..runs.storing import clean_cache
from ..runs.worker_task import WorkerTask, threads_for
from ..show.telling import Progress, Say, counting, each_once, unsaid, unseen
from .label_maps import save_labels

ENGINE = "engine"
"""Folder in a run for what an engine keeps while its workers are at it."""

if TYPE_CHECKING:  # what is finished is answered without torch
    from ..runs.engine import Lane


def run(
    pairs: RunSpec | Sequence[RunSpec],
    results: Path = Path("results"),
    limit: int | None = None,
    workers: int = 1,
    fresh: bool = False,
    progress: Progress = unseen,
    say: Say = unsaid,
    allow_download: bool = False,
    picture: Path | None = None,
    labels: Path | None = None,
    loading: Loading = BY_DEVICE,
    where: Where | None = None,
) -> list[Finished]:
    """Score what is missing of every run, and return all of them, finished, in the order of ``pairs``.

    Each run has a folder of its own below ``results``; what is there already is not done again, unless ``fresh``.
    Several pairs (``every_pair`` makes them) share one pass, so their data sets must have the same images.  The results
    are over the first ``limit`` images (default: all).  ``workers`` processes do the work; with more than one, a script
    needs ``if __name__ == "__main__"``.  ``progress`` and ``say`` are told how far it is and what looks wrong.
    ``picture`` is a PNG to write, with some images, labels and results of the first run.  Below ``labels`` every label
    map is written, ``LABELS/RUN/<image id>.png``.  ``loading`` says how images come to the model; it moves no number.
    ``where`` says where workers are started (default: here).

    Whatever interrupts it, an exception of ``progress`` included: what was finished is kept, and the same call goes on.

    Raises ``UserError`` and ``DataError`` for what a user can mend, before any work where that can be seen.
    """
    asked = [pairs] if isinstance(pairs, RunSpec) else list(pairs)
    check_call(asked, limit, workers)
    if where is not None:
        where.check(asked[0].device, results)
    say = each_once(say)
    clean_cache()
    if not (fresh or allow_download or picture or labels):
        known = _answered(asked, results, limit, progress, say)
        if known is not None:
            return known
    if workers > 1 and where in (None, Where()):  # other workers are no copies of a server
        start_early()
    lanes, plans, wanted = planned(asked, results, limit, progress, say, allow_download)
    if labels is not None:
        lanes = [_with_labels(lane, plan, labels) for lane, plan in zip(lanes, plans, strict=True)]
    if fresh or not all(lane.run.answers(plan, wanted) for lane, plan in zip(lanes, plans, strict=True)):
        _work(lanes, plans, wanted, workers, fresh, progress, loading, where)
    if picture is not None:
        from ..report.sheets import write_contact_sheet

        write_contact_sheet(picture, lanes[0].pipeline, [lanes[0].data.load(i) for i in wanted[:6]])
    for lane, plan in zip(lanes, plans, strict=True):
        answered.remember(plan, lane.pipeline, lane.data)
    found = [lane.run.finished(wanted) for lane in lanes]
    if labels is not None:
        save_labels(found, labels)
    return found


def _with_labels(lane: "Lane", plan: Plan, labels: Path) -> "Lane":
    """The lane, writing its label maps.  Raises ``UserError`` if they cannot be, or a folder is another run's."""
    folder = labels / plan.name
    for image_id in lane.data.ids:
        label_path(folder, image_id)
    describe_labels(folder, plan)
    return replace(lane, labels=folder)


def planned(
    specs: list[RunSpec], results: Path, limit: int | None, progress: Progress, say: Say, allow_download: bool
) -> "tuple[list[Lane], list[Plan], tuple[str, ...]]":
    """Check methods and data, load the methods, and plan: what a pass over the images needs, and which images."""
    progress("loading PyTorch", 0, 0)
    _check_methods(specs, allow_download)
    data = _open(specs)
    wanted = data[0].ids[:limit]
    return *_plan(specs, data, wanted, results, allow_download, progress, say), wanted


def check_call(specs: list[RunSpec], limit: int | None, workers: int) -> None:
    if not specs or (limit is not None and limit < 1) or workers < 1:
        raise ValueError("there must be at least one pair, one image (limit) and one worker")
    devices = sorted({spec.device for spec in specs})
    if devices[1:]:
        raise UserError(f"runs of one pass are on one device, not on {' and '.join(devices)}: run them one by one")


def _answered(
    specs: list[RunSpec], results: Path, limit: int | None, progress: Progress, say: Say
) -> list[Finished] | None:
    """The runs, when records say which they are, the data are the same, and nothing is left to do."""
    answers = [answer for spec in specs if (answer := answered.recall(spec))]
    if len({answer.name for answer in answers}) != len(specs):
        return None
    data = _open(specs)
    wanted = data[0].ids[:limit]
    checked = _check_data(specs, data, wanted, progress, say)
    found = []
    for answer, d, content in zip(answers, data, checked, strict=True):
        done = answered.finished(answer, d, content.digests, results, wanted)
        if done is None:
            return None
        found.append(done)
        for text in answer.said:
            say(text)
    return found


def _check_methods(specs: list[RunSpec], allow_download: bool) -> None:
    """Raise what is wrong with methods, options and devices before data are read and weights are loaded."""
    from ...methods.registry import check_options, check_parts, find_device, find_method
    from ..decoding.decode import decoder_name

    find_device(specs[0].device)
    decoder_name(specs[0].device)
    for spec in specs:
        check_options(find_method(spec.method), spec.options)
    for spec in specs:
        check_parts(spec.method, spec.backbone, Path(spec.weights) if spec.weights else None, allow_download)


def _open(specs: list[RunSpec]) -> list[Dataset]:
    """The data of each run; a data set is opened once.  Raises ``UserError`` unless all have the same images."""
    opened: dict[tuple[str, str | None], Dataset] = {}
    for spec in specs:
        if (spec.dataset, spec.data_root) not in opened:
            opened[spec.dataset, spec.data_root] = spec.open_data()
    data = [opened[spec.dataset, spec.data_root] for spec in specs]
    keys = [d.record.key for d in opened.values()]
    doubled = sorted({k for k in keys if keys.count(k) > 1})
    if doubled:
        raise UserError(f"--dataset names {', '.join(doubled)} twice: every data set of a pass needs a key of its own")
    _check_same_images(list(opened.values()))
    return data


def _check_same_images(data: list[Dataset]) -> None:
    """Data sets can share a pass when their images are the same files."""
    first = data[0]
    for other in data[1:]:
        if other.ids != first.ids or _images(other) != _images(first):
            raise UserError(
                f"{first.record.key} and {other.record.key} cannot share a pass: they do not have the same images.  "
                "Run them one after the other"
            )


def _images(data: Dataset) -> list[Path]:
    return [path.resolve() for image_id in data.ids for path in data.files(image_id)[:1]]


def _plan(
    specs: list[RunSpec],
    data: list[Dataset],
    wanted: tuple[str, ...],
    results: Path,
    allow_download: bool,
    progress: Progress,
    say: Say,
) -> "tuple[list[Lane], list[Plan]]":
    """Find everything that would stop the work, before any of it; then load the methods."""
    from ..runs.engine import Lane

    checked = _check_data(specs, data, wanted, progress, say)
    pipelines = build_pipelines(specs, data, allow_download, progress)
    for pipeline in pipelines:
        for level, text in pipeline.findings:
            if level == "warning":
                say(text)
    plans = [make_plan(spec, p, d, c.digests) for spec, p, d, c in zip(specs, pipelines, data, checked, strict=True)]
    _check_different(plans)
    return [Lane(Run.at(results, plan), p, d) for plan, p, d in zip(plans, pipelines, data, strict=True)], plans


def _check_data(
    specs: list[RunSpec], data: list[Dataset], wanted: tuple[str, ...], progress: Progress, say: Say
) -> list[Checked]:
    """What the data of each run hold; a data set is read once.  Raises for what cannot be scored."""
    for spec, d in zip(specs, data, strict=True):
        _lint(d, spec.setting_for(d), say)
    found = {}
    for d in {id(d): d for d in data}.values():
        advance = counting(progress, f"checking {d.record.key}", len(d.ids))
        checked = check_samples(d, wanted, cache_folder() / "checked", advance)
        for warning in checked.warnings:
            say(str(warning))
        found[id(d)] = checked
    return [found[id(d)] for d in data]


def _lint(data: Dataset, setting: Setting, say: Say) -> None:
    """Say what looks wrong; raise ``UserError`` for what cannot work."""
    found = lint_setting(setting, data.record)
    errors = [text for level, text in found if level == "error"]
    if errors:
        raise UserError(
            f"{data.record.key} cannot be scored so:\n  " + "\n  ".join(errors) if errors[1:] else errors[0]
        )
    for level, text in found:
        if level == "warning":
            say(text)
    if data.record.expected_images and len(data.ids) != data.planned:
        say(f"{data.record.key} has {len(data.ids)} images here, {data.planned} are expected")


def _check_different(plans: list[Plan]) -> None:
    """Two runs with one folder would wait for each other."""
    names = [plan.name for plan in plans]
    doubled = sorted({n for n in names if names.count(n) > 1})
    if doubled:
        raise UserError(f"asked for twice: {', '.join(doubled)}.  Name each run once")


def _work(
    lanes: "list[Lane]",
    plans: list[Plan],
    wanted: tuple[str, ...],
    workers: int,
    fresh: bool,
    progress: Progress,
    loading: Loading,
    where: Where | None,
) -> None:
    """Score what is missing of ``wanted`` and merge, under the locks of the runs."""
    with ExitStack() as locks:
        for lane, plan in zip(lanes, plans, strict=True):
            locks.enter_context(lane.run.lock())
            lane.run.begin(settled(lane.run, plan, lane.pipeline.method, fresh), fresh)
        _score_missing(lanes, plans, wanted, workers, progress, loading, where)
        for lane in lanes:
            if not lane.run.is_merged():
                lane.run.merge(wanted)
            lane.run.clear_up()
        shutil.rmtree(lanes[0].run.folder / ENGINE, ignore_errors=True)


def _score_missing(
    lanes: "list[Lane]",
    plans: list[Plan],
    wanted: tuple[str, ...],
    workers: int,
    progress: Progress,
    loading: Loading,
    where: Where | None,
) -> None:
    from ..runs.engine import Watch, work_through

    missing = [lane.run.missing(wanted) for lane in lanes]
    union = tuple(sorted({i for m in missing for i in m}))
    methods = dict.fromkeys(plan.spec.method for plan in plans)
    keys = dict.fromkeys(lane.data.record.key for lane in lanes)
    total = len(wanted) * len(lanes)
    advance = counting(progress, f"{', '.join(methods)} on {', '.join(keys)}", total, total - sum(map(len, missing)))
    left = where is not None and (lanes[0].run.folder / ENGINE).exists()  # queued jobs may have nothing to do any more
    if left or (union and (where is not None or (workers > 1 and len(union) > 1))):
        where, count = where or Where(), min(workers, len(union))
        task = WorkerTask(
            runs=tuple(lane.run.folder for lane in lanes),
            labels=tuple(lane.labels for lane in lanes),
            limit=None if len(wanted) == len(lanes[0].data.ids) else len(wanted),
            workers=count,
            loading=loading,
            device="cuda" if where.gpus else None,
            threads=threads_for(count) if where.engine == "local" else 0,
        )
        drive(where.start(lanes[0].run.folder / ENGINE), task, count, advance, where.detach)
    else:
        work_through(lanes, union, plans[0].spec.device, Watch(advance), loading=loading)
