"""mmsegmentation configs in our harness: ``--dataset mmseg:CONFIG.py`` and ``--protocol mmseg:CONFIG.py``.

A config of mmseg 1.x is Python code, and reading it executes it: use those that you would run.

From the config's ``test_dataloader`` come the files, classes, palette, zero-label reduction and ignore index; reading,
resizing, windows and scoring are ours.  Configs of the SCLIP family name a text file with class names
(``model.name_path``): its lines are the words of the classes.
"""

import os
from functools import cached_property
from pathlib import Path
from typing import Any

from ..datasets import DataError, Dataset, DatasetRecord, open_dataset
from ..datasets.dataset import FolderDataset
from ..datasets.errors import Problem
from ..methods import UserError
from .mmseg_shim import import_mmseg
from .protocol import Protocol, load_protocol

PREFIX = "mmseg:"
_FAMILY = {
    "PascalVOC20Dataset": ("voc20", ".png", True),
    "PascalContext59Dataset": ("context59", ".png", True),
    "PascalContext60Dataset": ("context60", ".png", False),
    "COCOObjectDataset": ("coco_object", "_instanceTrainIds.png", False),
}
"""Data set types that projects of the SCLIP family define for themselves: our key, label suffix, zero reduction."""


def open_any(name: str, data_root: Path | None = None) -> Dataset:
    """``open_dataset``, or the data set of an mmseg config when the name begins with ``mmseg:``."""
    if name.startswith(PREFIX):
        return MmsegDataset(Path(name.removeprefix(PREFIX)), data_root)
    return open_dataset(name, data_root)


def load_any(name: str) -> Protocol:
    """``load_protocol``, or the constants of an mmseg config when the name begins with ``mmseg:``."""
    return protocol_of(Path(name.removeprefix(PREFIX))) if name.startswith(PREFIX) else load_protocol(name)


class MmsegDataset(FolderDataset):
    """The data set that an mmseg config tests on, read by our loader.

    Raises ``UserError`` when the config cannot be read and ``DataError`` when files are absent.
    """

    def __init__(self, config: Path, data_root: Path | None = None) -> None:
        loaded = _read(config)
        listed = _build(config, loaded, data_root)
        self._pairs = _pairs(listed)
        super().__init__(_record(config, loaded, listed), config.parent)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Paths of the images below their common folder, without suffix, sorted."""
        return tuple(sorted(self._pairs))

    def files(self, image_id: str) -> tuple[Path, ...]:
        """Image and label file of an id."""
        return self._pairs[image_id]


def protocol_of(config: Path) -> Protocol:
    """The constants of an mmseg config of the SCLIP family as a protocol (0.5: ``prob_thd``; 448: ``slide_crop``).

    Fields it says nothing about have their defaults.  What a method does inside is not part of it.
    """
    loaded = _read(config)
    model = loaded.get("model", {})
    base: dict[str, Any] = {}
    scale = next((t["scale"] for t in loaded.get("test_pipeline", ()) if t["type"] == "Resize" and "scale" in t), None)
    if scale is not None:
        base |= {"short_side_px": min(scale), "long_side_px": max(scale)}
    if model.get("slide_crop"):
        base |= {"window_px": model["slide_crop"], "stride_px": model["slide_stride"]}
    names = {"logit_scale": "logit_scale", "prob_thd": "probability_threshold", "area_thd": "area_threshold"}
    base |= {ours: model[theirs] for theirs, ours in names.items() if model.get(theirs)}
    if model.get("pamr_steps"):
        base |= {"refine": "pamr", "refine_steps": model["pamr_steps"]}
    return Protocol(
        name=config.stem,
        summary=f"constants of the mmseg config {config.name}",
        source=config.name,
        version=1,
        family="paper",
        base=base,
        sources=dict.fromkeys(base, config.name),
    )


def _read(config: Path) -> Any:
    import_mmseg()
    from mmengine import Config

    if not config.is_file():
        raise UserError(f"mmseg config {config} does not exist")
    try:
        return Config.fromfile(str(config))
    except Exception as error:  # the config is foreign code: anything may go wrong in it
        raise UserError(f"mmseg config {config} cannot be read: {type(error).__name__}: {error}") from error


def _build(config: Path, loaded: Any, data_root: Path | None) -> Any:
    """mmseg's own data set object, without a pipeline: it lists the files."""
    from mmseg.registry import DATASETS

    _register_family()
    loader = loaded.get("test_dataloader") or loaded.get("val_dataloader")
    if loader is None:
        raise UserError(f"mmseg config {config} has neither a test_dataloader nor a val_dataloader")
    fields = {**loader["dataset"], "pipeline": [], "test_mode": True}
    if data_root is not None:
        fields["data_root"] = str(data_root)
    try:
        return DATASETS.build(fields)
    except FileNotFoundError as error:
        raise DataError(f"mmseg config {config}: {error}.  Pass the data root with --data-root") from error
    except (KeyError, TypeError) as error:
        raise UserError(f"mmseg config {config}: its data set cannot be built: {error}") from error


