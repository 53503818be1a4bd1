"""``bench data list``, ``check``, ``prepare`` and ``download``."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ...datasets import DataError, Dataset, DatasetRecord, Problem, dataset_keys, find_record, open_dataset
from ...datasets.archives import extract
from ...datasets.checks import find_problems
from ...datasets.dataset import FolderDataset
from ...datasets.download import download
from ...datasets.places import data_roots, homes, prepared_root
from ...datasets.prepare import Job, find_recipe
from ...methods.files import cache_folder
from ..mmseg_config import open_any
from ..progress import progress, progress_to
from ..tables import print_json, print_line, print_table

_FAST = 100
"""Samples that a fast check reads."""


def list_command(data_root: Path | None, as_json: bool) -> None:
    """Which data sets are here, and in which form."""
    rows = [_status(key, data_root) for key in dataset_keys()]
    if as_json:
        print_json(rows)
        return
    columns = ("data set", "images", "classes", "status", "where")
    print_table("", columns, [tuple("" if r[c] is None else r[c] for c in columns) for r in rows])
    print_line(f"what `bench data prepare` wrote is looked for in {prepared_root()}")


def _status(key: str, data_root: Path | None) -> dict[str, Any]:
    record = find_record(key)
    row: dict[str, Any] = {"data set": key, "images": record.expected_images, "classes": len(record.classes)}
    try:
        dataset = open_dataset(key, data_root)
    except DataError as error:
        without = "no labels" if "no labels" in str(error) else "missing"
        return {**row, "status": without, "where": None}
    if not isinstance(dataset, FolderDataset):
        return {**row, "status": "built in", "where": None}
    return {**row, "status": "found", "where": str(dataset.labels)}


def check_command(name: str, data_root: Path | None, fast: bool, expect: int | None, as_json: bool) -> None:
    """Read everything, say what is wrong and how to mend it; exit code 1 if something would stop a run."""
    dataset = open_any(name, data_root)
    ids = dataset.ids
    if fast and len(ids) > _FAST:
        ids = ids[:: -(-len(ids) // _FAST)]
    with progress(f"checking {dataset.record.key}", len(ids)) as advance:
        problems, warnings = find_problems(dataset, ids, cache_folder() / "checked", advance)
    planned = expect or dataset.planned
    if len(dataset.ids) != planned:
        what = f"{len(dataset.ids)} images are listed, {planned} are expected"
        fix = "Look for a download that stopped early, or say --expect N if it is a part on purpose"
        warnings.append(Problem(_image_folder(dataset), what, fix))
    report = {
        "dataset": dataset.record.key,
        "images": str(_image_folder(dataset)),
        "labels": str(dataset.labels) if isinstance(dataset, FolderDataset) else "",
        "checked": len(ids),
        "listed": len(dataset.ids),
        "complete": len(ids) == len(dataset.ids),
        "problems": [_as_dict(p) for p in problems],
        "warnings": [_as_dict(p) for p in warnings],
    }
    if as_json:
        print_json(report)
    else:
        _print_check(report)
    if problems:
        raise SystemExit(1)


def _image_folder(dataset: Dataset) -> Path:
    return dataset.images if isinstance(dataset, FolderDataset) else Path(dataset.record.key)


def _as_dict(problem: Problem) -> dict[str, str]:
    return {"file": str(problem.file), "what": problem.what, "fix": problem.fix}


def _print_check(report: dict[str, Any]) -> None:
    rows = [(level, p["file"], p["what"], p["fix"]) for level in ("problems", "warnings") for p in report[level]]
    if rows:
        print_table("", ("level", "file", "what", "fix"), [(r[0].rstrip("s"), *r[1:]) for r in rows])
    part = "" if report["complete"] else f" of {report['listed']} (a sample: leave out --fast to read all)"
    print_line(
        f"{report['dataset']}: {report['checked']}{part} images read, {len(report['problems'])} problems, "
        f"{len(report['warnings'])} warnings; labels from {report['labels'] or 'the code'}"
    )


def prepare_command(key: str, data_root: Path | None, archive: Path | None, as_json: bool) -> None:
    """Convert what the data set's pages hand out into labels that the loader reads."""
    record = find_record(key)
    if record.prepare is None:
        raise DataError(f"data set {key!r} needs no preparation here.  {record.steps}".rstrip())
    output = prepared_root() / record.prepared_folder
    if archive is not None:
        with progress_to(f"unpacking {archive.name}") as advance:
            extract(archive, output / "unpacked", advance=advance)
        data_root = output / "unpacked"
    home = _raw_home(record, data_root)
    with progress_to(f"preparing {key}") as advance:
        find_recipe(record.prepare.recipe)(Job(home, output, record.prepare.options, advance))
    if as_json:
        print_json({"dataset": key, "from": str(home), "to": str(output)})
    else:
        print_line(f"{key}: prepared from {home} in {output}; `bench data check {key}` reads it all once")


def _raw_home(record: DatasetRecord, data_root: Path | None) -> Path:
    """The folder that holds what the recipe needs."""
    assert record.prepare is not None
    needs, places = record.prepare.needs, record.prepare.places or record.places
    roots = data_roots(record.key, data_root)
    for home in homes(record.model_copy(update={"places": places}), roots):
        if (home / needs).exists():
            return home
    looked = ", ".join(map(str, roots)) or "nowhere: pass --data-root DIR"
    raise DataError(
        f"preparing {record.key!r} needs {needs!r} in one of {', '.join((*places, '.'))}; looked below {looked}.  "
        f"{record.steps}"
    )


def download_command(key: str, into: Path | None, as_json: bool) -> None:
    """Fetch and unpack what has a plain public address; print the steps for the rest."""
    record = find_record(key)
    if not record.downloads or into is None:
        _say_how(record, as_json)
        return
    sums = {item.url: _fetch(record, item.url, into) for item in record.downloads}
    if as_json:
        print_json({"dataset": key, "into": str(into), "sha256": sums, "steps": record.steps})
        return
    for url, digest in sums.items():
        print_line(f"{url}\n  sha256 {digest}")
    print_line(f"next: {record.steps}\n`bench data check {key} --data-root {into}`")


def _say_how(record: DatasetRecord, as_json: bool) -> None:
    steps = record.steps or "It needs no files."
    if as_json:
        print_json({"dataset": record.key, "downloads": [d.url for d in record.downloads], "steps": steps})
        return
    print_line(f"{record.title}{f': {record.home}' if record.home else ''}\nlicence: {record.licence}\n{steps}")
    for item in record.downloads:
        print_line(f"public file: {item.url}")
    if record.downloads:
        print_line(f"`bench data download {record.key} --into DIR` fetches and unpacks what is public")


def _fetch(record: DatasetRecord, url: str, into: Path) -> str:
    item = next(d for d in record.downloads if d.url == url)
    name = url.rpartition("/")[2]
    target = into / "downloads" / name if item.archive else into / item.into / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with progress_to(f"downloading {name}") as advance:
        digest = download(url, target, md5=item.md5, sha256=item.sha256, advance=advance)
    if item.archive:
        wanted = (lambda entry: any(fnmatchcase(entry, p) for p in item.only)) if item.only else None
        with progress_to(f"unpacking {name}") as advance:
            extract(target, into / item.into, wanted, advance=advance)
    return digest
