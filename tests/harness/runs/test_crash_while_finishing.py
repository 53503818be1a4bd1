"""A run that dies while it writes its summary: what is left never speaks of other images than its counts."""

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from .test_runs import start, work

IMAGES = 8


class Crash(BaseException):
    """Like a kill: nothing catches it."""


def crash_at(monkeypatch: pytest.MonkeyPatch, step: int) -> list[int]:
    """Die before the ``step``-th file takes its name, or loses it.  Returns the count of such steps."""
    steps = [0]

    def counted(original: Any) -> Any:
        def maybe(*given: Any, **named: Any) -> Any:
            if steps[0] == step:
                raise Crash
            steps[0] += 1
            return original(*given, **named)

        return maybe

    for name in ("replace", "rename", "link", "unlink", "remove"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    return steps


def summary(folder: Path) -> tuple[int | None, int | None, int | None]:
    """How many images manifest, metrics and counts speak of; None where there is no such file."""
    manifest, metrics, counts = (folder / name for name in ("manifest.json", "metrics.json", "counts.parquet"))
    return (
        json.loads(manifest.read_bytes())["images"] if manifest.exists() else None,
        json.loads(metrics.read_bytes())["images"] if metrics.exists() else None,
        len(pd.read_parquet(counts)) if counts.exists() else None,
    )


def test_an_old_manifest_never_stands_beside_new_counts(tmp_path: Path) -> None:
    """Five images are summed up, three more are done, and the second summary dies at every step it has."""
    seen = set()
    for step in range(100):
        run, pipeline = start(tmp_path / str(step))
        data = run.plan().spec.open_data()
        work(run, pipeline, data.ids[:5])
        assert summary(run.folder) == (5, 5, 5)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(run), "merge", lambda run: None)
            work(run, pipeline, data.ids[:IMAGES])  # parts are written, the summary is not
        with pytest.MonkeyPatch.context() as patch:
            steps = crash_at(patch, step)
            try:
                run.merge()
                finished = True
            except Crash:
                finished = False
        manifest, metrics, counts = summary(run.folder)
        seen.add((manifest, metrics, counts))
        assert manifest is None or manifest == metrics == counts
        assert run.is_merged() == finished  # and if not, the next `bench run` merges anew
        if finished:
            assert steps[0] >= 3  # counts, metrics and manifest: the crashes were at real steps
            break
    assert {(5, 5, 5), (IMAGES,) * 3} <= seen
    assert any(manifest is None and counts == IMAGES for manifest, _, counts in seen)  # died between the two
