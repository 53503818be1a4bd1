"""Our methods as segmentors in mmsegmentation's own test loop (``docs/mmsegmentation.md``).

A config names this module in ``custom_imports`` and ``OvssSegmentor`` as its model; data sets, transforms, loop and
metric are mmseg's.  mmengine registers what an import defines, so this module does work when it is imported.

``mmseg.models`` cannot be imported without the compiled mmcv, yet mmengine imports it as soon as a config of scope
``mmseg`` builds a model, a loop or a sampler.  Where only mmcv-lite is installed an empty module takes its place: no
model of mmseg can be built then, everything else can.
"""

import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import PixelData
from pydantic import ValidationError
from torch import Tensor, nn

from ...datasets import DatasetRecord, find_record, read_record
from ...datasets.invalid import explain
from ...datasets.loader import Pixels
from ...methods import UserError
from ...methods.core.picture import Picture
from ..protocol.protocol import Protocol, load_protocol
from ..runs.photo import Photo
from ..runs.pipeline import Clock, Observed, Pipeline
from ..runs.plan import RunSpec
from .shim import import_mmseg

import_mmseg()
if find_spec("mmcv._ext") is None:
    sys.modules.setdefault("mmseg.models", module_from_spec(ModuleSpec("mmseg.models", loader=None, origin="stub")))


