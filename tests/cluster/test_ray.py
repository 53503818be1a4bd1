"""A run on Ray with three local nodes, of which one is killed.  ``make test-cluster``; needs Ray."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

LIMIT = 120
pytestmark = pytest.mark.cluster


def test_the_loss_of_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    from ovss.harness.engines.choose import Where
    from ovss.harness.use.pairs import every_pair
    from ovss.harness.use.run import run

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    pairs = every_pair(["maskclip"], ["shapes"])
    (alone,) = run(pairs, tmp_path / "alone", LIMIT)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
    try:
        killer = threading.Thread(target=_kill_when_at_work, args=(cluster, nodes[0], tmp_path / "ray"))
        killer.start()
        (found,) = run(pairs, tmp_path / "ray", LIMIT, workers=3, where=Where("ray", ray=cluster.address))
        killer.join()
    finally:
        ray.shutdown()
        cluster.shutdown()
    for name in ("counts.parquet", "metrics.json"):
        assert (found.folder / name).read_bytes() == (alone.folder / name).read_bytes()


def _kill_when_at_work(cluster: object, node: object, results: Path) -> None:
    end = time.monotonic() + 240
    while time.monotonic() < end and len(list(results.glob("runs/*/parts/part-*"))) < 2:
        time.sleep(0.2)
    cluster.remove_node(node, allow_graceful=False)  # type: ignore[attr-defined]


def test_without_a_cluster_it_says_so(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    code = "from ovss.harness.engines.ray import Ray; Ray('127.0.0.1:1')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode and "no Ray cluster answers at 127.0.0.1:1" in done.stderr