def _register_family() -> None:
    from mmseg.datasets import BaseSegDataset
    from mmseg.registry import DATASETS

    for name, (key, suffix, reduce) in _FAMILY.items():
        if DATASETS.get(name) is None:
            DATASETS.register_module(name=name, module=_dataset_type(BaseSegDataset, name, key, suffix, reduce))


def _dataset_type(base: Any, name: str, key: str, suffix: str, reduce: bool) -> type:
    from ..datasets import find_record

    record = find_record(key)
    palette = [list(colour) for colour in record.palette or ()]

    def start(self: Any, **fields: Any) -> None:
        given = {"img_suffix": ".jpg", "seg_map_suffix": suffix, "reduce_zero_label": reduce, **fields}
        base.__init__(self, **given)

    return type(name, (base,), {"METAINFO": {"classes": record.classes, "palette": palette}, "__init__": start})


def _pairs(listed: Any) -> dict[str, tuple[Path, Path]]:
    found = [listed.get_data_info(k) for k in range(len(listed))]
    paths = [(Path(f["img_path"]), Path(f["seg_map_path"])) for f in found]
    if not paths:
        raise DataError("the mmseg config lists no image")
    absent = [p for pair in paths for p in pair if not p.is_file()]
    if absent:
        fix = "Check data_root and the suffixes of the config"
        problems = [Problem(p, "the file does not exist", fix) for p in absent]
        raise DataError(f"the mmseg config lists {len(absent)} file(s) that are absent:", problems)
    common = Path(os.path.commonpath([image.parent for image, _ in paths]))
    return {image.relative_to(common).with_suffix("").as_posix(): (image, label) for image, label in paths}


def _record(config: Path, loaded: Any, listed: Any) -> DatasetRecord:
    classes = tuple(listed.metainfo["classes"])
    palette = listed.metainfo.get("palette") or None
    ignore = getattr(listed, "ignore_index", 255)
    label_map = {v: new for v in range(256) if (new := _label(v, listed)) != v}
    key = "".join(c if c.isalnum() else "_" for c in config.stem.lower())
    return DatasetRecord(
        key=f"mmseg_{key}",
        title=f"{config.name} (mmseg config)",
        images="",
        labels="",
        classes=classes,
        words=_words(config, loaded, len(classes)),
        palette=tuple(map(tuple, palette)) if palette else None,
        label_map=label_map,
        ignore_index=ignore,
        background=0 if classes[0].lower() == "background" else None,
        split="test",
    )


def _label(value: int, listed: Any) -> int:
    """What mmseg makes of a stored value: first zero-label reduction, then the map of chosen classes."""
    if listed.reduce_zero_label:
        value = 255 if value in (0, 255) else value - 1
    return int((listed.label_map or {}).get(value, value))


def _words(config: Path, loaded: Any, classes: int) -> tuple[str, ...]:
    """Lines of the class-name file that a config of the SCLIP family names; empty if it names none."""
    name = loaded.get("model", {}).get("name_path")
    if not name:
        return ()
    places = [Path(name), *(folder / name for folder in config.resolve().parents[:3])]
    path = next((p for p in places if p.is_file()), None)
    if path is None:
        raise UserError(f"mmseg config {config} names the class file {name}, which is in none of: {places}")
    lines = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    if len(lines) != classes:
        raise UserError(f"class file {path} has {len(lines)} lines, the data set of {config} has {classes} classes")
    return lines
