"""A run on Ray with three local nodes, of which one is killed.  ``make test-cluster``; needs Ray."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .at_work import IMAGES, RUN, Desk, Outputs, images_of, until

pytestmark = pytest.mark.cluster


@pytest.fixture
def nodes(at_home: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, list[Any]]]:
    """A cluster with a head that takes no task, and its three nodes of two CPUs: a task that is lost has a place."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    for name in ("PYTHONPATH", "HOLD", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, at_home.environment[name])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        yield cluster, [cluster.add_node(num_cpus=2) for _ in range(3)]
    finally:
        cluster.shutdown()


def test_the_loss_of_a_node(nodes: tuple[Any, list[Any]], at_home: Desk, undisturbed: Outputs) -> None:
    cluster, there = nodes
    at_home.hold()
    process = at_home.bench(*RUN, "--engine", "ray", "--ray", cluster.address, "--workers", "3")
    until(lambda: len(at_home.workers()) == 3, 400, "three workers are not at it")
    until(at_home.parts, 120, "no parts")
    first = at_home.workers()
    parents = {_parent(int(owner.split("-")[-2])) for owner in first}
    lost = next(node for node in there if node.all_processes["raylet"][0].process.pid in parents)
    cluster.remove_node(lost, allow_graceful=False)
    until(lambda: at_home.workers() - first, 120, "the task that was lost is not started elsewhere")
    at_home.go_on()
    assert images_of(at_home.ended(process)) == [IMAGES]
    assert at_home.outputs().items() <= undisturbed.items()


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_without_a_cluster_it_says_so(at_home: Desk) -> None:
    """At once: Ray itself tries for more than six minutes."""
    pytest.importorskip("ray")
    process = at_home.bench(*RUN, "--engine", "ray", "--ray", "127.0.0.1:1")
    at_home.ended(process, 2)
    assert "no Ray cluster answers at 127.0.0.1:1" in at_home.said()
