"""GPUs by name, time limits as SLURM takes them, and clusters that do not answer."""

import socket

import pytest

from ovss.harness.engines.choose import gpu_ids
from ovss.harness.engines.ray import _check_answers
from ovss.harness.engines.slurm import Submitted, _call, _queue, minutes_of
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


@pytest.mark.parametrize(
    ("said", "found"),
    [("12_3 RUNNING\n13 PENDING\n", {"12_3": "RUNNING", "13": "PENDING"}), ("", {}), (None, None)],
)
def test_an_empty_queue_is_not_a_silent_one(
    said: str | None, found: dict[str, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovss.harness.engines.slurm._call", lambda *command: said)
    assert _queue() == found


def test_a_command_that_fails_says_nothing() -> None:
    assert _call("echo", "1 RUNNING") == "1 RUNNING\n" and _call("sh", "-c", "echo 1 RUNNING; exit 1") is None


def test_ray_at_an_address_where_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        _check_answers(address)
        _check_answers(f"ray://{address}")
    for closed in (address, f"ray://{address}", "127.0.0.1:99999"):
        with pytest.raises(UserError, match=f"no Ray cluster answers at {closed}"):
            _check_answers(closed)
    _check_answers("auto")
