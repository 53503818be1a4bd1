"""Labels that a guide corrects, under any method: SAM with random weights that is sure of every mask."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ovss.datasets import open_dataset
from ovss.harness.decoding.decode import decode
from ovss.harness.decoding.heat import ClassMaps
from ovss.harness.protocol.protocol import Setting, load_protocol
from ovss.harness.runs import pipeline as module
from ovss.harness.runs.photo import Photo
from ovss.harness.runs.pipeline import Clock, Pipeline
from ovss.harness.runs.swept import SweptLane
from ovss.methods import UserError, create_method
from ovss.methods.core.picture import Memo
from ovss.methods.models.sam import Sam
from ovss.methods.refine.sam_prompts import PromptedLabels, SamPrompts

from ...methods.sam_parts import random_sam

DATA = open_dataset("shapes")


@pytest.fixture(scope="module")
def sam() -> Sam:
    return random_sam(surer=2.0)


def pipeline_of(monkeypatch: pytest.MonkeyPatch, sam: Sam, **changes: Any) -> Pipeline:
    def load(device: str, threshold: float, multiple_px: int | None) -> SamPrompts:
        assert device == "cpu" and multiple_px == 8  # the patch of tiny-clip
        return SamPrompts(sam, threshold, multiple_px)

    monkeypatch.setattr(module, "load_label_guide", load)
    setting = load_protocol("tiny").changed(refine="sam", **changes).setting("shapes")
    return Pipeline(create_method("maskclip", backbone="tiny-clip"), setting, DATA.record)


def test_the_last_word_on_labels(monkeypatch: pytest.MonkeyPatch, sam: Sam) -> None:
    """What the pipeline gives is the refiner's answer to the labels and probabilities of the same scores."""
    pipe = pipeline_of(monkeypatch, sam, refine_threshold=0.05)
    clock, sample = Clock(), DATA.load(DATA.ids[0])
    with Memo() as memo:
        photo = Photo(sample.image, sample.id, memo)
        found = pipe.predict(photo, clock)
        (picture,) = photo.pictures(pipe.setting)
        decision = pipe.decision(pipe.observe(picture, Clock()), Clock())
        assert len(decision.then) == 1
        scores, size, rule = decision.scores, decision.size, decision.rule
        plain = decode(scores, size, rule)
        maps = torch.stack([ClassMaps(scores, size, rule)(k) for k in range(pipe.num_classes)])
        guide = SamPrompts(sam, 0.05, 8)
        wanted = PromptedLabels(guide, sam.look(picture, 8)).corrected(plain, pipe.num_classes, maps.__getitem__)
    assert torch.equal(found, wanted) and bool((found != plain).any())
    torch.testing.assert_close(maps.sum(dim=0), torch.ones(size), atol=1e-4, rtol=0)
    assert clock.seconds["refine"] > 0 and min(clock.seconds.values()) >= 0
    assert pipe.guide is not None and pipe.guide.provenance["threshold"] == 0.05


def test_sam_looks_once_for_all_methods(monkeypatch: pytest.MonkeyPatch, sam: Sam) -> None:
    pipes = [pipeline_of(monkeypatch, sam, refine_threshold=t) for t in (0.0, 0.1)]
    seen: list[Tensor] = []
    see = sam.see
    monkeypatch.setattr(sam, "see", lambda image: (seen.append(image), see(image))[1])
    sample = DATA.load(DATA.ids[1])
    with Memo() as memo:
        for pipe in pipes:
            pipe.predict(Photo(sample.image, sample.id, memo), Clock())
    assert len(seen) == 1


def test_a_sweep_asks_for_every_threshold(monkeypatch: pytest.MonkeyPatch, sam: Sam) -> None:
    pipe = pipeline_of(monkeypatch, sam)
    lane = SweptLane(None, pipe, DATA, "probability_threshold", (), ())  # type: ignore[arg-type]
    assert not lane.at_once
    plain = pipe.under(load_protocol("tiny").setting("shapes"))
    assert SweptLane(None, plain, DATA, "probability_threshold", (), ()).at_once  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"complement": True}, {"class_gate": 0.5}, {"class_scaling": "max"}])
def test_rules_without_probabilities_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="refine = 'sam' weighs masks by probabilities"):
        Setting(refine="sam", **wrong)
    with pytest.raises(ValueError, match="set refine to none, or upsample to frame"):
        Setting(refine="sam", upsample="labels")


def test_absent_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("OVSS_CACHE", str(tmp_path))
    setting = load_protocol("tiny").changed(refine="sam").setting("shapes")
    with pytest.raises(UserError, match="bench weights fetch sam-vitb-hf"):
        Pipeline(create_method("maskclip", backbone="tiny-clip"), setting, DATA.record)
