"""A pass for many values gives the counts of a pass for each, whatever the rule, and runs the method once."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ovss.datasets import Dataset, check_samples
from ovss.harness.decoding import decode as decoding
from ovss.harness.metrics.counting import count, count_reference
from ovss.harness.metrics.counts import Counts
from ovss.harness.protocol.protocol import Protocol, load_protocol
from ovss.harness.runs.loading import Loading
from ovss.harness.runs.photo import Photo
from ovss.harness.runs.pipeline import Clock, Pipeline
from ovss.harness.runs.plan import RunSpec, make_plan
from ovss.harness.runs.sources import open_any
from ovss.harness.runs.swept import SweptLane, sweep_through
from ovss.methods import Backbone, UserError, create_method, load_backbone
from ovss.methods.blocks.dense_clip import DenseClip

from ...things import write_things

GATED = {"average": "probability", "class_scaling": "max", "class_gate": 0.2, "window_px": 48, "stride_px": 32}
VALUES = (0.0, 0.1, 0.2, 0.35, 0.5, 0.9)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_any(str(write_things(tmp_path_factory.mktemp("home") / "things", 4)))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("tiny-clip")


def lane_for(
    data: Dataset, backbone: Backbone, field: str, values: tuple[float, ...], method: str = "maskclip", **changes: Any
) -> SweptLane:
    protocol: Protocol = load_protocol("tiny").changed(**{"logit_scale": 40.0, "templates": "simple", **changes})
    spec = RunSpec(method=method, dataset="things", protocol=protocol, backbone="tiny-clip")
    pipeline = Pipeline(create_method(method, backbone=backbone), protocol.setting("things"), data.record)
    plan = make_plan(spec, pipeline, data, check_samples(data, data.ids).digests)
    return SweptLane.of(plan, pipeline, data, field, values)


def one_by_one(lane: SweptLane) -> Counts:
    """A pipeline of its own for each value."""
    found = []
    for image_id in lane.data.ids:
        sample, row = lane.data.load(image_id), []
        for value in lane.values:
            protocol = lane.plan.spec.protocol.changed(**{lane.field: value})
            pipeline = Pipeline(lane.pipeline.method, protocol.setting("things"), lane.data.record)
            labels = pipeline.predict(Photo(sample.image, image_id), Clock())
            row.append(count(labels, torch.from_numpy(sample.label.copy()), len(lane.data.record.classes)))
        found.append(Counts.stack(row))
    return Counts.stack(found)


def assert_equal(one: Counts, other: Counts) -> None:
    for name in ("tp", "gt", "pred"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"area_threshold": 0.3},
        {"upsample": "labels"},
        {"upsample": "direct", "columns": 2, "short_side_px": 96},
        {"average": "probability", "window_px": 48, "stride_px": 32},
        {"refine": "pamr", "refine_steps": 2},
        {"probability_threshold": 0.4},
    ],
    ids=lambda changes: "+".join(changes) or "plain",
)
def test_one_decode_is_as_good_as_one_for_each_threshold(
    data: Dataset, backbone: Backbone, changes: dict[str, Any]
) -> None:
    lane = lane_for(data, backbone, "probability_threshold", VALUES, **changes)
    assert lane.at_once
    (found,) = sweep_through([lane], data.ids, lambda count: None)
    assert_equal(found, one_by_one(lane))
    assert len(np.unique(found.pred.sum(axis=0), axis=0)) > 3  # thresholds that move nothing prove nothing


@pytest.mark.parametrize(
    ("field", "values", "changes"),
    [
        ("probability_threshold", (0.0, 0.1, 0.4), GATED),
        ("class_gate", (0.1, 0.5, 0.8), GATED),
        ("probability_threshold", (0.0, 0.2, 0.5), {"closing_px": 3}),
        ("area_threshold", (0.0, 0.2, 0.5), {}),
        ("area_threshold", (0.0, 0.2), {"probability_threshold": 0.4}),
        ("logit_scale", (5.0, 40.0), {"probability_threshold": 0.3}),
        ("logit_scale", (5.0, 40.0), {"probability_threshold": 0.3, "average": "probability"}),
        ("probability_threshold", (0.0, 0.5, 0.9), {"region_vote": "slic", "region_options": {"segments": 60}}),
    ],
)
def test_other_fields_and_rules_are_decoded_for_each_value(
    data: Dataset, backbone: Backbone, field: str, values: tuple[float, ...], changes: dict[str, Any]
) -> None:
    lane = lane_for(data, backbone, field, values, **changes)
    assert not lane.at_once
    (found,) = sweep_through([lane], data.ids, lambda count: None)
    assert_equal(found, one_by_one(lane))
    assert len(np.unique(found.pred.sum(axis=0), axis=0)) == len(values)


def test_the_reference_decoder_agrees(data: Dataset, backbone: Backbone) -> None:
    lane = lane_for(data, backbone, "probability_threshold", VALUES)
    (found,) = sweep_through([lane], data.ids[:2], lambda count: None)
    for row, image_id in enumerate(data.ids[:2]):
        sample = data.load(image_id)
        (seen,) = (lane.pipeline.observe(p, Clock()) for p in Photo(sample.image).pictures(lane.pipeline.setting))
        for number, variant in enumerate(lane.variants):
            labels = decoding.decode_reference(seen.scores, seen.size, variant.rule)
            wanted = count_reference(labels, torch.from_numpy(sample.label.copy()), 15)
            # Sums of exponentials in another order: a pixel may lie on the other side of a threshold.
            assert np.abs(found.pred[row, number] - wanted.pred).sum() <= 4
            assert np.array_equal(found.gt[row, number], wanted.gt)


def test_the_method_runs_once_for_all_values_and_methods_share(
    data: Dataset, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    plain = DenseClip.encode_image

    def seen(self: Any, *rest: Any) -> Any:
        calls.append(self.info.name)
        return plain(self, *rest)

    monkeypatch.setattr(DenseClip, "encode_image", seen)
    lanes = [lane_for(data, backbone, "probability_threshold", VALUES, method=m) for m in ("maskclip", "clip")]
    steps: list[int] = []
    found = sweep_through(lanes, data.ids, steps.append)
    assert sorted(calls) == ["clip"] * 4 + ["maskclip"] * 4 and steps == [1] * 4
    alone = [sweep_through([lane], data.ids, steps.append)[0] for lane in lanes]
    for one, other in zip(found, alone, strict=True):
        assert_equal(one, other)


def test_the_kernels_decode_each_value(data: Dataset, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """They decide by themselves, and a sweep must say what runs say."""
    lane = lane_for(data, backbone, "probability_threshold", VALUES)
    monkeypatch.setattr("ovss.harness.runs.swept.decoder_name", lambda device: "triton")
    assert not lane.at_once


def test_images_that_were_loaded_ahead_give_the_same_counts(
    data: Dataset, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By threads, and through a folder that keeps them decoded; methods still read a file once."""
    lanes = [lane_for(data, backbone, "probability_threshold", VALUES, method=m) for m in ("maskclip", "clip")]
    wanted = sweep_through(lanes, data.ids, lambda count: None)
    plain, by, read = type(data).load, set(), []

    def load(self: Dataset, image_id: str, once: Any) -> Any:
        by.add(threading.current_thread().name)
        return plain(self, image_id, lambda key, make: once(key, lambda: read.append(key) or make()))  # type: ignore[func-returns-value]

    monkeypatch.setattr(type(data), "load", load)
    for how in (Loading(threads=2), Loading(decoded=tmp_path / "kept"), Loading(threads=1, decoded=tmp_path / "kept")):
        by.clear()
        read.clear()
        for one, other in zip(sweep_through(lanes, data.ids, lambda count: None, how), wanted, strict=True):
            assert_equal(one, other)
        assert by == ({"loader"} if how.threads else {threading.current_thread().name})
        assert len(read) == len(set(read)) == (len(data.ids) if how.decoded and how.threads else 2 * len(data.ids))
    assert len(list((tmp_path / "kept").iterdir())) == len(data.ids)


@pytest.mark.parametrize("threads", [0, 2])
def test_an_image_that_has_changed_is_refused(tmp_path: Path, backbone: Backbone, threads: int) -> None:
    """In its turn: those before it are counted."""
    data = open_any(str(write_things(tmp_path / "things", 2)))
    lane = lane_for(data, backbone, "probability_threshold", VALUES)
    first, second = (tmp_path / "things" / "images" / f"{n:02d}.png" for n in (0, 1))
    second.write_bytes(first.read_bytes())
    steps: list[int] = []
    with pytest.raises(UserError, match="image 01 has changed"):
        sweep_through([lane], data.ids, steps.append, Loading(threads=threads))
    assert steps == [1]


def test_values_that_a_protocol_does_not_allow_are_refused(data: Dataset, backbone: Backbone) -> None:
    with pytest.raises(UserError, match=r"less than 1, not '1\.5'"):
        lane_for(data, backbone, "probability_threshold", (0.5, 1.5))
