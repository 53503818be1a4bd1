"""A desk with a ``bench`` whose work can be held up, so that a test has time to disturb it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IMAGES = 120
METHOD = """
import os
import time

from ovss.methods.maskclip import MaskCLIP


class Held(MaskCLIP):
    def score_windows(self, seen, words):
        time.sleep(5 if os.path.exists(os.environ["HOLD"]) else 0)
        return super().score_windows(seen, words)
"""
BENCH = [sys.executable, "-c", "from ovss.harness.cli.main import main; main()"]
RUN = ["run", "-m", "held_method:Held", "-d", "shapes", "--limit", str(IMAGES), "--json"]
TWO_RUNS = [*RUN[:2], "held_method:Held,maskclip-value", *RUN[3:]]
Outputs = dict[str, tuple[bytes, bytes]]


@dataclass(frozen=True)
class Desk:
    """A folder to work in; with ``hold()`` every image takes five seconds more, until ``go_on()``."""

    folder: Path
    environment: dict[str, str]
    started: "list[subprocess.Popen[str]]"

    def bench(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start a command."""
        with (self.folder / "err").open("a") as err:
            process = subprocess.Popen(
                [*BENCH, *arguments],
                env=self.environment,
                cwd=self.folder,
                text=True,
                stdout=subprocess.PIPE,
                stderr=err,
            )
        self.started.append(process)
        return process

    def ended(self, process: "subprocess.Popen[str]", code: int = 0) -> str:
        """What a command printed; it must end with ``code``."""
        out, _ = process.communicate(timeout=400)
        assert process.returncode == code, self.said()
        return out

    def leave(self) -> None:
        """End commands that a failed test left."""
        for process in self.started:
            process.kill()
            process.wait()

    def said(self) -> str:
        """What commands wrote to standard error."""
        return (self.folder / "err").read_text()

    def hold(self) -> None:
        """Hold up workers."""
        Path(self.environment["HOLD"]).touch()

    def go_on(self) -> None:
        """No more."""
        Path(self.environment["HOLD"]).unlink()

    def parts(self) -> list[Path]:
        """Parts of all runs."""
        return list(self.folder.glob("results/runs/*/parts/part-*.parquet"))

    def workers(self) -> set[str]:
        """Names of the workers that are at it, HOST-PID-NONCE."""
        return {path.name for path in self.folder.glob("results/runs/*/workers/[!.]*")}

    def runs(self) -> list[Path]:
        """Folders of all runs."""
        return sorted((self.folder / "results" / "runs").iterdir())

    def outputs(self) -> Outputs:
        """The files that must not depend on who did what."""
        names = ("counts.parquet", "metrics.json")
        return {run.name: tuple((run / name).read_bytes() for name in names) for run in self.runs()}  # type: ignore[misc]

    def call(self, *command: str) -> str:
        """What a command of SLURM says."""
        done = subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def desk(folder: Path, environment: dict[str, str]) -> Desk:
    """A desk at ``folder``; ``environment`` is that of the cluster, if there is one."""
    (folder / "plugin").mkdir()
    (folder / "plugin" / "held_method.py").write_text(METHOD)
    return Desk(
        folder,
        {
            **environment,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(folder / "plugin"), *sys.path])),
            "HOLD": str(folder / "hold"),
            "OMP_NUM_THREADS": "1",
        },
        [],
    )


def until(true: Callable[[], Any], seconds: float, what: str) -> Any:
    """What ``true`` returns, as soon as it is."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, what
        time.sleep(0.3)
    return found


def images_of(out: str) -> list[int]:
    """Of a ``bench run --json``, or several."""
    found = json.loads(out)
    return [one["images"] for one in (found if isinstance(found, list) else [found])]
