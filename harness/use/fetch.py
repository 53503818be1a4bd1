"""``fetch_weights`` and ``check_weights``: checkpoints that methods need, compared with what is known of them."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ...datasets.download import download
from ...datasets.writing import put_in_place
from ...methods import UserError
from ...methods.models.weight_checks import check_file
from ...methods.models.weights import FoundWeights, WeightEntry, WeightFile, find_entry, found_in, list_weights, locate
from ..show.telling import Progress, counting, unseen


@dataclass(frozen=True)
class CheckedFile:
    """A file of a checkpoint: ``path`` is None and ``sha256`` empty where it is missing.

    ``checked`` and ``unknown`` name kinds of evidence, ``wrong`` are sentences, and ``fix`` is what mends it.
    """

    weights: str
    file: str
    path: Path | None
    sha256: str
    checked: tuple[str, ...]
    unknown: tuple[str, ...]
    wrong: tuple[str, ...]
    fix: str

    @property
    def problem(self) -> str:
        """What is wrong and what mends it, as one paragraph; "" if nothing is."""
        return f"{self.weights}: {self.path or self.file}: {'; '.join(self.wrong)}. {self.fix}" if self.wrong else ""


@dataclass(frozen=True)
class FetchedWeights:
    """``where`` they are, and whether they were ``fetched`` now.

    Where a person has to get them ``where`` is None, and ``steps`` say how.
    """

    entry: WeightEntry
    fetched: bool
    where: Path | None
    files: tuple[CheckedFile, ...] = ()
    steps: str = ""


def fetch_weights(name: str, source: str | None = None, progress: Progress = unseen) -> FetchedWeights:
    """Get a checkpoint, compare it with what is known of it, and put it where methods look for it.

    ``source`` is a folder or an address that holds a copy; without it the catalogued one is taken, unless it is here
    already.  A file that is not the right one is not kept; a download that broke off goes on the next time.

    Raises ``UserError`` for unknown weights, a file that is another one, and what fails on the way.
    """
    entry = find_entry(name)
    found = locate(entry)
    if source is None and found is not None and not found.missing:
        rows = _checks(entry, found, True, progress)
        _refuse_wrong(rows)
        return FetchedWeights(entry, False, found.path, tuple(rows))
    if source is None and entry.steps:
        return FetchedWeights(entry, False, None, steps=entry.steps.strip())
    rows = _get(entry, source, progress)
    found = locate(entry)
    return FetchedWeights(entry, True, found.path if found else None, tuple(rows))


def check_weights(names: Sequence[str] = (), progress: Progress = unseen) -> list[CheckedFile]:
    """Compare every file that is here with what is known of it (default: of all catalogued weights)."""
    entries = [find_entry(name) for name in names] or list(list_weights().values())
    return [row for entry in entries for row in _checks(entry, locate(entry), bool(names), progress)]


def _checks(entry: WeightEntry, found: FoundWeights | None, asked_for: bool, progress: Progress) -> list[CheckedFile]:
    """A row for each file that is here, and one for those that are missing though others are here, or asked for."""
    fix = f"run `bench weights fetch {entry.name}`"
    rows = [
        _checked(entry, file, path, f"Delete {path.resolve()} and {fix}", progress)
        for file, path in (found.files if found else ())
    ]
    missing = found.missing if found else [f.name for f in entry.files] if asked_for else []
    absent = ("it is not here",)
    return rows + [CheckedFile(entry.name, name, None, "", (), (), absent, f"Please {fix}") for name in missing]


def _checked(entry: WeightEntry, file: WeightFile, path: Path, fix: str, progress: Progress) -> CheckedFile:
    found = check_file(file, path, counting(progress, f"checking {path.name}", path.stat().st_size))
    evidence = (found.checked, found.unknown, found.wrong)
    return CheckedFile(entry.name, file.name, found.path, found.sha256, *evidence, fix if found.wrong else "")


def _refuse_wrong(rows: Sequence[CheckedFile]) -> None:
    problems = [row.problem for row in rows if row.wrong]
    if problems:
        raise UserError("\n".join(problems))


def _get(entry: WeightEntry, source: str | None, progress: Progress) -> list[CheckedFile]:
    if source is None and entry.hub is not None:
        got = [_from_hub(entry, file) for file in entry.files]
        rows = [_checked(entry, f, p, f"Delete {p.resolve()} and run this again", progress) for f, p in got]
        _refuse_wrong(rows)
        return rows
    if source is not None and not source.startswith(("http://", "https://")):
        fills = [(f, _copying(path, progress)) for f, path in _in_folder(entry, Path(source))]
    else:
        fills = [(f, _downloading(f, _address(entry, f, source), progress)) for f in entry.files]
    rows = [_keep(entry, f, fill, progress) for f, fill in fills]
    shutil.rmtree(_incoming(entry), ignore_errors=True)
    return rows


# ---- files that are kept in the cache

Fill = Callable[[Path], None]
"""Writes a file at a path, in the folder of what has not been checked yet."""


def _keep(entry: WeightEntry, file: WeightFile, fill: Fill, progress: Progress) -> CheckedFile:
    """Fill in a file of the cache: it takes its name once it is known to be the right one."""
    target, incoming = entry.folder / file.name, _incoming(entry) / file.name
    here = target.is_file()
    if not here:
        with _telling(incoming):
            incoming.parent.mkdir(parents=True, exist_ok=True)
            fill(incoming)
    again = "run the same command again"
    fix = f"Delete it and {again}" if here else f"It was deleted: {again}"
    row = _checked(entry, file, target if here else incoming, fix, progress)
    if row.wrong and not here:
        incoming.unlink()
    _refuse_wrong([row])
    if not here:
        with _telling(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            put_in_place(incoming, target)
    return replace(row, path=target)


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Turn what goes wrong with the disk into a ``UserError`` with the fix."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} could not be written: {error.strerror or error}.  Make room, or mend the permissions, and run the "
            "same command again"
        ) from error


def _incoming(entry: WeightEntry) -> Path:
    return entry.folder / "incoming"


def _downloading(file: WeightFile, url: str, progress: Progress) -> Fill:
    def fill(path: Path) -> None:
        md5, sha256 = _if_whole(file.md5, 32), _if_whole(file.sha256, 64)
        advance = partial(progress, f"downloading {path.name}")
        download(url, path, md5=md5, sha256=sha256, size=file.size_bytes, advance=advance)

    return fill


def _if_whole(digest: str | None, length: int) -> str | None:
    return digest if digest is not None and len(digest) == length else None


def _address(entry: WeightEntry, file: WeightFile, source: str | None) -> str:
    """The catalogued address, or the one in a mirror: BASE/NAME/FILE, or the file's own."""
    if source is None:
        assert file.url is not None
        return file.url
    own = len(entry.files) == 1 and source.endswith(f"/{file.name}")
    return source if own else f"{source.rstrip('/')}/{entry.name}/{file.name}"


