"""``bench data list``, ``check``, ``prepare`` and ``download``."""

import shlex
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ...datasets import DataError, Dataset, DatasetRecord, Problem, find_record, open_dataset
from ...datasets.archives import extract
from ...datasets.checks import find_problems
from ...datasets.dataset import FolderDataset
from ...datasets.download import download
from ...datasets.errors import shown
from ...datasets.places import data_roots, prepared_root, user_config
from ...datasets.prepare import Job, find_recipe
from ...datasets.record import Download
from ...methods.core.files import cache_folder
from ..runs.sources import open_any
from ..show.progress import progress, progress_to
from ..show.tables import print_json, print_line, print_table
from ..use.data_here import prepared_name, raw_home, situation
from .census import print_census
from .data_status import all_rows, footnotes, name_a_root
from .protocol_words import lint_data

_FAST = 100
"""Samples that a fast check reads."""
_SHOWN = 20
"""Findings of a kind that are printed."""

# ---- list


def list_command(data_root: Path | None, as_json: bool) -> None:
    """Which data sets are here, which can be prepared, which are missing, and which share images."""
    user_config()  # a mistake in it is told once; below it would look like missing data
    rows = all_rows(data_root)
    if as_json:
        print_json(rows)
        return
    columns = ("dataset", "images", "classes", "status", "where")
    print_table("", ("data set", *columns[1:]), [[row[c] for c in columns] for row in rows])
    for line in footnotes(rows, data_root):
        print_line(line)


# ---- check


