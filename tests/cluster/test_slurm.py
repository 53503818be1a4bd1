"""A run on a real SLURM of two nodes on this machine: killed, requeued and timed-out workers change no byte.

``make test-cluster``; needs root, the daemons (``mini_slurm.sh`` names the packages) and submitit.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("mini_slurm.sh")
BENCH = [sys.executable, "-c", "from ovss.harness.cli.main import main; main()"]
LIMIT = 120

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
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a cluster of two nodes."""
    pytest.importorskip("submitit")
    folder = tmp_path_factory.mktemp("slurm")
    log = folder / "start.log"
    with log.open("w") as out:
        started = subprocess.run(["sh", SCRIPT, "start", folder, "2", "2"], stdout=out, stderr=out, check=False)
    try:
        assert started.returncode == 0, log.read_text()
        yield {
            **os.environ,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "OVSS_SHARED_TMP": "1",  # one machine
            "OVSS_CACHE": str(folder / "cache"),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "OMP_NUM_THREADS": "1",
        }
    finally:
        with log.open("a") as out:
            subprocess.run(["sh", SCRIPT, "stop", folder], stdout=out, stderr=out, check=False)


def bench(cluster: dict[str, str], *arguments: str, cwd: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*BENCH, *arguments], env=cluster, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def words(*more: str) -> list[str]:
    return ["run", "-m", "maskclip", "-d", "shapes", "--limit", str(LIMIT), "--json", *more]


def outputs(folder: Path) -> tuple[bytes, bytes]:
    (run,) = (folder / "results" / "runs").iterdir()
    return (run / "counts.parquet").read_bytes(), (run / "metrics.json").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(cluster: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    process = bench(cluster, *words(), cwd=folder)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return outputs(folder)


def until(true: Callable[[], Any], seconds: float, what: str) -> Any:
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, what
        time.sleep(0.5)
    return found


def queue(cluster: dict[str, str], state: str = "") -> list[str]:
    command = ["squeue", "-h", "-r", "-o", "%i %T"]
    done = subprocess.run(command, env=cluster, capture_output=True, text=True, check=False)
    return [line.split()[0] for line in done.stdout.splitlines() if state in line]


def parts(folder: Path) -> list[Path]:
    return list(folder.glob("results/runs/*/parts/part-*.parquet"))


def call(cluster: dict[str, str], *command: str) -> None:
    subprocess.run(command, env=cluster, check=False, capture_output=True)


def test_an_array_with_one_killed_one_requeued_and_one_out_of_time(
    cluster: dict[str, str], undisturbed: tuple[bytes, bytes], tmp_path: Path
) -> None:
    process = bench(cluster, *words("--engine", "slurm", "--workers", "4", "--slurm", "time=30"), cwd=tmp_path)
    try:
        until(lambda: len(queue(cluster, "RUNNING")) == 4, 120, "four elements do not run")
        until(lambda: parts(tmp_path), 240, "no parts")
        first, second, third, _ = queue(cluster)
        call(cluster, "scancel", "--signal", "KILL", first)
        call(cluster, "scontrol", "requeue", second)
        call(cluster, "scancel", "--signal", "USR2", third)  # what SLURM sends when time is nearly up
        out, err = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert json.loads(out)["images"] == LIMIT
    assert outputs(tmp_path) == undisturbed
    assert not queue(cluster)


def test_an_interrupt_cancels_and_detached_jobs_are_found_again(
    cluster: dict[str, str], undisturbed: tuple[bytes, bytes], tmp_path: Path
) -> None:
    engine = ["--engine", "slurm", "--workers", "2"]
    process = bench(cluster, *words(*engine), cwd=tmp_path)
    until(lambda: queue(cluster), 120, "no jobs")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    until(lambda: not queue(cluster), 60, "jobs stay after Ctrl-C")

    process = bench(cluster, *words(*engine, "--detach"), cwd=tmp_path)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    left = queue(cluster)
    assert len(left) == 2
    process = bench(cluster, *words(*engine), cwd=tmp_path)
    time.sleep(10)
    assert set(queue(cluster)) <= set(left)  # it waits for them, and starts no others
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert outputs(tmp_path) == undisturbed


def test_the_plain_script(cluster: dict[str, str], undisturbed: tuple[bytes, bytes], tmp_path: Path) -> None:
    """``bench plan --sbatch``: no library; one task is told that its time is up, and queues itself again."""
    process = bench(cluster, "plan", "-m", "maskclip", "-d", "shapes", "--sbatch", "--slurm", "array=0-1", cwd=tmp_path)
    script, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    (run,) = (tmp_path / "results" / "runs").iterdir()
    told = f"{sys.executable} -c 'from ovss.harness.cli.main import main; main()' worker --limit {LIMIT} "
    lines = [line if line.startswith("#") else _replaced(line, told) for line in script.splitlines()]
    (tmp_path / "job.sh").write_text("\n".join(lines) + "\n")
    done = subprocess.run(["sbatch", "job.sh"], cwd=tmp_path, env=cluster, capture_output=True, text=True, check=True)
    job = done.stdout.split()[-1]
    until(lambda: parts(tmp_path), 240, "no parts")
    call(cluster, "scancel", "--batch", "--signal", "USR1", f"{job}_1")
    until(lambda: not queue(cluster), 400, "jobs do not end")
    process = bench(cluster, "merge", str(run), "--limit", str(LIMIT), cwd=tmp_path)
    _, err = process.communicate(timeout=240)
    logs = "\n".join(p.read_text() for p in tmp_path.glob("slurm-*.out"))
    assert process.returncode == 0, err + logs
    assert "stopped by SIGUSR1" in logs
    assert outputs(tmp_path) == undisturbed


def _replaced(line: str, told: str) -> str:
    """This interpreter instead of a ``bench`` that may not be installed beside it."""
    head, worker, tail = line.partition(" worker ")
    return told + tail if worker and head.endswith("bench") else line
