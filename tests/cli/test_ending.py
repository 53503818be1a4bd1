"""How commands end: one paragraph, whatever failed, and the traceback for who asks for it."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ovss.methods import UserError
from ovss.methods.core.foreign import foreign_code

from .conftest import SCRIPT

Command = Callable[..., Any]
FULL = OSError(errno.ENOSPC, "No space left on device", "some/file")
PLUGIN = """
import torch
from ovss.methods import MethodInfo, WindowMethod, Words

{top}

def helper(value):
    return value / 0

class Mine(WindowMethod):
    info = MethodInfo("mine", "Mine", "none", backbone="")
    provenance = {{"method": "mine"}}

    def __init__(self, device="cpu", dtype=torch.float32):
        super().__init__()
        {init}

    def encode_text(self, vocabulary):
        {encode}
        return Words(vocabulary)

    def encode_windows(self, windows):
        {score}
        return len(windows.pixels)

    def score_windows(self, seen, words):
        return torch.zeros(seen, len(words.vocabulary.queries), 4, 4)
"""
PLACES = {
    "top": ("import not_there_at_all", "failed when it was imported: ModuleNotFoundError: No module named"),
    "init": ("{}['key']", "failed when it was made: KeyError: 'key'"),
    "encode": ("helper(1)", "failed at the words: ZeroDivisionError: division by zero"),
    "score": ("helper(2)", "image test_00000: method 'mine' failed: ZeroDivisionError: division by zero"),
}


def write_plugin(monkeypatch: pytest.MonkeyPatch, folder: Path, **lines: str) -> None:
    """``mine:Mine``, with a line of its own in one place."""
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # that of the test before
    (folder / "mine.py").write_text(PLUGIN.format(**{**dict.fromkeys(PLACES, "pass"), **lines}))


@pytest.mark.parametrize("place", PLACES)
def test_exceptions_of_a_plugin(bench: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str) -> None:
    line, words = PLACES[place]
    write_plugin(monkeypatch, tmp_path, **{place: line})
    ended = bench("run", "-m", "mine:Mine", "-d", "shapes", "--limit", "1")
    assert ended.code == 2 and ended.out == "" and "Traceback" not in ended.err
    assert ended.err.startswith("error: ") and words in ended.err
    number = (tmp_path / "mine.py").read_text().splitlines().index(line.rjust(len(line) + 8 * (place != "top"))) + 1
    assert f"mine.py, line {number}, in " in ended.err and "bench --debug" in ended.err
    assert "site-packages" not in ended.err and len(ended.err.splitlines()) <= 5


def test_exceptions_of_a_plugin_in_workers_and_with_debug(
    bench: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Workers are forked here, which is quick; the console script has a fork server for them (test_kill)."""
    forked = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: forked)
    monkeypatch.setenv("OVSS_DEBUG", "")  # what --debug sets is taken back
    write_plugin(monkeypatch, tmp_path, score="helper(2)")
    ended = bench("run", "-m", "mine:Mine", "-d", "shapes", "--limit", "4", "--workers", "2", "--debug")
    assert ended.code == 2 and "error: image test_0000" in ended.err and "in helper: return value / 0" in ended.err
    assert "Traceback" in ended.err and "engine.py" in ended.err


def test_our_own_code_is_not_blamed_on_a_plugin() -> None:
    with pytest.raises(KeyError), foreign_code("sclip", "ovss.methods.sclip"):
        raise KeyError("x")
    with pytest.raises(UserError, match="as it is"), foreign_code("mine", "mine"):
        raise UserError("as it is")
    with pytest.raises(OSError, match="No space"), foreign_code("mine", "mine"):
        raise FULL


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (FULL, 2, ["error: some/file: No space left on device.  Make room"]),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), 2, ["too long.  Choose a shorter name"]),
        (MemoryError(), 2, ["not enough memory", "--workers"]),
        (KeyboardInterrupt(), 130, ["stopped"]),
    ],
)
def test_errors_that_nobody_caught(
    bench: Command, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, words: list[str]
) -> None:
    def fails(*arguments: object, **named: object) -> None:
        raise error

    monkeypatch.setattr("ovss.harness.cli.list.list_command", fails)
    ended = bench("list", "methods")
    assert ended.code == code and all(word in ended.err for word in words) and "Traceback" not in ended.err
    monkeypatch.delenv("OVSS_DEBUG", raising=False)
    if code == 2:
        try:
            assert "Traceback" in bench("list", "--debug", "methods").err
        finally:
            os.environ.pop("OVSS_DEBUG", None)


