"""Survey: which images the parts of a run hold and what they took, without their counts.

Every part is read whole and judged, one after the other; what is kept of a row is its image, its cost and its place.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ...methods import UserError
from .part_rows import kept_columns
from .parts import Part, Stamp, part_files, read_part, read_table
from .plan import Plan

_DIGEST_BYTES = 12


@dataclass(frozen=True)
class Survey:
    """``frame``: one row per image, sorted by image id: image, content, seconds, memory.

    ``stamps``: those of all parts, oldest first.  ``files`` are the parts; ``file`` and ``row`` say where each row of
    ``frame`` lies in them.
    """

    frame: pd.DataFrame
    stamps: tuple[Stamp, ...]
    files: tuple[Path, ...]
    file: NDArray[np.int64]
    row: NDArray[np.int64]


def survey(folder: Path, plan: Plan) -> Survey:
    """Look at all parts of a run.

    Raises ``UserError`` when a part is damaged, belongs to another run, holds impossible rows, or when two parts
    disagree about an image in any column that decides a number.
    """
    files = tuple(part_files(folder))
    if not files:
        none = np.zeros(0, np.int64)
        return Survey(pd.DataFrame({"image": [], "content": []}), (), (), none, none)
    looked: list[tuple[Stamp, pa.Table]] = []
    for number, path in enumerate(files):
        part = read_part(path, plan)
        looked.append((part.stamp, _narrow(part, number, plan)))
    looked.sort(key=lambda one: one[0].written)
    stamps = tuple(stamp for stamp, _ in looked)
    rows = pa.concat_tables([table for _, table in looked], promote_options="permissive")
    del looked
    frame = rows.sort_by("image").to_pandas()
    del rows
    pa.default_memory_pool().release_unused()
    doubled = frame.duplicated("image", keep=False)
    if doubled.any():
        _refuse_contradictions(frame.loc[doubled, ["image", "file", "row"]], files, plan, folder)
        frame = frame.drop_duplicates("image", ignore_index=True)
    places = [frame.pop(name).to_numpy() for name in ("file", "row")]
    frame.insert(1, "content", pd.Series([plan.content[i] for i in frame["image"]], dtype=object))
    return Survey(frame, stamps, files, *places)


def _narrow(part: Part, number: int, plan: Plan) -> pa.Table:
    kept = [c for c in part.table.column_names if c == "image" or c not in kept_columns(plan)]
    rows = len(part.table)
    return (
        part.table.select(kept)
        .replace_schema_metadata(None)
        .append_column("file", pa.array(np.full(rows, number)))
        .append_column("row", pa.array(np.arange(rows)))
    )


def _refuse_contradictions(doubled: pd.DataFrame, files: tuple[Path, ...], plan: Plan, folder: Path) -> None:
    """Compare the rows of images that are there twice by digests of their columns, one part at a time."""
    names = kept_columns(plan)
    seen: dict[str, bytes] = {}
    wrong: dict[str, str] = {}
    for number, rows in doubled.groupby("file"):
        table = read_table(files[number]).select(names).take(pa.array(rows["row"].to_numpy()))
        columns = [[_digest(value) for value in table[name]] for name in names]
        for image, *found in zip(rows["image"], *columns, strict=True):
            known, now = seen.setdefault(image, b"".join(found)), b"".join(found)
            if known != now:
                place = next(k for k in range(len(now)) if known[k] != now[k]) // _DIGEST_BYTES
                wrong.setdefault(image, names[place])
    if wrong:
        image = min(wrong)
        raise UserError(
            f"{folder} holds two different results for image {image} ({wrong[image]}): two processes or machines that "
            "do not agree wrote to one run.  Start over with --fresh"
        )


def _digest(value: pa.Scalar) -> bytes:
    if isinstance(value, pa.ListScalar):
        content = value.values.to_numpy(zero_copy_only=False).astype(np.int64).tobytes()
    else:
        content = str(value.as_py()).encode()
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
