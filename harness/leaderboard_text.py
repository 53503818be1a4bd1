"""The leaderboard as text: Markdown and LaTeX from the frame of ``leaderboard.collect``."""

from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from ..datasets import list_datasets
from ..methods.files import write_atomically
from .leaderboard import collect, column_of, entry_of, newest_runs
from .tables import with_interval


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
    newest = newest_runs(frame.itertuples())
    for protocol in sorted({r.protocol for r in newest}):
        rows = [r for r in newest if r.protocol == protocol]
        columns = sorted({column_of(r) for r in rows})
        parts += ["", f"## Protocol `{protocol}`", "", *_matrix(rows, columns)]
        for column in columns:
            parts += ["", *_markdown_column([r for r in rows if column_of(r) == column])]
    return "\n".join(parts) + "\n"


def _matrix(rows: list[Any], columns: list[tuple[str, ...]]) -> list[str]:
    """Methods by data sets, mIoU only; each heading carries the protocol hash of its column."""
    entries = sorted({entry_of(r) for r in rows})
    found = {(entry_of(r), column_of(r)): r for r in rows}
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
    newest = newest_runs(frame.itertuples())
    for column in sorted({column_of(r) for r in newest}):
        rows = sorted((r for r in newest if column_of(r) == column), key=lambda r: -r.miou)
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
