"""The one driver of all recipes: makes what is not there yet, file by file.

What was made from what is kept in ``prepared.json`` of the output folder: the recipe with its options and tables, and
for every step the size and time of its sources and the files that came of it.  A step whose sources have not changed
and whose files are there is not done again.  With another recipe, option or table everything is made again, and the old
files go first: labels of two rules must never lie side by side.

A file is written under a temporary name and then renamed, so it is complete or absent; what a killed run left of that
is removed by the next.  Files are not synced one by one (there may be 160 000 of them).  A run that was killed loses at
most the record of the last ``_SAVE_EVERY`` steps; they are simply done again.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, Problem
from ..writing import clean_temporaries, write_atomically
from .job import Job, Options

MANIFEST = "prepared.json"
_VERSION = 1  # raise it when a recipe makes other files of the same sources
_SAVE_EVERY = 200
_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class Step:
    """Files made together.  ``name`` is unique in the job; ``make`` gives path below the output folder -> content.

    ``key`` stands for whatever besides the sources decides the content.
    """

    name: str
    sources: tuple[Path, ...]
    make: Callable[[], Mapping[str, bytes]]
    key: str = ""

    def mark(self) -> str:
        """Key, sizes and modification times of the sources.  Raises ``OSError``."""
        stats = [s.stat() for s in self.sources]
        return " ".join([self.key, *(f"{s.st_size}@{s.st_mtime_ns}" for s in stats)])


def text_step(target: str, lines: Sequence[str]) -> Step:
    """A text file with these lines."""
    content = "".join(f"{line}\n" for line in lines).encode()
    return Step(target, (), lambda: {target: content}, hashlib.sha256(content).hexdigest()[:16])


def carry_out(job: Job, recipe: str, options: Options, steps: Sequence[Step], tables: Iterable[Path] = ()) -> None:
    """Do the steps that are not done yet.  ``tables`` are files of ours that the result depends on.

    Raises ``DataError`` when the output lies in the data set's own folder, a source is absent, a file cannot be written
    (for a full disk with the fix), or files cannot be converted: then all others are made, and all bad ones named.
    """
    _refuse_home(job)
    marks = _marks(job, steps)
    head = {
        "version": _VERSION,
        "recipe": recipe,
        "options": options.model_dump(mode="json", by_alias=True),
        "tables": {t.name: hashlib.sha256(t.read_bytes()).hexdigest() for t in tables},
    }
    manifest = _Manifest(job.output, head)
    pending = [s for s in steps if not manifest.knows(s.name, marks[s.name])]
    done, total = len(steps) - len(pending), len(steps)
    job.advance(done, total)
    problems: list[Problem] = []
    if pending:
        for folder, _, _ in os.walk(job.output):
            clean_temporaries(Path(folder))
        with contextlib.closing(_each(job, pending, manifest)) as results:
            for number, (step, made) in enumerate(results, done + 1):
                if isinstance(made, DataError):
                    problems += made.problems or [Problem(step.sources[0], str(made), "")]
                else:
                    manifest.remember(step.name, marks[step.name], made)
                job.advance(number, total)
    if problems:
        raise DataError(f"{len(problems)} file(s) cannot be converted; {job.output} holds the others:", problems)


def _each(
    job: Job, pending: Sequence[Step], manifest: "_Manifest"
) -> Generator[tuple[Step, tuple[str, ...] | DataError], None, None]:
    """Every step with its files or with why it failed, in order; the manifest is saved now and then, and at the end."""
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for number, (step, made) in enumerate(zip(pending, pool.map(lambda s: _do(s, job), pending), strict=True), 1):
            yield step, made
            if number % _SAVE_EVERY == 0:
                manifest.save()
    except BaseException:
        pool.shutdown(cancel_futures=True)
        with contextlib.suppress(DataError):  # what stopped us matters more
            manifest.save()
        raise
    pool.shutdown()
    manifest.save()


def _refuse_home(job: Job) -> None:
    home, output = job.home.resolve(), job.output.resolve()
    if output.is_relative_to(home) or home.is_relative_to(output):
        raise DataError(
            f"prepared files would go to {output}, but the data set's own folder {home} is never written to: set "
            "OVSS_PREPARED to a folder of its own"
        )


def _marks(job: Job, steps: Sequence[Step]) -> dict[str, str]:
    """Mark of every step.  Raises ``DataError`` that names all absent sources and all doubled names."""
    marks: dict[str, str] = {}
    problems = []
    for step in steps:
        if step.name in marks:
            what = f"another file of the data set would also become {step.name}"
            problems.append(Problem((*step.sources, job.output)[0], what, "Remove or rename one of them"))
        try:
            marks[step.name] = step.mark()
        except OSError as error:
            marks[step.name] = ""
            path = Path(error.filename or step.sources[0])
            problems.append(Problem(path, f"the file is needed and cannot be found ({error.strerror})", "Add it"))
    if problems:
        raise DataError(f"{job.home} is not complete; nothing was converted:", problems)
    return marks


def _do(step: Step, job: Job) -> tuple[str, ...] | DataError:
    """Targets of the step, or why its sources cannot be converted.  Raises ``DataError`` if writing fails."""
    try:
        files = step.make()
    except DataError as error:
        return error
    for target, content in files.items():
        _write(job.output, target, content)
    return tuple(files)


def _write(output: Path, target: str, content: bytes) -> None:
    """Write a file below ``output`` whole or not at all."""
    path = output / target
    try:
        _stay_inside(output, path)
        write_atomically(path, content, sync=target == MANIFEST)
    except OSError as error:
        raise _cannot_write(output, path, error) from error


def _stay_inside(output: Path, path: Path) -> None:
    """A name from the data set with ``..`` or a link must not lead elsewhere."""
    if not path.parent.resolve().is_relative_to(output.resolve()):
        raise DataError(f"{path} does not lie below {output}: remove the link, or mend the name in the data set")


def _cannot_write(output: Path, path: Path, error: OSError) -> DataError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(
            f"{path} cannot be written: the disk is full ({error.strerror}).  Free space there, or set OVSS_PREPARED "
            f"to a folder on another disk; then run the same command again: what is in {output} is kept"
        )
    return DataError(
        f"{path} cannot be written ({error.strerror}): set OVSS_PREPARED to a folder that you may write to"
    )


class _Manifest:
    """``prepared.json``: the head (recipe, options, tables) and, for every step, its mark and its files."""

    def __init__(self, output: Path, head: dict[str, Any]) -> None:
        self.output = output
        self.head: dict[str, Any] = json.loads(json.dumps(head))
        stored = self._stored()
        self.made: dict[str, list[str]] = stored.pop("made", {})
        stored.pop("files", None)
        if self.made and stored != self.head:
            self._remove_old()

    def _stored(self) -> dict[str, Any]:
        """The file's content; empty if it is absent or damaged: then everything is made again."""
        try:
            stored = json.loads((self.output / MANIFEST).read_text(encoding="utf-8"))
            sound = all(isinstance(text, str) for entry in stored["made"].values() for text in (entry[0], *entry))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
            return {}
        return stored if sound else {}

    def _remove_old(self) -> None:
        for _, *targets in self.made.values():
            for target in targets:
                path = self.output / target
                _stay_inside(self.output, path)
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    raise _cannot_write(self.output, path, error) from error
        self.made = {}

    def knows(self, name: str, mark: str) -> bool:
        """Whether the step was done from the same sources, and its files are there."""
        stored, *targets = self.made.get(name, [""])
        return name in self.made and stored == mark and all((self.output / t).is_file() for t in targets)

    def remember(self, name: str, mark: str, targets: tuple[str, ...]) -> None:
        self.made[name] = [mark, *targets]

    def save(self) -> None:
        files = sum(len(entry) - 1 for entry in self.made.values())
        content = json.dumps({**self.head, "files": files, "made": self.made}, indent=0)
        _write(self.output, MANIFEST, content.encode())