def _in_folder(entry: WeightEntry, source: Path) -> tuple[tuple[WeightFile, Path], ...]:
    """The files of a checkpoint in a folder of the user's, as NAME/FILE or FILE, or the one file itself."""
    if source.is_file() and len(entry.files) == 1:
        return ((entry.files[0], source),)
    for folder in (source / entry.name, source):
        found = found_in(entry, "given", folder)
        if not found.missing:
            return found.files
    raise UserError(f"{source} does not hold {entry.wanted}, neither in a folder {entry.name} nor beside each other")


def _copying(source: Path, progress: Progress) -> Fill:
    def fill(path: Path) -> None:
        total = source.stat().st_size
        with source.open("rb") as old, path.open("wb") as new:
            while chunk := old.read(1 << 20):
                new.write(chunk)
                progress(f"copying {source.name}", new.tell(), total)

    return fill


# ---- the hub


def _from_hub(entry: WeightEntry, file: WeightFile) -> tuple[WeightFile, Path]:
    """A file of the catalogued commit, in the Hugging Face cache; its name may be one of ``instead``."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    assert entry.hub is not None
    for name in (file.name, *file.instead):
        try:
            found = Path(hf_hub_download(entry.hub, name, revision=entry.revision))
        except EntryNotFoundError as error:
            if not isinstance(error, LocalEntryNotFoundError):  # the hub answered that there is none
                continue
            raise UserError(_no_hub(entry, name, error)) from error
        except (OSError, HfHubHTTPError) as error:
            raise UserError(_no_hub(entry, name, error)) from error
        return (file if name == file.name else WeightFile(name=name)), found
    raise UserError(_no_hub(entry, " or ".join((file.name, *file.instead)), "the hub has no such file"))


def _no_hub(entry: WeightEntry, name: str, error: object) -> str:
    copies = f", or look at {', '.join(entry.mirrors)}" if entry.mirrors else ""
    return (
        f"{entry.hub}/{name} could not be fetched ({error}).  Check the connection and run the same command again"
        f"{copies}, or hand over a copy: bench weights fetch {entry.name} --from FOLDER"
    )
