"""``bench plan``, ``worker`` and ``merge`` end to end, and what does not go together."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Ended

Bench = Callable[..., Ended]
METHOD = ("-m", "clip", "-d", "shapes")


def outputs(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "counts.parquet").read_bytes(), (folder / "metrics.json").read_bytes()


def test_plan_work_merge_is_a_run(bench: Bench, tmp_path: Path) -> None:
    """In two shares and by leases; a merge that lacks an image is refused, and the bytes are those of ``bench run``."""
    alone = bench("run", *METHOD, "--limit", "6", "--results", "alone", "--json").json()
    (folder,) = bench("plan", *METHOD, "--results", "shared").out.split()
    refused = bench("merge", folder, "--limit", "6")
    assert (
        refused.code == 2
        and f"lacks 6 of 6 images, test_00000 for one: `bench worker {tmp_path / folder}`" in refused.err
    )
    assert bench("worker", folder, "--limit", "6", "--shard", "1/3").code == 0
    refused = bench("merge", folder, "--limit", "6")
    assert refused.code == 2 and "lacks 4 of 6 images" in refused.err
    part = bench("merge", folder, "--partial", "--json").json()
    assert (part["images"], part["complete"]) == (2, False)
    assert bench("worker", folder, "--limit", "6").code == 0
    merged = bench("merge", folder, "--limit", "6", "--json").json()
    assert merged["images"] == 6 and merged["miou"] == alone["miou"]
    assert outputs(Path(folder)) == outputs(tmp_path / alone["run_dir"])
    assert not {"leases", "workers"} & {p.name for p in Path(folder).iterdir()}


def test_two_runs_in_one_pass(bench: Bench) -> None:
    folders = bench("plan", "-m", "clip,maskclip", "-d", "shapes", "--json").json()
    runs = [one["run_dir"] for one in folders]
    assert len(runs) == 2 and all(one["images"] == 300 for one in folders)
    assert bench("worker", *runs, "--limit", "3").code == 0
    found = bench("merge", *runs, "--limit", "3", "--json").json()
    assert [one["method"] for one in found] == ["clip", "maskclip"]
    assert found[0]["shared_with"] == ["maskclip on shapes"]


def test_a_signal_ends_a_worker_in_good_order(
    bench: Bench, environment: dict[str, str], tmp_path: Path, console: Bench
) -> None:
    """It says so, leaves with 3, keeps what is finished and gives back what it had claimed."""
    (folder,) = bench("plan", *METHOD).out.split()
    code = "from ovss.harness.cli.main import main\nmain()"
    command = [sys.executable, "-c", code, "worker", folder]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while not list(Path(folder).glob("parts/part-*")):
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 3 and "stopped by SIGTERM; what was finished is kept, run it again" in told
    assert not list(Path(folder).glob("leases/*/0001/held/*")) and list(Path(folder).glob("leases/*/0001/todo/*"))
    assert not list(Path(folder).glob("workers/*"))


def test_the_script_for_sbatch(bench: Bench, tmp_path: Path) -> None:
    """Settings of the user come last, values with blanks are one word, and the shell understands it."""
    done = bench("plan", *METHOD, "--sbatch", "--slurm", "time=120", "--slurm", "array=0-7", "--results", "my results")
    script = done.out
    assert script.startswith("#!/bin/sh\n#SBATCH --job-name=ovss-bench\n#SBATCH --array=0-7\n#SBATCH --requeue\n")
    assert "#SBATCH --time=120\n" in script and f" worker '{tmp_path}/my results/runs/" in script
    checked = subprocess.run(["sh", "-n"], input=script, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--gpus", "all"), "--gpus is for --engine local with --device cuda"),
        (("--slurm", "time=1"), "--slurm is for --engine slurm"),
        (("--slurm", "time", "--engine", "slurm"), "--slurm takes KEY=VALUE, not 'time'"),
        (("--ray", "host:1"), "--ray is for --engine ray"),
        (("--detach",), "--detach is for --engine slurm"),
    ],
)
def test_what_does_not_go_together(bench: Bench, arguments: tuple[str, ...], words: str) -> None:
    done = bench("run", *METHOD, "--limit", "1", *arguments)
    assert done.code == 2 and words in done.err


def test_worker_names_what_is_no_run(bench: Bench) -> None:
    done = bench("worker", "nowhere")
    assert done.code == 2 and "no run is named 'nowhere'" in done.err
