"""Merging in blocks gives what merging in memory gives; packing keeps every row."""

import dataclasses
import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ovss.harness.metrics.counts import Counts
from ovss.harness.metrics.of_confusion import dense, sparse, table_counts
from ovss.harness.metrics.result import EvalResult
from ovss.harness.runs import counts_file, merging, packing, parts
from ovss.harness.runs.manifest import cost, images_sha256
from ovss.harness.runs.parts import ImageResult, Stamp
from ovss.harness.runs.plan import Plan
from ovss.harness.runs.run import COUNTS, METRICS, Run
from ovss.harness.runs.scored import STAGES, Scored
from ovss.harness.runs.survey import survey
from ovss.methods import UserError

from . import in_memory
from .test_runs import CLASSES, planned

IMAGES = 41
ASKED: list[dict[str, Any]] = [{}, {"boundary": True}, {"confusion": True}, {"boundary": True, "confusion": True}]


def results_for(plan: Plan, seed: int = 0) -> list[ImageResult]:
    rng = np.random.default_rng(seed)
    found = []
    for image in plan.ids:
        # Label classes are rare, one image has no pixel, and one more column is "none of the classes".
        table = rng.integers(0, 50, (CLASSES, CLASSES + 1)) * (rng.random((CLASSES, CLASSES + 1)) < 0.5)
        if image == plan.ids[7]:
            table[:] = 0
        whole = np.vstack([table, np.zeros(CLASSES + 1, np.int64)])
        counts = table_counts(whole).first(CLASSES)
        half = Counts(counts.tp // 2, counts.gt // 2, counts.pred // 2)
        scored = Scored(
            counts,
            int(counts.gt.sum()),
            half if plan.spec.boundary else None,
            sparse(whole) if plan.spec.confusion else None,
        )
        seconds = {stage: float(rng.random()) for stage in STAGES}
        found.append(ImageResult(image, scored, seconds, int(rng.integers(1, 10**9)), bool(rng.random() < 0.8)))
    return found


def full_identity(plan: Plan) -> Plan:
    """A plan that a manifest can be made of."""
    empty: dict[str, Any] = {key: {} for key in ("method", "dataset", "protocol", "setting")}
    named: dict[str, Any] = dict.fromkeys(("vocabulary_hash", "device_type", "source_hash"), "")
    asked = {"boundary": plan.spec.boundary, "confusion": plan.spec.confusion}
    identity = empty | named | asked | {"method_source_hash": None, "guide": None}
    identity["dataset"] = {"key": "small", "split": "all"}
    return plan.model_copy(update={"identity": identity})


def spread(folder: Path, results: Sequence[ImageResult], plan: Plan, most: int = 6) -> None:
    """Parts of any size in any order; some rows twice."""
    left, rng = list(results), random.Random(3)
    rng.shuffle(left)
    while left:
        size = rng.randint(1, most)
        parts.write_part(folder, left[:size], Stamp.of(plan, "cpu"))
        if rng.random() < 0.4:
            slower = [dataclasses.replace(r, seconds=dict.fromkeys(STAGES, 9.0)) for r in left[:2]]
            parts.write_part(folder, slower, Stamp.of(plan, "cpu"))
        del left[:size]


def made(folder: Path, asked: dict[str, Any]) -> tuple[Run, Plan]:
    """A run that was not merged."""
    plan = full_identity(planned(IMAGES, **asked))
    run = Run.at(folder, plan)
    run.begin(plan)
    spread(run.parts_folder, results_for(plan), plan)
    return run, plan


def in_blocks(patch: pytest.MonkeyPatch, block: int) -> None:
    """As if the run were too large for memory."""
    patch.setattr(merging, "ROWS", block)
    patch.setattr(counts_file, "BLOCK", block)
    patch.setattr(merging, "_IN_MEMORY_BYTES", 1)
    for name in ("_FILE_BYTES", "_COUNTS_BYTES"):
        patch.setattr(counts_file, name, 1)
    patch.setattr("ovss.harness.metrics.counts.BLOCK", block)
    patch.setattr("ovss.harness.metrics.over_images._VALUES", 30)
    patch.setattr("ovss.harness.metrics.draws._MOST_AT_ONCE", 300)


def plain_result(run: Run, plan: Plan) -> EvalResult:
    frame = in_memory.rows_of(run.parts_folder)
    return EvalResult(
        record=plan.record,
        ids=tuple(frame["image"]),
        counts=in_memory.counts_of(frame, CLASSES),
        clusters=np.arange(len(frame)),
        planned=plan.planned,
        averaging=plan.setting.averaging,
        boundary=in_memory.counts_of(frame, CLASSES, "boundary_") if plan.spec.boundary else None,
        confusion=in_memory.confusion_of(frame) if plan.spec.confusion else None,
    )


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_the_file_has_the_bytes_of_the_plain_way(tmp_path: Path, asked: dict[str, Any]) -> None:
    run, plan = made(tmp_path, asked)
    run.merge()
    frame = in_memory.rows_of(run.parts_folder)
    assert len(frame) == IMAGES
    assert (run.folder / COUNTS).read_bytes() == in_memory.counts_bytes(frame)
    assert run.finished().summary == plain_result(run, plan).summary()
    manifest = run.manifest()
    assert manifest.counts_sha256 == hashlib.sha256((run.folder / COUNTS).read_bytes()).hexdigest()
    assert {k: getattr(manifest, k) for k in cost(frame)} == cost(frame)
    lines = [f"{i} {c}" for i, c in zip(frame["image"], frame["content"], strict=True)]
    assert manifest.images_sha256 == images_sha256(frame) == hashlib.sha256("\n".join(lines).encode()).hexdigest()


@pytest.mark.parametrize("block", [1, 5, 40])
@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_blocks_give_the_same_rows_and_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], block: int
) -> None:
    run, plan = made(tmp_path, asked)
    in_blocks(monkeypatch, block)
    run.merge()
    frame, found = in_memory.rows_of(run.parts_folder), run.finished()
    groups = pq.read_metadata(run.folder / COUNTS)
    assert [groups.row_group(k).num_rows for k in range(groups.num_row_groups)] == [
        min(block, IMAGES - start) for start in range(0, IMAGES, block)
    ]
    expected = frame[[c for c in frame.columns if c in in_memory.KEPT]]
    assert in_memory.parquet_bytes(pd.read_parquet(run.folder / COUNTS)) == in_memory.parquet_bytes(expected)
    assert found.summary == plain_result(run, plan).summary() and run.is_merged()
    assert not isinstance(found.result.counts, Counts)  # it was read in blocks
    if plan.spec.confusion:
        size = CLASSES + 1
        assert np.array_equal(dense(found.result.confusion, size), dense(in_memory.confusion_of(frame), size))
    assert [p.name for p in run.folder.iterdir() if p.name.endswith(".tmp")] == []


