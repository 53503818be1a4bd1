"""``bench run --loaders N --cache-decoded DIR`` from end to end."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Ended


def test_a_run_says_who_loaded_and_what_was_waited(bench: Callable[..., Ended], camvid: Path, tmp_path: Path) -> None:
    command = (
        "run",
        "--method",
        "maskclip",
        "--dataset",
        "camvid",
        "--data-root",
        str(camvid),
        "--backbone",
        "tiny-clip",
    )
    found = {}
    for name, more in {"in line": (), "cold": ("--cache-decoded", "kept"), "warm": ("--cache-decoded", "kept")}.items():
        loaders = () if name == "in line" else ("--loaders", "2")
        found[name] = bench(*command, "--results", name, *more, *loaders, "--json").json()
    assert {n: one["loaders"] for n, one in found.items()} == {"in line": 0, "cold": 2, "warm": 2}
    assert all(one["wait_seconds_per_image"] > 0 for one in found.values())
    assert len({one["miou"] for one in found.values()}) == len({one["protocol_hash"] for one in found.values()}) == 1
    files = [
        Path(one["run_dir"], name).read_bytes() for one in found.values() for name in ("counts.parquet", "plan.json")
    ]
    assert len(set(files)) == 2
    assert len(list((tmp_path / "kept").glob("*.decoded"))) == 2
    shown = bench("show", found["warm"]["run_dir"]).out
    assert re.search(r"waited for data per image *│? *0\.\d{4} \(2 loading ahead\)", shown)


def test_processes_load_ahead_too(bench: Callable[..., Ended], tmp_path: Path) -> None:
    command = ("run", "--method", "maskclip", "--dataset", "shapes", "--limit", "6", "--json", "--results")
    alone = bench(*command, "alone").json()
    together = bench(*command, "together", "--workers", "2", "--loaders", "1").json()
    assert together["loaders"] == 1 and together["miou"] == alone["miou"]
    one, other = (Path(r["run_dir"], "counts.parquet").read_bytes() for r in (alone, together))
    assert one == other


def test_a_folder_that_cannot_be_written_is_a_warning(
    bench: Callable[..., Ended], camvid: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("mine")
    ended = bench(
        *("run", "--method", "maskclip", "--dataset", "camvid", "--data-root", str(camvid), "--backbone", "tiny-clip"),
        *("--cache-decoded", "file", "--loaders", "2"),
    )
    assert ended.code == 0 and (tmp_path / "file").read_text() == "mine"
    assert len([m for m in caplog.messages if m.startswith("decoded images cannot be kept in file: ")]) == 1


@pytest.mark.parametrize("value", ["-1", "65", "many"])
def test_numbers_of_threads_that_make_no_sense(bench: Callable[..., Ended], value: str) -> None:
    ended = bench("run", "--method", "maskclip", "--dataset", "shapes", "--loaders", value)
    assert ended.code == 2 and "--loaders" in ended.err
