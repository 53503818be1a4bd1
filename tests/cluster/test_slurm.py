"""Runs on a real SLURM of two nodes on this machine: workers killed, requeued and out of time change no byte.

``make test-cluster``; needs root, the daemons (``mini_slurm.sh`` names the packages) and submitit.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .at_work import BENCH, IMAGES, RUN, TWO_RUNS, Desk, Outputs, desk, images_of, until

SCRIPT = Path(__file__).with_name("mini_slurm.sh")

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        os.name != "posix"
        or os.geteuid() != 0
        or not all(map(shutil.which, ("munged", "slurmctld", "slurmd", "sbatch", "setpriv"))),
        reason="needs root and the daemons of SLURM: see tests/cluster/mini_slurm.sh",
    ),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of a cluster of two nodes with two CPUs each."""
    pytest.importorskip("submitit")
    folder = tmp_path_factory.mktemp("slurm")
    log = folder / "start.log"
    with log.open("w") as out:
        started = subprocess.run(["sh", SCRIPT, "start", folder, "2", "2"], stdout=out, stderr=out, check=False)
    try:
        assert started.returncode == 0, log.read_text()
        yield folder
    finally:
        with log.open("a") as out:
            subprocess.run(["sh", SCRIPT, "stop", folder], stdout=out, stderr=out, check=False)


@pytest.fixture
def here(cluster: Path, tmp_path: Path) -> Iterator[Desk]:
    """A desk at the cluster; jobs that a test leaves are cancelled."""
    one_machine = {"SLURM_CONF": str(cluster / "slurm.conf"), "OVSS_SHARED_TMP": "1"}
    found = desk(tmp_path, {**os.environ, **one_machine})
    yield found
    found.leave()
    found.call("scancel", "-u", "root")
    until(lambda: not queue(found), 60, "jobs do not end")


def queue(at: Desk, state: str = "", *more: str) -> list[str]:
    """Jobs in the queue, in order."""
    lines = at.call("squeue", "-h", "-r", "-o", "%i %T", *more).splitlines()
    return sorted(line.split()[0] for line in lines if state in line)


def ever(at: Desk) -> set[str]:
    """Jobs that were ever in the queue."""
    return set(queue(at, "", "-t", "all"))


def restarts(at: Desk, job: str) -> int:
    (word,) = (w for w in at.call("scontrol", "show", "job", job).split() if w.startswith("Restarts="))
    return int(word.partition("=")[2])


def test_an_array_with_one_killed_one_requeued_and_one_out_of_time(here: Desk, undisturbed: Outputs) -> None:
    """Two runs in one pass."""
    here.hold()
    process = here.bench(*TWO_RUNS, "--engine", "slurm", "--workers", "4", "--slurm", "time=30")
    until(lambda: len(queue(here, "RUNNING")) == 4, 400, "four elements do not run")
    killed, requeued, late, _ = before = queue(here)
    here.call("scontrol", "update", f"JobId={late}", "TimeLimit=1")
    until(here.parts, 400, "no parts")
    here.call("scancel", "--signal", "KILL", killed)
    here.call("scontrol", "requeue", requeued)
    until(lambda: restarts(here, requeued), 120, "it is not queued again")
    until(lambda: restarts(here, late), 150, "out of time, and not queued again")
    here.call("scontrol", "update", f"JobId={late}", "TimeLimit=30")
    until(lambda: killed not in queue(here) and len(queue(here, "RUNNING")) == 4, 120, "the killed one is not replaced")
    here.go_on()
    assert images_of(here.ended(process)) == [IMAGES, IMAGES]
    assert here.outputs() == undisturbed
    until(lambda: not queue(here), 60, "jobs that are no longer needed do not end")
    assert ever(here) - set(before)  # for the one that was killed


def test_an_interrupt_cancels(here: Desk) -> None:
    here.hold()
    process = here.bench(*RUN, "--engine", "slurm", "--workers", "2")
    until(lambda: queue(here), 400, "no jobs")
    process.send_signal(signal.SIGINT)
    here.ended(process, 130)
    until(lambda: not queue(here), 60, "jobs stay after Ctrl-C")


