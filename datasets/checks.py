"""Checking data before a run: every problem is found first and reported together.

Each sample is read once, completely (a truncated JPEG is only noticed at its end).  What was found in a pair of files
is remembered by size, time and record, so that the next check of the same data takes no time.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .dataset import Dataset
from .errors import DataError, Problem
from .record import HealthCheck
from .writing import clean_temporaries, write_atomically

Values = list[int]
"""Values that occur in a label, after loading, sorted."""


def check_samples(
    dataset: Dataset,
    ids: Iterable[str],
    verdicts: Path | None = None,
    advance: Callable[[int], None] = lambda count: None,
    threads: int = 2,
) -> list[str]:
    """Read every sample of ``ids`` and raise one ``DataError`` with all problems, if there are any.

    ``verdicts`` is a folder where good pairs are remembered.  ``advance`` is told how many samples are done.  Returned
    are warnings: findings that do not stop a run.
    """
    problems, warnings = find_problems(dataset, ids, verdicts, advance, threads)
    if problems:
        raise DataError(f"data set {dataset.record.key!r} has {len(problems)} problem(s); nothing was run:", problems)
    return [str(w) for w in warnings]


def find_problems(
    dataset: Dataset,
    ids: Iterable[str],
    verdicts: Path | None = None,
    advance: Callable[[int], None] = lambda count: None,
    threads: int = 2,
) -> tuple[list[Problem], list[Problem]]:
    """What ``check_samples`` finds: problems that stop a run, and warnings."""
    problems = dataset.listing_problems()
    memory = _Memory(verdicts, dataset)
    wanted = list(ids)
    occurs: Counter[int] = Counter()
    pool = ThreadPoolExecutor(threads)
    try:
        for found, values in pool.map(lambda i: _check(dataset, i, memory), wanted):
            problems += found
            occurs.update(values)
            advance(1)
    finally:  # an interrupted check keeps what it has found to be good
        pool.shutdown(cancel_futures=True)
        memory.save()
    warnings: list[Problem] = []
    for check, problem in _unhealthy(dataset, occurs, complete=len(wanted) == len(dataset.ids)):
        (problems if check.level == "error" else warnings).append(problem)
    return problems, warnings


def _unhealthy(dataset: Dataset, occurs: Counter[int], complete: bool) -> list[tuple[HealthCheck, Problem]]:
    """Health checks that fail.  On a part of the data only what must not occur can be told.

    Where fewer images are listed than the data set has, what is missing in them is a warning at most.
    """
    found = []
    whole = len(dataset.ids) >= dataset.planned
    for check in dataset.record.health:
        failed = {
            "must_occur": complete and not occurs[check.value],
            "must_not_occur": occurs[check.value] > 0,
            "in_more_images": complete and occurs[check.value] < occurs[check.than or 0],
        }[check.kind]
        if not whole and check.kind != "must_not_occur":
            check = check.model_copy(update={"level": "warning"})
        if failed and dataset.ids and occurs:
            found.append((check, Problem(dataset.files(dataset.ids[0])[1].parent, check.what, check.fix)))
    return found


def _check(dataset: Dataset, image_id: str, memory: "_Memory") -> tuple[list[Problem], Values]:
    if not dataset.files(image_id):
        return [], []  # procedural: there is nothing that could be damaged
    mark = memory.mark(dataset.files(image_id))
    known = memory.values(image_id, mark)
    if known is not None:
        return [], known
    try:
        values = [int(v) for v in np.unique(dataset.load(image_id).label)]
    except DataError as error:
        return list(error.problems) or [Problem(Path(image_id), str(error), "")], []
    memory.remember(image_id, mark, values)
    return [], values


class _Memory:
    """Ids whose files were found good, with the size and time of the files and the values in the label."""

    def __init__(self, folder: Path | None, dataset: Dataset) -> None:
        self.path: Path | None = None
        self.good: dict[str, list[object]] = {}
        self.changed = False
        if folder is None or not dataset.ids or not dataset.files(dataset.ids[0]):
            return
        files = " ".join(str(f.resolve().parent) for f in dataset.files(dataset.ids[0]))
        name = hashlib.sha256(f"{dataset.record.model_dump_json()}{files}".encode()).hexdigest()[:16]
        self.path = folder / f"{dataset.record.key}-{name}.json"
        try:
            stored = json.loads(self.path.read_text())
        except (OSError, ValueError):
            stored = None
        if isinstance(stored, dict):  # absent or damaged: everything is checked again
            self.good = {k: v for k, v in stored.items() if isinstance(v, list) and len(v) == 2}

    def mark(self, files: tuple[Path, ...]) -> str:
        """Size and modification time of the files, or "" if one is absent."""
        try:
            stats = [f.stat() for f in files]
        except OSError:
            return ""
        return " ".join(f"{s.st_size}@{s.st_mtime_ns}" for s in stats)

    def values(self, image_id: str, mark: str) -> Values | None:
        """What is remembered of files that have not changed since."""
        seen, values = self.good.get(image_id, ("", []))
        return [int(v) for v in values] if mark and seen == mark and isinstance(values, list) else None

    def remember(self, image_id: str, mark: str, values: Values) -> None:
        if mark:
            self.good[image_id] = [mark, values]
            self.changed = True

    def save(self) -> None:
        if self.path is None or not self.changed:
            return
        clean_temporaries(self.path.parent)
        try:
            write_atomically(self.path, json.dumps(self.good).encode())
        except OSError as error:
            logging.getLogger(__name__).warning("checked files cannot be remembered in %s: %s", self.path.parent, error)
