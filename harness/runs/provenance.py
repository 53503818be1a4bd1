"""Provenance: which code, libraries and machine made a number."""

import hashlib
import platform
import resource
import subprocess
import sys
from functools import lru_cache
from importlib import metadata
from importlib.metadata import PackageNotFoundError, packages_distributions
from pathlib import Path
from typing import Any

version = lru_cache(metadata.version)
"""What is installed stays while a process lives, and every run asks for all of it three times."""

_ROOMS = Path(__file__).resolve().parents[2]
_DECIDING = (
    *("methods", "datasets"),
    *("harness/protocol", "harness/native", "harness/decoding", "harness/metrics", "harness/runs"),
)
_PACKAGES = (
    *("ovss-bench", "torch", "torchvision", "open_clip_torch", "transformers", "diffusers"),
    *("numpy", "opencv-python", "scipy", "pillow", "scikit-image", "pyarrow"),
)


@lru_cache
def source_hash() -> str:
    """SHA-256 (16 hex digits) over the code, records, word lists and tables that decide numbers.

    Works for a checkout, a dirty checkout and an installed wheel alike, and gives the same value for the same files.
    What only shows, reports, trains or parses a command line is not in it.
    """
    digest = hashlib.sha256()
    for room in _DECIDING:
        for path in sorted((_ROOMS / room).rglob("*")):
            if path.suffix in (".py", ".toml", ".txt", ".tsv", ".json", ".cpp"):
                digest.update(path.relative_to(_ROOMS).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def foreign_hash(method: type) -> str | None:
    """The same for a method from elsewhere: over its top-level package, or its module; None for one of ours."""
    root = method.__module__.partition(".")[0]
    if root == __package__.partition(".")[0]:
        return None
    module = sys.modules[root]
    folders = [Path(p) for p in getattr(module, "__path__", [])]
    files = sorted(f for folder in folders for f in folder.rglob("*.py"))
    if not folders and module.__file__ is not None:
        files = [Path(module.__file__)]
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def plugin_version(method: type) -> str:
    """Package, version and source of a method from elsewhere, ``PACKAGE VERSION src:HASH``; "" for one of ours.

    A module that no distribution installed has its own name, and no version.
    """
    source = foreign_hash(method)
    if source is None:
        return ""
    root = method.__module__.partition(".")[0]
    names = sorted(set(packages_distributions().get(root, ())))
    named = [f"{name} {version(name)}" for name in names] or [root]
    return " ".join([*named, f"src:{source[:8]}"])


@lru_cache
def git_state() -> dict[str, Any] | None:
    """Commit and dirty flag of the checkout that the code runs from; None for an installed wheel."""
    if not (_ROOMS / ".git").exists():
        return None
    run = ("git", "-C", str(_ROOMS))
    try:
        commit = subprocess.run([*run, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run([*run, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "dirty": bool(changes.strip())}


def code_version() -> str:
    """Short form for tables: package version, commit if known, ``+dirty`` if so, and the source hash."""
    state = git_state()
    parts = [package_version("ovss-bench") or "unknown"]
    if state:
        parts.append(state["commit"][:10] + ("+dirty" if state["dirty"] else ""))
    return " ".join([*parts, f"src:{source_hash()[:8]}"])


def package_versions() -> dict[str, str | None]:
    """Installed versions of what can move a number."""
    return {name: package_version(name) for name in _PACKAGES}


def package_version(name: str) -> str | None:
    """Installed version of a distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def environment(device: str) -> dict[str, Any]:
    """Library versions, interpreter, machine and device, as JSON values."""
    import torch

    from ..decoding.decode import decoder_name

    return {
        "packages": package_versions(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": device_name(device),
        "decoder": decoder_name(device),
        "threads": torch.get_num_threads(),
    }


def device_name(device: str) -> str:
    """Name of the GPU, or ``cpu (<model>)``."""
    if not device.startswith("cuda"):
        return f"cpu ({_cpu_name()})"
    import torch

    return torch.cuda.get_device_name(torch.device(device))


def peak_bytes(device: str) -> int:
    """Peak memory so far: of the GPU's allocator, or of this process."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(torch.device(device))
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@lru_cache
def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
