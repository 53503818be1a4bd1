"""Fault campaign: kill, ENOSPC and EIO at every file operation of a run, and damage to every file it leaves.

Whatever happens, a command that ends with exit code 0 shows the true number, any other ends with one clear paragraph,
and the next undisturbed command ends with the same bytes as if nothing had happened.

    python tests/faults/campaign.py              every operation, 400 damages: some minutes
    python tests/faults/campaign.py --quick 20   a sample: 20 operations of each kind, 20 damages

Starting Python with torch takes seconds, so this process imports everything once and forks for each command.  In the
child an audit hook sees every open, rename, mkdir and removal below its folder, and a patched ``os.fsync`` every flush.
"""

import argparse
import errno
import json
import os
import random
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METHOD = """
import torch

from ovss.methods import MethodInfo, WindowMethod, Words


class Levels(WindowMethod):
    info = MethodInfo("levels", "Levels", "nobody, never", backbone="")

    def __init__(self, device, dtype):
        super().__init__()

    def encode_text(self, vocabulary):
        return Words(vocabulary)

    def encode_windows(self, windows):
        return torch.nn.functional.avg_pool2d(windows.pixels.float().mean(1, keepdim=True), 8)

    def score_windows(self, seen, words):
        levels = torch.linspace(0, 1, len(words.vocabulary.queries)).view(1, -1, 1, 1)
        return -(seen / 255 - levels).abs()
"""
CLIP = ("--method", "maskclip", "--backbone", "tiny-clip")
"""For damage to the text cache; the plain method of the other rounds needs no text."""
MINI = Path(__file__).resolve().parents[1] / "data" / "mini"
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "os.scandir")
KILLED = 137


@dataclass(frozen=True)
class Fault:
    """The ``at``-th operation ends with ``kind``: "kill", or the name of an ``errno``."""

    kind: str
    at: int


@dataclass(frozen=True)
class Ended:
    """How a command ended; ``operations`` is how many it made, as far as it came."""

    code: int
    out: str
    err: str
    operations: int