def check_command(name: str, data_root: Path | None, fast: bool, expect: int | None, as_json: bool) -> None:
    """Read everything, say what is wrong and how to mend it; exit code 1 if something would stop a run.

    A number of images other than catalogued is a warning, other than ``expect`` a problem.
    """
    dataset = open_any(name, data_root)
    ids = dataset.ids[:: max(1, -(-len(dataset.ids) // _FAST))] if fast else dataset.ids
    with progress(f"checking {dataset.record.key}", len(ids)) as advance:
        found = find_problems(dataset, ids, cache_folder() / "checked", advance, others=False)
    problems, warnings = found.problems, found.warnings
    for level, problem in _about_words(dataset, name):
        (problems if level == "error" else warnings).append(problem)
    if len(dataset.ids) != (expect or dataset.record.expected_images or len(dataset.ids)):
        (problems if expect else warnings).append(_other_number(dataset, expect))
    report = {
        "dataset": dataset.record.key,
        "images": str(_image_folder(dataset)),
        "labels": str(dataset.labels) if isinstance(dataset, FolderDataset) else "",
        "checked": len(ids),
        "listed": len(dataset.ids),
        "planned": dataset.planned,
        "complete": len(ids) == len(dataset.ids) and not dataset.beside.images,
        "digest": found.digest if len(ids) == len(dataset.ids) and not problems else None,
        "problems": [_as_dict(p) for p in problems],
        "warnings": [_as_dict(p) for p in warnings],
        "census": found.census.model_dump(),
    }
    if as_json:
        print_json(report)
    else:
        _print_findings(problems, warnings)
        print_census(found.census)
        _print_outcome(dataset, report)
        if not problems:
            print_line(f"next: `bench run --method METHOD --dataset {name}{_option(data_root)}`")
    if problems:
        raise SystemExit(1)


def _about_words(dataset: Dataset, name: str) -> list[tuple[str, Problem]]:
    """Errors and warnings about the words that the data set's own protocol gives its classes."""
    record = dataset.record
    found = lint_data(record.protocol, record)
    verb = f"bench protocol words {record.protocol} --dataset {name}"
    see = f"`{verb}` shows every prompt, with its tokens as OpenAI's CLIP counts them"
    return [(level, Problem(_image_folder(dataset), text, see)) for level, text in found if level != "info"]


def _other_number(dataset: Dataset, expect: int | None) -> Problem:
    what = f"there are {len(dataset.ids)} images, {expect or dataset.planned} are expected"
    if expect is not None:
        return Problem(_image_folder(dataset), what, "Look for a copy that stopped early, or mend --expect")
    fix = "Look for a download that stopped early, or confirm a part on purpose with --expect N"
    return Problem(_image_folder(dataset), what, fix)


def _image_folder(dataset: Dataset) -> Path:
    return dataset.images if isinstance(dataset, FolderDataset) else Path(dataset.record.key)


def _as_dict(problem: Problem) -> dict[str, str]:
    return {"file": shown(problem.file), "what": problem.what, "fix": problem.fix}


def _print_findings(problems: list[Problem], warnings: list[Problem]) -> None:
    for level, found in (("problem", problems), ("warning", warnings)):
        for problem in found[:_SHOWN]:
            print_line(f"{level}: {problem}")
        if len(found) > _SHOWN:
            print_line(f"... and {_number(len(found) - _SHOWN, level)} more; --json lists them all")


def _print_outcome(dataset: Dataset, report: dict[str, Any]) -> None:
    """How much was checked, of what there is, and how it went."""
    part = _number(report["checked"], "image")
    if report["checked"] < report["listed"]:
        part = f"a sample of {report['checked']} of {report['listed']} images (without --fast: all)"
    elif dataset.beside.images:
        part = f"{report['checked']} of {report['planned']} images (partial)"
    elif dataset.record.list_file:
        part += f", named by {dataset.record.list_file},"
    found = f"{_number(len(report['problems']), 'problem')}, {_number(len(report['warnings']), 'warning')}"
    print_line(f"{report['dataset']}: {part} checked, {found}; labels from {report['labels'] or 'the code'}")


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


# ---- prepare


def prepare_command(name: str, data_root: Path | None, archive: Path | None, as_json: bool) -> None:
    """Convert what the data set's pages hand out into labels that the loader reads."""
    record = _record(name)
    if record.prepare is None:
        _nothing_to_prepare(record, data_root, as_json)
        return
    output, roots = prepared_root() / record.prepared_folder, data_roots(record.key, data_root)
    if archive is not None:
        roots = [prepared_root() / "unpacked" / record.prepared_folder]
        with progress_to(f"unpacking {archive.name}") as report:
            extract(archive, roots[0], advance=report)
    home = raw_home(record, roots)
    if home is None:
        raise _nothing_to_start_from(record, roots)
    with progress_to(f"preparing {record.key}") as report:
        find_recipe(record.prepare.recipe)(Job(home, output, record.prepare.options, report))
    prepared = prepared_name(record)
    says, following = _following(prepared, data_root, roots[0] if archive else None, output)
    if as_json:
        print_json({"dataset": prepared, "from": str(home), "to": str(output), "note": says, "next": following})
    else:
        print_line(f"{prepared}: labels made from {home} are in {output}{says and f'; {says}'}\nnext: `{following}`")


def _record(name: str) -> DatasetRecord:
    if name.endswith(".toml"):
        raise DataError(f"{name} is your own data set: only listed ones are prepared and downloaded")
    key, _, source = name.partition("@")
    record = find_record(key)
    if source and not record.forms(source):
        raise DataError(f"data set {key!r} has no ground truth {source!r}")
    if source and source != record.source:
        raise DataError(f"{name} is read as it is found and has no recipe or address here.  {record.steps}".rstrip())
    return record


def _nothing_to_prepare(record: DatasetRecord, data_root: Path | None, as_json: bool) -> None:
    try:
        dataset = open_dataset(record.key, data_root)
    except DataError as error:
        raise DataError(f"{record.key!r} is read as it is found, there is no recipe for it; but {error}") from error
    labels = str(dataset.labels) if isinstance(dataset, FolderDataset) else "the code"
    following = f"bench data check {record.key}{_option(data_root)}"
    if as_json:
        print_json({"dataset": record.key, "from": labels, "to": None, "note": "read as it is", "next": following})
    else:
        print_line(f"{record.key}: nothing to prepare, labels are read as they are from {labels}\nnext: `{following}`")


def _nothing_to_start_from(record: DatasetRecord, roots: list[Path]) -> DataError:
    assert record.prepare is not None
    if not roots:
        return DataError(f"preparing {record.key!r} needs the folder of the data: {name_a_root()}")
    looked = ", ".join(map(str, roots))
    places = ", ".join(record.prepare.places or record.places)
    return DataError(
        f"there is nothing to prepare {record.key!r} from: no {record.prepare.needs!r} in {looked}, nor below it in "
        f"{places}.  `bench data download {record.key}` says how to get it"
    )


def _following(name: str, data_root: Path | None, unpacked: Path | None, output: Path) -> tuple[str, str]:
    """A remark on what was prepared, and the next command."""
    refused = None
    for root in (data_root, unpacked) if unpacked else (data_root,):
        try:
            dataset = open_dataset(name, root)
        except DataError as error:
            refused = refused or error
            continue
        in_use = isinstance(dataset, FolderDataset) and dataset.labels.is_relative_to(output)
        labels = dataset.labels if isinstance(dataset, FolderDataset) else ""
        remark = "" if in_use else f"they are spare copies as long as labels are read as they are from {labels}"
        return remark, f"bench data check {name}{_option(root)}"
    return f"not complete yet: {refused}", f"bench data download {name}"


def _option(data_root: Path | None) -> str:
    return "" if data_root is None else f" --data-root {shlex.quote(str(data_root))}"


# ---- download


def download_command(name: str, into: Path | None, as_json: bool) -> None:
    """Fetch and unpack what has a plain public address; print the steps for the rest."""
    record = _record(name)
    sums = {item.url: _fetch(item, into) for item in record.downloads} if into is not None else {}
    following = _after_download(record, into) if sums else ""
    steps = record.steps.strip() or "It needs no files."
    if as_json:
        said = {"dataset": record.key, "title": record.title, "home": record.home, "licence": record.licence}
        public = [item.url for item in record.downloads]
        fetched = {"into": str(into), "sha256": sums, "next": following} if sums else {}
        print_json({**said, "downloads": public, "steps": steps, **fetched})
        return
    print_line(f"{record.title}{record.home and f': {record.home}'}\nlicence: {record.licence}")
    for url, digest in sums.items():
        print_line(f"fetched {url}\n  sha256 {digest}")
    if following:
        print_line(f"next: `{following}`")
        return
    print_line(f"not complete yet:\n{steps}" if sums else steps)
    for item in record.downloads if not sums else ():
        print_line(f"public file: {item.url}")
    if record.downloads and not sums:
        print_line(f"`bench data download {record.key} --into DIR` fetches and unpacks what is public")
    elif into is not None and not record.downloads:
        print_line("nothing of it has a plain public address: nothing was fetched")


def _after_download(record: DatasetRecord, into: Path | None) -> str:
    """The next command, or "" if something has still to be got by hand."""
    status = situation(record, record.key, into)[0]
    verb = {"found": "check", "to prepare": "prepare"}.get(status)
    return f"bench data {verb} {record.key}{_option(into)}" if verb else ""


def _fetch(item: Download, into: Path) -> str:
    """SHA-256 of a public file, which is then in its place, unpacked if it is an archive."""
    name = item.url.rpartition("/")[2]
    target = into / "downloads" / name if item.archive else into / item.into / name
    with progress_to(f"downloading {name}") as report:
        digest = download(item.url, target, md5=item.md5, sha256=item.sha256, advance=report)
    if item.archive:
        wanted = (lambda entry: any(fnmatchcase(entry, p) for p in item.only)) if item.only else None
        with progress_to(f"unpacking {name}") as report:
            extract(target, into / item.into, wanted, advance=report)
    return digest
