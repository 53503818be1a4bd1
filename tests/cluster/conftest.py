"""What an undisturbed run makes, and a desk for each test."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .at_work import TWO_RUNS, Desk, Outputs, desk


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """Files of two runs in one process, by the name of the run."""
    alone = desk(tmp_path_factory.mktemp("undisturbed"), dict(os.environ))
    alone.ended(alone.bench(*TWO_RUNS))
    return alone.outputs()


@pytest.fixture
def at_home(tmp_path: Path) -> Iterator[Desk]:
    """A desk without a cluster."""
    found = desk(tmp_path, dict(os.environ))
    yield found
    found.leave()