class World:
    """A folder with a data set, results and a cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data, self.results, self.cache = folder / "data", folder / "results", folder / "cache"
        shutil.copytree(MINI, self.data)

    def bench(self, *arguments: str, fault: Fault | None = None) -> Ended:
        """Run ``bench`` in a child process."""
        out, err, count = (self.folder / f".{n}" for n in ("out", "err", "count"))
        child = os.fork()
        if child == 0:
            _in_child(self, out, err, count, arguments, fault)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return Ended(code, out.read_text(), err.read_text(), int(count.read_text() or 0))

    def run(self, *method: str, fault: Fault | None = None) -> Ended:
        """``bench run`` on the data set."""
        chosen = method or ("--method", "levels_method:Levels")
        data = ("--dataset", str(self.data / "mini.toml"), "--protocol", "tiny")
        return self.bench("run", *chosen, *data, "--json", fault=fault)

    def clean(self) -> None:
        """Forget everything but the data set."""
        for folder in (self.results, self.cache):
            shutil.rmtree(folder, ignore_errors=True)

    def files(self) -> dict[str, bytes]:
        """The files of all runs that are the same in every history."""
        kept = (p for p in sorted(self.results.rglob("*")) if p.name in ("counts.parquet", "metrics.json"))
        return {str(p.relative_to(self.results)): p.read_bytes() for p in kept}


def _in_child(world: World, out: Path, err: Path, count: Path, arguments: tuple[str, ...], fault: Fault | None) -> None:
    """Never returns."""
    code = 1
    try:
        for descriptor, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), descriptor)
        counter = os.open(count, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.chdir(world.folder)
        os.environ["OVSS_CACHE"] = str(world.cache)
        sys.argv = ["bench", *arguments, *(["--results", str(world.results)])]
        _watch((str(world.results), str(world.cache)), counter, fault)
        from ovss.harness.cli.main import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - a child must say what happened, whatever it was
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _watch(folders: tuple[str, ...], counter: int, fault: Fault | None) -> None:
    """Count operations below ``folders`` and let the wanted one fail."""
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        os.pwrite(counter, str(done).encode(), 0)
        if fault is not None and done == fault.at:
            if fault.kind == "kill":
                os._exit(KILLED)
            number = getattr(errno, fault.kind)
            raise OSError(number, os.strerror(number))

    def hook(event: str, details: tuple[Any, ...]) -> None:
        if event in EVENTS and str(details[0]).startswith(folders):
            step()

    fsync = os.fsync

    def flush(descriptor: int) -> None:
        step()
        fsync(descriptor)

    os.fsync = flush
    sys.addaudithook(hook)


class Findings:
    """What was tried, and what went wrong."""

    def __init__(self) -> None:
        self.tried, self.wrong = 0, []  # type: int, list[str]

    def expect(self, holds: bool, what: str, ended: Ended) -> None:
        self.tried += 1
        if not holds:
            self.wrong.append(f"{what}: exit code {ended.code}, {(ended.err or ended.out)[-600:]}")


def interrupt(world: World, every: Callable[[int], list[int]], findings: Findings) -> None:
    """Disturb a run at each operation, then let it finish."""
    world.clean()
    whole = world.run()
    if whole.code:
        raise RuntimeError(whole.err)
    truth, files = json.loads(whole.out)["miou"], world.files()
    for kind in ("kill", "ENOSPC", "EIO"):
        for at in every(whole.operations):
            world.clean()
            what = f"{kind} at operation {at} of {whole.operations}"
            ended = world.run(fault=Fault(kind, at))
            findings.expect(_honest(ended, truth), what, ended)
            ended = world.run()
            same = ended.code == 0 and json.loads(ended.out)["miou"] == truth and world.files() == files
            findings.expect(same, f"run again after {what}", ended)
            left = [p for p in world.results.rglob("*") if p.name.endswith(".tmp")]
            findings.expect(not left, f"temporary files after {what}: {left}", ended)


def damage(world: World, rounds: int, seed: int, findings: Findings) -> None:
    """Damage one file of a finished run at a time, and look at it with every verb."""
    world.clean()
    truth = json.loads(world.run(*CLIP).out)["miou"]
    files = world.files()
    backup = world.folder / "backup"
    for folder in (world.results, world.cache):
        shutil.copytree(folder, backup / folder.name)
    rng = random.Random(seed)
    for number in range(rounds):
        targets = sorted(p for f in (world.results, world.cache) for p in f.rglob("*") if _is_state(p))
        path = targets[number % len(targets)]
        what = f"{_damage(path, rng)} in {path.relative_to(world.folder)}"
        for verb, shown in _looks(world):
            ended = world.bench(*verb)
            findings.expect(_honest(ended, truth, shown), f"bench {verb[0]} after {what}", ended)
        ended = world.run(*CLIP)
        same = ended.code == 0 and json.loads(ended.out)["miou"] == truth and world.files() == files
        findings.expect(same, f"bench run after {what}", ended)
        for folder in (world.results, world.cache):
            shutil.rmtree(folder)
            shutil.copytree(backup / folder.name, folder)


def _is_state(path: Path) -> bool:
    return path.is_file() and path.name != ".lock"


def _looks(world: World) -> Iterator[tuple[tuple[str, ...], Callable[[Any], float]]]:
    (run,) = (world.results / "runs").iterdir()
    yield ("show", str(run), "--json"), lambda value: value["metrics"]["miou"]
    board = ("leaderboard", "--output", str(world.folder / "LEADERBOARD.md"), "--json")
    yield board, lambda value: value[0]["miou"]


def _damage(path: Path, rng: random.Random) -> str:
    content = bytearray(path.read_bytes())
    kind = rng.choice(("flip", "flip", "flip", "cut", "empty", "gone"))
    if kind == "gone":
        path.unlink()
        return "file removed"
    if kind == "flip":
        bit = rng.randrange(8 * len(content))
        content[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(content)
        return f"bit {bit} flipped"
    path.write_bytes(content[: rng.randrange(len(content))] if kind == "cut" else b"")
    return f"file {kind}"


def _honest(ended: Ended, truth: float, shown: Callable[[Any], float] = lambda value: value["miou"]) -> bool:
    """Exit code 0 with the true number, or another with one paragraph and no traceback."""
    if ended.code == 0:
        return bool(abs(shown(json.loads(ended.out)) - truth) < 1e-9)
    return ended.code == KILLED or ("Traceback" not in ended.err and bool(ended.err.strip()))


def _prepare() -> None:
    """Import, and find out once for all children, what takes long and is the same in each."""
    import open_clip  # noqa: F401

    import ovss.harness.cli.report
    import ovss.harness.cli.run
    import ovss.harness.cli.show
    import ovss.harness.report.leaderboard_text  # noqa: F401
    from ovss.harness.runs import provenance

    provenance.source_hash()
    provenance.git_state()
    installed = provenance.packages_distributions()
    provenance.packages_distributions = lambda: installed


def campaign(quick: int | None, seed: int = 0) -> Findings:
    """Everything; ``quick`` is how many operations of each kind, and how many damages, are tried."""
    _prepare()
    rng, findings = random.Random(seed), Findings()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "levels_method.py").write_text(METHOD)
        sys.path.insert(0, folder)
        world = World(Path(folder) / "world")

        def every(operations: int) -> list[int]:
            found = range(1, operations + 1)
            return list(found) if quick is None else sorted(rng.sample(found, min(quick, operations)))

        interrupt(world, every, findings)
        damage(world, 400 if quick is None else quick, seed, findings)
    return findings


def main() -> None:
    """Print what was found; exit code 1 if anything was."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", type=int, metavar="N", help="try N operations of each kind, and N damages")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    findings = campaign(asked.quick, asked.seed)
    print("\n".join(findings.wrong))
    print(f"{findings.tried} checks, {len(findings.wrong)} failed")
    sys.exit(bool(findings.wrong))


if __name__ == "__main__":
    main()
