"""The embedded default tells broken from working: gaps that must hold on the frozen test scenes, and no others.

Nothing is asserted about the order of the repaired variants: ranks of the tiny world do not transfer.
"""

import pytest

from ovss.datasets import open_dataset
from ovss.harness import EvalResult, load_protocol
from ovss.harness.metrics.bootstrap import paired_difference
from ovss.harness.report.ceiling import grid_ceiling
from ovss.harness.runs.evaluation import evaluate_together
from ovss.methods import create_method, load_backbone

REPAIRED = ("maskclip", "maskclip-value", "sclip", "clearclip", "naclip")


@pytest.fixture(scope="module", params=[80, pytest.param(300, marks=pytest.mark.slow)])
def results(request: pytest.FixtureRequest) -> dict[str, EvalResult]:
    """One pass for all methods, over some scenes or all of them."""
    backbone = load_backbone("tiny-clip")
    methods = {name: create_method(name, backbone=backbone) for name in ("clip", *REPAIRED)}
    return evaluate_together(methods, open_dataset("shapes"), load_protocol("tiny"), limit=request.param)


@pytest.mark.parametrize("method", REPAIRED)
def test_vanilla_is_far_below(results: dict[str, EvalResult], method: str) -> None:
    found = paired_difference(results[method].counts, results["clip"].counts)
    assert found.interval is not None
    assert found.interval.low > (0.10 if len(results["clip"].ids) == 300 else 0.05)


def test_levels(results: dict[str, EvalResult]) -> None:
    assert results["maskclip"].miou > 30
    assert results["maskclip-value"].miou > 40


def test_not_saturated(results: dict[str, EvalResult]) -> None:
    ceiling = grid_ceiling("shapes", patch_px=8)
    assert ceiling.complete
    assert ceiling.miou > 80
    assert all(results[m].miou < ceiling.miou - 10 for m in REPAIRED)
