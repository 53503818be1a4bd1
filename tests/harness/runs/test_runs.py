"""Runs: parts, merging, stopping and resuming, metrics, the leaderboard and regression baselines."""

import dataclasses
import errno
import hashlib
import json
import os
import random
import re
import stat
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ovss.datasets import DatasetRecord, check_samples, open_dataset
from ovss.harness.cli.main import main
from ovss.harness.metrics.counting import Counts
from ovss.harness.metrics.of_confusion import sparse, table_counts
from ovss.harness.metrics.result import EvalResult
from ovss.harness.protocol.protocol import load_protocol
from ovss.harness.report import leaderboard as board
from ovss.harness.report import regress
from ovss.harness.runs import engine, parts
from ovss.harness.runs.manifest import cost
from ovss.harness.runs.merging import write_counts
from ovss.harness.runs.parts import ImageResult, Stamp
from ovss.harness.runs.pipeline import STAGES, Pipeline, Scored
from ovss.harness.runs.plan import Plan, RunSpec, make_plan
from ovss.harness.runs.run import COUNTS, MANIFEST, METRICS, PLAN, Run, find_run
from ovss.harness.runs.sealed import seal, unseal
from ovss.harness.runs.survey import survey
from ovss.methods import Method, MethodInfo, UserError, Vocabulary, find_method

from ...toys import Toy
from . import in_memory

MINI = str(Path(__file__).parents[2] / "data" / "mini" / "mini.toml")
CLASSES = 3


class Levels(Toy):
    """Compares brightness with one level per query; ``spoil`` makes the scores of later calls NaN."""

    info = MethodInfo("levels", "Levels", "nobody, never", backbone="tiny-clip")

    def __init__(self, name: str = "levels", spoil_from: int = 10**9) -> None:
        super().__init__()
        self.name, self.spoil_from, self.calls = name, spoil_from, 0

    @property
    def provenance(self) -> dict[str, Any]:
        return {"method": self.name}

    def score_pixels(self, pixels: torch.Tensor, vocabulary: Vocabulary) -> torch.Tensor:
        self.calls += 1
        grey = torch.nn.functional.avg_pool2d(pixels.float().mean(1, keepdim=True), 8) / 255
        levels = torch.linspace(0, 1, len(vocabulary.queries)).view(1, -1, 1, 1)
        scores = -(grey - levels).abs()
        return scores * float("nan") if self.calls > self.spoil_from else scores


def start(results: Path, method: Method | None = None, name: str = "levels", **spec: Any) -> tuple[Run, Pipeline]:
    """A run folder and the pipeline for it."""
    values = {"method": name, "dataset": "shapes", "protocol": load_protocol("tiny"), **spec}
    asked = RunSpec(**values)
    data = asked.open_data()
    pipeline = Pipeline(method or Levels(name), asked.setting_for(data), data.record)
    plan = make_plan(asked, pipeline, data, check_samples(data, data.ids).digests)
    run = Run.at(results, plan)
    run.begin(plan)
    return run, pipeline


def work(run: Run, pipeline: Pipeline, wanted: Sequence[str]) -> None:
    data = run.plan().spec.open_data()
    engine.work_through([engine.Lane(run, pipeline, data)], run.missing(tuple(wanted)), "cpu", engine.Watch())
    run.merge()


def outputs(run: Run) -> tuple[bytes, bytes]:
    return (run.folder / COUNTS).read_bytes(), (run.folder / METRICS).read_bytes()


@pytest.fixture(scope="module")
def ids() -> tuple[str, ...]:
    return open_dataset("shapes").ids


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, ids: tuple[str, ...]) -> tuple[bytes, bytes]:
    """Counts and metrics of ten images, done in one go."""
    run, pipeline = start(tmp_path_factory.mktemp("undisturbed"))
    work(run, pipeline, ids[:10])
    return outputs(run)


@pytest.fixture
def every_image_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(engine, "_FLUSH_SHARE", 0.0)


# --- parts ------------------------------------------------------------------------------------------------------------


def image_results(count: int, seed: int = 0) -> list[ImageResult]:
    rng = np.random.default_rng(seed)
    found = []
    for k in range(count):
        tp, wrong = rng.integers(1, 2**40, CLASSES), rng.integers(2, 9, CLASSES)
        counts = Counts(tp, tp + wrong, tp + wrong[::-1])
        scored = Scored(counts, int(counts.gt.sum()))
        found.append(ImageResult(f"image_{k:02d}", scored, dict.fromkeys(STAGES, 0.5), 1000 + k, warm=k > 1))
    return found


def planned(count: int = 14, digests: tuple[str, ...] = (), **spec: Any) -> Plan:
    """A plan for ``image_results``."""
    record = DatasetRecord(key="small", title="small", images="", labels="", classes=("wall", "cat", "sofa"))
    asked = RunSpec(method="levels", dataset="small", protocol=load_protocol("tiny"), **spec)
    ids = tuple(f"image_{k:02d}" for k in range(count))
    return Plan(
        spec=asked, identity={"digests": digests, **spec}, record=record, ids=ids, planned=count, digests=digests
    )


