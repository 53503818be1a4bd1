"""Verbs that make no method answer without torch and what comes with it: a table is there at once."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Ended

WITHOUT = """
import sys
for heavy in ("torch", "open_clip", "torchvision", "transformers"):
    sys.modules[heavy] = None  # importing it fails
from ovss.harness.cli.main import main
for line in {lines!r}:
    sys.argv = ["bench", *line.split()]
    print(">", line)
    try:
        main()
    except SystemExit as end:
        assert not end.code, (line, end.code)
"""
ANSWERS = {
    "protocol show sclip": "source: ",
    "protocol diff sclip unified": "unified",
    "list protocols": "summary",
    "run -m clip -d shapes --limit 1": "images/s",
    "run -m clip,maskclip -d shapes --limit 1 --workers 2": "maskclip",
    "list methods": "default backbone",
    "list datasets": "background",
    "data list": "camvid",
    "data list --json": '"dataset"',
    "leaderboard": "images/s",
    "list runs": "partial",
    "clean --dry-run": "nothing to clean",
    "export shapes-clip-tiny -o b.zip": "sha256",
    "import b.zip --results other": "imported",
    "list suites": "eight-benchmarks",
    "suite shapes --dry-run": "4 runs in 1 pass",
    "show shapes-clip-tiny": "provenance",
    "compare shapes-clip-tiny shapes-maskclip-tiny": "A minus it",
    "reproduce --all --dry-run": "not reported",
    "reproduce sclip/voc21 --dry-run": "bench weights fetch clip-vit-b-16-openai",
}


def test_nothing_heavy_is_imported_at_all(
    bench: Callable[..., Ended], tmp_path: Path, environment: dict[str, str]
) -> None:
    for method in ("clip", "maskclip"):
        assert bench("run", "-m", method, "-d", "shapes", "--limit", "1").code == 0
    code = WITHOUT.format(lines=list(ANSWERS))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.split("> ")[1:]
    assert [text.partition("\n")[0] for text in said] == list(ANSWERS)
    for (line, words), text in zip(ANSWERS.items(), said, strict=True):
        assert words in text.partition("\n")[2], (line, text)


@pytest.mark.parametrize("module", ["harness.metrics.result", "harness.runs.run", "harness.report.leaderboard_text"])
def test_results_are_read_without_torch(module: str, environment: dict[str, str]) -> None:
    """From Python too: counts and runs are numbers on disk, only what makes them needs a model."""
    code = f"import sys; import ovss.{module}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_a_run_of_the_embedded_clip_imports_no_package_that_it_does_not_use(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    code = (
        "import sys, atexit; from ovss.harness.cli.main import main\n"
        "heavy = {'transformers', 'timm', 'torchvision', 'torch._dynamo'}\n"
        "atexit.register(lambda: print('heavy:', sorted(heavy & set(sys.modules)), 'open_clip' in sys.modules))\n"
        "sys.argv = 'bench run -m maskclip -d shapes --limit 1'.split()\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert "heavy: [] True" in done.stdout, done.stdout + done.stderr
