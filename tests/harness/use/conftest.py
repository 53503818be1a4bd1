"""A run of three scenes that a model made, once for all tests of this folder that only look at it."""

import pytest

from ovss.harness import every_pair, run
from ovss.harness.runs.run import Run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Of clip on shapes, partial: three of 300 images."""
    (found,) = run(every_pair(["clip"], ["shapes"]), tmp_path_factory.mktemp("made"), limit=3)
    return found.run