PLANNED = planned()


def write(folder: Path, results: Sequence[ImageResult], plan: Plan = PLANNED) -> Path:
    return parts.write_part(folder, results, Stamp.of(plan, "cpu"))


def read(folder: Path, plan: Plan = PLANNED) -> pd.DataFrame:
    """All rows, once they are found to be right."""
    survey(folder, plan)
    return in_memory.rows_of(folder)


def merged(folder: Path) -> bytes:
    target = folder.with_name(f"{folder.name}.parquet")
    write_counts(target, survey(folder, PLANNED), PLANNED, lambda: None)
    return target.read_bytes()


@pytest.mark.parametrize("seed", range(6))
def test_order_shards_and_crashes_leave_no_trace(tmp_path: Path, seed: int) -> None:
    results = image_results(14)
    (tmp_path / "plain").mkdir()
    write(tmp_path / "plain", results)
    rng, folder = random.Random(seed), tmp_path / "wild"
    folder.mkdir()
    rng.shuffle(results)
    while results:
        size = rng.randint(1, 5)
        write(folder, results[:size])
        if rng.random() < 0.3:  # a crash between writing and noticing: the same images are done again, elsewhere
            slower = [dataclasses.replace(r, seconds=dict.fromkeys(STAGES, 9.0), warm=False) for r in results[:2]]
            write(folder, slower)
        del results[:size]
    (folder / ".part-torn.parquet.tmp").write_bytes(b"PAR1 torn")
    assert merged(folder) == merged(tmp_path / "plain")
    frame = read(folder)
    assert list(frame["image"]) == [f"image_{k:02d}" for k in range(14)]
    assert in_memory.counts_of(frame, CLASSES).tp.dtype == np.int64
    assert np.array_equal(
        in_memory.counts_of(frame, CLASSES).tp, np.stack([r.scored.counts.tp for r in image_results(14)])
    )


@pytest.mark.parametrize(("name", "change"), [("tp", (0, 1, 0)), ("gt", (-1, 1, 0)), ("pred", (-1, 1, 0))])
def test_contradictions_are_refused(tmp_path: Path, name: str, change: tuple[int, ...]) -> None:
    results = image_results(4)
    write(tmp_path, results)
    scored = results[2].scored
    counts = dataclasses.replace(scored.counts, **{name: getattr(scored.counts, name) + change})
    write(tmp_path, [dataclasses.replace(results[2], scored=dataclasses.replace(scored, counts=counts))])
    with pytest.raises(UserError, match=rf"two different results for image image_02 \({name}\).*--fresh"):
        read(tmp_path)


BAND = Counts(*(np.array([2, 0, 0]) for _ in range(3)))


def test_contradictions_in_boundary_counts_are_refused(tmp_path: Path) -> None:
    plan, (result,) = planned(boundary=True), image_results(1)
    for gt in (2, 3):
        band = dataclasses.replace(BAND, gt=np.array([gt, 0, 0]))
        scored = dataclasses.replace(result.scored, boundary=band)
        write(tmp_path, [dataclasses.replace(result, scored=scored)], plan)
    with pytest.raises(UserError, match=r"two different results for image image_00 \(boundary_gt\)"):
        read(tmp_path, plan)


def test_contradictions_in_confusion_are_refused(tmp_path: Path) -> None:
    """Two matrices with the same diagonal, rows and columns."""
    plan, (result,) = planned(confusion=True), image_results(1)
    for table in ([[4, 1, 0], [0, 4, 1], [1, 0, 4]], [[4, 0, 1], [1, 4, 0], [0, 1, 4]]):
        counts = table_counts(np.array(table))
        scored = Scored(counts, int(counts.gt.sum()), confusion=sparse(np.array(table)))
        write(tmp_path, [dataclasses.replace(result, scored=scored)], plan)
    with pytest.raises(UserError, match=r"two different results for image image_00 \(confusion_prediction\)"):
        read(tmp_path, plan)


def changed(result: ImageResult, pixels: int = 0, **arrays: Any) -> ImageResult:
    counts = dataclasses.replace(result.scored.counts, **{k: np.array(v) for k, v in arrays.items()})
    scored = dataclasses.replace(result.scored, counts=counts, pixels=pixels or result.scored.pixels)
    return dataclasses.replace(result, scored=scored)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"tp": [3, 0, 0], "gt": [2, 2, 2], "pred": [3, 1, 1], "pixels": 6}, "more pixels are right"),
        ({"tp": [-1, 0, 0], "gt": [2, 2, 2], "pred": [3, 1, 1], "pixels": 6}, "more pixels are right"),
        ({"tp": [1, 0, 0], "gt": [2, 2, 2], "pred": [3, 1, 1], "pixels": 7}, "do not sum"),
        ({"tp": [1, 0, 0], "gt": [2, 2, 2], "pred": [3, 2, 2], "pixels": 6}, "predicted than scored"),
        ({"tp": [1, 0], "gt": [2, 4], "pred": [3, 1], "pixels": 6}, "one whole number for each of 3 classes"),
        ({"tp": [1.5, 0, 0], "gt": [2, 2, 2], "pred": [3, 1, 1], "pixels": 6}, "one whole number"),
    ],
)
def test_impossible_rows_are_refused(tmp_path: Path, arrays: dict[str, Any], reason: str) -> None:
    write(tmp_path, [changed(image_results(1)[0], **arrays)])
    with pytest.raises(UserError, match=f"holds what no run can give: .*{reason}"):
        read(tmp_path)


