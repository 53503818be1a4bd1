"""What a job of SLURM is, by what it wrote and what the queue says; nothing of submitit is needed for that."""

import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest

from ovss.harness.engines.door import Status
from ovss.harness.engines.slurm import Slurm

LOG = "log of 7"


@pytest.mark.parametrize(
    ("wrote", "state", "wanted"),
    [
        (None, "PENDING", Status("waiting")),
        (None, "RUNNING", Status("running")),
        (None, "COMPLETING", Status("running")),
        (None, "", Status("failed", f"see {LOG}")),
        (None, "NODE_FAIL", Status("failed", "NODE_FAIL")),
        (("success", ""), "", Status("done")),
        (("success", ""), "RUNNING", Status("done")),
        (("success", "another code"), "", Status("refused", "another code")),
        (("error", "Traceback"), "", Status("failed", f"see {LOG}")),
        (("error", "Traceback"), "REQUEUED", Status("waiting")),
        (("error", "Traceback"), "PENDING", Status("waiting")),
        (("error", "Traceback"), "RUNNING", Status("running")),
    ],
)
def test_state(tmp_path: Path, wrote: tuple[str, str] | None, state: str, wanted: Status) -> None:
    """A failure that was written down before the job was requeued is none."""
    if wrote is not None:
        (tmp_path / "result").write_bytes(pickle.dumps(wrote))
    slurm = Slurm.__new__(Slurm)
    slurm._paths = lambda name, task: SimpleNamespace(result_pickle=tmp_path / "result", stderr=LOG)
    slurm._load = lambda path: pickle.loads(path.read_bytes())
    found = slurm._status("7", state)
    assert found == wanted
