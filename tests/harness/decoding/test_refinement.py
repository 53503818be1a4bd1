"""Guides in the pipeline: what reaches a guide, what it gives back, and what that does to classes."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.datasets import DatasetRecord
from ovss.harness.decoding.decode import decode_reference
from ovss.harness.decoding.refinement import on_grid, refine_field, without_class
from ovss.harness.decoding.rule import DecodeRule
from ovss.harness.protocol.protocol import Setting
from ovss.harness.runs import pipeline as pipeline_module
from ovss.harness.runs.photo import Photo
from ovss.harness.runs.pipeline import Clock, Pipeline
from ovss.methods import MethodInfo, ScoreField, UserError, Vocabulary
from ovss.methods.core.windows import Box, WindowGeometry

from ...agreement import assert_best, settled
from ...toys import Toy

RECORD = DatasetRecord(key="toy", title="Toy", images="", labels="", classes=("none", "cat", "dog"), background=0)


@dataclass
class Shift:
    """A guide that moves every map one column to the right, and remembers what it was shown."""

    grid: tuple[int, int] = (4, 4)
    seen: list[tuple[tuple[int, ...], str]] = field(default_factory=list)
    maps: list[Tensor] = field(default_factory=list)
    note: str = "shifted"
    provenance: Any = None

    def observe(self, image: Tensor, name: str) -> "Shift":
        assert image.dtype == torch.uint8
        self.seen.append((tuple(image.shape), name))
        return self

    def propagate(self, maps: Tensor) -> Tensor:
        self.maps.append(maps)
        return maps.roll(1, dims=2)


class Columns(Toy):
    """Query k is 1 in column k of a 2 x 2 grid; the last query nowhere."""

    info = MethodInfo(name="columns", title="Columns", paper="none")

    def score_pixels(self, pixels: Tensor, vocabulary: Vocabulary) -> Tensor:
        scores = torch.zeros(len(pixels), len(vocabulary.queries), 2, 2)
        for k in range(min(2, scores.shape[1])):
            scores[:, k, :, k] = 1
        return scores


def make(monkeypatch: pytest.MonkeyPatch, guide: Shift | None, **values: Any) -> Pipeline:
    monkeypatch.setattr(pipeline_module, "guide_for", lambda setting, method: guide)
    return Pipeline(Columns(), Setting(templates="simple", **values), RECORD)


def field_of(scores: Tensor, frame: tuple[int, int], owners: tuple[int, ...]) -> ScoreField:
    whole = (Box(0, 0, *frame),)
    return ScoreField(scores, whole, whole, frame, owners)


def test_one_map_is_resized_in_one_step() -> None:
    scores = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    found = on_grid(field_of(scores, (80, 112), (0, 1, 2)), (6, 6))
    assert torch.equal(found, F.interpolate(scores, (6, 6), mode="bilinear", align_corners=False)[0])


def test_windows_are_averaged_in_the_frame_and_resized() -> None:
    boxes = tuple(WindowGeometry(4, 2).boxes(6, 8))
    scores = torch.rand(len(boxes), 2, 3, 3, generator=torch.Generator().manual_seed(0))
    windowed = ScoreField(scores, boxes, boxes, (6, 8), (0, 1))
    total, visits = torch.zeros(2, 6, 8), torch.zeros(6, 8)
    for grid, box in zip(windowed.scores, boxes, strict=True):
        place = (slice(box.top, box.bottom), slice(box.left, box.right))
        total[(slice(None), *place)] += F.interpolate(grid[None], (4, 4), mode="bilinear", align_corners=False)[0]
        visits[place] += 1
    expected = F.interpolate((total / visits)[None], (5, 5), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(on_grid(windowed, (5, 5)), expected, rtol=1e-5, atol=1e-6)


def test_a_refined_field_by_hand() -> None:
    scores = torch.tensor([[[[0.2, 0.8]], [[0.6, 0.0]], [[0.1, 0.3]]]])
    coarse = field_of(scores, (10, 20), (0, 2, 2))

    class Half(Shift):
        def propagate(self, maps: Tensor) -> Tensor:
            return maps / 2

    refined = refine_field(coarse, Half(grid=(1, 2)), (30, 40))
    assert torch.equal(refined.scores, scores / 2)
    assert refined.boxes == refined.covers == (Box(0, 0, 30, 40),) and refined.frame == (30, 40)
    assert refined.query_to_class == (0, 2, 2) and refined.activated is False
    assert refined.class_scores is not None  # (0.4 + 0.8) / 2, no query, (0.3 + 0.6) / 2
    assert refined.class_scores.tolist() == pytest.approx([0.6, 0.0, 0.45])


def test_queries_of_a_class_are_left_out() -> None:
    scores = torch.rand(1, 4, 2, 2)
    left = without_class(field_of(scores, (8, 8), (1, 0, 2, 1)), 1)
    assert left.query_to_class == (0, 2) and torch.equal(left.scores, scores[:, [1, 2]])
    only = field_of(scores, (8, 8), (1, 1, 1, 1))
    assert without_class(only, 1) is only


@pytest.mark.parametrize(("unwanted", "level"), [(0, [0.1, 0.2, 0.3]), (2, [0.1, 0.2])])
def test_image_level_scores_stay_with_their_classes(unwanted: int, level: list[float]) -> None:
    """They are counted by class, not by query: without the highest class there is one less."""
    rated = replace(field_of(torch.rand(1, 3, 2, 2), (8, 8), (2, 0, 1)), class_scores=torch.tensor([0.1, 0.2, 0.3]))
    left = without_class(rated, unwanted)
    assert left.class_scores is not None and left.class_scores.tolist() == pytest.approx(level)


def test_the_guide_sees_the_image_at_its_own_size_and_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    guide = Shift()
    image = np.zeros((30, 40, 3), np.uint8)
    clock = Clock()
    labels = make(monkeypatch, guide, short_side_px=16).predict(Photo(image, "photo"), clock)
    assert guide.seen == [((3, 30, 40), "photo")]
    assert clock.seconds["refine"] > 0
    coarse = field_of(guide.maps[0][None], (30, 40), (0, 1, 2))
    moved = field_of(guide.maps[0].roll(1, dims=2)[None], (30, 40), (0, 1, 2))
    sure = settled(moved, (30, 40), DecodeRule())
    assert sure.float().mean() > 0.9
    assert torch.equal(labels[sure], decode_reference(moved, (30, 40))[sure])
    assert not torch.equal(labels[sure], decode_reference(coarse, (30, 40))[sure])


def test_columns_are_seen_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part by its own name, its labels where it was: the bright half of an image is class 1."""
    image = np.zeros((30, 41, 3), np.uint8)
    image[:, 21:] = 255

    class Bright(Shift):
        def observe(self, image: Tensor, name: str) -> "Shift":
            self.bright = bool(image.float().mean() > 127)
            return super().observe(image, name)

        def propagate(self, maps: Tensor) -> Tensor:
            return torch.stack([maps[0] * 0 + (0.0 if self.bright else 1.0), maps[1] * 0 + 0.5, maps[2] * 0])

    guide = Bright()
    labels = make(monkeypatch, guide, short_side_px=16, columns=2).predict(Photo(image, "photo"), Clock())
    assert guide.seen == [((3, 30, 21), "photo"), ((3, 30, 20), "photo#1")]
    assert (labels[:, :21] == 0).all() and (labels[:, 21:] == 1).all()