def test_some_images_of_a_stored_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _plan = made(tmp_path, {"confusion": True})
    in_blocks(monkeypatch, 4)
    run.merge()
    wanted = tuple(f"image_{k:02d}" for k in (3, 4, 20, 40))
    some, frame = run.finished(wanted), in_memory.rows_of(run.parts_folder)
    frame = frame[frame["image"].isin(wanted)]
    expected = in_memory.counts_of(frame, CLASSES)
    assert some.result.ids == wanted == tuple(some.frame["image"])
    assert np.array_equal(some.result.counts.tp, expected.tp) and np.array_equal(some.result.counts.gt, expected.gt)
    cells, size = in_memory.confusion_of(frame), CLASSES + 1
    assert np.array_equal(dense(some.result.confusion, size), dense(cells, size))
    stored, every = run.finished().result.counts, in_memory.counts_of(in_memory.rows_of(run.parts_folder), CLASSES)
    for name in ("tp", "gt", "pred"):
        assert np.array_equal(getattr(stored, name), getattr(every, name))
        assert np.array_equal(getattr(stored.total(), name), getattr(every.total(), name))
    assert np.array_equal(stored.labelled(), (every.gt > 0).sum(axis=0)) and len(stored) == IMAGES


def test_a_run_in_blocks_is_damaged_as_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _plan = made(tmp_path, {})
    in_blocks(monkeypatch, 4)
    run.merge()
    content = bytearray((run.folder / COUNTS).read_bytes())
    content[len(content) // 2] ^= 1
    (run.folder / COUNTS).write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"counts.parquet is damaged, or does not belong"):
        run.finished()
    assert not run.is_merged()


def test_the_first_contradiction_is_named(tmp_path: Path) -> None:
    """Two images contradict; that other rows are there twice and are equal does not matter."""
    plan = planned(IMAGES)
    results = results_for(plan)
    for chosen in (results, results[10:20]):
        parts.write_part(tmp_path, chosen, Stamp.of(plan, "cpu"))
    assert len(survey(tmp_path, plan).frame) == IMAGES
    for result in (results[30], results[12]):
        counts = dataclasses.replace(result.scored.counts, pred=result.scored.counts.tp)
        wrong = dataclasses.replace(result.scored, counts=counts)
        parts.write_part(tmp_path, [dataclasses.replace(result, scored=wrong)], Stamp.of(plan, "cpu"))
    with pytest.raises(UserError, match=r"two different results for image image_12 \(pred\)"):
        survey(tmp_path, plan)


def test_packing_in_little_memory_keeps_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(IMAGES)
    for number, start in enumerate(range(0, IMAGES, 2)):
        made_by = Stamp.of(plan, "cpu", workers=1 + number % 3)
        parts.write_part(tmp_path, results_for(plan)[start : start + 2], made_by)
    before, stamps = in_memory.rows_of(tmp_path), {s.maker for s in survey(tmp_path, plan).stamps}
    monkeypatch.setattr(packing, "_ROWS", 8)
    monkeypatch.setattr(packing, "_PENDING", 12)
    packing.pack(tmp_path, plan, more_than=5)
    packed = parts.part_files(tmp_path)
    assert len(packed) < 12 and max(map(parts.rows_of, packed)) <= 12
    assert in_memory.parquet_bytes(in_memory.rows_of(tmp_path)) == in_memory.parquet_bytes(before)
    assert {s.maker for s in survey(tmp_path, plan).stamps} == stamps
    large = {path for path in packed if parts.rows_of(path) >= 4}
    packing.pack(tmp_path, plan, more_than=0)
    assert large <= set(parts.part_files(tmp_path))  # what is large is not packed again


def test_metrics_are_written_as_before(tmp_path: Path) -> None:
    """Two merges of one run, the second in blocks."""
    run, _plan = made(tmp_path, {"boundary": True, "confusion": True})
    run.merge()
    whole = (run.folder / METRICS).read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        in_blocks(patch, 6)
        run.merge()
    assert (run.folder / METRICS).read_bytes() == whole
