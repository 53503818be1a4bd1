"""``bench run --loaders N --cache-decoded DIR`` from end to end."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Ended

CAMVID = (
    *("run", "--method", "maskclip", "--dataset", "camvid", "--backbone", "tiny-clip"),
    *("--protocol", "tiny", "--data-root"),
)


def test_a_run_says_who_loaded_and_what_was_waited(bench: Callable[..., Ended], camvid: Path, tmp_path: Path) -> None:
    command = (*CAMVID, str(camvid), "--json", "--results")
    here = bench(*command, "here").json()
    ahead = bench(*command, "ahead", "--loaders", "2", "--cache-decoded", "kept").json()
    assert (here["loaders"], ahead["loaders"]) == (0, 2) and here["miou"] == ahead["miou"]
    assert here["wait_seconds_per_image"] > 0 and ahead["wait_seconds_per_image"] > 0
    for name in ("counts.parquet", "plan.json"):
        assert Path(here["run_dir"], name).read_bytes() == Path(ahead["run_dir"], name).read_bytes()
    assert len(list((tmp_path / "kept").glob("*.decoded"))) == 2
    shown = bench("show", ahead["run_dir"]).out
    assert re.search(r"waited for data per image +0\.\d{4} \(2 loading ahead\)", shown)


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
    ended = bench(*CAMVID, str(camvid), "--cache-decoded", "file", "--loaders", "2")
    assert ended.code == 0 and (tmp_path / "file").read_text() == "mine"
    assert len([m for m in caplog.messages if m.startswith("decoded images cannot be kept in file: ")]) == 1


@pytest.mark.parametrize("value", ["-1", "65", "many"])
def test_numbers_of_threads_that_make_no_sense(bench: Callable[..., Ended], value: str) -> None:
    ended = bench("run", "--method", "maskclip", "--dataset", "shapes", "--loaders", value)
    assert ended.code == 2 and "--loaders" in ended.err