def test_rows_of_other_images_are_refused(tmp_path: Path) -> None:
    (result,) = image_results(1)
    write(tmp_path, [dataclasses.replace(result, id="stranger")])
    with pytest.raises(UserError, match="image 'stranger' is not in the plan"):
        read(tmp_path)


def test_rows_of_other_content_are_refused(tmp_path: Path) -> None:
    plan = planned(digests=tuple(f"content {k}" for k in range(14)))
    first, second = image_results(2)
    write(tmp_path, [dataclasses.replace(first, content="content 0")], plan)
    assert len(read(tmp_path, plan)) == 1
    write(tmp_path, [dataclasses.replace(second, content="other photo")], plan)
    with pytest.raises(UserError, match="image 'image_01' had another content"):
        read(tmp_path, plan)


def test_asked_for_counts_must_be_there(tmp_path: Path) -> None:
    plan = planned(boundary=True)
    write(tmp_path, image_results(1), plan)
    with pytest.raises(UserError, match="there is no column boundary_gt"):
        read(tmp_path, plan)


@pytest.mark.parametrize(
    ("tp", "gt", "pred", "reason"),
    [([3, 0, 0], [2, 0, 0], [3, 0, 0], "overlap"), ([2, 0, 0], [2, 0, 0], [2**41, 0, 0], "than their masks")],
)
def test_impossible_bands_are_refused(
    tmp_path: Path, tp: list[int], gt: list[int], pred: list[int], reason: str
) -> None:
    plan, (result,) = planned(boundary=True), image_results(1)
    band = Counts(*map(np.array, (tp, gt, pred)))
    write(tmp_path, [dataclasses.replace(result, scored=dataclasses.replace(result.scored, boundary=band))], plan)
    with pytest.raises(UserError, match=reason):
        read(tmp_path, plan)


@pytest.mark.parametrize("cell", [(0, 1), (2, 0)])
def test_confusion_that_does_not_fit_its_counts_is_refused(tmp_path: Path, cell: tuple[int, int]) -> None:
    plan, (result,) = planned(confusion=True), image_results(1)
    table = np.array([[4, 1, 0], [0, 4, 1], [1, 0, 4]])
    counts = table_counts(table)
    for _ in range(2):
        scored = Scored(counts, int(counts.gt.sum()), confusion=sparse(table))
        write(tmp_path, [dataclasses.replace(result, scored=scored)], plan)
        if table[cell] == 1:
            break
        assert len(read(tmp_path, plan)) == 1
    table[cell] += 1
    scored = Scored(counts, int(counts.gt.sum()), confusion=sparse(table))
    write(tmp_path, [dataclasses.replace(result, scored=scored)], plan)
    with pytest.raises(UserError, match="other sums than its counts"):
        read(tmp_path, plan)


def test_parts_of_another_run_are_refused(tmp_path: Path) -> None:
    other = planned(boundary=True)
    stranger = write(tmp_path, image_results(2), other)
    with pytest.raises(UserError, match=r"belongs to another run.*move it out") as caught:
        read(tmp_path)
    assert str(stranger) in str(caught.value)


@pytest.mark.parametrize("name", ["part-{0} (copy).parquet", "part-x-2.parquet", "part-"])
def test_files_that_are_no_parts_are_named(tmp_path: Path, name: str) -> None:
    part = write(tmp_path, image_results(2))
    copy = tmp_path / name.format(part.stem[5:])
    copy.write_bytes(part.read_bytes())
    with pytest.raises(UserError, match="no part that ovss-bench wrote") as caught:
        read(tmp_path)
    assert str(copy) in str(caught.value)
    assert parts.images_in(tmp_path) == 2


