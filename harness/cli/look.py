"""``bench list``, ``show``, ``compare`` and ``doctor``: verbs that only look."""

import importlib
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...datasets import list_datasets
from ...methods import MethodInfo, UserError, find_method, list_methods
from ...methods.core.errors import did_you_mean
from ...methods.core.files import cache_folder
from ...methods.models.backbone import TINY_CLIP, TINY_CLIP_FOLDER, list_backbones
from ...methods.models.weights import licences
from ..metrics.bootstrap import paired_difference, why_no_interval
from ..metrics.of_counts import precision, recall
from ..protocol.protocol import changes_of, list_protocols, load_protocol
from ..report.ceiling import grid_ceiling
from ..runs.manifest import Manifest
from ..runs.provenance import code_version, package_version
from ..runs.run import PLAN, Finished, Run, list_runs
from ..runs.sources import open_any
from ..show.progress import progress
from ..show.tables import images_and_units, megabytes, percent, print_json, print_line, print_table, with_interval


def list_command(what: str, as_json: bool) -> None:
    """Print one catalogue."""
    tables: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "methods": _methods,
        "datasets": _datasets,
        "protocols": _protocols,
        "backbones": _backbones,
    }
    if what not in tables:
        raise UserError(f"cannot list {what!r}{did_you_mean(what, tables)}")
    rows = tables[what]()
    if as_json:
        print_json(rows)
    else:
        print_table("", list(rows[0]), [list(row.values()) for row in rows])


def _methods() -> list[dict[str, Any]]:
    return [_method_row(name) for name in list_methods()]


def _method_row(name: str) -> dict[str, Any]:
    try:
        info = find_method(name).info
    except UserError as error:  # one broken plug-in must not hide the other methods
        info = MethodInfo(name, title=f"broken: {error}", paper="", trained_on="", backbone="")
    return {
        "method": name,
        "title": info.title,
        "training-free": "yes" if info.training_free else "no",
        "trained on": info.trained_on,
        "default backbone": info.backbone or "its own weights",
        "further weights": "; ".join(f"{weights}: {text}" for weights, text in licences(name).items()) or "none",
        "paper": info.paper,
    }


def _datasets() -> list[dict[str, Any]]:
    return [
        {
            "data set": key,
            "title": r.title,
            "split": r.split,
            "images": r.expected_images,
            "classes": len(r.classes),
            "background": "none" if r.background is None else r.classes[r.background],
            "protocol": r.protocol,
        }
        for key, r in list_datasets().items()
    ]


def _protocols() -> list[dict[str, Any]]:
    loaded = [load_protocol(name) for name in list_protocols()]
    return [
        {
            "protocol": p.name,
            "family": p.family,
            "version": p.version,
            "hash": p.setting(None).hash[:8],
            "summary": p.summary,
        }
        for p in loaded
    ]


def _backbones() -> list[dict[str, Any]]:
    return [{"backbone": name, "tags": " ".join(tags)} for name, tags in list_backbones().items()]


def find_run(name: str, results: Path) -> Run:
    """A run by its folder, its name, a unique beginning of it, or without the hash at its end (the newest such run).

    Raises ``UserError`` when none or several fit.
    """
    if (Path(name) / PLAN).is_file():
        return Run(Path(name))
    runs = list_runs(results)
    same = [r for r in runs if name in (r.folder.name, r.folder.name.rpartition("-")[0])]
    if same:
        return max(same, key=_date) if len(same) > 1 else same[0]
    fitting = [r for r in runs if r.folder.name.startswith(name)]
    if len(fitting) != 1:
        known = "\n".join(f"  {r.folder.name}" for r in (fitting or runs))
        reason = "several runs begin with" if fitting else "no run is named"
        raise UserError(f"{reason} {name!r} in {results / 'runs'}:\n{known or '  (there are no runs)'}")
    return fitting[0]


def _date(run: Run) -> str:
    """When a run was finished; one that cannot be read is older than all others."""
    try:
        return run.manifest().finished
    except UserError:
        return ""


def show_command(name: str, results: Path, as_json: bool) -> None:
    """Per-class table and provenance."""
    run = find_run(name, results).finished()
    manifest, metrics = run.manifest, run.result.summary()
    if as_json:
        print_json({"manifest": manifest.model_dump(mode="json"), "metrics": metrics, "run_dir": str(run.run.folder)})
        return
    print_table(run.name, ("class", "IoU", "precision", "recall", "images"), _class_rows(run))
    print_table("", ("metric", "value"), [(k, percent(v)) for k, v in metrics.items() if isinstance(v, float)])
    units = run.result.units
    changed = changes_of(run.plan.spec.protocol, manifest.dataset["key"])
    rows = [
        ("mIoU [95 %]", with_interval(metrics["miou"], metrics["interval"])),
        ("classes averaged", metrics["classes_averaged"]),
        ("images", f"{manifest.images} of {manifest.planned}"),
        ("units of the interval", "; ".join(filter(None, [str(units), why_no_interval(units)]))),
        ("protocol", f"{manifest.protocol['name']} {manifest.protocol['hash'][:16]}"),
        ("vocabulary", manifest.vocabulary_hash[:16]),
        *([("changed by hand", changed)] if changed else []),
        ("weights", _weights(manifest)),
        *([("refined by", ", ".join(f"{k} {v}" for k, v in manifest.guide.items()))] if manifest.guide else []),
        ("device", f"{manifest.environment['device']}, {manifest.setting['precision']}"),
        ("code", manifest.code_version),
        ("seconds per image", f"{manifest.seconds_per_image:.4f}"),
        *((f"  {k}", f"{v:.4f}") for k, v in manifest.seconds_per_stage.items()),
        ("seconds for the vocabulary", f"{manifest.encode_seconds:.3f}"),
        ("peak MB", megabytes(manifest.peak_bytes)),
    ]
    print_table("", ("provenance", ""), rows)
    if manifest.note:
        print_line(f"note: {manifest.note}")


