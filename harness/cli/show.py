"""``bench show``: one run, class by class, and where it comes from."""

from pathlib import Path

import numpy as np

from ..metrics.bootstrap import why_no_interval
from ..metrics.of_counts import precision, recall
from ..protocol.protocol import changes_of
from ..runs.manifest import Manifest
from ..runs.run import Finished, find_run
from ..show.tables import megabytes, percent, print_json, print_line, print_table, with_interval


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
    said = " ".join(str(manifest.weights.get(k, "")) for k in ("name", "source", "sha256", "activation"))
    return (said.strip() or "no weights") + (f" ({manifest.unchecked})" if manifest.unchecked else "")