def test_what_nobody_foresaw_asks_for_a_report(
    bench: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(*arguments: object, **named: object) -> None:
        raise AssertionError("how could this be")

    monkeypatch.setattr("ovss.harness.cli.list.list_command", fails)
    with pytest.raises(AssertionError, match="how could this be"):
        bench("list", "methods")
    err = capfd.readouterr().err
    assert err.startswith("error: something failed that should not.  Please report it") and "bench list methods" in err


def test_a_reader_that_has_seen_enough(environment: dict[str, str], tmp_path: Path) -> None:
    with subprocess.Popen(
        [SCRIPT, "protocol", "show", "unified"], cwd=tmp_path, env=environment, stdout=-1, stderr=-1
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


def test_an_output_that_cannot_be_written(environment: dict[str, str], tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [SCRIPT, "list", "protocols"], cwd=tmp_path, env=environment, stdout=full, stderr=-1, text=True, check=False
        )
    assert done.returncode == 2 and done.stderr.startswith("error: No space left on device")
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_an_argument_that_is_not_utf8(environment: dict[str, str], tmp_path: Path) -> None:
    for line in ([b"run", b"-m", b"clip", b"-d", b"shapes", b"--results", b"r\xff"], [b"show", b"\xff"]):
        done = subprocess.run(
            [os.fsencode(SCRIPT), *line], cwd=tmp_path, env=environment, capture_output=True, check=False
        )
        assert done.returncode == 2 and b"\\xff is not UTF-8" in done.stderr and b"Traceback" not in done.stderr


def test_ctrl_c_during_imports(environment: dict[str, str], tmp_path: Path) -> None:
    code = "import sys, time\nimport ovss.harness.cli.main as c\nsys.stderr.write('ready')\nsys.stderr.flush()\n"
    code += "c.app.registered_commands[0].callback = lambda *a, **k: time.sleep(60)\n"
    code += "sys.argv = ['bench', 'run', '-m', 'clip', '-d', 'shapes']\nc.run_to_end(lambda: time.sleep(60))"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        assert process.stderr.read(5) == b"ready"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b"stopped\n"
        assert process.wait() == 130


# --- a full disk for every verb that writes ---------------------------------------------------------------------------


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on nothing reaches the disk."""

    def fails(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    return lambda: monkeypatch.setattr(os, "fsync", fails)


def test_a_full_disk(bench: Command, tmp_path: Path, full_disk: Callable[[], None]) -> None:
    run = ("run", "-m", "clip", "-d", "shapes", "--limit", "2")
    assert bench(*run).code == 0
    full_disk()
    before = sorted(p for p in tmp_path.rglob("*"))
    for command, name in (
        ((*run, "--picture", "p.png"), "p.png"),
        (("leaderboard", "-o", "TABLE.md"), "TABLE.md"),
        (("leaderboard", "-o", "new/TABLE.md"), "TABLE.md"),
        (("train", "clip-s4", "--data", "shapes", "-o", "trained", "--stop-after", "1"), "trained"),
    ):
        ended = bench(*command)
        assert ended.code == 2 and f"{name}" in ended.err and "No space left" in ended.err, (command, ended)
        assert "Traceback" not in ended.err
    left = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    assert left == [p for p in before if p.is_file()]


def test_a_full_disk_does_not_stop_who_only_caches(
    bench: Command, tmp_path: Path, full_disk: Callable[[], None]
) -> None:
    """Texts that cannot be cached are encoded again the next time."""
    photo = tmp_path / "photo.png"
    from PIL import Image

    Image.new("RGB", (64, 48), "green").save(photo)
    full_disk()
    small = ("--backbone", "tiny-clip", "--protocol", "tiny")
    ended = bench("segment", "photo.png", "--classes", "a word for the full disk", *small, "-o", "o.png")
    assert ended.code == 2 and "o.png could not be written" in ended.err  # the picture, not the texts, stops it
