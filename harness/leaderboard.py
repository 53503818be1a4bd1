"""Leaderboard: all runs as tables, one per protocol, methods by data sets.

Runs stand in one column only if protocol hash, images, labels and vocabulary are equal; anything else gets a column of
its own.
"""

from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from ..datasets import DataError, list_datasets
from ..methods import UserError, find_method
from ..methods.files import write_atomically
from .bootstrap import indistinct_groups, paired_difference
from .counting import Counts
from .parts import counts_of
from .runs import Run, list_runs
from .tables import with_interval

_PUBLISHED = Path(__file__).parent / "published.csv"
_PUBLISHED_NAMES = {
    "voc21": "VOC21",
    "voc20": "VOC20",
    "context60": "Context60",
    "context59": "Context59",
    "coco_object": "COCO-Object",
    "coco_stuff": "COCO-Stuff",
    "cityscapes": "Cityscapes",
    "ade20k": "ADE20K",
    "pc459": "PC459",
    "ade847": "ADE847",
}
_PUBLISHED_WEIGHTS = {"ViT-B-16-quickgelu": "openai ViT-B/16", "ViT-L-14-quickgelu": "openai ViT-L/14"}


def collect(results: Path) -> pd.DataFrame:
    """One row per finished run, newest code first; the frame behind every export.

    Of several runs that differ in code or device only, all stay: the table shows the newest one, exports show all.
    """
    rows = []
    for run in list_runs(results):
        manifest, metrics = run.manifest(), run.metrics()
        weights = manifest["method"].get("weights") or {}
        rows.append(
            {
                "method": run.plan().spec.method,
                "dataset": manifest["dataset"]["key"],
                "split": manifest["dataset"]["split"],
                "protocol": manifest["protocol"]["name"],
                "protocol_hash": manifest["protocol"]["hash"],
                "miou": metrics["miou"],
                "low": metrics["interval"][0] if metrics["interval"] else None,
                "high": metrics["interval"][1] if metrics["interval"] else None,
                "group": None,
                "behind": None,
                "behind_low": None,
                "behind_high": None,
                "images": manifest["images"],
                "complete": metrics["complete"],
                "images_per_second": 1 / manifest["seconds_per_image"],
                "peak_mb": manifest["peak_bytes"] / 1e6,
                **reported(
                    run.plan().spec.method,
                    manifest["dataset"]["key"],
                    weights.get("name"),
                    manifest["setting"]["refine"],
                ),
                "backbone": weights.get("name", "none"),
                "weights": weights.get("sha256", "none"),
                "precision": manifest["setting"]["precision"],
                "device": manifest["environment"]["device"],
                "code": manifest["code_version"],
                "vocabulary": manifest["vocabulary_hash"],
                "images_sha256": manifest["images_sha256"],
                "dataset_hash": manifest["dataset"]["hash"],
                "finished": manifest["finished"],
                "note": manifest["note"],
                "run": run.folder.name,
            }
        )
    if not rows:
        raise UserError(f"there are no finished runs in {results / 'runs'}: start one with `bench run`")
    frame = pd.DataFrame(rows).sort_values(["finished", "run"], ascending=False, ignore_index=True)
    return _with_comparisons(frame, results)


def reported(method: str, dataset: str, backbone: str | None, refine: str) -> dict[str, Any]:
    """The value that was reported for a method, data set, weights and refinement, with its source, or None.

    Of several sources the most frequent value is taken, then the first.
    """
    nothing = {"reported": None, "reported_source": None}
    try:
        name = find_method(method).info.published
    except UserError:
        return nothing
    table = _published()
    fitting = table[
        (table["method"] == name)
        & (table["dataset"] == _PUBLISHED_NAMES.get(dataset))
        & (table["backbone"] == _PUBLISHED_WEIGHTS.get(backbone or ""))
        & (table["postproc"] == {"none": "none", "pamr": "PAMR"}[refine])
    ]
    if fitting.empty:
        return nothing
    value = Counter(fitting["miou"]).most_common(1)[0][0]
    source = fitting[fitting["miou"] == value].iloc[0]["source"]
    return {"reported": float(value), "reported_source": source}


