"""The door to the compiled kernels: switched off, absent, damaged, built from another source."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from ovss.harness.decoding.decode import decode, decoder_name
from ovss.harness.metrics.counting import count
from ovss.harness.native import door
from ovss.methods import Box, ScoreField, UserError

HERE = Path(door.__file__).parent
compiled_only = pytest.mark.skipif(not (HERE / "libkernels.so").exists(), reason="`make setup` builds the kernels")


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the sources alone, in the place of the package's own."""
    monkeypatch.delenv(door.KERNELS, raising=False)
    for source in (*HERE.glob("*.cpp"), *HERE.glob("*.h")):
        shutil.copy(source, tmp_path)
    monkeypatch.setattr(door, "_HERE", tmp_path)
    return tmp_path


def still_right() -> None:
    """Labels and counts of a picture of one row, by whatever program."""
    box = (Box(0, 0, 1, 3),)
    scores = torch.tensor([[0.5, 0.1, 0.3], [0.2, 0.4, 0.3]])[None, :, None]
    labels = decode(ScoreField(scores, box, box, (1, 3), (0, 1)), (1, 3))
    assert labels.tolist() == [[0, 1, 0]]
    assert count(labels, torch.tensor([[0, 0, 255]]).byte(), 2).tp.tolist() == [1, 0]


@compiled_only
def test_the_library_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for asked in ("", "1"):
        monkeypatch.setenv(door.KERNELS, asked)
        assert door.kernels() is not None and door.state() == "compiled" and decoder_name("cpu") == "compiled"
        still_right()


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(door.KERNELS, "0")
    assert door.kernels() is None and door.state() == "off: $OVSS_KERNELS is 0" and decoder_name("cpu") == "torch"
    still_right()


def test_absent(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert door.kernels() is None and door.state().startswith("none: they were not built; install the package again")
    assert decoder_name("cpu") == "torch"
    still_right()
    monkeypatch.setenv(door.KERNELS, "1")
    with pytest.raises(UserError, match="insists on the compiled kernels, which cannot be used: they were not built"):
        decoder_name("cpu")


def test_damaged(copied: Path) -> None:
    (copied / "libkernels.so").write_bytes(b"\x7fELF and no more")
    assert door.kernels() is None and "libkernels.so does not load" in door.state()
    still_right()


@compiled_only
def test_built_from_another_source(copied: Path) -> None:
    shutil.copy(HERE / "libkernels.so", copied)
    with (copied / "decoding.h").open("a") as file:
        file.write("// changed\n")
    assert door.kernels() is None and "built from another source" in door.state()
    still_right()


def test_another_library(copied: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    (copied / "other.c").write_text("int nothing(void) { return 0; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", copied / "other.c", "-o", copied / "libkernels.so"], check=True)
    assert door.kernels() is None and "does not load" in door.state()
    still_right()


@pytest.mark.parametrize("asked", ["yes", "2", "off"])
def test_other_values_are_refused(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(door.KERNELS, asked)
    with pytest.raises(UserError, match=f"OVSS_KERNELS is '{asked}': 0 switches the compiled kernels off"):
        decoder_name("cpu")
