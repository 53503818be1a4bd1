"""Names of methods, where their classes are, and what tables say about ours; no method is imported for it."""

import ast
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from .core.errors import UserError, did_you_mean
from .core.info import MethodInfo

ENTRY_POINT_GROUP = "ovss.methods"
_BUILT_IN = {
    "clip": ".clip:CLIP",
    "maskclip": ".maskclip:MaskCLIP",
    "maskclip-value": ".maskclip_value:MaskCLIPValue",
    "sclip": ".sclip:SCLIP",
    "clearclip": ".clearclip:ClearCLIP",
    "naclip": ".naclip:NACLIP",
    "clip-surgery": ".clip_surgery:CLIPSurgery",
    "gem": ".gem:GEM",
    "proxyclip": ".proxyclip:ProxyCLIP",
    "trident": ".trident:Trident",
    "corrclip": ".corrclip:CorrCLIP",
    "resclip": ".resclip:ResCLIP",
    "sc-clip": ".sc_clip:SCCLIP",
    "sfp": ".sfp:SFP",
    "rf-clip": ".rf_clip:RFCLIP",
    "itaclip": ".itaclip:ITACLIP",
    "pearl": ".pearl:PEARL",
    "floss": ".floss:FLOSS",
    "cass": ".cass:CASS",
    "lposs": ".lposs:LPOSS",
    "lposs-plus": ".lposs:LPOSSPlus",
    "maskclip-original": ".maskclip_original:MaskCLIPOriginal",
    "clip-diy": ".clip_diy:CLIPDIY",
    "clip-dinoiser": ".clip_dinoiser:CLIPDINOiser",
    "dino-pool": ".clip_dinoiser:DINOPool",
    "cliper": ".cliper:CLIPer",
    "ovseg-tf": ".ovseg_tf:OVSegTF",
    "ovseg": ".ovseg:OVSeg",
    "tcl": ".tcl:TCL",
    "groupvit": ".groupvit:GroupViT",
    "segclip": ".segclip:SegCLIP",
    "clip-s4-like": ".clip_s4:CLIPS4Like",
}


def list_methods(plugins: bool = True) -> list[str]:
    """Names of the built-in methods and, if ``plugins``, of those that installed distributions register."""
    return [*_BUILT_IN, *(sorted(_plugins()) if plugins else ())]


def method_home(name: str) -> str:
    """``module:Class`` of a method; a leading dot means ours.  Raises ``UserError`` for an unknown name."""
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    if ":" in name:
        return name
    found = _plugins().get(name)
    if found is None:
        raise UserError(f"unknown method {name!r}{did_you_mean(name, list_methods())}")
    return found.value


def built_in_info(name: str) -> MethodInfo | None:
    """``info`` of a method of ours, which holds only literals, from its source; None for methods of others."""
    if name not in _BUILT_IN:
        return None
    module, _, wanted = _BUILT_IN[name].partition(":")
    source = Path(__file__).with_name(f"{module.removeprefix('.')}.py").read_text(encoding="utf-8")
    bodies = [node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == wanted]
    (given,) = (
        node.value.keywords
        for node in bodies[0]
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "info" and isinstance(node.value, ast.Call)
    )
    return MethodInfo(**{str(keyword.arg): ast.literal_eval(keyword.value) for keyword in given})


def _plugins() -> dict[str, EntryPoint]:
    """Entry points of installed distributions that add methods, by name."""
    return {e.name: e for e in entry_points(group=ENTRY_POINT_GROUP)}