def test_a_grid_goes_to_the_output_at_once_or_by_way_of_the_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(Columns, "score_pixels", lambda self, *given: scores)
    image, sizes = np.zeros((75, 100, 3), np.uint8), {"frame": [(64, 85), (75, 100)], "direct": [(75, 100)]}
    found = {}
    for upsample, steps in sizes.items():
        maps = scores
        for size in steps:
            maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
        found[upsample] = make(monkeypatch, None, short_side_px=64, upsample=upsample).predict(Photo(image), Clock())
        assert_best(found[upsample], maps[0], gap=1e-5)
    assert not torch.equal(found["frame"], found["direct"])


def test_one_guide_looks_once_for_all_data_sets_of_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    guide = Shift()
    pipelines = [make(monkeypatch, guide), make(monkeypatch, guide), make(monkeypatch, None)]
    clocks = [Clock() for _ in pipelines]
    image = np.zeros((16, 16, 3), np.uint8)
    photo = Photo(image, "a")
    first, second, plain = (p.predict(photo, clock) for p, clock in zip(pipelines, clocks, strict=True))
    assert guide.seen == [((3, 16, 16), "a")]
    assert torch.equal(first, second) and not torch.equal(first, plain)
    assert torch.equal(plain, pipelines[2].predict(Photo(image, "a"), Clock()))
    assert clocks[0].seconds["refine"] > 0 and clocks[1].seconds["refine"] > 0


def test_a_gated_rule_refines_no_background(monkeypatch: pytest.MonkeyPatch) -> None:
    guide, image = Shift(), np.zeros((16, 16, 3), np.uint8)
    gated: dict[str, Any] = {"average": "probability", "class_gate": 0.0}
    make(monkeypatch, guide, **gated).predict(Photo(image), Clock())
    make(monkeypatch, guide, average="probability").predict(Photo(image), Clock())
    assert [len(maps) for maps in guide.maps] == [2, 3]
    assert torch.equal(guide.maps[0], guide.maps[1][1:])


def test_scores_that_are_not_finite_never_reach_a_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    guide = Shift()
    pipeline = make(monkeypatch, guide)
    monkeypatch.setattr(Columns, "score_pixels", lambda self, *given: torch.full((1, 3, 2, 2), float("nan")))
    with pytest.raises(UserError, match="12 of 12 scores are NaN"):
        pipeline.predict(Photo(np.zeros((16, 16, 3), np.uint8)), Clock())
    assert guide.maps == []


def test_the_note_of_a_guide_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make(monkeypatch, Shift()).note == "shifted"
    assert make(monkeypatch, None).note == ""
