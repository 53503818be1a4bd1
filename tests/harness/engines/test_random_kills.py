"""Fifty kills at random moments of a run that several engines work on at once: the bytes of an undisturbed one.

Starting Python with torch takes seconds, so a *launcher* with everything imported forks a ``bench`` for each command.
Its method looks at brightness and sleeps over an image, so that many processes are at work on few cores.  Some commands
have their workers from a real fork server.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from ovss.harness.runs.parts import images_done

KILLS = 50
IMAGES = 120
AT_ONCE = 3
SEED = 14
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ENDS = {0, 2, 3, 130, *(-number for number in SIGNALS)}
"""Done, a paragraph for the user, incomplete, stopped, killed: anything else is a mistake of ours."""
PATIENCE = 120.0
"""Seconds after which a process that was told to end is taken to hang."""
METHOD = ("-m", "sleepy_method:Sleepy", "-d", "shapes", "--protocol", "tiny")
PLUGIN = """
import os
import time

import torch

from ovss.methods import MethodInfo, WindowMethod, Words


class Sleepy(WindowMethod):
    info = MethodInfo("sleepy", "Sleepy", "nobody, never", backbone="")

    def __init__(self, device, dtype):
        super().__init__()

    def encode_text(self, vocabulary):
        return Words(vocabulary)

    def encode_windows(self, windows):
        return torch.nn.functional.avg_pool2d(windows.pixels.float().mean(1, keepdim=True), 8)

    def score_windows(self, seen, words):
        time.sleep(float(os.environ["SLEEP_SECONDS"]))
        levels = torch.linspace(0, 1, len(words.vocabulary.queries)).view(1, -1, 1, 1)
        return -(seen / 255 - levels).abs()
"""
LAUNCHER = """
import functools
import json
import os
import sys

import open_clip  # noqa: F401 - imported for the children
import torch
from ovss.harness.cli import main as cli, run, workers  # noqa: F401
from ovss.harness.engines import local
from ovss.harness.runs import engine, parts, worker  # noqa: F401

torch.set_num_threads(1)
parts.pack = functools.partial(parts.pack, more_than=12)  # and not 500


def bench(log, arguments, served, sleep_seconds, flush_seconds):
    for descriptor in (1, 2):
        os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND), descriptor)
    os.environ["SLEEP_SECONDS"] = str(sleep_seconds)
    engine._FLUSH_SECONDS, engine._FLUSH_SHARE = flush_seconds, 0.0
    if not served:
        local._KIND = "fork"
    sys.argv = ["bench", *arguments]
    cli.main()


print("ready", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if asked is None:
        ended = {}
        try:
            while found := os.waitpid(-1, os.WNOHANG)[0:2]:
                if not found[0]:
                    break
                ended[found[0]] = os.waitstatus_to_exitcode(found[1])
        except ChildProcessError:
            pass
        print(json.dumps(ended), flush=True)
        continue
    child = os.fork()
    if child == 0:
        code = 1
        try:
            bench(**asked)
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(child, flush=True)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes in /proc"),
]


@dataclass(frozen=True)
class Command:
    """A ``bench`` that was started: its process, what it is, and what it wrote."""

    pid: int
    kind: str
    log: Path


class Launcher:
    """Starts ``bench`` by fork, any number at a time."""

    def __init__(self, folder: Path) -> None:
        (folder / "sleepy_method.py").write_text(PLUGIN)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("OVSS_", "PYTEST_"))}
        variables = {
            **kept,
            "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)]),
            "OVSS_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
        }
        self._folder, self._started = folder, 0
        program, pipe = [sys.executable, "-c", LAUNCHER], subprocess.PIPE
        self.process = subprocess.Popen(program, env=variables, cwd=folder, stdin=pipe, stdout=pipe, text=True)
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def _ask(self, asked: object) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return self._line()

    def start(
        self, kind: str, *arguments: str, served: bool = False, sleep_seconds: float = 0, flush_seconds: float = 2
    ) -> Command:
        """A new ``bench``; ``served``: its workers come from a fork server."""
        log = self._folder / f"{self._started:03}-{kind}.log"
        self._started += 1
        asked = {"log": str(log), "arguments": arguments, "served": served}
        asked |= {"sleep_seconds": sleep_seconds, "flush_seconds": flush_seconds}
        return Command(int(self._ask(asked)), kind, log)

    def ended(self) -> dict[int, int]:
        """Exit codes of those that have ended since the last call, negative for a signal."""
        return {int(pid): code for pid, code in json.loads(self._ask(None)).items()}

    def finish(self, kind: str, *arguments: str) -> None:
        """A ``bench`` that is left alone, to its good end."""
        command, codes = self.start(kind, *arguments), dict[int, int]()
        until(lambda: codes.update(self.ended()) or command.pid in codes, 300, f"{kind} does not end")  # type: ignore[func-returns-value]
        assert codes[command.pid] == 0, command.log.read_text()


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    found = Launcher(tmp_path)
    yield found
    found.process.kill()
    found.process.communicate()


