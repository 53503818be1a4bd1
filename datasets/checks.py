"""Checking data before a run: every problem is found first and reported together.

Each sample is read once, completely (a truncated JPEG is only noticed at its end).  The verdict of a file pair is
remembered by size, time and record, so that the next run on the same data starts at once.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .dataset import Dataset
from .errors import DataError, Problem


def check_samples(
    dataset: Dataset,
    ids: Iterable[str],
    verdicts: Path | None = None,
    advance: Callable[[int], None] = lambda count: None,
    threads: int = 2,
) -> None:
    """Read every sample of ``ids`` and raise one ``DataError`` with all problems, if there are any.

    ``verdicts`` is a folder where good pairs are remembered.  ``advance`` is told how many samples are done.
    """
    problems = dataset.listing_problems()
    memory = _Memory(verdicts, dataset)
    wanted = list(ids)
    pool = ThreadPoolExecutor(threads)
    try:
        for found in pool.map(lambda i: _check(dataset, i, memory), wanted):
            problems += found
            advance(1)
    finally:  # an interrupted check keeps what it has found to be good
        pool.shutdown(cancel_futures=True)
        memory.save()
    if problems:
        raise DataError(f"data set {dataset.record.key!r} has {len(problems)} problem(s); nothing was run:", problems)


def _check(dataset: Dataset, image_id: str, memory: "_Memory") -> list[Problem]:
    if not dataset.files(image_id):
        return []  # procedural: there is nothing that could be damaged
    mark = memory.mark(dataset.files(image_id))
    if memory.knows(image_id, mark):
        return []
    try:
        dataset.load(image_id)
    except DataError as error:
        return list(error.problems) or [Problem(Path(image_id), str(error), "")]
    memory.remember(image_id, mark)
    return []


class _Memory:
    """Ids whose files were found good, with the size and time of the files."""

    def __init__(self, folder: Path | None, dataset: Dataset) -> None:
        self.path: Path | None = None
        self.good: dict[str, str] = {}
        self.changed = False
        if folder is None or not dataset.ids or not dataset.files(dataset.ids[0]):
            return
        place = str(dataset.files(dataset.ids[0])[0].resolve().parent)
        name = hashlib.sha256(f"{dataset.record.hash}{place}".encode()).hexdigest()[:16]
        self.path = folder / f"{dataset.record.key}-{name}.json"
        try:
            stored = json.loads(self.path.read_text())
        except (OSError, ValueError):
            stored = None
        if isinstance(stored, dict):  # absent or damaged: everything is checked again
            self.good = stored

    def mark(self, files: tuple[Path, ...]) -> str:
        """Size and modification time of the files, or "" if one is absent."""
        try:
            stats = [f.stat() for f in files]
        except OSError:
            return ""
        return " ".join(f"{s.st_size}@{s.st_mtime_ns}" for s in stats)

    def knows(self, image_id: str, mark: str) -> bool:
        return bool(mark) and self.good.get(image_id) == mark

    def remember(self, image_id: str, mark: str) -> None:
        if mark:
            self.good[image_id] = mark
            self.changed = True

    def save(self) -> None:
        if self.path is None or not self.changed:
            return
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self.good))
            temporary.replace(self.path)
        except OSError as error:
            logging.getLogger(__name__).warning("checked files cannot be remembered in %s: %s", self.path.parent, error)
