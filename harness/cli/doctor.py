"""``bench doctor``: the state of the installation."""

import importlib
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...methods.core.files import cache_folder
from ...methods.models.backbone import TINY_CLIP, TINY_CLIP_FOLDER, list_backbones
from ..native.door import state
from ..runs.provenance import code_version, package_version
from ..runs.run import list_runs
from ..show.tables import print_json, print_line, print_table


def doctor_command(results: Path, as_json: bool) -> None:
    """Report the state of the installation."""
    value: dict[str, Any] = {
        "code": code_version(),
        "python": platform.python_version(),
        "packages": {name: _import_state(name, module) for name, module in _MODULES.items()},
        "gpu": _gpu(),
        "kernels": state(),
        "cores": os.cpu_count(),
        "cache": str(cache_folder()),
        "data_root": os.environ.get("OVSS_DATA"),
        "runs": len(list_runs(results)),
        "tiny_clip": "present" if (TINY_CLIP_FOLDER / "open_clip_model.safetensors").is_file() else "missing",
        "weights": _present_weights(),
    }
    said = verdict(value)
    if as_json:
        print_json(value | {"verdict": said})
        return
    rows = [(k, v) for k, v in value.items() if not isinstance(v, dict | list)]
    rows += [(f"package {k}", v) for k, v in value["packages"].items()]
    rows += [("weights", w) for w in value["weights"]]
    print_table("", ("what", "state"), rows)
    print_line("")
    for sentence in said:
        print_line(sentence)


def verdict(value: Mapping[str, Any]) -> list[str]:
    """Whether runs work here, and what would be needed for more: a sentence each, the most important first."""
    broken = [f"{name} ({state})" for name, state in value["packages"].items() if " " in state]
    if broken:
        return [f"not ready: {', '.join(broken)}.  `make setup` in a clone, or `pip install ovss-bench`, mends it"]
    if value["tiny_clip"] != "present":
        return ["not ready: the embedded model is missing, so this installation is incomplete.  Install it again"]
    said = ["ready: `bench run --method maskclip --dataset shapes` needs nothing else"]
    if value["weights"] == [TINY_CLIP]:
        said.append("for real weights: `bench weights list`, then `bench weights fetch clip-vit-b-16-openai`")
    if value["data_root"] is None:
        said.append("for real data: set OVSS_DATA to the folder that holds your data sets, then `bench data list`")
    if value["kernels"] != "compiled":
        said.append(f"torch decodes and counts instead of the compiled kernels, which is slower ({value['kernels']})")
    if value["gpu"].startswith("none"):
        said.append("no GPU: runs are on the CPU")
    return said


_MODULES = {
    "torch": "torch",
    "open_clip_torch": "open_clip",
    "transformers": "transformers",
    "diffusers": "diffusers",
    "torchvision": "torchvision",
    "scikit-image": "skimage",
    "mmsegmentation": "mmseg",
    "mmengine": "mmengine",
    "mmcv-lite": "mmcv",
    "opencv-python": "cv2",
    "pandas": "pandas",
    "pyarrow": "pyarrow",
    "pydantic": "pydantic",
    "typer": "typer",
    "rich": "rich",
    "safetensors": "safetensors",
    "huggingface_hub": "huggingface_hub",
    "pillow": "PIL",
}


def _import_state(name: str, module: str) -> str:
    found = package_version(name) or "not installed"
    try:
        if module == "mmseg":
            from ..mmseg.shim import import_mmseg

            import_mmseg()
        else:
            importlib.import_module(module)
    except Exception as error:  # noqa: BLE001 - a broken library may raise anything; the point is to report it
        return f"{found}, does not import: {type(error).__name__}: {error}"
    return found


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none (CPU only)"


def _present_weights() -> list[str]:
    """Pretrained tags whose file lies in the Hugging Face cache."""
    from huggingface_hub import try_to_load_from_cache

    from ...methods.models.clip_library import open_clip

    found = []
    for name, tags in list_backbones().items():
        for tag in tags if name != TINY_CLIP else []:
            repository, _, file = open_clip.get_pretrained_cfg(name, tag).get("hf_hub", "").rpartition("/")
            files = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
            if repository and any(isinstance(try_to_load_from_cache(repository, f), str) for f in files):
                found.append(f"{name}/{tag}")
    return [*found, TINY_CLIP]
