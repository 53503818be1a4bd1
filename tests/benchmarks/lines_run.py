"""What is around the model: loading, one pass for several runs, sweeps, start-up, workers."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import open_clip
import torch
from benchmarks import loading, sharing, sweeping
from benchmarks.lines_model import has_bf16
from benchmarks.made_up import blocky, photo
from benchmarks.table import AbsentError, Goal, Line, Round, compared, turns, within
from numpy.typing import NDArray

from ovss.datasets import DatasetRecord
from ovss.datasets.dataset import FolderDataset, every_time
from ovss.datasets.decoded import Decoded
from ovss.harness.protocol.resize import resize_image
from ovss.harness.runs.engine import Lane

COMMAND = "import sys; from ovss.harness.cli.main import main; sys.argv[0] = 'bench'; main()"
STARTED = ("run", "--method", "maskclip", "--dataset", "shapes", "--json")
WORKER_SCENES = 300


@dataclass(frozen=True)
class Ended:
    """What a process of its own cost and printed; CPU seconds are those of its children too."""

    cpu_seconds: float
    wall_seconds: float
    out: str

    def images(self) -> int:
        found = json.loads(self.out)
        return int((found[0] if isinstance(found, list) else found)["images"])


def bench(*arguments: str) -> Ended:
    """The command line, started anew, on one thread."""
    started = time.perf_counter()
    with TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        with out.open("wb") as said, err.open("wb") as told:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, *arguments], stdout=said, stderr=told, env=environment
            )
            _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert status == 0, f"bench {' '.join(arguments)} ended with {process.returncode}: {err.read_text()}"
        return Ended(used.ru_utime + used.ru_stime, time.perf_counter() - started, out.read_text())


def fresh_run_line(folder: Path) -> Line:
    def run() -> Ended:
        return bench(*STARTED, "--limit", "1", "--fresh", "--results", str(folder / "fresh"))

    def agree() -> None:
        assert run().images() == 1

    return within("bench run --limit 1, embedded model, CPU time", 2.5, lambda: run().cpu_seconds, agree)


def finished_run_line(folder: Path) -> Line:
    def run() -> Ended:
        return bench(*STARTED, "--limit", "1", "--results", str(folder / "finished"))

    def agree() -> None:
        first, again = json.loads(run().out), json.loads(run().out)
        assert first == again, "a finished run asked again gives another answer"

    return within("the same, finished before, CPU time", 0.5, lambda: run().cpu_seconds, agree)


def workers_line(folder: Path) -> Line:
    """Wall time: on a machine with fewer free cores than workers the figure says nothing."""

    def run(workers: int) -> Ended:
        asked = ("--limit", str(WORKER_SCENES), "--fresh", "--workers", str(workers))
        return bench(*STARTED, *asked, "--results", str(folder / f"workers {workers}"))

    def agree() -> None:
        one, two = (json.loads(run(workers).out) for workers in (1, 2))
        assert one["miou"] == two["miou"], "workers change the result"

    sides = turns(lambda: run(2).wall_seconds, lambda: run(1).wall_seconds)
    return Line(f"{WORKER_SCENES} small scenes, --workers 2, wall time", "one process", agree, sides)


def load_line(folder: Path, suffix: str, goal: Goal) -> Line:
    """An image of ADE's size with its label: read, decode, resize."""
    home = folder / f"load{suffix}"
    for name in ("images", "labels"):
        (home / name).mkdir(parents=True)
    pixels = cv2.GaussianBlur(photo(512, 683).permute(1, 2, 0).numpy(), (0, 0), 1.5)
    image, label = home / "images" / f"0{suffix}", home / "labels" / "0.png"
    cv2.imwrite(str(image), pixels[:, :, ::-1])
    cv2.imwrite(str(label), blocky((512, 683), 150, 24, seed=2).byte().numpy())
    names = tuple(f"thing number {k}" for k in range(150))
    record = DatasetRecord(
        key="madeup", title="made up", images="images", labels="labels", classes=names, image_suffix=suffix
    )
    data = FolderDataset(record, home)

    def ours() -> tuple[NDArray[Any], NDArray[Any]]:
        sample = data.load("0")
        return resize_image(sample.image, 336), sample.label

    def plain() -> tuple[NDArray[Any], NDArray[Any]]:
        read = cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB)
        truth = cv2.imread(str(label), cv2.IMREAD_UNCHANGED)
        return cv2.resize(read, (448, 336), interpolation=cv2.INTER_LINEAR), truth

    def agree(a: Any, b: Any) -> None:
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True)), "pixels differ"

    kind = {".jpg": "JPEG", ".png": "PNG"}[suffix]
    return compared(f"load, resize, label, {kind} 512 x 683", "bare OpenCV calls", ours, plain, agree, goal)


def ahead_line(threads: int) -> Line:
    """Sleeping stand-ins for a loader and a model, 20 ms each an image; wall time."""
    sides = turns(partial(loading.pace, threads), partial(loading.pace, 0))
    what = f"100 images, 20 ms to load and 20 ms to score, --loaders {threads}, wall time"
    return Line(what, "in line", lambda: None, sides, Goal.same(1.9))


