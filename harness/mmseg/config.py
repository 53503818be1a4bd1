"""mmsegmentation configs in our harness: ``--dataset mmseg:CONFIG.py`` and ``--protocol mmseg:CONFIG.py``.

A config of mmseg 1.x is Python code, and reading it executes it: use those that you would run.

From the config's ``test_dataloader`` come the files, classes, palette, zero-label reduction and ignore index; reading,
resizing, windows and scoring are ours.  Configs of the SCLIP family name a text file with class names
(``model.name_path``): its lines are the words of the classes.  ``docs/mmsegmentation.md`` lists what is taken over.
"""

import os
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ...datasets import DataError, DatasetRecord, find_record
from ...datasets.dataset import FolderDataset
from ...datasets.errors import Problem
from ...datasets.invalid import explain
from ...datasets.text import read_text
from ...methods import UserError
from ..runs.sources import PREFIX
from .protocol import MODELS, read_config, type_name

_DATASETS = {
    "PascalVOC20Dataset": ("voc20", ".png", True),
    "PascalContext60Dataset": ("context60", ".png", False),
    "COCOObjectDataset": ("coco_object", "_instanceTrainIds.png", False),
}
"""Data set types that projects of the SCLIP family define for themselves: our key, label suffix, zero reduction."""


_WORD_FIELDS = ("name_path", "class_names", "text_categories", "text_embeddings_path")
"""Fields by which public configs name class words, or embeddings that stand for them (SCLIP's family, MaskCLIP)."""


class MmsegDataset(FolderDataset):
    """The data set that an mmseg config tests on, read by our loader.

    ``data_root`` replaces that of the config.  Raises ``UserError`` when the config cannot be read and ``DataError``
    when files are absent.
    """

    def __init__(self, config: Path, data_root: Path | None = None) -> None:
        loaded = read_config(config)
        listed = _build(config, loaded, data_root)
        super().__init__(_record(config, loaded, listed), config.parent)
        pairs = _pairs(config, listed)
        self._pairs = dict(pairs)
        self._times = Counter(image_id for image_id, _ in pairs)
        self._config = config

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Paths of the images below the config's image folder, without its suffix, sorted."""
        return tuple(sorted(self._pairs))

    def listing_problems(self) -> list[Problem]:
        """Images that are listed more than once: mmseg counts them as often."""
        fix = "Remove the double lines of its ann_file"
        doubled = [(i, n) for i, n in self._times.items() if n > 1]
        return [Problem(self._config, f"image {i} is listed {n} times", fix) for i, n in doubled]

    def files(self, image_id: str) -> tuple[Path, ...]:
        """Image and label file of an id."""
        return self._pairs[image_id]


def _build(config: Path, loaded: Any, data_root: Path | None) -> Any:
    """mmseg's own data set object, without a pipeline: it lists the files."""
    loader = loaded.get("test_dataloader") or loaded.get("val_dataloader")
    if not loader or not loader.get("dataset"):
        raise UserError(f"mmseg config {config} has neither a test_dataloader nor a val_dataloader with a dataset")
    fields = {**loader["dataset"], "pipeline": [], "test_mode": True, "serialize_data": False}
    kind = _dataset_type(config, fields.pop("type", ""))
    if data_root is not None:
        fields["data_root"] = str(data_root)
    try:
        return kind(**fields)
    except (FileNotFoundError, NotADirectoryError, AssertionError) as error:
        why = f"files of its {kind.__name__} are absent: {error}".rstrip(": ")
        fix = f"data_root is {fields.get('data_root')!r}; pass another with --data-root"
        raise DataError(f"mmseg config {config}: {why}.  {fix}") from error
    except Exception as error:  # a type may be foreign code
        why = f"{type(error).__name__}: {error}"
        raise UserError(f"mmseg config {config}: its {kind.__name__} cannot be built: {why}") from error


def _dataset_type(config: Path, kind: Any) -> Any:
    """The class that a config names."""
    from mmseg.datasets import BaseSegDataset
    from mmseg.registry import DATASETS

    found = DATASETS.get(kind) if isinstance(kind, str) and kind else kind
    if not found and kind.rpartition(".")[2] in _DATASETS:
        return _own_type(BaseSegDataset, kind.rpartition(".")[2])
    if not found:
        raise UserError(
            f"mmseg config {config}: data set type {kind!r} is not known to mmseg.  Name the module that defines it in "
            "the config, custom_imports = dict(imports=['MODULE']), and put its folder on PYTHONPATH"
        )
    if not issubclass(found, BaseSegDataset):
        raise UserError(
            f"mmseg config {config}: data set type {kind!r} is no BaseSegDataset (wrappers such as ConcatDataset and "
            "RepeatDataset are none).  Write one config for each data set inside"
        )
    return found


