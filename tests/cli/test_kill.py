"""kill -9 at any moment, of any process: nothing is lost, nothing is counted twice, nobody is left behind.

Starting Python with torch takes seconds, so a *launcher* with everything imported forks a ``bench`` for each attempt;
one test goes through the console script instead, up to the kill.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

IMAGES = 20
COMMAND = ["run", "-m", "slow_method:Slow", "-d", "shapes", "--limit", str(IMAGES), "--json"]
METHOD = """
import os
import time

from ovss.methods.maskclip import MaskCLIP


class Slow(MaskCLIP):
    def score_windows(self, seen, words):
        time.sleep(0.4 if os.path.exists("slow-down") else float(os.environ["SLOW_SECONDS"]))
        return super().score_windows(seen, words)


class Failing(Slow):
    # In the first process that comes to its third image, scores are NaN.
    images = 0

    def score_windows(self, seen, words):
        self.images += 1
        try:
            if self.images == 3:
                os.close(os.open("failed", os.O_CREAT | os.O_EXCL))
                return super().score_windows(seen, words) * float("nan")
        except FileExistsError:
            pass
        return super().score_windows(seen, words)
"""
LAUNCHER = """
import json
import multiprocessing
import os
import sys

import open_clip  # noqa: F401 - imported for the children
import torch
from ovss.harness.cli import main as cli, run
from ovss.harness.runs import engine

score = engine._score_image


def score_or_die(loaded, *given, **named):
    if os.path.exists("deadly") and open("deadly").read() == loaded.id:
        os.kill(os.getpid(), 9)
    return score(loaded, *given, **named)


