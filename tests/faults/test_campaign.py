"""The fault campaign, a sample of it: ``campaign.py`` beside this file says what is done."""

import os
import subprocess
import sys
from pathlib import Path


def test_no_fault_gives_another_number(tmp_path: Path) -> None:
    """In a process of its own: it forks, which one with threads must not."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("campaign.py")), "--quick", "2"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "checks, 0 failed" in done.stdout
