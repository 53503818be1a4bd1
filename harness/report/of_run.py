"""A run in words: what ``bench show`` and the page of a run say of it."""

import numpy as np

from ..metrics.bootstrap import why_no_interval
from ..metrics.of_counts import precision, recall
from ..protocol.differences import changes_of
from ..runs.manifest import Manifest
from ..runs.run import Finished
from ..show.tables import megabytes, percent, with_interval
from .origin import read_origin


def provenance_rows(run: Finished) -> list[tuple[str, str]]:
    """What its numbers rest on and what they took: pairs of a name and a value."""
    manifest, metrics = run.manifest, run.summary
    units = run.result.units
    origin = read_origin(run.folder)
    changed = changes_of(run.plan.spec.protocol, manifest.dataset["key"])
    return [
        ("mIoU [95 %]", with_interval(metrics["miou"], metrics["interval"])),
        ("classes averaged", metrics["classes_averaged"]),
        ("images", f"{manifest.images} of {manifest.planned}"),
        ("units of the interval", "; ".join(filter(None, [str(units), why_no_interval(units)]))),
        ("protocol", f"{manifest.protocol['name']} {manifest.protocol['hash'][:16]}"),
        ("vocabulary", manifest.vocabulary_hash[:16]),
        *([("changed by hand", changed)] if changed else []),
        ("weights", _weights(manifest)),
        *([("refined by", ", ".join(f"{k} {v}" for k, v in manifest.guide.items()))] if manifest.guide else []),
        *([("regions that voted", manifest.voted_by)] if manifest.regions else []),
        ("device", f"{manifest.environment['device']}, {manifest.setting['precision']}"),
        ("code", manifest.code_version),
        *([("imported from", origin.name)] if origin else []),
        ("seconds per image", f"{manifest.seconds_per_image:.4f}"),
        *((f"  {k}", f"{v:.4f}") for k, v in manifest.seconds_per_stage.items()),
        *_waited(manifest),
        ("seconds for the vocabulary", f"{manifest.encode_seconds:.3f}"),
        ("peak MB", megabytes(manifest.peak_bytes)),
    ]


def class_rows(run: Finished) -> list[tuple[str, ...]]:
    """A row per class; ``images`` are those that are labelled with it: few make a number that means little."""
    counts = run.result.counts
    total = counts.total()
    shown = [[percent(None if np.isnan(v) else 100 * float(v)) for v in f(total)] for f in (precision, recall)]
    images = counts.labelled()
    return [
        (name, percent(value), *row, str(n))
        for (name, value), *row, n in zip(run.result.per_class.items(), *shown, images, strict=True)
    ]


def _waited(manifest: Manifest) -> list[tuple[str, str]]:
    """What the model waited for data, and who loaded it."""
    waited, loaders = manifest.wait_seconds_per_image, manifest.loaders
    if waited is None:
        return []
    how = f"{loaders} loading ahead" if loaders else "loaded in line"
    return [("waited for data per image", f"{waited:.4f} ({how})")]


def _weights(manifest: Manifest) -> str:
    said = " ".join(str(manifest.weights.get(k, "")) for k in ("name", "source", "sha256", "activation"))
    return (said.strip() or "no weights") + (f" ({manifest.unchecked})" if manifest.unchecked else "")
