"""SAM's refinement of labels against outputs of the original program (tests/data/oracles) with given masks."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ovss.methods.models.sam import Sam, SamView
from ovss.methods.refine.sam_prompts import PromptedLabels, SamPrompts, find_regions

from ..oracle_parts import error, load_oracle

RULES = {
    "usual": {"threshold": 0.5, "least_px": 30},
    "no_unsure": {"threshold": 0.0, "least_px": 45},
    "all_rejected": {"threshold": 0.5, "least_px": 30, "least_iou": 1.0},
}
VIEW = SamView((96, 128), (768, 1024), None, None)  # type: ignore[arg-type]

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def oracle() -> dict[str, Tensor]:
    return load_oracle("trident-refine")


class GivenSam:
    """Answers of the vectors, call by call."""

    side = 1024
    on_image = Sam.on_image

    def __init__(self, logits: Tensor, sure: Tensor) -> None:
        self.logits, self.sure, self.asked = logits, sure, 0

    def masks(self, view: SamView, points: Tensor, boxes: Tensor, hint: Tensor) -> tuple[Tensor, Tensor]:
        some = slice(self.asked, self.asked + len(points))
        self.asked += len(points)
        return self.logits[some, None], self.sure[some, None]


def sam_of(oracle: dict[str, Tensor], case: str) -> Any:
    masks = "usual" if case == "all_rejected" else case
    return GivenSam(oracle[f"{masks}.sam_low_res_x8"].float() / 8, oracle[f"{case}.sam_iou"])


@pytest.mark.parametrize("case", RULES)
def test_prompts(oracle: dict[str, Tensor], case: str) -> None:
    rule = SamPrompts(GivenSam(torch.zeros(0), torch.zeros(0)), **RULES[case])  # type: ignore[arg-type]
    labels, maps = oracle[f"{case}.labels_before"], oracle["probabilities"]
    found = [regions for _, regions in find_regions(labels, 4, maps.__getitem__, rule)]
    assert [len(regions.points) for regions in found] == oracle[f"{case}.call_sizes"].tolist()
    assert error(torch.cat([r.points for r in found]), oracle[f"{case}.points"]) < 1e-6
    assert error(torch.cat([r.boxes for r in found]), oracle[f"{case}.boxes"]) < 1e-6
    assert error(torch.stack([r.hint[::4, ::4] for r in found]), oracle[f"{case}.mask_prompts"]) < 1e-5


@pytest.mark.parametrize("case", ["usual", "all_rejected"])
def test_labels(oracle: dict[str, Tensor], case: str) -> None:
    sam, labels = sam_of(oracle, case), oracle[f"{case}.labels_before"]
    given = labels.clone()
    found = PromptedLabels(SamPrompts(sam, **RULES[case]), VIEW).corrected(
        labels, 4, oracle["probabilities"].__getitem__
    )
    assert sam.asked == len(sam.sure) and torch.equal(labels, given) and found.dtype == labels.dtype
    assert int((found != oracle[f"{case}.labels_after"]).sum()) <= 1
    assert bool((found != labels).any()) == (case == "usual")
