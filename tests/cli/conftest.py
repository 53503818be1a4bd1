"""The console script in a process of its own, the same in this process, and made-up data."""

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(sysconfig.get_path("scripts")) / "bench"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Standard output, which must be one JSON document and nothing else."""
        assert self.code == 0, self.err
        return json.loads(self.out)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of child processes: the cache of the test session, no hub, one thread."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OVSS_", "FORCE_COLOR", "PYTEST_"))}
    return {**kept, "OVSS_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def console(tmp_path: Path, environment: dict[str, str]) -> Callable[..., Ended]:
    """Run the console script, in an empty folder unless ``cwd`` is given."""

    def call(*arguments: str, cwd: Path = tmp_path, script: Path = SCRIPT, **variables: str) -> Ended:
        done = subprocess.run(
            [str(script), *arguments],
            cwd=cwd,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run ``bench`` in this process (a second instead of five), in an empty folder; other errors than its own fail."""
    from ovss.harness.cli.main import main

    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["bench", *arguments])
        capfd.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        assert isinstance(code, int)
        out, err = capfd.readouterr()
        return Ended(code, out, err)

    return call


@pytest.fixture(scope="session")
def camvid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two made-up frames in the SegNet layout, with void pixels."""
    root, rng = tmp_path_factory.mktemp("camvid"), np.random.default_rng(3)
    for folder in ("test", "testannot"):
        (root / folder).mkdir()
    for name in ("0001TP_008550", "Seq05VD_f00000"):
        image = np.repeat(np.repeat(rng.integers(0, 256, (6, 8, 3), np.uint8), 10, 0), 10, 1)
        label = np.repeat(np.repeat(rng.integers(0, 12, (6, 8), np.uint8), 10, 0), 10, 1)
        Image.fromarray(image).save(root / "test" / f"{name}.png")
        Image.fromarray(label).save(root / "testannot" / f"{name}.png")
    return root


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A checkpoint of random weights for a named open_clip model; text towers are made less alike than at birth."""
    made: dict[str, Path] = {}

    def save(name: str) -> Path:
        import open_clip
        import torch
        from safetensors.torch import save_file

        if name not in made:
            torch.manual_seed(1)
            state = open_clip.create_model(name, pretrained=None).state_dict()
            state["token_embedding.weight"] *= 30
            made[name] = tmp_path_factory.mktemp("weights") / f"{name}.safetensors"
            save_file({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, made[name])
        return made[name]

    return save


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JPEG of 120 x 90 pixels."""
    from ovss.datasets.shapes import make_scene

    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    Image.fromarray(make_scene("val", 3, size=120).image[:90]).save(path, quality=95)
    return path
