"""Reading an mmsegmentation config, and its constants as a protocol (``docs/mmsegmentation.md``)."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ...datasets.invalid import explain
from ...methods import UserError
from ..protocol.files import name_of
from ..protocol.protocol import Protocol, load_protocol
from .shim import import_mmseg

MODELS = {
    "CLIPForSegmentation": ("sclip", ", "),
    "NACLIP": ("naclip", ", "),
    "SCCLIPForSegmentation": ("sc-clip", ", "),
    "ClearCLIPSegmentation": ("clearclip", ","),
    "ProxyCLIPSegmentation": ("proxyclip", "; "),
}
"""Model types of the SCLIP family: the protocol with the defaults that stand in their code, not in their configs, and
what separates the words of a class in their files."""
_CONSTANTS = {
    "slide_crop": "window_px",
    "slide_stride": "stride_px",
    "logit_scale": "logit_scale",
    "prob_thd": "probability_threshold",
    "area_thd": "area_threshold",
}
_KERNELS = {
    ("cv2", "bilinear"): "opencv-linear",
    ("pillow", "bilinear"): "pillow-linear",
    ("pillow", "bicubic"): "pillow-bicubic",
}
_DILATIONS = (8, 16)
_UNLIMITED_PX = 100_000


def protocol_of(config: Path) -> Protocol:
    """The constants of an mmseg config as a protocol: sizes, windows, thresholds, scale and PAMR.

    For the model types of ``MODELS`` the defaults of their code are added.  Raises ``UserError`` when the config cannot
    be read, does not say how windows are cut, or demands what a protocol cannot express.
    """
    loaded = read_config(config)
    model = loaded.get("model") or {}
    kind = type_name(model)
    known = load_protocol(MODELS[kind][0]) if kind in MODELS else None
    taken = {**_sizes(config, loaded), **_constants(config, model)}
    needed = {"window_px", "logit_scale"} if taken.get("probability_threshold") else {"window_px"}
    if not known and (missing := needed - set(taken)):
        raise UserError(
            f"mmseg config {config} does not say what {' and '.join(sorted(missing))} is for its model type {kind!r}, "
            "and its code is not looked at.  Write slide_crop, slide_stride and logit_scale, or test_cfg, into its "
            "model"
        )
    try:
        return Protocol(
            name=name_of(config),
            summary=f"constants of the mmseg config {config.name}" + (f", others as in {known.name}" if known else ""),
            source=config.name,
            version=1,
            family="paper",
            base={**(known.base if known else {}), **taken},
            sources={**(known.sources if known else {}), **dict.fromkeys(taken, config.name)},
        )
    except ValidationError as error:
        raise UserError(f"mmseg config {config} gives no protocol: {explain(error, 'protocol', '; ', '')}") from error


def _sizes(config: Path, loaded: Any) -> dict[str, Any]:
    """What its test pipeline does to an image."""
    loader = loaded.get("test_dataloader") or loaded.get("val_dataloader") or {}
    pipeline = (loader.get("dataset") or {}).get("pipeline") or loaded.get("test_pipeline") or ()
    steps = [s for s in pipeline if not _reads_or_packs(type_name(s))]
    if not steps:
        return {"short_side_px": 0, "long_side_px": _UNLIMITED_PX}
    step, names = steps[0], ", ".join(map(type_name, steps))
    kernel = _KERNELS.get((step.get("backend", "cv2"), step.get("interpolation", "bilinear")))
    if names != "Resize" or not (step.get("keep_ratio") and step.get("scale") and kernel):
        raise UserError(
            f"mmseg config {config}: a protocol cannot express its test pipeline ({names}).  It can express one "
            "Resize(scale=(LONG, SHORT), keep_ratio=True), bilinear with cv2 or pillow, bicubic with pillow"
        )
    scale = step["scale"] if isinstance(step["scale"], list | tuple) else (step["scale"],)
    return {"short_side_px": min(scale), "long_side_px": max(scale), "resize": kernel}


def _reads_or_packs(name: str) -> bool:
    return name.startswith(("Load", "Pack")) or name.endswith("LoadAnnotations")


def _constants(config: Path, model: Any) -> dict[str, Any]:
    """What its model says about windows, scale, thresholds and refinement."""
    found: dict[str, Any] = {}
    test = model.get("test_cfg") or {}
    if test.get("mode") == "slide":
        found |= {"window_px": _side(config, test["crop_size"]), "stride_px": _side(config, test["stride"])}
    elif test.get("mode") == "whole":
        found["window_px"] = 0
    found |= {ours: _side(config, model[theirs]) for theirs, ours in _CONSTANTS.items() if theirs in model}
    if "pamr_steps" in model:
        steps = model["pamr_steps"]
        found |= {"refine": "pamr", "refine_steps": steps} if steps else {"refine": "none"}
    if tuple(model.get("pamr_stride", _DILATIONS)) != _DILATIONS:
        raise UserError(f"mmseg config {config}: pamr_stride can only be {_DILATIONS}, not {model['pamr_stride']}")
    return found


def _side(config: Path, value: Any) -> Any:
    """A number, or that of two equal ones; None is 0."""
    if not isinstance(value, list | tuple):
        return value or 0
    if len(set(value)) != 1:
        raise UserError(f"mmseg config {config}: windows and strides must be square, not {tuple(value)}")
    return value[0]


def type_name(part: Any) -> str:
    """Type of a part of a config, without scope: ``mmseg.Resize`` and the class ``Resize`` are ``Resize``."""
    kind = part.get("type", "")
    return (kind if isinstance(kind, str) else kind.__name__).rpartition(".")[2]


def read_config(config: Path) -> Any:
    """The config as mmengine reads it, which runs it.  Raises ``UserError`` for whatever goes wrong in it."""
    import_mmseg()
    from mmengine import Config

    if not config.is_file():
        raise UserError(f"mmseg config {config} does not exist")
    try:
        return Config.fromfile(str(config))
    except Exception as error:  # the config is foreign code: anything may go wrong in it
        fix = ".  Put the folder of the modules that it imports on PYTHONPATH" if isinstance(error, ImportError) else ""
        fix = ".  Write paths for `mmseg::` in _base_" if "pkg_resources" in str(error) else fix
        raise UserError(f"mmseg config {config} cannot be read: {type(error).__name__}: {error}{fix}") from error