@cache
def _published() -> pd.DataFrame:
    return pd.read_csv(_PUBLISHED, keep_default_na=False)


def _column(row: Any) -> tuple[str, ...]:
    """What must be equal for two runs to stand in one column."""
    return (
        row.protocol,
        row.dataset,
        row.split,
        row.protocol_hash,
        row.dataset_hash,
        row.images_sha256,
        row.vocabulary,
    )


def _entry(row: Any) -> tuple[str, ...]:
    """What makes a line of a table."""
    return (row.method, row.backbone, row.weights, row.precision)


def _newest(rows: Iterable[Any]) -> list[Any]:
    """The newest run for every column and line; rows come newest first."""
    seen: dict[tuple[Any, ...], Any] = {}
    for row in rows:
        seen.setdefault((_column(row), _entry(row)), row)
    return list(seen.values())


def _with_comparisons(frame: pd.DataFrame, results: Path) -> pd.DataFrame:
    """Fill ``group`` and ``behind`` (mIoU minus that of the best, paired, in percent) for the newest runs."""
    columns: dict[tuple[Any, ...], list[Any]] = {}
    for row in _newest(frame.itertuples()):
        columns.setdefault(_column(row), []).append(row)
    for rows in columns.values():
        runs = {row.Index: Run(results / "runs" / row.run) for row in rows}
        averaging = runs[rows[0].Index].plan().identity["setting"]["averaging"]
        clusters = _clusters(runs[rows[0].Index])
        counts = {str(index): _counts(run) for index, run in runs.items()}
        best = str(max(rows, key=lambda row: row.miou).Index)
        for name, group in indistinct_groups(counts, clusters, averaging).items():
            found = paired_difference(counts[name], counts[best], clusters, averaging)
            frame.loc[int(name), "group"] = group
            frame.loc[int(name), "behind"] = 100 * found.estimate
            if found.interval is not None:
                frame.loc[int(name), ["behind_low", "behind_high"]] = (
                    100 * found.interval.low,
                    100 * found.interval.high,
                )
    return frame


def _counts(run: Run) -> Counts:
    return counts_of(run.counts(), len(run.metrics()["per_class"]))


def _clusters(run: Run) -> Any:
    """Bootstrap units of a run; single images when the data set is no longer at hand."""
    ids = tuple(run.counts()["image"])
    try:
        return run.plan().spec.open_data().clusters(ids)
    except DataError:
        return None


def write_leaderboard(results: Path, output: Path) -> pd.DataFrame:
    """Write ``output`` (Markdown) and the same frame as .csv, .json and .tex beside it; returns the frame."""
    frame = collect(results)
    write_atomically(output, markdown(frame).encode())
    write_atomically(output.with_suffix(".csv"), frame.to_csv(index=False).encode())
    write_atomically(output.with_suffix(".json"), (frame.to_json(orient="records", indent=2) + "\n").encode())
    write_atomically(output.with_suffix(".tex"), latex(frame).encode())
    return frame


def markdown(frame: pd.DataFrame) -> str:
    """The leaderboard as Markdown."""
    parts = [
        "# Leaderboard",
        "",
        "Written by `bench leaderboard`; do not edit.  mIoU in percent with its 95 % bootstrap interval over images; "
        "*to the best* is the paired difference on the same images.  "
        "Methods of one *group* cannot be told apart from the best of the group (paired bootstrap, Holm-corrected).  "
        "*Reported* values are those of the named source, under its own protocol, not ours.",
    ]
    newest = _newest(frame.itertuples())
    for protocol in sorted({r.protocol for r in newest}):
        rows = [r for r in newest if r.protocol == protocol]
        columns = sorted({_column(r) for r in rows})
        parts += ["", f"## Protocol `{protocol}`", "", *_matrix(rows, columns)]
        for column in columns:
            parts += ["", *_markdown_column([r for r in rows if _column(r) == column])]
    return "\n".join(parts) + "\n"


