"""Places: where a data set's files are looked for.

A data root is a folder that holds data sets: an mmsegmentation ``data/`` folder, the folder of one data set, or links
to either.  Roots are, in this order: ``--data-root`` (then nothing else counts); the folder given for the key in the
user's configuration; ``$OVSS_DATA`` (several are separated as in ``$PATH``); ``data_roots`` of the configuration.

The configuration is ``$OVSS_CONFIG``, else ``ovss/config.toml`` below ``$XDG_CONFIG_HOME`` (default ``~/.config``)::

    data_roots = ["/data", "/scratch/mmseg/data"]
    prepared = "/scratch/prepared"

    [datasets]
    camvid = "/photos/CamVid"
"""

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .dataset import FolderDataset
from .errors import DataError
from .invalid import explain
from .record import PREPARED, DatasetRecord
from .toml import read_toml

ROOT_VARIABLE, PREPARED_VARIABLE, CONFIG_VARIABLE = "OVSS_DATA", "OVSS_PREPARED", "OVSS_CONFIG"


class UserConfig(BaseModel):
    """The user's configuration file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data_roots: tuple[Path, ...] = ()
    prepared: Path | None = None
    datasets: dict[str, Path] = Field(default_factory=dict)


def config_path() -> Path:
    """Where the configuration is looked for; it need not be there."""
    given = os.environ.get(CONFIG_VARIABLE)
    base = os.environ.get("XDG_CONFIG_HOME")
    return Path(given) if given else (Path(base) if base else Path.home() / ".config") / "ovss" / "config.toml"


def user_config() -> UserConfig:
    """The configuration, empty if there is none.  Raises ``DataError`` that names the file and the field."""
    path = config_path()
    if not path.exists():
        return UserConfig()
    try:
        return UserConfig.model_validate(read_toml(path, f"configuration {path}"))
    except ValidationError as error:
        raise DataError(f"configuration {path} is not usable:\n{explain(error, 'configuration')}") from error


def data_roots(key: str, data_root: Path | None = None) -> list[Path]:
    """Folders to look in for a data set, in order; empty when nothing is configured."""
    if data_root is not None:
        return [data_root]
    config = user_config()
    named = [config.datasets[key]] if key in config.datasets else []
    variable = [Path(p) for p in os.environ.get(ROOT_VARIABLE, "").split(os.pathsep) if p]
    return [p.expanduser() for p in (*named, *variable, *config.data_roots)]


def prepared_root() -> Path:
    """Folder of what ``bench data prepare`` writes, one folder per data set.

    ``$OVSS_PREPARED``, else ``prepared`` of the configuration, else ``ovss/prepared`` below ``$XDG_DATA_HOME`` (default
    ``~/.local/share``).
    """
    given = os.environ.get(PREPARED_VARIABLE) or user_config().prepared
    base = os.environ.get("XDG_DATA_HOME")
    default = (Path(base) if base else Path.home() / ".local" / "share") / "ovss" / "prepared"
    return Path(given).expanduser() if given else default


def homes(record: DatasetRecord, roots: list[Path]) -> Iterator[Path]:
    """Folders that may be the data set's own, whether they are there or not."""
    key = record.key.partition("@")[0]
    for root in roots:
        for place in dict.fromkeys((*record.places, key, ".")):
            yield root / place


def locate(record: DatasetRecord, data_root: Path | None = None, source: str | None = None) -> FolderDataset:
    """The data set in the first form that is found complete with images and labels.

    ``source`` asks for another ground truth than the record's own.

    Raises ``DataError`` that says where was looked, what was found instead, and the command that helps.
    """
    key = record.key
    forms = record.forms(source)
    if not forms:
        known = sorted({a.source for a in record.alternatives if a.source})
        raise DataError(f"data set {key!r} has no ground truth {source!r}; others are: {', '.join(known) or 'none'}")
    roots = data_roots(key, data_root)
    if not roots:
        raise DataError(
            f"data set {key!r} needs its folder: pass --data-root DIR, set {ROOT_VARIABLE}, or write data_roots into "
            f"{config_path()}"
        )
    prepared = prepared_root() / record.prepared_folder
    without_labels: FolderDataset | None = None
    for home in homes(record, roots):
        for form in forms:
            dataset = FolderDataset(form, home, prepared)
            if dataset.has_images():
                if dataset.has_labels():
                    return dataset
                without_labels = without_labels or dataset
    raise _not_found(record, forms, roots, without_labels)


def _not_found(
    record: DatasetRecord, forms: tuple[DatasetRecord, ...], roots: list[Path], without_labels: FolderDataset | None
) -> DataError:
    """What is missing of the ``forms`` asked for, what is there instead, and what to do."""
    if without_labels is None:
        text = _what_is_absent(forms[0], roots)
    else:
        key, suffix, wanted = forms[0].key, without_labels.record.label_suffix, without_labels.missing_label()
        text = f"data set {key!r} has images in {without_labels.images} but no labels: {wanted} does not exist"
        others = sorted(p.name for p in wanted.parent.glob(f"{wanted.name.removesuffix(suffix)}*"))
        if others:
            text += f".  There is {', '.join(others[:4])}: labels of another data set or another form"
    own, prepared = forms[0] is record, any(form.labels.startswith(PREPARED) for form in forms)
    for lookalike in record.lookalikes if own or prepared else ():  # their advice leads to no other ground truth
        if any(next(home.glob(lookalike.pattern), None) for home in homes(record, roots) if home.is_dir()):
            text += f".  {lookalike.what}: {lookalike.fix}"
    prepare = f"`bench data prepare {record.key}`"
    if prepare in text:
        return DataError(text)
    needs = record.prepare.needs if record.prepare and prepared else None
    if needs and any((home / needs).exists() for home in homes(record, roots)):
        return DataError(f"{text}.  {prepare} makes them")
    if own or prepared:
        return DataError(f"{text}.  `bench data download {record.key}` says how to get it")
    return DataError(f"{text}.  These labels have no recipe here: put them there, or ask for plain {record.key!r}")


def _what_is_absent(record: DatasetRecord, roots: list[Path]) -> str:
    """Images, labels or the list file of the form ``record``, the usual one."""
    prepared = prepared_root() / record.prepared_folder
    for home in homes(record, roots):
        dataset, listing = FolderDataset(record, home, prepared), home / str(record.list_file)
        if not dataset.images.is_dir() or not next(dataset.images.rglob(f"*{record.image_suffix}"), None):
            continue
        if not dataset.labels.is_dir():
            return (
                f"data set {record.key!r} has images in {dataset.images} but no labels: {dataset.labels} is not there"
            )
        if record.list_file is not None and not listing.exists():
            return (
                f"data set {record.key!r} has images and labels, but its list {listing} does not exist: unpack it from "
                "the archive of the data set, or write the name of one image per line"
            )
    gone = "".join(f".  The folder {root} does not exist" for root in roots if not root.is_dir())
    places = f"{', '.join(map(str, roots))}, nor below it in {', '.join(record.places)}"
    return f"data set {record.key!r} is not there: no images in {record.images!r} below {places}{gone}"
