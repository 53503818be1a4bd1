"""The committed baselines: complete, and equal where the platform is the one that made them."""

import json
from pathlib import Path

import pytest

from ovss.harness.report import regress
from ovss.methods import load_backbone

FOLDER = Path(__file__).parents[3] / "results" / "baselines"


@pytest.mark.parametrize("case", regress.read_cases(FOLDER), ids=lambda case: case.name)
def test_baseline_is_complete(case: regress.Case) -> None:
    stored = json.loads((FOLDER / f"{case.name}.json").read_text())
    data, protocol = case.open(FOLDER)
    assert set(stored["methods"]) == set(regress.offline_methods())
    assert stored["weights"] == load_backbone("tiny-clip").sha256
    assert stored["protocol_hash"] == protocol.setting(data.record.key).hash
    assert stored["dataset_hash"] == data.record.hash


def test_counts_are_equal_on_the_platform_that_made_them() -> None:
    if json.loads((FOLDER / "shapes.json").read_text())["platform"] != regress.platform_mark():
        pytest.skip("another platform: `make regress` compares with a tolerance")
    assert all(o.passed for o in regress.run_regression(FOLDER, update=False))
