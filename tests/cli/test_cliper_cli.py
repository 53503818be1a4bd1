"""CLIPer under its presets, on small copies of the data sets, coarse and refined."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ..datasets.miniatures import build

Command = Callable[..., Any]
SMALL = ("--set", "short_side_px=176")


def run(bench: Command, root: Path, dataset: str, protocol: str, *more: str, refine: str = "tiny-sd") -> Any:
    return bench(
        *("run", "-m", "cliper", "-d", dataset, "--data-root", str(root), "--protocol", protocol, "--limit", "1"),
        *("--backbone", "tiny-clip", "--results", str(root / "results"), "--refine", refine, *SMALL, *more, "--json"),
    )


@pytest.mark.parametrize(
    ("key", "protocol"),
    [
        ("voc21", "paper:cliper/voc21"),  # stretched maps, windows of 336 px
        ("voc20", "cliper-v2"),  # no background: what falls outside is a miss
        ("context60", "cliper-v1"),  # a fixed threshold, no windows
        ("voc21", "cliper-v1-l14"),  # background by complement
        ("cityscapes", "cliper-v2"),  # two halves of a frame
    ],
)
def test_presets_run(bench: Command, tmp_path: Path, key: str, protocol: str) -> None:
    build(key, tmp_path)
    sizes = ("--set", "size_multiple_px=16") if "l14" in protocol else ()
    name = protocol.partition("/")[0]
    refined, coarse = (run(bench, tmp_path, key, name, *sizes, refine=r).json() for r in ("tiny-sd", "none"))
    for found in (refined, coarse):
        assert found["images"] == 1 and found["protocol"].startswith("cliper-v")
        assert sum(pd.read_parquet(Path(found["run_dir"]) / "counts.parquet")["gt"][0]) > 0
    assert refined["guide"]["threshold"] == {"voc20": 0.1, "cityscapes": 0.35}.get(key, 0.1)
    assert coarse["guide"] is None


def test_the_preset_names_the_weights_it_needs(bench: Command, tmp_path: Path) -> None:
    build("voc21", tmp_path)
    ended = run(bench, tmp_path, "voc21", "paper:cliper", refine="sd21")
    assert ended.code == 2 and "bench weights fetch stable-diffusion-2-1-base" in ended.err


def test_two_data_sets_share_a_refined_pass(bench: Command, tmp_path: Path) -> None:
    """CLIPer and its guide look at each image once, and the counts are those of separate runs."""
    for key in ("voc21", "voc20"):
        build(key, tmp_path)
    same = ("--set", "refine_threshold=0.1")
    apart = [run(bench, tmp_path, key, "cliper-v2", *same, "--fresh").json() for key in ("voc21", "voc20")]
    counts = [(Path(found["run_dir"]) / "counts.parquet").read_bytes() for found in apart]
    shared = run(bench, tmp_path, "voc21,voc20", "cliper-v2", *same, "--fresh").json()
    assert [found["run_dir"] for found in shared] == [found["run_dir"] for found in apart]
    assert [(Path(found["run_dir"]) / "counts.parquet").read_bytes() for found in shared] == counts
