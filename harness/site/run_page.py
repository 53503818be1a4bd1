"""The page of a run, as data for its template."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...datasets import find_record
from ...datasets.catalog import dataset_keys
from ..protocol.protocol import Setting
from ..report.confused import Confused, confusion_table
from ..report.of_protocol import source_of, value_rows
from ..report.of_run import class_rows, provenance_rows
from ..runs.run import Finished
from .heat import Shaded

MATRIX_MOST = 40
"""Classes of which a matrix can still be read."""
CONFUSIONS_MOST = 20


@dataclass(frozen=True)
class Confusion:
    """The most frequent confusions; and a row of shares in percent for each label, empty for too many classes."""

    most: tuple[Confused, ...]
    names: tuple[str, ...]
    matrix: tuple[tuple[Shaded, ...], ...]


@dataclass(frozen=True)
class Stage:
    """Mean seconds per image of a stage, and its share of all of them (0 to 1), which begins at ``start``."""

    name: str
    seconds: float
    start: float
    share: float


@dataclass(frozen=True)
class RunPage:
    """Tables of a run: rows of texts, in the order of their columns."""

    classes: tuple[tuple[str, ...], ...]
    metrics: tuple[tuple[str, str], ...]
    provenance: tuple[tuple[str, str], ...]
    protocol: tuple[tuple[str, ...], ...]
    defaults: tuple[tuple[str, ...], ...]
    stages: tuple[Stage, ...]
    confusion: Confusion | None


def run_page(run: Finished) -> RunPage:
    """Everything that the page of a run shows."""
    setting, protocol = run.plan.setting, run.plan.spec.protocol
    chosen = [name for name in Setting.model_fields if name in setting.model_fields_set]
    rest = [name for name in Setting.model_fields if name not in setting.model_fields_set]
    metrics = {k: v for k, v in run.summary.items() if isinstance(v, float)}
    return RunPage(
        classes=tuple(class_rows(run)),
        metrics=tuple((k, f"{v:.2f}") for k, v in metrics.items()),
        provenance=tuple((k, str(v)) for k, v in [*provenance_rows(run), *_more_provenance(run)]),
        protocol=tuple(row for n in chosen for row in value_rows(setting, n, source_of(protocol, setting, n))),
        defaults=tuple(row for n in rest for row in value_rows(setting, n)),
        stages=_stages(run.manifest.seconds_per_stage),
        confusion=_confusion(run),
    )


def title_of(key: str) -> str:
    """Title of a catalogued data set, else its key."""
    return find_record(key).title if key in dataset_keys() else key


def _more_provenance(run: Finished) -> Sequence[tuple[str, str]]:
    """Whole hashes, for those who want to compare them."""
    manifest = run.manifest
    return (
        ("finished", f"{manifest.finished[:19]}+00:00"),
        ("workers", str(manifest.workers)),
        ("hash of the protocol", str(manifest.protocol["hash"])),
        ("hash of the data set", str(manifest.dataset["hash"])),
        ("hash of the images", manifest.images_sha256),
        ("hash of the vocabulary", manifest.vocabulary_hash),
        ("hash of the code", manifest.source_hash),
        ("plan", manifest.plan),
        *((f"environment: {k}", str(v)) for k, v in manifest.environment.items()),
    )


def _stages(seconds: dict[str, float]) -> tuple[Stage, ...]:
    total = sum(seconds.values()) or 1.0
    found, start = [], 0.0
    for name, value in seconds.items():
        found.append(Stage(name, value, start, value / total))
        start += value / total
    return tuple(found)


def _confusion(run: Finished) -> Confusion | None:
    """None when the run has not stored it."""
    table = confusion_table(run)
    if table is None:
        return None
    most = table.most_confused()[:CONFUSIONS_MOST]
    classes = len(run.plan.record.classes)
    if classes > MATRIX_MOST:
        return Confusion(most, table.names, ())
    labelled, shares = table.pixels.sum(axis=1) > 0, 100 * table.shares
    matrix = tuple(tuple(Shaded(float(v) if labelled[a] else None) for v in shares[a]) for a in range(classes))
    return Confusion(most, table.names, matrix)
