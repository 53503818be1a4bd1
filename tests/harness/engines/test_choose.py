"""GPUs by name, and time limits as SLURM takes them."""

import pytest

from ovss.harness.engines.choose import gpu_ids
from ovss.harness.engines.slurm import Submitted, minutes_of
from ovss.methods import UserError


@pytest.mark.parametrize(
    ("text", "visible", "found"),
    [
        ("", "0,1", []),
        ("all", "0,1", ["0", "1"]),
        ("all", "GPU-a, GPU-b", ["GPU-a", "GPU-b"]),
        ("1", "0,1", ["1"]),
        ("GPU-5c", "0,1", ["GPU-5c"]),  # a UUID is known to the driver, not to the variable
    ],
)
def test_gpus(text: str, visible: str, found: list[str]) -> None:
    assert gpu_ids(text, visible) == found


@pytest.mark.parametrize(
    ("text", "visible", "words"),
    [("all", "", "has no GPU"), ("2", "0,1", "there are 0, 1"), ("0,0", "0,1", "name each GPU once")],
)
def test_gpus_that_are_not_there(text: str, visible: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        gpu_ids(text, visible)


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("90:00", 90), ("90:01", 91), ("1:30:00", 90), ("2-0", 2880), ("1-1:30", 1530), ("1-1:30:30", 1531)],
)
def test_time_limits(text: str, minutes: int) -> None:
    """The forms of ``man sbatch``."""
    assert minutes_of(text) == minutes


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "-5", "1-"])
def test_what_is_no_time_limit(text: str) -> None:
    with pytest.raises(UserError, match="is no time limit"):
        minutes_of(text)


def test_submitit_finds_both_names_of_a_checkpoint() -> None:
    """It asks whether the object has the one, and calls the other."""
    assert Submitted.checkpoint is Submitted.__submitit_checkpoint__
