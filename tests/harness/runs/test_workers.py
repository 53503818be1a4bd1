"""What a worker finds when it starts: the imports, no GPU that was touched, and the environment of its run."""

import os
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest

from ovss.harness.runs import workers
from ovss.harness.runs.workers import prepare, start_early, worker_context

served = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a fork server, and /proc to look at it")


FACTS = """{
    "imported": {"torch", "open_clip", "ovss.harness.runs.engine"} & set(__import__("sys").modules),
    "touched CUDA": __import__("torch").cuda._is_in_bad_fork(),
    "torch computes": __import__("torch").ones(999, 999).mm(__import__("torch").ones(999, 999)).max().item(),
    "numpy computes": (__import__("numpy").ones((999, 999)) @ __import__("numpy").ones((999, 999))).max(),
    "said": __import__("os").environ.get("SAID"),
    "stopped": __import__("ovss.harness.runs.workers", fromlist=["x"]).stopped(),
}"""
"""Asked of a worker before anything else; text, because a worker cannot import this module."""


@served
def test_a_worker_is_a_copy_of_a_server_that_only_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    start_early()
    start_early()  # harmless
    monkeypatch.setenv("SAID", "after the server was started")
    context = worker_context()
    stop = context.RawValue("b", 1)  # type: ignore[attr-defined]
    with ProcessPoolExecutor(1, context, initializer=prepare, initargs=(stop, dict(os.environ))) as pool:
        found = pool.submit(eval, FACTS).result(60)
    assert found == {
        "imported": {"torch", "open_clip", "ovss.harness.runs.engine"},
        "touched CUDA": False,
        "torch computes": 999,  # with threads of its own
        "numpy computes": 999,
        "said": "after the server was started",
        "stopped": True,
    }
    assert workers._KIND == "forkserver"