torch.set_num_threads(1)
engine._score_image = score_or_die
engine._FLUSH_SECONDS, engine._FLUSH_SHARE = 0.1, 0.0
forked = multiprocessing.get_context("fork")
multiprocessing.get_context = lambda method=None: forked
print("ready", flush=True)
for line in sys.stdin:
    folder, arguments = json.loads(line)
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        for name, descriptor in (("out", 1), ("err", 2)):
            os.dup2(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), descriptor)
        sys.argv = ["bench", *arguments]
        code = 1
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def variables(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment in which the slow method can be found."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "slow_method.py").write_text(METHOD)
    places = [str(folder), *filter(None, [environment.get("PYTHONPATH")])]
    return {**environment, "PYTHONPATH": os.pathsep.join(places), "SLOW_SECONDS": "0.06"}


class Launcher:
    """Starts ``bench`` by fork; one at a time."""

    def __init__(self, variables: dict[str, str], folder: Path) -> None:
        program = [sys.executable, "-c", LAUNCHER]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(program, env=variables, cwd=folder, stdin=pipe, stdout=pipe, text=True)
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def start(self, folder: Path, *arguments: str) -> int:
        """Process id of a new ``bench`` in ``folder``."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([str(folder), [*COMMAND, *arguments]]) + "\n")
        self.process.stdin.flush()
        process = int(self._line())
        assert process > 1, "no process id: an exit code of an earlier attempt was never read"
        return process

    def wait(self) -> int:
        """Exit code of the last one, negative for a signal."""
        return int(self._line())


@pytest.fixture(scope="module")
def launcher(variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    found = Launcher(variables, tmp_path_factory.mktemp("launcher"))
    yield found
    assert found.process.stdin is not None
    found.process.stdin.close()
    found.process.wait(10)


def outputs(folder: Path) -> tuple[bytes, bytes]:
    (run,) = (folder / "results" / "runs").iterdir()
    return (run / "counts.parquet").read_bytes(), (run / "metrics.json").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    launcher.start(folder)
    assert launcher.wait() == 0, (folder / "err").read_text()
    assert json.loads((folder / "out").read_text())["images"] == IMAGES
    return outputs(folder)


def parent_of(process: int) -> int:
    """Parent of a living process; 0 for one that is gone (or only waits to be reaped)."""
    try:
        state, parent = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return 0
    return 0 if state in "ZX" else int(parent)


def children_of(process: int) -> list[int]:
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and parent_of(int(p.name)) == process]


def descendants_of(process: int) -> list[int]:
    """Workers are children of the fork server, which is a child of the run."""
    return [found for child in children_of(process) for found in (child, *descendants_of(child))]


def until(true: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, what
        time.sleep(0.01)
    return found


def kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def parts_of(folder: Path) -> list[Path]:
    return list(folder.glob("results/runs/*/parts/part-*.parquet"))


def check_nothing_twice(folder: Path, undisturbed: tuple[bytes, bytes]) -> None:
    assert outputs(folder) == undisturbed
    (run,) = (folder / "results" / "runs").iterdir()
    images = list(pd.read_parquet(run / "counts.parquet")["image"])
    assert len(images) == len(set(images)) == IMAGES and images == sorted(images)


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")


@needs_proc
@pytest.mark.parametrize(
    "workers", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]
)
def test_killed_at_random_moments(
    launcher: Launcher, undisturbed: tuple[bytes, bytes], tmp_path: Path, workers: int
) -> None:
    rng = random.Random(workers)
    progress = []
    for attempt in range(5):
        before = len(parts_of(tmp_path))
        process = launcher.start(tmp_path, "--workers", str(workers))
        if attempt:  # the first may be killed before it has written anything
            until(lambda n=before, p=process: len(parts_of(tmp_path)) > n or not parent_of(p), 60, "no parts")  # type: ignore[misc]
        time.sleep(rng.uniform(0.0, 0.3))
        helpers = children_of(process)
        kill(process)
        if launcher.wait() == 0:
            break  # it was quicker
        until(lambda h=helpers: not any(map(parent_of, h)), 5, "workers outlive their parent")  # type: ignore[misc]
        progress.append(sum(int(p.stem.split("-")[2]) for p in parts_of(tmp_path)))
    assert progress == sorted(progress) and progress[-1] > 0  # what was done once stays done
    launcher.start(tmp_path, "--workers", str(workers))
    assert launcher.wait() == 0, (tmp_path / "err").read_text()
    assert json.loads((tmp_path / "out").read_text())["images"] == IMAGES
    check_nothing_twice(tmp_path, undisturbed)


@needs_proc
@pytest.mark.parametrize("workers", [2, 3])
def test_a_killed_worker_is_replaced(
    launcher: Launcher, undisturbed: tuple[bytes, bytes], tmp_path: Path, workers: int
) -> None:
    process = launcher.start(tmp_path, "--workers", str(workers))
    helpers = until(lambda: len(children_of(process)) >= workers and children_of(process), 60, "no workers")
    until(lambda: parts_of(tmp_path), 60, "no parts")
    kill(random.Random(workers).choice(helpers))
    assert launcher.wait() == 0, (tmp_path / "err").read_text()
    check_nothing_twice(tmp_path, undisturbed)
    assert not list(tmp_path.glob("results/runs/*/leases")) and not list(tmp_path.glob("results/runs/*/workers"))


@needs_proc
def test_an_image_that_kills_every_worker_is_named_and_the_others_are_done(
    launcher: Launcher, undisturbed: tuple[bytes, bytes], tmp_path: Path
) -> None:
    """It is tried again when the same command is."""
    (tmp_path / "deadly").write_text("test_00007")
    launcher.start(tmp_path, "--workers", "2")
    assert launcher.wait() == 2
    told = (tmp_path / "err").read_text()
    assert "1 images ended every worker that began them, test_00007 for one" in told and "Traceback" not in told
    assert sum(int(p.stem.split("-")[2]) for p in parts_of(tmp_path)) == IMAGES - 1
    (tmp_path / "deadly").unlink()
    launcher.start(tmp_path, "--workers", "2")
    assert launcher.wait() == 0, (tmp_path / "err").read_text()
    check_nothing_twice(tmp_path, undisturbed)


@needs_proc
def test_one_failing_worker_stops_the_others(launcher: Launcher, tmp_path: Path) -> None:
    """They finish the image they are at (two fifths of a second here), not their share (ten of them)."""
    (tmp_path / "slow-down").touch()
    launcher.start(tmp_path, "--workers", "2", "--method", "slow_method:Failing")
    until(lambda: (tmp_path / "failed").exists(), 60, "nothing failed")
    failed = time.monotonic()
    assert launcher.wait() == 2
    assert time.monotonic() - failed < 2
    told = (tmp_path / "err").read_text()
    assert told.startswith("error: ") and "Traceback" not in told
    assert sum(int(p.stem.split("-")[2]) for p in parts_of(tmp_path)) >= 2  # what was finished is kept


@needs_proc
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("everyone", [True, False])
def test_an_interrupt_keeps_what_was_done(
    launcher: Launcher, undisturbed: tuple[bytes, bytes], tmp_path: Path, workers: int, everyone: bool
) -> None:
    """Ctrl-C reaches all processes of a terminal, ``kill -INT`` only one."""
    (tmp_path / "slow-down").touch()
    process = launcher.start(tmp_path, "--workers", str(workers))
    until(lambda: parts_of(tmp_path), 60, "no parts")
    interrupted = time.monotonic()
    for found in [*(children_of(process) if everyone else []), process]:
        os.kill(found, signal.SIGINT)
    assert launcher.wait() == 130
    assert time.monotonic() - interrupted < 2
    (tmp_path / "slow-down").unlink()
    told = (tmp_path / "err").read_text()
    assert "run the same command again to go on" in told and "Traceback" not in told
    launcher.start(tmp_path)
    assert launcher.wait() == 0
    check_nothing_twice(tmp_path, undisturbed)


@needs_proc
def test_a_second_process_is_refused(launcher: Launcher, variables: dict[str, str], tmp_path: Path) -> None:
    """While a run is worked on, and no longer."""
    process = launcher.start(tmp_path)
    until(lambda: parts_of(tmp_path), 60, "no parts")
    (run,) = (tmp_path / "results" / "runs").iterdir()
    code = f"from pathlib import Path; from ovss.harness.runs.run import Run\nwith Run(Path({str(run)!r})).lock(): pass"
    os.kill(process, signal.SIGSTOP)
    try:
        refused = subprocess.run(
            [sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False
        )
    finally:
        kill(process)
    launcher.wait()
    assert f"UserError: process {process} on " in refused.stderr and f"is working on {run}" in refused.stderr


@needs_proc
def test_console_script_killed_with_workers_and_resumed_with_one(
    launcher: Launcher, variables: dict[str, str], undisturbed: tuple[bytes, bytes], tmp_path: Path
) -> None:
    script = str(Path(sys.executable).with_name("bench"))
    slow = {**variables, "SLOW_SECONDS": "0.4"}  # a part is written every two seconds
    with (tmp_path / "err").open("w") as err:
        first = subprocess.Popen(
            [script, *COMMAND, "--workers", "2"], cwd=tmp_path, env=slow, stdout=subprocess.DEVNULL, stderr=err
        )
        try:
            until(lambda: parts_of(tmp_path), 60, "no parts")
            helpers = descendants_of(first.pid)
        finally:
            first.kill()
            first.wait()
    assert len(helpers) == 4, (tmp_path / "err").read_text()
    until(lambda: not any(map(parent_of, helpers)), 5, "workers outlive their parent")
    assert not list(tmp_path.glob("results/runs/*/counts.parquet"))
    launcher.start(tmp_path)
    assert launcher.wait() == 0, (tmp_path / "err").read_text()
    assert json.loads((tmp_path / "out").read_text())["images"] == IMAGES
    check_nothing_twice(tmp_path, undisturbed)