# mmengine has no types, so its classes are Any for mypy
@MODELS.register_module()
class OvssSegmentor(BaseModel):  # type: ignore[misc]
    """A method under a protocol, for ``Runner.test`` and ``Runner.val``; labels equal those of ``bench run``.

    ``dataset`` gives the classes: one line per class (synonyms separated as the protocol says), a key of the
    catalogue, the path of a record's TOML file, a record, or a dict of a record's fields, of which only ``classes`` is
    needed.  Their order must be that of the mmseg data set.  ``protocol`` is a name, a path or a ``Protocol`` (default:
    the data set's); its table for the record's key applies.  ``method`` to ``allow_download`` are as in
    ``create_method``; the method stays on ``device``, wherever mmengine moves the model.

    ``resized_by`` says who resizes images: the "protocol", so that the pipeline of the config must not, or the
    "pipeline", whose image is taken as it is, so that the protocol's sizes do not count.  Images come in mmseg's
    channel order, BGR.

    Raises ``UserError`` and ``DataError`` for names and values that do not work.
    """

    def __init__(
        self,
        method: str,
        dataset: str | DatasetRecord | Sequence[str] | Mapping[str, Any],
        protocol: str | Protocol | None = None,
        backbone: str | None = None,
        weights: str | None = None,
        device: str = "cpu",
        options: Mapping[str, Any] | None = None,
        allow_download: bool = False,
        resized_by: Literal["protocol", "pipeline"] = "protocol",
        data_preprocessor: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if data_preprocessor is not None:
            raise UserError("OvssSegmentor normalises images itself: remove data_preprocessor from the config")
        if resized_by not in ("protocol", "pipeline"):
            raise UserError(f"resized_by is {resized_by!r}; allowed are 'protocol' and 'pipeline'")
        record = _record(dataset)
        chosen = protocol if isinstance(protocol, Protocol) else load_protocol(protocol or record.protocol)
        spec = RunSpec(
            method=method,
            dataset=record.key,
            protocol=chosen,
            backbone=backbone,
            weights=weights,
            device=device,
            options=dict(options or {}),
        )
        setting = chosen.setting(record.key)
        own_size = setting.refine not in ("none", "pamr", "pearl") or setting.region_vote != "none"
        if resized_by == "pipeline" and (setting.columns > 1 or own_size):
            raise UserError(
                f"protocol {chosen.name!r} cuts, refines or votes at the images' own size: it needs "
                "resized_by='protocol'"
            )
        self.resized_by = resized_by
        self.pipeline = Pipeline(spec.build_method(setting, allow_download), setting, record)
        self.unused = nn.Parameter(torch.zeros(()))
        """The wrapper for several processes refuses a model without a parameter to train; the method has none here."""

    def forward(self, inputs: Sequence[Tensor], data_samples: Sequence[Any], mode: str = "tensor") -> list[Any]:
        """The samples with ``pred_sem_seg``, ``(1, H, W)`` int64 at the size of the file, for ``mode="predict"``.

        ``inputs`` are images ``(3, H, W)`` uint8 BGR.

        Raises ``UserError`` for another mode, and for images that are not as the class demands.
        """
        if mode != "predict":
            raise UserError(f"mode {mode!r} is for training; OvssSegmentor is for Runner.test and Runner.val")
        for image, sample in zip(inputs, data_samples, strict=True):
            labels = self._predict(image, sample.metainfo)
            sample.set_data({"pred_sem_seg": PixelData(data=labels[None].long())})
        return list(data_samples)

    def _predict(self, image: Tensor, meta: Mapping[str, Any]) -> Tensor:
        if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
            raise UserError(
                f"an image arrives as {tuple(image.shape)} {image.dtype} instead of (3, H, W) torch.uint8: remove "
                "transforms that normalise or convert from the test pipeline of the config"
            )
        if meta.get("flip"):
            raise UserError("an image arrives flipped: remove flips and test-time augmentation from the config")
        pixels = np.ascontiguousarray(image.flip(0).permute(1, 2, 0).cpu().numpy())
        size = self._size_of_file(pixels, meta)
        if self.resized_by == "protocol":
            return self.pipeline.predict(Photo(pixels, self._image_id(meta)), Clock())
        resized = torch.from_numpy(pixels).permute(2, 0, 1)
        scores = self.pipeline.scores(Picture.of(resized))
        return self.pipeline.finish(Observed(scores, resized, size), Clock())

    def _image_id(self, meta: Mapping[str, Any]) -> str:
        """The image's id in the data set, as ``bench run`` has it: noise of a guide depends on it."""
        path = str(meta.get("img_path") or "")
        if not path and self.pipeline.guide is not None:
            raise UserError(
                "an image arrives without img_path, on which the noise of a guide depends: keep it in meta_keys"
            )
        record = self.pipeline.record
        _, _, below = path.rpartition(f"/{record.images}/") if record.images else path.rpartition("/")
        return below.removesuffix(record.image_suffix)

    def _size_of_file(self, pixels: Pixels, meta: Mapping[str, Any]) -> tuple[int, int]:
        """(height, width) of the labels; checks what the config's pipeline did to the image."""
        (height, width), scale = meta["ori_shape"][:2], meta.get("scale_factor")
        if scale is not None and self.resized_by == "protocol":
            raise UserError(
                "the test pipeline of the config resizes images, and so would the protocol: remove Resize (then "
                "labels equal those of bench run), or set resized_by='pipeline' to leave it to the config"
            )
        expected = (round(height * scale[1]), round(width * scale[0])) if scale else (height, width)
        if pixels.shape[:2] != expected:
            raise UserError(
                f"an image of {width}x{height} arrives as {pixels.shape[1]}x{pixels.shape[0]}, not as "
                f"{expected[1]}x{expected[0]}: it was padded or cropped.  Remove that from the test pipeline of the "
                "config; the method pads by itself where it must"
            )
        return height, width


def _record(dataset: str | DatasetRecord | Sequence[str] | Mapping[str, Any]) -> DatasetRecord:
    if isinstance(dataset, DatasetRecord):
        return dataset
    if isinstance(dataset, str):
        return read_record(Path(dataset)) if dataset.endswith(".toml") else find_record(dataset)
    fields = dataset if isinstance(dataset, Mapping) else {"classes": tuple(dataset)}
    try:
        return DatasetRecord.model_validate({"key": "mmseg", "title": "", "images": "", "labels": "", **fields})
    except ValidationError as error:
        raise UserError(f"dataset of OvssSegmentor is not usable:\n{explain(error, 'dataset')}") from error