def _own_type(base: Any, name: str) -> type:
    """One of ``_DATASETS``.  It is not registered, so that a project can still register its own."""
    key, suffix, reduce = _DATASETS[name]
    record = find_record(key)
    palette = [list(colour) for colour in record.palette or ()]

    def start(self: Any, **fields: Any) -> None:
        base.__init__(self, **{"seg_map_suffix": suffix, "reduce_zero_label": reduce, **fields})

    return type(name, (base,), {"METAINFO": {"classes": record.classes, "palette": palette}, "__init__": start})


def _pairs(config: Path, listed: Any) -> list[tuple[str, tuple[Path, Path]]]:
    """Id and files of every image, as often as it is listed."""
    found = [listed.get_data_info(k) for k in range(len(listed))]
    if not found or not all(f.get("seg_map_path") for f in found):
        what = "an image without a label (data_prefix needs seg_map_path)" if found else "no image"
        raise DataError(f"mmseg config {config} lists {what}")
    paths = [(Path(f["img_path"]), Path(f["seg_map_path"])) for f in found]
    absent = [p for pair in paths for p in pair if not p.is_file()]
    if absent:
        fix = "Check data_root and the suffixes of the config"
        problems = [Problem(p, "the file does not exist", fix) for p in absent]
        raise DataError(f"mmseg config {config} lists {len(absent)} file(s) that are absent:", problems)
    folder = listed.data_prefix.get("img_path") or "."
    names = [Path(os.path.relpath(image, folder)).as_posix() for image, _ in paths]
    return [(name.removesuffix(listed.img_suffix), pair) for name, pair in zip(names, paths, strict=True)]


def _record(config: Path, loaded: Any, listed: Any) -> DatasetRecord:
    classes = tuple(listed.metainfo["classes"])
    first, ignored = int(listed.reduce_zero_label), _ignore_index(loaded, listed)
    chosen = listed.label_map or {}  # class -> class among those chosen, or 255; stored values are higher by `first`
    key = "".join(c if c.isascii() and c.isalnum() else "_" for c in config.stem.lower())
    try:
        return DatasetRecord(
            key=f"mmseg_{key}",
            title=f"{config.name} (mmseg config)",
            images="",
            labels="",
            classes=classes,
            words=_words(config, loaded.get("model") or {}, len(classes)),
            palette=tuple(map(tuple, listed.metainfo["palette"])),
            label_map={old + first: ignored if new == 255 else new + first for old, new in chosen.items()},
            first_label=first,
            ignore_index=ignored,
            background=0 if classes[0].lower() == "background" else None,
            split="test",
        )
    except ValidationError as error:
        raise UserError(
            f"mmseg config {config}: its data set cannot be used: {explain(error, 'config', '; ', '')}"
        ) from error


def _ignore_index(loaded: Any, listed: Any) -> int:
    """That of the metric, which is what counts in mmseg; if it names none, that of the data set."""
    metrics = loaded.get("test_evaluator") or ()
    metrics = metrics if isinstance(metrics, list | tuple) else (metrics,)
    return int(next((m["ignore_index"] for m in metrics if "ignore_index" in m), listed.ignore_index))


def unused_words(option: str, name: str, dataset: str) -> list[str]:
    """See ``sources.unused_words``: of the config ``name``, which the user gave with ``option``."""
    fields = dict(_word_fields(read_config(Path(name.removeprefix(PREFIX))).get("model") or {}))
    if name == dataset:
        fields.pop("name_path", None)
    found = []
    for place, value in fields.items():
        advice = f".  With --dataset {name} they are" if place == "name_path" else ""
        found.append(
            f"{option} {name}: the words that its {place} = {value!r} stands for are not used; those of "
            f"{dataset} are, by the protocol's vocabulary{advice}"
        )
    return found


def _word_fields(part: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Fields of a model that bring words or their embeddings, wherever they are in it, with their dotted place."""
    for key, value in part.items() if isinstance(part, dict) else ():
        if key in _WORD_FIELDS and value:
            yield f"{place}{key}", value
        else:
            yield from _word_fields(value, f"{place}{key}.")


def _words(config: Path, model: Any, classes: int) -> tuple[str, ...]:
    """Lines of the class-name file that a config of the SCLIP family names, separated by ``", "``; or none."""
    if not model.get("name_path"):
        return ()
    name, separator = model["name_path"], MODELS.get(type_name(model), ("", ", "))[1]
    places = [Path(name), *(folder / name for folder in config.resolve().parents[:3])]
    path = next((p for p in places if p.is_file()), None)
    if path is None:
        looked = ", ".join(map(str, places))
        raise UserError(f"mmseg config {config} names the class file {name}, which is at none of: {looked}")
    lines = [
        [t.strip() for t in line.split(separator)]
        for line in read_text(path, f"class file {path} of {config}").splitlines()
    ]
    if len(lines) != classes:
        raise UserError(f"class file {path} has {len(lines)} lines, the data set of {config} has {classes} classes")
    texts = [t for line in lines for t in line if not t or ", " in t]
    if texts:
        raise UserError(
            f"class file {path} of {config}: {texts[0]!r} is no text: a text is not empty and has no ', ' inside"
        )
    return tuple(", ".join(line) for line in lines)