def _class_rows(run: Finished) -> list[tuple[str, ...]]:
    """A row per class; ``images`` are those that are labelled with it: few make a number that means little."""
    counts = run.result.counts
    total = counts.total()
    shown = [[percent(None if np.isnan(v) else 100 * float(v)) for v in f(total)] for f in (precision, recall)]
    images = (counts.gt > 0).sum(axis=0)
    return [
        (name, percent(value), *row, str(n))
        for (name, value), *row, n in zip(run.result.per_class.items(), *shown, images, strict=True)
    ]


def _weights(manifest: Manifest) -> str:
    return " ".join(str(manifest.weights.get(k, "")) for k in ("name", "source", "sha256", "activation"))


def compare_command(first: str, second: str, results: Path, as_json: bool) -> None:
    """Paired difference of two runs."""
    runs = [find_run(name, results).finished() for name in (first, second)]
    identities = [r.plan.identity for r in runs]
    if identities[0]["dataset"] != identities[1]["dataset"]:
        images = " and ".join(f"{d['key']} {d['split']}" for d in (i["dataset"] for i in identities))
        raise UserError(f"the two runs are not on the same images ({images}): there is nothing to pair")
    common = set(runs[0].result.ids) & set(runs[1].result.ids)
    kept = [np.isin(r.result.ids, sorted(common)) for r in runs]
    counts = [r.result.counts.at(k) for r, k in zip(runs, kept, strict=True)]
    clusters = np.unique(runs[0].result.clusters[kept[0]], return_inverse=True)[1]
    found = paired_difference(counts[0], counts[1], clusters, runs[0].result.averaging)
    same = identities[0]["protocol"]["hash"] == identities[1]["protocol"]["hash"]
    value = {
        "first": runs[0].name,
        "second": runs[1].name,
        "dataset": identities[0]["dataset"]["key"],
        "split": identities[0]["dataset"]["split"],
        "images": len(common),
        "units": found.units,
        "same_protocol": same,
        "difference": 100 * found.estimate,
        "interval": found.interval and [100 * found.interval.low, 100 * found.interval.high],
        "p_value": found.p_value,
        "note": runs[0].plan.note,
    }
    if as_json:
        print_json(value)
        return
    print_table("", ("field", "value"), [(k, v) for k, v in value.items() if k != "note"])
    if reason := why_no_interval(found.units):
        print_line(f"{reason}; so there is no p value either, and nothing is said about which is better")
    if not same:
        print_line("warning: the protocols differ, so this is not a difference of methods alone")
    if value["note"]:
        print_line(f"note: {value['note']}")


def ceiling_command(
    dataset: str, patch_px: int, short_side_px: int, data_root: Path | None, limit: int | None, as_json: bool
) -> None:
    """Grid ceiling of a data set."""
    data = open_any(dataset, data_root)
    with progress("grid ceiling", len(data.ids[:limit])) as advance:
        result = grid_ceiling(data, patch_px, short_side_px, limit, advance=advance)
    if as_json:
        print_json(
            {"dataset": data.record.key, "patch_px": patch_px, "short_side_px": short_side_px, **result.summary()}
        )
        return
    images = images_and_units(f"{len(result.ids)} of {result.planned}", result.units)
    bounds = None if result.interval is None else (result.interval.low, result.interval.high)
    row = (data.record.key, short_side_px or "as is", patch_px, with_interval(result.miou, bounds), images)
    print_table("", ("data set", "short side", "patch", "ceiling mIoU [95 %]", "images"), [row])
    if reason := why_no_interval(result.units):
        print_line(reason)


def doctor_command(results: Path, as_json: bool) -> None:
    """Report the state of the installation."""
    value = {
        "code": code_version(),
        "python": platform.python_version(),
        "packages": {name: _import_state(name, module) for name, module in _MODULES.items()},
        "gpu": _gpu(),
        "cores": os.cpu_count(),
        "cache": str(cache_folder()),
        "data_root": os.environ.get("OVSS_DATA"),
        "runs": len(list_runs(results)),
        "tiny_clip": "present" if (TINY_CLIP_FOLDER / "open_clip_model.safetensors").is_file() else "missing",
        "weights": _present_weights(),
    }
    if as_json:
        print_json(value)
        return
    rows = [(k, v) for k, v in value.items() if not isinstance(v, dict | list)]
    rows += [(f"package {k}", v) for k, v in value["packages"].items()]  # type: ignore[union-attr]
    rows += [("weights", w) for w in value["weights"]]  # type: ignore[union-attr]
    print_table("", ("what", "state"), rows)


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
    from open_clip import get_pretrained_cfg

    found = []
    for name, tags in list_backbones().items():
        for tag in tags if name != TINY_CLIP else []:
            repository, _, file = get_pretrained_cfg(name, tag).get("hf_hub", "").rpartition("/")
            files = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
            if repository and any(isinstance(try_to_load_from_cache(repository, f), str) for f in files):
                found.append(f"{name}/{tag}")
    return [*found, TINY_CLIP]