def _matrix(rows: list[Any], columns: list[tuple[str, ...]]) -> list[str]:
    """Methods by data sets, mIoU only; each heading carries the protocol hash of its column."""
    entries = sorted({_entry(r) for r in rows})
    found = {(_entry(r), _column(r)): r for r in rows}
    names = [f"{c[1]} {c[2]} `{c[3][:8]}`" for c in columns]
    lines = ["| method | backbone | " + " | ".join(names) + " |", "|---" * (2 + len(columns)) + "|"]
    for entry in entries:
        cells = [_cell(found.get((entry, c))) for c in columns]
        lines.append(f"| {entry[0]} | {entry[1]} {entry[3]} | " + " | ".join(cells) + " |")
    return lines


def _cell(row: Any) -> str:
    if row is None:
        return ""
    return with_interval(row.miou, _bounds(row)) + ("" if row.complete else " (partial)")


def _behind(row: Any) -> str:
    if not row.behind:  # the best itself, or nothing to compare with
        return ""
    return with_interval(row.behind, None if pd.isna(row.behind_low) else (row.behind_low, row.behind_high))


def _bounds(row: Any) -> tuple[float, float] | None:
    return None if pd.isna(row.low) else (row.low, row.high)


def _markdown_column(rows: list[Any]) -> list[str]:
    rows = sorted(rows, key=lambda r: (-(r.miou if r.miou is not None else -1), r.method))
    first = rows[0]
    partial = "" if first.complete else " **(partial)**"
    lines = [
        f"### {_title(first.dataset)}, {first.split}, {first.images} images{partial}",
        "",
        f"Protocol hash `{first.protocol_hash}`.",
        "",
        "| method | mIoU [95 %] | to the best [95 %] | group | reported | images/s | peak MB | backbone | precision |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        told = "" if pd.isna(r.reported) else f"{r.reported:.1f} ({r.reported_source})"
        group = "" if pd.isna(r.group) else f"{r.group:.0f}"
        cells = [
            r.method,
            with_interval(r.miou, _bounds(r)),
            _behind(r),
            group,
            told,
            f"{r.images_per_second:.1f}",
            f"{r.peak_mb:.0f}",
        ]
        lines.append("| " + " | ".join([*cells, r.backbone, r.precision]) + " |")
    if first.note:
        lines += ["", f"*{first.note}*"]
    lines += [
        "",
        "<details><summary>Provenance</summary>",
        "",
        "| method | weights | device | code | vocabulary | run |",
        "|---|---|---|---|---|---|",
    ]
    lines += [f"| {r.method} | {r.weights[:17]} | {r.device} | {r.code} | {r.vocabulary[:8]} | {r.run} |" for r in rows]
    return [*lines, "", "</details>"]


def latex(frame: pd.DataFrame) -> str:
    """The newest runs as LaTeX ``tabular`` environments, one per column of the leaderboard."""
    out = ["% Written by `bench leaderboard`. mIoU in percent, 95 % bootstrap interval."]
    newest = _newest(frame.itertuples())
    for column in sorted({_column(r) for r in newest}):
        rows = sorted((r for r in newest if _column(r) == column), key=lambda r: -r.miou)
        out += [
            f"% protocol {column[0]} {column[3]}",
            r"\begin{tabular}{llrl}",
            r"data set & method & mIoU & note \\ \hline",
        ]
        for r in rows:
            note = r.note if r.complete else f"partial ({r.images} images) {r.note}".strip()
            cells = [r.dataset, r.method, with_interval(r.miou, _bounds(r)), note]
            out.append(" & ".join(_escaped(c) for c in cells) + r" \\")
        out.append(r"\end{tabular}")
    return "\n".join(out) + "\n"


def _escaped(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, f"\\{character}")
    return text


@cache
def _title(key: str) -> str:
    records = list_datasets()
    return records[key].title if key in records else key