def test_foreign_parquet_is_named(tmp_path: Path) -> None:
    """The name of a part, the checksum of its bytes, and yet not ours."""
    for number, content in enumerate((in_memory.parquet_bytes(pd.DataFrame({"a": [1]})), b"no parquet at all")):
        checksum = hashlib.sha256(content).hexdigest()[:16]
        foreign = tmp_path / f"part-{number:032x}-1-{checksum}.parquet"
        foreign.write_bytes(content)
        with pytest.raises(UserError, match="no part that ovss-bench wrote") as caught:
            read(tmp_path)
        assert str(foreign) in str(caught.value)
        foreign.unlink()


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    write(tmp_path, image_results(2))
    broken = write(tmp_path, image_results(4)[2:])
    content = broken.read_bytes()
    for damage in (content[: len(content) // 2], b"", b"no parquet at all"):
        broken.write_bytes(damage)
        with pytest.raises(UserError, match=r"damaged.*Run the same command again") as caught:
            read(tmp_path)
        assert str(broken) in str(caught.value)
    parts.set_aside_damaged(tmp_path)
    assert len(read(tmp_path)) == 2 and not broken.exists()
    assert [p.name for p in tmp_path.glob("damaged-*")] == [f"damaged-{broken.name}"]


def test_a_fresh_folder_holds_nothing(tmp_path: Path) -> None:
    assert len(read(tmp_path)) == 0 and parts.images_in(tmp_path) == 0
    write(tmp_path, image_results(3))
    write(tmp_path, image_results(5)[3:])
    assert parts.images_in(tmp_path) == 5


def test_cost_leaves_warm_up_out(tmp_path: Path) -> None:
    slow = [dataclasses.replace(r, seconds=dict.fromkeys(STAGES, 7.0)) for r in image_results(2)]
    write(tmp_path, [*slow, *image_results(6)[2:]])
    found = cost(read(tmp_path))
    assert found["seconds_per_stage"] == dict.fromkeys(STAGES, 0.5)
    assert found["seconds_per_image"] == pytest.approx(0.5 * len(STAGES))
    assert found["peak_bytes"] == 1005
    assert cost(read(tmp_path).iloc[:1])["seconds_per_stage"]["load"] == 7.0  # nothing warm at all


# --- stopping and resuming --------------------------------------------------------------------------------------------


def test_limit_then_more_equals_at_once(tmp_path: Path, ids: tuple[str, ...], undisturbed: tuple[bytes, bytes]) -> None:
    run, pipeline = start(tmp_path)
    work(run, pipeline, ids[:3])
    assert json.loads((run.folder / METRICS).read_text())["complete"] is False
    assert run.manifest().images == 3 and run.manifest().planned == 300
    work(run, pipeline, ids[:10])
    assert outputs(run) == undisturbed
    work(run, pipeline, ids[:10])  # nothing is left to do
    assert outputs(run) == undisturbed
    assert run.missing(ids[:12]) == ids[10:12]
    assert run.finished(ids[:3]).result.ids == ids[:3]


@pytest.mark.usefixtures("every_image_a_part")
@pytest.mark.parametrize("fails_at", [1, 2, 5])
def test_a_full_disk_loses_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ids: tuple[str, ...],
    undisturbed: tuple[bytes, bytes],
    fails_at: int,
) -> None:
    run, pipeline = start(tmp_path)
    calls = 0
    fsync = os.fsync

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += stat.S_ISREG(os.fstat(descriptor).st_mode)  # a part, not its folder
        if calls >= fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("ovss.datasets.writing.os.fsync", full)
        with pytest.raises(UserError, match=r"No space left on device.*make room and run the same command again"):
            work(run, pipeline, ids[:10])
    assert len(list(run.parts_folder.iterdir())) == parts.images_in(run.parts_folder) == fails_at - 1
    assert len(run.missing(ids[:10])) == 10 - (fails_at - 1)
    work(run, pipeline, ids[:10])
    assert outputs(run) == undisturbed


def test_a_full_disk_keeps_the_old_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ids: tuple[str, ...]
) -> None:
    run, pipeline = start(tmp_path)
    work(run, pipeline, ids[:3])
    before = outputs(run)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ovss.datasets.writing.os.fsync", full)
    with pytest.raises(UserError, match="No space left"):
        run.merge()
    assert outputs(run) == before
    with pytest.raises(UserError, match="No space left"):
        start(tmp_path / "elsewhere")


@pytest.mark.parametrize("name", [METRICS, MANIFEST])
def test_a_summary_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ids: tuple[str, ...], name: str
) -> None:
    """The disk may become full between two summary files."""
    run, pipeline = start(tmp_path)
    replace = os.replace

    def full(old: Path, new: Path) -> None:
        if Path(new).name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(old, new)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="No space left"):
        work(run, pipeline, ids[:2])


def test_one_process_at_a_time(tmp_path: Path, ids: tuple[str, ...]) -> None:
    run, pipeline = start(tmp_path)
    with (
        run.lock(),
        pytest.raises(UserError, match=f"process {os.getpid()} on .* is working on"),
        Run(run.folder).lock(),
    ):
        pass
    with run.lock():  # the lock is gone with its holder
        work(run, pipeline, ids[:1])
    assert len(run.missing(ids[:1])) == 0
    run.begin(run.plan(), fresh=True)
    assert len(run.missing(ids[:1])) == 1
    assert not run.is_merged()


def test_scores_that_are_not_numbers_stop_the_run_and_keep_what_was_done(
    tmp_path: Path, ids: tuple[str, ...], undisturbed: tuple[bytes, bytes]
) -> None:
    run, pipeline = start(tmp_path, Levels(spoil_from=4))
    with pytest.raises(UserError, match=r"(?i)nan|finite"):
        work(run, pipeline, ids[:10])
    assert run.missing(ids[:10]) == ids[4:10]
    healthy, pipeline = start(tmp_path)
    assert healthy.folder == run.folder
    work(healthy, pipeline, ids[:10])
    assert outputs(healthy) == undisturbed