def decoded_line(folder: Path) -> Line:
    """Images as large as those of Cityscapes."""
    home = folder / "streets"
    home.mkdir()
    loading.write_streets(home)
    kept = Decoded(folder / "kept").through(every_time, loading.RECORD)
    ours, peer = (loading.reading(once, home, ("image",)) for once in (kept, every_time))
    what = "PNG of 1024 x 2048, kept decoded, bytes checked"
    return Line(what, "decoded each time", lambda: loading.same_pixels(home, kept), turns(ours, peer), Goal.same(50.0))


@cache
def random_weights(folder: Path) -> Path:
    """A ViT-B/16 with random weights as a file."""
    path = folder / "random.pt"
    torch.manual_seed(0)
    torch.save(open_clip.create_model(sharing.MODEL, pretrained=None).state_dict(), path)
    return path


def sharing_line(folder: Path, case: sharing.Case, what: str, goal: Goal, against: int) -> Line:
    """From reading files to writing parts; ``against`` so many of the runs alone, each as long as their mean."""
    home = folder / f"{what} {against}"
    sharing.write_data(home, case)
    lanes = sharing.lanes_for(case, home, random_weights(folder))
    together, apart = [lanes], [[lane] for lane in lanes]

    def agree() -> None:
        sharing.seconds(together)
        found = sharing.counts(lanes)
        sharing.seconds(apart)
        assert sharing.counts(lanes) == found, "a shared pass and separate runs give different counts"
        assert all(sum(value > 0 for value in c["pred"]) > 1 for c in found), "one class everywhere proves nothing"

    sides = turns(lambda: sharing.seconds(together), lambda: sharing.seconds(apart) * against / len(lanes))
    return Line(what, "one run" if against == 1 else f"{against} runs", agree, sides, goal)


def rest_line(folder: Path, precision: str, share: float) -> Line:
    """Load, tail, metric, bookkeeping: CPU time of a pass outside of the model, against all of it, in the same pass."""
    if precision == "bfloat16" and not has_bf16():
        raise AbsentError("this processor has no bf16 instructions")
    case = sharing.Case(("sclip",), ("ade",), size=(512, 683), precision=precision)
    home = folder / f"rest {precision}"
    sharing.write_data(home, case)
    (lane,) = sharing.lanes_for(case, home, random_weights(folder))
    model = _InModel(lane)

    def turn(_: int) -> Round:
        model.seconds = 0.0
        whole = sharing.seconds([[lane]])
        return Round(whole - model.seconds, whole)

    def agree() -> None:
        turn(0)
        assert model.seconds > 0, "the model was not asked"

    what = f"everything that is not the model, sclip, 512 x 683, {precision} (goal {100 * share:g} %)"
    return Line(what, "whole image", agree, turn, Goal.same(1 / share))


class _InModel:
    """CPU seconds that a lane's pipeline spends in its method."""

    def __init__(self, lane: Lane) -> None:
        self.seconds, self._scores = 0.0, lane.pipeline.scores
        lane.pipeline.scores = self._timed  # type: ignore[method-assign]  # this lane is ours

    def _timed(self, picture: Any) -> Any:
        started = time.process_time()
        found = self._scores(picture)
        self.seconds += time.process_time() - started
        return found


def sweep_line(folder: Path) -> Line:
    """20 thresholds, the embedded model: the worst case, as a larger model takes more of the time."""
    case, home = sweeping.Case("maskclip", 40), folder / "sweep"
    both = sweeping.sides(case, home)
    sides = turns(lambda: sweeping.seconds(both.swept), lambda: sweeping.seconds(both.one))
    agree = partial(sweeping.check, case, home)
    return Line("sweep of 20 thresholds, tiny-clip, 40 images", "one run", agree, sides, Goal.same(1 / 1.5))


def loaders_line(folder: Path) -> Line:
    """A thread that loads beside a model that uses the same cores; wall time."""
    sides = turns(loading.running(folder, 1), loading.running(folder, 0))
    return Line("run of 100 scenes, --loaders 1, wall time", "--loaders 0", lambda: None, sides)


def lines(folder: Path) -> dict[str, Callable[[], Line]]:
    methods = sharing.Case(sharing.DENSE, ("with",))
    sets = sharing.Case(("sclip",), ("with", "without"))
    tiny = sharing.Case(("sclip",), ("with", "without"), "tiny-clip", (96, 96), 100)
    five, two = "five dense methods in one pass", "two data sets in one pass"
    return {
        "rest-fp32": lambda: rest_line(folder, "float32", 0.015),
        "rest-bf16": lambda: rest_line(folder, "bfloat16", 0.025),
        "five-methods": lambda: sharing_line(folder, methods, five, Goal.same(3.9), against=5),
        "five-methods-one": lambda: sharing_line(folder, methods, five, Goal.same(1 / 1.3), against=1),
        "two-sets": lambda: sharing_line(folder, sets, two, Goal.same(1 / 0.6), against=2),
        "two-sets-tiny": lambda: sharing_line(folder, tiny, f"{two}, tiny-clip", Goal(), against=2),
        "load-jpeg": lambda: load_line(folder, ".jpg", Goal.same(1 / 1.1)),
        "load-png": lambda: load_line(folder, ".png", Goal()),
        "ahead": lambda: ahead_line(1),
        "ahead-4": lambda: ahead_line(4),
        "loaders": lambda: loaders_line(folder),
        "decoded": lambda: decoded_line(folder),
        "sweep": lambda: sweep_line(folder),
        "start": lambda: fresh_run_line(folder),
        "finished": lambda: finished_run_line(folder),
        "workers": lambda: workers_line(folder),
    }
