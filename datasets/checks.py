"""Checking data before a run: every problem is found first and reported together.

Each sample that is asked for is read once, completely (a truncated JPEG is only noticed at its end).  Of all others the
files are hashed and the labels read, because the digest of the whole set belongs to a run's identity.  What was found
in a file is remembered (``memory``), so that the next check of the same data reads none.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .advice import census_problems, census_warnings, one_class_problem, single_class
from .catalog import dataset_keys
from .census import Census, take_census
from .dataset import Dataset, digest_of
from .errors import DataError, Problem
from .examine import ImageFacts, LabelFacts, fits, image_facts, label_facts, problems_of
from .memory import Memory, mark
from .record import HealthCheck

UNREADABLE = "unreadable"
"""Digest of a sample that is not asked for and cannot be read."""
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Findings:
    """Problems that stop a run, warnings, the digest of each sample that was read, and what the labels hold."""

    problems: list[Problem]
    warnings: list[Problem]
    digests: dict[str, str]
    census: Census

    @property
    def digest(self) -> str:
        """SHA-256 of ids and digests, one "id digest" per line, sorted."""
        return set_digest(self.digests)


@dataclass(frozen=True)
class Checked:
    """A data set without a problem: warnings, the digest of every sample, of the set, and what the labels hold."""

    warnings: list[str]
    digests: dict[str, str]
    digest: str
    census: Census


@dataclass(frozen=True)
class _Sample:
    """What one sample gave; None for what could not be read."""

    image: ImageFacts | None = None
    label: LabelFacts | None = None
    problems: tuple[Problem, ...] = ()
    procedural: bool = False

    @property
    def digest(self) -> str:
        if self.procedural:
            return ""
        return digest_of(self.image.sha256, self.label.sha256) if self.image and self.label else UNREADABLE


def set_digest(digests: Mapping[str, str]) -> str:
    """Digest of a data set: SHA-256 of its samples' ids and digests, one "id digest" per line, sorted."""
    return hashlib.sha256("\n".join(sorted(f"{i} {d}" for i, d in digests.items())).encode()).hexdigest()


def check_samples(
    dataset: Dataset,
    ids: Iterable[str],
    verdicts: Path | None = None,
    advance: Advance = lambda count: None,
    threads: int | None = None,
) -> Checked:
    """Read every sample of ``ids`` and raise one ``DataError`` with all problems, if there are any.

    Of the data set's other samples the files are hashed and the labels read; what cannot be read of them is a warning.
    ``verdicts`` is a folder where good files are remembered.  ``advance`` is told how many samples of the data set are
    done.  ``threads`` is by default the number of processors, two at least.
    """
    found = find_problems(dataset, ids, verdicts, advance, threads)
    if found.problems:
        count = len(found.problems)
        raise DataError(f"data set {dataset.record.key!r} has {count} problem(s); nothing was run:", found.problems)
    return Checked([str(w) for w in found.warnings], found.digests, found.digest, found.census)


def find_problems(
    dataset: Dataset,
    ids: Iterable[str],
    verdicts: Path | None = None,
    advance: Advance = lambda count: None,
    threads: int | None = None,
    others: bool = True,
) -> Findings:
    """What ``check_samples`` finds.  Without ``others`` only ``ids`` are looked at: the digest is that of a part."""
    wanted = dict.fromkeys(ids)
    everything = [*wanted, *(i for i in dataset.ids if others and i not in wanted)]
    memory = Memory(verdicts, dataset)
    read: dict[str, _Sample] = {}
    pool = ThreadPoolExecutor(threads or max(2, os.cpu_count() or 1))
    try:
        one = partial(_read, dataset, memory)
        for image_id, result in zip(everything, pool.map(lambda i: one(i, i in wanted), everything), strict=True):
            read[image_id] = result
            advance(1)
    finally:  # an interrupted check keeps what it has found to be good
        pool.shutdown(cancel_futures=True)
        memory.save()
    problems = [*dataset.listing_problems(), *(p for i in wanted for p in read[i].problems)]
    warnings = _unreadable_others([p for i in everything if i not in wanted for p in read[i].problems])
    labels = [label for label in (read[i].label for i in wanted) if label]
    occurs = Counter(value for label in labels for value in label.pixels)
    for check, problem in _unhealthy(dataset, occurs, complete=len(wanted) == len(dataset.ids)):
        (problems if check.level == "error" else warnings).append(problem)
    census = take_census(dataset, {i: r.image for i, r in read.items()}, {i: r.label for i, r in read.items()})
    if not problems:  # otherwise it is no wonder that something is absent
        problems += census_problems(dataset, census)
        own = dataset.record.key.partition("@")[0] not in dataset_keys()
        warnings += _of_the_census(dataset, census, labels, own)
    return Findings(problems, warnings, {i: read[i].digest for i in sorted(read)}, census)


def _of_the_census(dataset: Dataset, census: Census, labels: list[LabelFacts], own: bool) -> list[Problem]:
    """Warnings about all labels that were read, and about those asked for where they say less."""
    warnings = census_warnings(dataset, census, own)
    only = single_class(dataset.record, labels)
    if only is not None and len(labels) < census.labels and sum(c.images > 0 for c in census.classes) > 1:
        warnings.append(one_class_problem(dataset, only, f"the {len(labels)} label(s) asked for"))
    return warnings


def _unreadable_others(problems: list[Problem]) -> list[Problem]:
    """One warning for all samples that are not asked for and cannot be read."""
    if not problems:
        return []
    first, more = problems[0], len(problems) - 1
    what = f"{first.what} (not asked for this time" + (f", as {more} more such files)" if more else ")")
    return [Problem(first.file, what, first.fix)]


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


def _read(dataset: Dataset, memory: Memory, image_id: str, wanted: bool) -> _Sample:
    """Facts of a sample, from the memory where its files have not changed.

    Marks are taken before reading: a file that changes meanwhile is read again the next time.
    """
    files = dataset.files(image_id)
    if not files:
        return _Sample(procedural=True)  # there is nothing that could be damaged
    image_path, label_path = files
    marks = (mark(image_path), mark(label_path))
    image, label = memory.image(image_id, marks[0]), memory.label(image_id, marks[1])
    problems: list[Problem] = []
    if image is None or (wanted and not image.whole):
        try:
            image = image_facts(image_path, decode=wanted)
        except DataError as error:
            image, problems = None, problems_of(error, image_path)
    if label is None:
        try:
            label = label_facts(label_path, dataset.record)
        except DataError as error:
            problems += problems_of(error, label_path)
    misfit = fits(label_path, image, label) if image and label else None
    memory.remember(image_id, marks, image, label)
    return _Sample(image, label, (*problems, misfit) if misfit else tuple(problems))