def until(true: Callable[[], object], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def parents() -> dict[int, int]:
    """Parent of every process that lives, and has not ended without being asked how."""
    found = {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                found[int(folder.name)] = int(parent)
    return found


def tree_of(process: int) -> list[int]:
    """A process and its descendants, while they live."""
    known = parents()
    found = [process] if process in known else []
    for one in found:
        found += sorted(child for child, parent in known.items() if parent == one)
    return found


def outputs(run: Path) -> tuple[bytes, bytes]:
    return (run / "counts.parquet").read_bytes(), (run / "metrics.json").read_bytes()


class Arena:
    """Commands at one run, and someone who kills them."""

    def __init__(self, launcher: Launcher, results: str, run: Path, rng: random.Random) -> None:
        self.launcher, self.results, self.run, self.rng = launcher, results, run, rng
        self.alive: dict[int, Command] = {}
        self.told: dict[int, float] = {}
        self.workers: set[int] = set()
        self.kills: Counter[str] = Counter()
        self.codes: Counter[int] = Counter()

    def fill(self) -> None:
        """Start what is lacking; of ``bench run`` one at a time, since it has a lock."""
        while len(self.alive) < AT_ONCE:
            running = any(command.kind in ("local", "served") for command in self.alive.values())
            kinds = ("worker", "shard") if running else ("local", "local", "served", "worker", "shard")
            kind = self.rng.choice(kinds)
            workers = self.rng.randint(1, 8)
            command = self.launcher.start(
                kind,
                *self._words(kind, workers),
                served=kind == "served",
                sleep_seconds=self._pace_seconds(workers if kind in ("local", "served") else 1),
                flush_seconds=self.rng.choice((0.05, 1.0)),
            )
            self.alive[command.pid] = command

    def _words(self, kind: str, workers: int) -> tuple[str, ...]:
        limit = ("--limit", str(IMAGES))
        if kind in ("local", "served"):
            return "run", *METHOD, *limit, "--workers", str(workers), "--results", self.results
        if kind == "worker":
            return "worker", str(self.run), *limit, "--lease-seconds", "10"
        return "worker", str(self.run), *limit, "--shard", f"{self.rng.randrange(workers)}/{workers}"

    def _pace_seconds(self, workers: int) -> float:
        """Seconds for an image: more when few are left, so that some are when the last kill comes."""
        left = max(0.05, 1 - rows_in(self.run) / IMAGES)
        return min(10, workers * self.rng.choice((0.05, 0.2, 0.6)) / left**2)

    def kill(self) -> None:
        """Send a signal to a command that was told nothing yet, or to one of its workers.

        Four of five are at work; the others may be, or start, or end.
        """
        self._look_at_workers()
        trees = {pid: tree_of(pid) for pid in sorted(self.alive) if pid not in self.told}
        if self.rng.random() < 0.8:
            trees = {pid: tree for pid, tree in trees.items() if self.workers & set(tree)}
        if not any(trees.values()):
            return
        command = self.alive[self.rng.choice([pid for pid, tree in trees.items() if tree])]
        below = [pid for pid in trees[command.pid][1:] if pid in self.workers]
        process = self.rng.choice(below) if below and self.rng.random() < 0.6 else command.pid
        number = self.rng.choice(SIGNALS)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)
            at_work = "at work" if self.workers & set(trees[command.pid]) else "before work"
            of = command.kind if process == command.pid else f"a worker of {command.kind}"
            self.kills[f"{number.name} to {of} {at_work}"] += 1
            if process == command.pid:
                self.told[process] = time.monotonic()

    def reap(self) -> None:
        """Look who has ended, and how."""
        for pid, code in self.launcher.ended().items():
            command = self.alive.pop(pid)
            self.told.pop(pid, None)
            self.codes[code] += 1
            assert code in ENDS, f"{command.kind} ended with {code}: {command.log.read_text()[-3000:]}"
        late = [self.alive[pid].kind for pid, since in self.told.items() if time.monotonic() - since > PATIENCE]
        assert not late, f"{late} do not end"

    def end(self) -> None:
        """Kill all that are left, and wait until no worker lives."""
        self._look_at_workers()
        for pid in self.alive:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not self.workers & set(parents()), PATIENCE, "workers outlive those who started them")
        self.reap()

    def _look_at_workers(self) -> None:
        """Remember processes that have begun to work: their files are named HOST-PID-NONCE."""
        self.workers |= {int(path.name.rsplit("-", 2)[1]) for path in self.run.glob("workers/*-*-*")}


def rows_in(run: Path) -> int:
    return sum(int(path.stem.split("-")[2]) for path in run.glob("parts/part-*.parquet"))


def test_fifty_kills_change_no_byte(launcher: Launcher, tmp_path: Path) -> None:
    """Should a run be whole before the last kill, another is begun."""
    rng, kills, runs = random.Random(SEED), 0, 0
    launcher.finish("alone", "run", *METHOD, "--limit", str(IMAGES), "--results", "alone")
    (expected,) = (tmp_path / "alone" / "runs").iterdir()
    while kills < KILLS:
        results, runs = f"disturbed-{runs}", runs + 1
        launcher.finish("plan", "plan", *METHOD, "--results", results)
        (run,) = (tmp_path / results / "runs").iterdir()
        arena, begun = Arena(launcher, results, run, rng), time.monotonic()
        while kills + arena.kills.total() < KILLS and len(images_done(run / "parts")) < IMAGES:
            arena.fill()
            time.sleep(rng.uniform(0.1, 1.0))
            arena.kill()
            arena.reap()
        arena.end()
        kills += arena.kills.total()
        done, rows, seconds = len(images_done(run / "parts")), rows_in(run), time.monotonic() - begun
        launcher.finish("again", "run", *METHOD, "--limit", str(IMAGES), "--results", results, "--workers", "2")
        print(f"{arena.kills.total()} kills in {seconds:.0f} s: {dict(arena.kills)}; ends {dict(arena.codes)}")
        print(f"{done} of {IMAGES} images in {rows} rows when the last was killed")
        assert done, "what was disturbed did nothing"
        assert outputs(run) == outputs(expected)
        images = list(pd.read_parquet(run / "counts.parquet")["image"])
        assert len(images) == len(set(images)) == IMAGES and images == sorted(images)