def test_the_folder_is_named_by_what_decides_the_numbers(tmp_path: Path) -> None:
    base, _ = start(tmp_path)
    assert start(tmp_path)[0].folder == base.folder
    tiny = load_protocol("tiny")
    others = [
        start(tmp_path, Levels("other"))[0],
        start(tmp_path, protocol=tiny.changed(logit_scale=50))[0],
        start(tmp_path, protocol=tiny.changed(templates="simple"))[0],
        start(tmp_path, dataset="shapes:val")[0],
        start(tmp_path, dataset=MINI)[0],
        start(tmp_path, device="cuda:0")[0],
        start(tmp_path, boundary=True)[0],
    ]
    assert len({r.folder for r in [base, *others]}) == 8
    assert all(r.folder.parent == tmp_path / "runs" for r in others)
    assert base.folder.name.startswith("shapes-levels-tiny-")


def test_folders_that_are_no_runs(tmp_path: Path, ids: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        Run(tmp_path).plan()
    run, pipeline = start(tmp_path)
    with pytest.raises(UserError, match="`bench run`"):
        run.manifest()
    work(run, pipeline, ids[:2])
    assert find_run(str(run.folder), tmp_path).folder == run.folder
    assert find_run("shapes-levels-tiny", tmp_path).folder == run.folder
    assert find_run("shapes-lev", tmp_path).folder == run.folder
    with pytest.raises(UserError, match=r"no run is named 'camvid'.*\n.*shapes-levels-tiny-"):
        find_run("camvid", tmp_path)
    (run.folder / MANIFEST).write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        run.manifest()
    (run.folder / PLAN).write_text("{}")
    with pytest.raises(UserError, match=r"plan\.json has no checksum"):
        run.plan()


# --- metrics of a result ----------------------------------------------------------------------------------------------


def small_result(**changes: Any) -> EvalResult:
    """Two images, four classes: the third is predicted but never labelled, the fourth is absent."""
    record = DatasetRecord(
        key="small",
        title="small",
        images="",
        labels="",
        classes=("wall", "cat", "sofa", "lamp"),
        background=changes.pop("background", None),
    )
    values: dict[str, Any] = {
        "record": record,
        "ids": ("a", "b"),
        "counts": Counts(
            np.array([[6, 2, 0, 0], [0, 1, 0, 0]]),
            np.array([[8, 4, 0, 0], [0, 8, 0, 0]]),
            np.array([[8, 3, 1, 0], [4, 1, 3, 0]]),
        ),
        "clusters": np.array([0, 1]),
        "planned": 2,
    }
    return EvalResult(**{**values, **changes})


def test_summary_by_hand() -> None:
    """Totals: tp 6 3 0 0, labelled 8 12 0 0, predicted 12 4 4 0; unions 14, 13, 4, 0."""
    found = small_result().summary()
    assert found["per_class"] == pytest.approx({"wall": 600 / 14, "cat": 300 / 13, "sofa": 0.0, "lamp": None})
    assert found["miou"] == pytest.approx((600 / 14 + 300 / 13 + 0) / 3)
    assert found["classes_averaged"] == 3 and found["averaging"] == "mmseg"
    assert found["aacc"] == pytest.approx(100 * 9 / 20)
    assert found["macc"] == pytest.approx((600 / 8 + 300 / 12) / 2)
    assert found["fwiou"] == pytest.approx(8 / 20 * 600 / 14 + 12 / 20 * 300 / 13)
    first, second = (100 * 6 / 10 + 100 * 2 / 5) / 2, 100 * 1 / 8
    assert found["miou_per_image"] == pytest.approx((first + second) / 2)
    assert found["miou_without_background"] is None and found["boundary_iou"] is None
    assert found["images"] == 2 and found["units"] == 2 and found["complete"] is True
    assert found["interval"] is None  # two units are too few
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_averaging_over_labelled_classes() -> None:
    found = small_result(averaging="labelled").summary()
    assert found["miou"] == pytest.approx((600 / 14 + 300 / 13) / 2)
    assert found["classes_averaged"] == 2


def test_interval_over_units() -> None:
    """Each image ten times: twenty units, or ten if twins are one; fewer have no interval."""
    tenfold = Counts(*(np.tile(a, (10, 1)) for a in vars(small_result().counts).values()))
    fields: dict[str, Any] = {"ids": tuple(map(str, range(20))), "counts": tenfold, "planned": 20}
    single, paired, few = (small_result(**fields, clusters=np.arange(20) % k) for k in (20, 10, 9))
    assert single.miou == paired.miou == few.miou == pytest.approx(small_result().miou)
    for result, units in ((single, 20), (paired, 10)):
        found = result.summary()
        assert found["units"] == units and found["interval"][0] <= found["miou"] <= found["interval"][1]
    assert paired.interval.low < paired.interval.high  # clusters of two unlike images
    assert few.summary()["units"] == 9 and few.summary()["interval"] is None


def test_background_partial_and_single_images() -> None:
    found = small_result(background=0, planned=5).summary()
    assert found["miou_without_background"] == pytest.approx((300 / 13 + 0) / 2)
    assert found["miou"] == small_result().summary()["miou"] and found["complete"] is False
    drive = small_result(clusters=np.array([0, 0])).summary()
    assert drive["images"] == 2 and drive["units"] == 1 and drive["interval"] is None  # one drive is one unit


def test_nothing_labelled() -> None:
    none = Counts(*(np.zeros((2, 4), np.int64) for _ in range(3)))
    found = small_result(counts=none).summary()
    assert found["miou"] is None and found["aacc"] is None and found["miou_per_image"] is None
    assert set(found["per_class"].values()) == {None} and found["classes_averaged"] == 0
    assert json.dumps(found, allow_nan=False)


# --- leaderboard ------------------------------------------------------------------------------------------------------


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a sealed file so that nobody notices."""
    value = unseal(path.read_bytes(), path)
    change(value)
    path.write_bytes(seal(value))


def forge(run: Run, change: Callable[[pd.DataFrame], None]) -> None:
    """Change the merged counts so that nobody notices."""
    frame = run.finished().frame
    change(frame)
    content = in_memory.parquet_bytes(frame)
    (run.folder / COUNTS).write_bytes(content)
    edit(run.folder / MANIFEST, lambda m: m.update(counts_sha256=hashlib.sha256(content).hexdigest()))


def leaderboard(results: Path) -> tuple[pd.DataFrame, str]:
    frame = board.leaderboard(results, results / "LEADERBOARD.md").frame
    return frame, (results / "LEADERBOARD.md").read_text()


def table_of(markdown: str, name: str) -> str:
    """The detailed table (between two headings) that has a line for ``name``."""
    (found,) = [s for s in markdown.split("### ")[1:] if f"\n| {name} |" in s]
    return found


def test_different_hashes_never_share_a_table(tmp_path: Path, ids: tuple[str, ...]) -> None:
    other = load_protocol("tiny").changed(logit_scale=1.0).model_copy(update={"name": "tiny"})  # the same name
    for name, spec in {"one": {}, "two": {}, "three": {"protocol": other}, "four": {"dataset": MINI}}.items():
        run, pipeline = start(tmp_path, name=name, **spec)
        work(run, pipeline, run.plan().ids[:4])
    frame, markdown = leaderboard(tmp_path)
    hashes = dict(zip(frame["method"], frame["protocol_hash"], strict=True))
    assert hashes["one"] == hashes["two"] != hashes["three"]
    assert table_of(markdown, "one") == table_of(markdown, "two") != table_of(markdown, "three")
    assert table_of(markdown, "four") not in (table_of(markdown, "one"), table_of(markdown, "three"))
    for name in ("one", "three"):
        assert hashes[name] in table_of(markdown, name)
    latex = (tmp_path / "LEADERBOARD.tex").read_text()
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 5  # two grids, three columns


def test_partial_results_are_marked_and_kept_apart(tmp_path: Path) -> None:
    for name, count in (("whole", 6), ("also", 6), ("part", 4)):
        run, pipeline = start(tmp_path, name=name, dataset=MINI)
        work(run, pipeline, run.plan().ids[:count])
    frame, markdown = leaderboard(tmp_path)
    assert dict(zip(frame["method"], frame["complete"], strict=True)) == {"whole": True, "also": True, "part": False}
    assert "partial" not in table_of(markdown, "whole") and table_of(markdown, "whole") == table_of(markdown, "also")
    assert "4 images, 4 units **(partial)**" in table_of(markdown, "part")
    assert markdown.count("(partial)") == 2  # in the overview and above the table
    latex = (tmp_path / "LEADERBOARD.tex").read_text()
    assert "(4 images, 4 units)" in latex and latex.count("Partial runs.") == 1 and latex.count(r"$^{\dagger}$") == 1


def test_exports_agree(tmp_path: Path, ids: tuple[str, ...]) -> None:
    for name in ("one", "two"):
        run, pipeline = start(tmp_path, name=name)
        work(run, pipeline, ids[:12])
    frame, markdown = leaderboard(tmp_path)
    csv = pd.read_csv(tmp_path / "LEADERBOARD.csv")
    rows = json.loads((tmp_path / "LEADERBOARD.json").read_text())
    metrics = run.finished().result.summary()
    for row in (frame.iloc[0], csv.iloc[0], rows[0]):
        assert row["miou"] == pytest.approx(metrics["miou"], abs=1e-6)
        assert [row["low"], row["high"]] == pytest.approx(metrics["interval"], abs=1e-6)
        assert row["units"] == metrics["units"] == 12
    assert list(csv.columns) == list(frame.columns) == list(rows[0])
    assert list(csv["run"]) == list(frame["run"]) == [r["run"] for r in rows]
    shown = f"{metrics['miou']:.2f} [{metrics['interval'][0]:.2f}, {metrics['interval'][1]:.2f}]"
    assert (
        markdown.count(shown) == 2 and f" {metrics['miou']:.2f}" in markdown.partition("\n### ")[0]
    )  # the grid has no interval
    side = max(b - a for a, b in pairwise((metrics["interval"][0], metrics["miou"], metrics["interval"][1])))
    assert (tmp_path / "LEADERBOARD.tex").read_text().count(rf"{{\scriptsize$\pm${side:.2f}}}") == 4
    assert set(frame["group"]) == {1}  # equal methods cannot be told apart
    assert run.folder.name in markdown


def test_a_better_method_is_told_apart(tmp_path: Path, ids: tuple[str, ...]) -> None:
    for name in ("good", "bad"):
        run, pipeline = start(tmp_path, name=name)
        work(run, pipeline, ids[:30])
        if name == "good":  # every pixel right
            forge(run, lambda frame: frame.update({"tp": frame["gt"], "pred": frame["gt"]}))
    groups = board.leaderboard(tmp_path).frame.set_index("method")["group"]
    assert groups["good"] == 1 and groups["bad"] == 2


def test_the_newest_of_two_runs_is_shown_and_both_are_exported(tmp_path: Path, ids: tuple[str, ...]) -> None:
    run, pipeline = start(tmp_path)
    work(run, pipeline, ids[:4])
    older = tmp_path / "runs" / f"{run.folder.name}-older"
    older.mkdir()
    for name in (PLAN, COUNTS, METRICS, MANIFEST):
        (older / name).write_bytes((run.folder / name).read_bytes())
    edit(older / MANIFEST, lambda m: m.update(finished="2001-01-01T00:00:00+00:00"))
    frame, markdown = leaderboard(tmp_path)
    assert list(frame["run"]) == [run.folder.name, older.name]
    assert older.name not in markdown and run.folder.name in markdown


OPENAI = "hub timm/vit_base_patch16_clip_224.openai@0123456789ab"


@pytest.mark.parametrize(
    ("weights", "refine", "expected"),
    [
        ({"name": "ViT-B-16-quickgelu", "source": OPENAI}, "none", 74.9),
        ({"name": "tiny-clip", "source": "embedded"}, "none", None),
        ({"name": "ViT-B-16", "source": "hub laion/CLIP-ViT-B-16-laion2B-s34B-b88K@0123456789ab"}, "none", 61.8),
        ({"name": "ViT-B-16-quickgelu", "source": "hub timm/vit_base_patch16_clip_224.metaclip_400m@0"}, "none", None),
        ({"name": "ViT-B-16-quickgelu", "source": "file random.safetensors"}, "none", None),
        ({"name": "ViT-B-16-quickgelu", "source": OPENAI}, "pamr", None),
    ],
)
def test_reported_values_stand_beside_the_same_weights_only(
    tmp_path: Path, weights: dict[str, str], refine: str, expected: float | None
) -> None:
    run, pipeline = start(tmp_path, name="maskclip")
    work(run, pipeline, run.plan().ids[:3])

    def voc(manifest: dict[str, Any]) -> None:
        manifest["dataset"]["key"] = "voc20"
        manifest["method"]["weights"] = {**weights, "sha256": "file:00", "activation": "quick_gelu"}
        manifest["setting"]["refine"] = refine
        manifest["described"]["published"] = find_method("maskclip").info.published

    edit(run.folder / MANIFEST, voc)
    frame, markdown = leaderboard(tmp_path)
    found = frame["reported"][0]
    if expected is None:
        assert pd.isna(found) and "74.9" not in markdown
    else:
        assert found == expected and f"{expected} (" in markdown and frame["reported_source"][0]


def test_runs_that_have_no_value(tmp_path: Path, ids: tuple[str, ...]) -> None:
    """A single image has no interval; without any valid pixel there is no mIoU."""
    run, pipeline = start(tmp_path)
    work(run, pipeline, ids[:1])
    frame, markdown = leaderboard(tmp_path)
    assert pd.isna(frame["low"][0]) and not re.search(r"\bnan\b", markdown)
    assert run_cli("leaderboard", "--results", str(tmp_path)) == 0
    other, pipeline = start(tmp_path, name="other")
    work(other, pipeline, ids[:1])
    for nothing in (run, other):  # one of them, then both
        forge(nothing, lambda f: f.update({n: f[n].map(np.zeros_like) for n in ("tp", "gt", "pred")}))
        markdown = leaderboard(tmp_path)[1]
        assert "| none |" in markdown and not re.search(r"\bnan\b", markdown)
        assert run_cli("leaderboard", "--results", str(tmp_path)) == 0


def test_options_of_a_method_do_not_hide_one_another(tmp_path: Path, ids: tuple[str, ...]) -> None:
    """The same method with another option is another line, not a newer version of the first."""
    plain, pipeline = start(tmp_path)
    work(plain, pipeline, ids[:3])
    method = Levels()
    provenance = {**method.provenance, "pad": True}
    Padded = type("Padded", (Levels,), {"provenance": property(lambda self: provenance)})
    padded, pipeline = start(tmp_path, Padded(), options={"pad": True})
    work(padded, pipeline, ids[:3])
    assert plain.folder != padded.folder
    _, markdown = leaderboard(tmp_path)
    assert plain.folder.name in markdown and padded.folder.name in markdown


def test_without_runs_there_is_no_leaderboard(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished runs"):
        board.leaderboard(tmp_path)


# --- regression baselines ---------------------------------------------------------------------------------------------

CASES = """
[[case]]
name = "shapes"
dataset = "shapes"
protocol = "tiny"
limit = 2
"""


def run_cli(*arguments: str) -> int:
    """Exit code of ``bench``, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bench", *arguments])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


@pytest.fixture(scope="module")
def baselines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("baselines")
    (folder / "cases.toml").write_text(CASES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVSS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        outcomes = regress.run_regression(folder, update=True)
    assert all(o.passed for o in outcomes)
    assert {o.method for o in outcomes} == set(regress.offline_methods())
    return folder


def stored(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "shapes.json").read_text())


def outcome_after(
    baselines: Path, folder: Path, change: Callable[[dict[str, Any]], None], elsewhere: bool
) -> regress.Outcome:
    """What comes out for MaskCLIP when the committed baseline differs from today's counts by ``change``."""
    (case,) = regress.read_cases(baselines)
    value = stored(baselines)
    found = json.loads(json.dumps(value["methods"]))
    change(value["methods"]["maskclip"])
    if elsewhere:
        value["platform"]["cpu"] = "another one"
    (folder / "shapes.json").write_text(json.dumps(value))
    outcomes = {o.method: o for o in regress.compare_case(case, folder, found)}
    assert all(o.passed for name, o in outcomes.items() if name != "maskclip")
    return outcomes["maskclip"]


def one_pixel(method: dict[str, Any]) -> None:
    method["tp"][method["tp"].index(max(method["tp"]))] -= 1


@pytest.mark.parametrize("array", ["tp", "gt", "pred"])
def test_one_pixel_fails_on_the_same_platform(baselines: Path, tmp_path: Path, array: str) -> None:
    def change(method: dict[str, Any]) -> None:
        method[array][0] += 1

    found = outcome_after(baselines, tmp_path, change, elsewhere=False)
    assert found.same_platform and found.different_pixels == 1 and not found.passed


def test_one_pixel_passes_elsewhere(baselines: Path, tmp_path: Path) -> None:
    found = outcome_after(baselines, tmp_path, one_pixel, elsewhere=True)
    assert not found.same_platform and found.different_pixels == 1 and found.passed


@pytest.mark.parametrize(("step", "passes"), [(0.01, False), (-0.01, False), (0.004, True)])
def test_a_digit_of_miou_fails_elsewhere(baselines: Path, tmp_path: Path, step: float, passes: bool) -> None:
    def change(method: dict[str, Any]) -> None:
        method["miou"] += step

    assert outcome_after(baselines, tmp_path, change, elsewhere=True).passed is passes


def test_a_method_without_a_baseline_fails(baselines: Path, tmp_path: Path) -> None:
    (case,) = regress.read_cases(baselines)
    value = stored(baselines)
    found = dict(value["methods"])
    del value["methods"]["maskclip"]
    (tmp_path / "shapes.json").write_text(json.dumps(value))
    assert {o.method for o in regress.compare_case(case, tmp_path, found) if not o.passed} == {"maskclip"}


def test_a_baseline_without_its_method_fails(baselines: Path) -> None:
    (case,) = regress.read_cases(baselines)
    found = {k: v for k, v in stored(baselines)["methods"].items() if k != "sclip"}
    with pytest.raises(UserError, match="gone: sclip"):
        regress.compare_case(case, baselines, found)


def test_bench_regress(baselines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regress, "offline_methods", lambda: ["clip", "maskclip"])
    (tmp_path / "cases.toml").write_text(CASES)
    value = stored(baselines)
    value["methods"] = {k: value["methods"][k] for k in ("clip", "maskclip")}
    (tmp_path / "shapes.json").write_text(json.dumps(value))
    assert run_cli("regress", "--baselines", str(tmp_path)) == 0
    value = stored(tmp_path)
    one_pixel(value["methods"]["maskclip"])
    (tmp_path / "shapes.json").write_text(json.dumps(value))
    assert run_cli("regress", "--baselines", str(tmp_path)) == 1
    assert run_cli("regress", "--baselines", str(tmp_path), "--update") == 0
    assert stored(tmp_path)["methods"]["maskclip"] == stored(baselines)["methods"]["maskclip"]
    assert stored(tmp_path)["platform"] == regress.platform_mark()


def test_regress_without_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cases\.toml does not exist.*--baselines"):
        regress.read_cases(tmp_path)
    (tmp_path / "cases.toml").write_text(CASES)
    (case,) = regress.read_cases(tmp_path)
    with pytest.raises(UserError, match="bench regress --update"):
        regress.compare_case(case, tmp_path, {})
    (tmp_path / "cases.toml").write_text(CASES.replace("limit = 2", "limit = 0"))
    with pytest.raises(UserError, match="limit"):
        regress.read_cases(tmp_path)
