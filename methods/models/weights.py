"""Checkpoints by name: which there are, where they lie on this machine, and whether they are the right ones.

``weights.toml`` is the catalogue.  Nothing here downloads: an absent checkpoint is an error that names the places where
it was looked for, and ``bench weights fetch``.  A checkpoint of one file is found as that file, one of several as the
folder that holds them all.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from ..core.errors import UserError, did_you_mean
from ..core.files import cache_folder
from ..core.loaded import LoadedWeights, record, record_own
from .weight_checks import difference, is_known

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MIRROR = "OVSS_WEIGHTS"
"""Environment variable: a folder of checkpoints, as ``NAME/FILE`` or, if no other has a file of that name, ``FILE``."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{6,64}$")]  # or its first digits; md5 too
Md5 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{6,32}$")]
Sha1 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Address = Annotated[str, StringConstraints(pattern=r"^https://[^/]+/.+[^/]$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WeightFile(_Part):
    """A file of a checkpoint; ``None`` is what is not known about it.

    ``name`` is its path below the checkpoint's folder, ``instead`` are names of the same weights in another format.
    ``sha256`` and ``md5`` may be the first digits only; ``git_blob`` is what ``git hash-object`` prints.
    """

    name: str
    instead: tuple[str, ...] = ()
    url: Address | None = None
    size_bytes: int | None = Field(default=None, gt=0)
    sha256: Sha256 | None = None
    md5: Md5 | None = None
    git_blob: Sha1 | None = None

    @model_validator(mode="after")
    def _inside(self) -> "WeightFile":
        for name in (self.name, *self.instead):
            if not name or PurePosixPath(name).is_absolute() or {"..", "."} & set(name.split("/")):
                raise ValueError(f"{name!r} is no path below the folder of a checkpoint")
        return self


class WeightEntry(_Part):
    """A checkpoint: what it is, who needs it, where it is to be had, and what is not sure about all that."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    title: str
    used_by: tuple[str, ...] = Field(min_length=1)
    licence: str
    source: str
    home: str = ""
    hub: str | None = None
    revision: Sha1 | None = None
    mirrors: tuple[str, ...] = ()
    note: str = ""
    unsure: str = ""
    steps: str = ""
    files: tuple[WeightFile, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_way(self) -> "WeightEntry":
        addresses = [f.url is not None for f in self.files]
        if [self.hub is not None, any(addresses), bool(self.steps)].count(True) != 1 or len(set(addresses)) > 1:
            raise ValueError("a checkpoint needs one of: a hub id, an address of every file, steps")
        if self.hub is None and (self.revision or self.mirrors):
            raise ValueError("`revision` and `mirrors` go with a hub id")
        return self

    @property
    def size_bytes(self) -> int | None:
        """Bytes of all files, or None if one of them is not known."""
        sizes = [f.size_bytes for f in self.files if f.size_bytes is not None]
        return sum(sizes) if len(sizes) == len(self.files) else None

    @property
    def repositories(self) -> tuple[str, ...]:
        """Hugging Face ids whose local cache may hold the files."""
        return (self.hub, *self.mirrors) if self.hub else ()

    @property
    def wanted(self) -> str:
        """Its files, for messages."""
        return ", ".join(" or ".join((f.name, *f.instead)) for f in self.files)

    @property
    def folder(self) -> Path:
        """Where ``bench weights fetch`` puts the files that do not come from the hub."""
        return cache_folder() / "weights" / self.name


class _Catalogue(_Part):
    coming: tuple[str, ...]
    weights: dict[str, WeightEntry]


@dataclass(frozen=True)
class FoundWeights:
    """Where a checkpoint lies.  ``files`` are those that are there; ``path`` is what a method reads."""

    entry: WeightEntry
    place: str
    folder: Path
    files: tuple[tuple[WeightFile, Path], ...]

    @property
    def missing(self) -> list[str]:
        """Names of the files that are not there."""
        there = {file.name for file, _ in self.files}
        return [f.name for f in self.entry.files if not there & {f.name, *f.instead}]

    @property
    def path(self) -> Path:
        """The file of a checkpoint of one file, else the folder."""
        return self.files[0][1] if len(self.entry.files) == 1 else self.folder


# ---- the catalogue


def list_weights() -> dict[str, WeightEntry]:
    """Every catalogued checkpoint by its name."""
    return _catalogue().weights


def coming_methods() -> tuple[str, ...]:
    """Methods that checkpoints are catalogued for and that this version does not have."""
    return _catalogue().coming


def find_entry(name: str) -> WeightEntry:
    """The catalogue's entry of that name.  Raises ``UserError`` when there is none."""
    if name not in list_weights():
        raise UserError(f"unknown weights {name!r}{did_you_mean(name, list_weights())}")
    return list_weights()[name]


@cache
def _catalogue() -> _Catalogue:
    fields = tomllib.loads(Path(__file__).with_name("weights.toml").read_text(encoding="utf-8"))
    named = {name: {"name": name, **entry} for name, entry in fields["weights"].items()}
    return _Catalogue.model_validate({"coming": fields["coming"], "weights": named})


# ---- finding


def find_weights(name: str, given: Path | None = None) -> Path:
    """The file of a catalogued checkpoint, or the folder if it has several files.

    ``given``, if the user named it, is a file, or a folder with the catalogue's file names; nothing else is looked at
    then.  The places are else ``$OVSS_WEIGHTS``, the cache, where ``bench weights fetch`` writes, and the Hugging Face
    cache.  Nothing is downloaded.

    Raises ``UserError`` for an unknown name and when the files are not there, with the places and the fix.
    """
    entry = find_entry(name)
    if given is not None and not given.exists():
        raise UserError(f"{given} does not exist: of the weights {name!r}, {entry.wanted} is expected there")
    if given is not None and given.is_file() and len(entry.files) == 1:
        _record(entry, given, is_known([(entry.files[0], given)]))
        return given
    if given is not None:
        found = found_in(entry, "given", given)
        if found.missing:
            raise UserError(f"{given} does not hold the weights {name!r}: {entry.wanted} is expected there")
        _record(entry, found.path, is_known(found.files))
        return found.path
    located = locate(entry)
    if located is None or located.missing:
        raise UserError(_not_here(entry, located))
    check_entry(located)
    _record(entry, located.path, True)
    return located.path


def _record(entry: WeightEntry, path: Path, catalogued: bool) -> None:
    if catalogued:
        record(LoadedWeights(entry.name, entry.licence, catalogued=True))
    else:
        record_own(path)


def locate(entry: WeightEntry) -> FoundWeights | None:
    """The first place that has all files of a checkpoint, else the first that has some, else None."""
    found = [found_in(entry, place, folder) for place, folder in _places(entry)]
    return next((f for f in found if not f.missing), next((f for f in found if f.files), None))


def found_in(entry: WeightEntry, place: str, folder: Path) -> FoundWeights:
    """What of a checkpoint lies in ``folder``, under the names of the catalogue."""
    files: list[tuple[WeightFile, Path]] = []
    for file in entry.files:
        other = (WeightFile(name=name) for name in file.instead)  # nothing is known about files of another format
        there = ((f, folder / f.name) for f in (file, *other) if (folder / f.name).is_file())
        files.extend(next(([pair] for pair in there), []))
    return FoundWeights(entry, place, folder, tuple(files))


def _places(entry: WeightEntry) -> Iterator[tuple[str, Path]]:
    """Kind of place and folder, in the order in which they are looked at."""
    mirror = os.environ.get(MIRROR)
    if mirror:
        if not Path(mirror).is_dir():
            raise UserError(f"${MIRROR} is {mirror!r}, which is no folder: mend it, or unset it")
        yield "mirror", Path(mirror) / entry.name
        names = [f.name for other in list_weights().values() for f in other.files]
        if len(entry.files) == 1 and names.count(entry.files[0].name) == 1:
            yield "mirror", Path(mirror)
    yield "cache", entry.folder
    for repository in entry.repositories:
        snapshot = _snapshot(repository, entry.revision if repository == entry.hub else None, entry)
        if snapshot is not None:
            yield "hub cache", snapshot


def _snapshot(repository: str, revision: str | None, entry: WeightEntry) -> Path | None:
    """Folder of a repository's files in the Hugging Face cache."""
    from huggingface_hub import try_to_load_from_cache

    for name in (n for f in entry.files for n in (f.name, *f.instead)):
        found = try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(found, str):
            return Path(found).parents[name.count("/")]
    return None


def _not_here(entry: WeightEntry, located: FoundWeights | None) -> str:
    mirror = os.environ.get(MIRROR)
    places = [str(Path(mirror) / entry.name) if mirror else f"${MIRROR} (not set)", str(entry.folder)]
    places += [f"the Hugging Face cache ({', '.join(entry.repositories)})"] if entry.hub else []
    looked = f"{entry.wanted} was looked for in {', '.join(places)}"
    looked += f"; {located.folder} lacks {', '.join(located.missing)}" if located else ""
    how = "says how to get them" if entry.steps else "fetches them"
    return (
        f"weights {entry.name!r} ({entry.title}) are not on this machine: {looked}.  Runs never download.\n"
        f"  bench weights fetch {entry.name}\n{how}; or put a copy into ${MIRROR}/{entry.name}"
    )


def licences(user: str) -> dict[str, str]:
    """Checkpoints that a method or a guide may need beside CLIP's, each with the licence of its weights."""
    entries = (e for e in list_weights().values() if user in e.used_by and not e.name.startswith("clip-vit-"))
    return {entry.name: entry.licence for entry in entries}


# ---- checking


def check_entry(found: FoundWeights) -> None:
    """Raise ``UserError`` when a file that was found by a catalogued name has another checksum than is known of it."""
    for file, path in found.files:
        wrong = difference(file, path)
        if wrong:
            raise UserError(
                f"{path} is not the catalogued file of {found.entry.name!r}: {wrong}.  Delete it and run "
                f"`bench weights fetch {found.entry.name}`; a file of your own has to be named by its path"
            )
