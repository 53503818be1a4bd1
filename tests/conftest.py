"""Shared by all tests: no network, no user cache, one thread, no top-level ``datasets`` from the checkout."""

import gc
import os
import socket
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# `python -m pytest` puts the checkout on the path, where its folder `datasets` would hide the library of that name.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != ROOT]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side; child processes inherit it


gc.disable()  # until everything is imported: a fifth of that time went into looking for garbage


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported stays, and is not looked through again and again."""
    gc.freeze()
    gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    """Let yapf, which mmengine imports, write its grammar before tests run side by side.

    It does so once per machine, not by rename: a second process that starts at that moment reads half a file.
    """
    if not hasattr(config, "workerinput"):
        import yapf  # noqa: F401


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Text features and verdicts go to a cache of the test session, never to the user's; no weights of the user's."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVSS_CACHE", str(base / "cache"))
        patch.setenv("OVSS_CONFIG", str(base / "no-config.toml"))
        patch.setenv("OVSS_PREPARED", str(base / "prepared"))
        for name in ("OVSS_DATA", "OVSS_WEIGHTS"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only loopback may be connected to."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX and not str(address).startswith(("('127.", "('localhost", "('::1")):
            raise AssertionError(f"a test tried to reach {address}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small tensors: threads only wait for each other."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _scenes_once() -> Iterator[None]:
    """A scene of the embedded data set is drawn once per process: most runs of tests begin with the same few."""
    from ovss.datasets import shapes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "make_scene", lru_cache(512)(shapes.make_scene))
        yield


@pytest.fixture(scope="module")
def no_gradients() -> Iterator[None]:
    """For a whole module: ``pytestmark = pytest.mark.usefixtures("no_gradients")``."""
    import torch

    with torch.no_grad():
        yield