def test_detached_jobs_are_found_again(cluster: Path, here: Desk, undisturbed: Outputs) -> None:
    """All of them, by a command that asks for fewer; one that has no place yet is not waited for in the end.

    Meanwhile the controller does not answer for a while, and nobody is replaced.
    """
    before = ever(here)
    here.hold()
    here.ended(here.bench(*RUN, "--engine", "slurm", "--workers", "5", "--detach"))
    *_, last = jobs = queue(here)
    assert len(jobs) == 5
    until(lambda: queue(here, "PENDING") == [last], 120, "four do not run")
    here.call("scontrol", "hold", last)
    process = here.bench(*RUN, "--engine", "slurm")
    until(here.parts, 400, "no parts")
    until(lambda: len(set(re.findall(r"[1-9]\d*/120", here.said()))) > 1, 200, "no progress is told")
    controller = int((cluster / "2-slurmctld.started").read_text())
    os.kill(controller, signal.SIGSTOP)
    try:
        assert subprocess.run(["squeue"], env=here.environment, capture_output=True, check=False).returncode
    finally:
        os.kill(controller, signal.SIGCONT)
    here.go_on()
    here.ended(process)
    assert here.outputs().items() <= undisturbed.items()
    until(lambda: not queue(here), 60, "jobs stay when all is done")
    assert ever(here) - before == set(jobs)


def test_the_plain_script(here: Desk, undisturbed: Outputs) -> None:
    """``bench plan --sbatch``: no library; one task is told that its time is up, and queues itself again."""
    here.hold()
    script = here.ended(here.bench("plan", *RUN[1:5], "--sbatch", "--slurm", "array=0-1"))
    (here.folder / "job.sh").write_text("\n".join(map(_with_this_bench, script.splitlines())) + "\n")
    job = here.call("sbatch", "job.sh").split()[-1]
    until(here.parts, 400, "no parts")
    here.call("scancel", "--batch", "--signal", "USR1", f"{job}_1")
    until(lambda: restarts(here, f"{job}_1"), 60, "it does not queue itself again")
    here.go_on()
    until(lambda: not queue(here), 300, "jobs do not end")
    here.ended(here.bench("merge", str(here.runs()[0]), "--limit", str(IMAGES)))
    assert here.outputs().items() <= undisturbed.items()
    assert "stopped by SIGUSR1" in "\n".join(p.read_text() for p in here.folder.glob("slurm-*.out"))


def test_slurm_ray_and_a_process_at_once(here: Desk, undisturbed: Outputs) -> None:
    """They share the images out among themselves; the process is killed."""
    pytest.importorskip("ray")
    here.hold()
    script = here.ended(here.bench("plan", *RUN[1:5], "--sbatch", "--slurm", "array=0-1"))
    (here.folder / "job.sh").write_text("\n".join(map(_with_this_bench, script.splitlines())) + "\n")
    here.call("sbatch", "job.sh")
    process = here.bench("worker", str(here.runs()[0]), "--limit", str(IMAGES))
    ray = here.bench(*RUN, "--engine", "ray", "--workers", "1")
    until(lambda: len(here.workers()) == 4, 400, "four workers are not at it")
    until(lambda: len(here.parts()) >= 4, 120, "no parts")
    process.kill()
    here.go_on()
    here.ended(ray)
    until(lambda: not queue(here), 200, "jobs do not end")
    assert process.wait(60) == -signal.SIGKILL
    assert here.outputs().items() <= undisturbed.items()


def _with_this_bench(line: str) -> str:
    """This interpreter instead of a ``bench`` that may not be installed beside it."""
    head, worker, tail = line.partition(" worker ")
    if line.startswith("#") or not worker or head != shlex.quote(str(Path(sys.executable).with_name("bench"))):
        return line
    return f"{shlex.join(BENCH)} worker --limit {IMAGES} {tail}"
