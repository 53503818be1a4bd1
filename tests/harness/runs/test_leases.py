"""Chunks of images: every one is taken once, those of the vanished come back, an image that kills is found."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ovss.harness.runs.leases import TRIES, Leases, chunk_size, given_up
from ovss.harness.runs.presence import WORKERS, Presence, forget, living, server_time
from ovss.methods import UserError

IMAGES = tuple(f"image {k}" for k in range(10))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run" / WORKERS).mkdir(parents=True)
    return tmp_path / "run"


def leases(run: Path, presence: Presence, size: int = 3) -> Leases:
    found = Leases(run / "leases" / "a pass", presence)
    found.begin(IMAGES, size)
    return found


def names_in(run: Path, kind: str) -> list[str]:
    return sorted(p.name for p in (run / "leases").glob(f"*/0001/{kind}/*"))


@pytest.mark.parametrize(
    ("images", "workers", "size"), [(5000, 8, 31), (5000, 64, 3), (5000, 512, 1), (1_000_000, 64, 64), (3, 8, 1)]
)
def test_chunk_size(images: int, workers: int, size: int) -> None:
    """The sizes that were simulated."""
    assert chunk_size(images, workers) == size


def test_every_image_is_in_one_chunk_and_every_chunk_is_taken_once(run: Path) -> None:
    with Presence([run]) as one, Presence([run]) as other:
        first, second = leases(run, one), leases(run, other)
        taken = [first.claim(), second.claim(), first.claim(), second.claim()]
        assert first.claim() is None and second.claim() is None
        assert sorted(i for chunk in taken if chunk for i in chunk.images) == sorted(IMAGES)
        assert not any(chunk.suspect for chunk in taken if chunk)
        assert not first.is_over()
        for owner, chunk in zip((first, second, first, second), taken, strict=True):
            assert chunk
            owner.finish(chunk)
        assert first.is_over() and second.is_over()


def test_many_at_once_take_every_chunk_once(run: Path) -> None:
    """Eight workers lay out the round and claim at the same time: one round, and no chunk twice."""
    images = tuple(f"{k}" for k in range(200))
    found: list[str] = []

    def take() -> None:
        with Presence([run]) as presence:
            mine = Leases(run / "leases" / "a pass", presence)
            mine.begin(images, 1)
            while chunk := mine.claim():
                found.extend(chunk.images)
                mine.finish(chunk)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(images) or len(found) > len(images)  # a round may be over before the last begins
    assert set(found) == set(images)


def test_a_chunk_that_is_given_back_is_as_new(run: Path) -> None:
    with Presence([run]) as one, Presence([run]) as other:
        first, second = leases(run, one, 10), leases(run, other, 10)
        chunk = first.claim()
        assert chunk and second.claim() is None
        first.give_back(chunk)
        again = second.claim()
        assert again and again.images == IMAGES and not again.suspect


def test_chunks_of_the_vanished_come_back_as_suspects(run: Path) -> None:
    with Presence([run]) as one:
        taken = leases(run, one, 10).claim()
        assert taken
        with Presence([run]) as other:
            second = leases(run, other)
            second.free_those_of_the_gone()
            assert second.claim() is None  # its owner is alive
            (run / WORKERS / one.owner).unlink()  # as if it had been killed and struck off
            second.free_those_of_the_gone()
            found = second.claim()
            assert found and found.suspect and found.images == taken.images
            assert names_in(run, "held") == [f"000000.1.{other.owner}"]


def test_who_was_silent_for_the_lease_is_gone(run: Path) -> None:
    """By the clock of the disk: a worker whose own clock is wrong is not taken for dead."""
    with Presence([run], lease_seconds=60) as one, Presence([run], lease_seconds=60) as other:
        assert sorted(living(run, 60)) == sorted([one.owner, other.owner])
        then = server_time(run) - 61
        os.utime(run / WORKERS / one.owner, (then, then))
        assert living(run, 60) == [other.owner] and other.is_gone(one.owner)
    assert living(run) == []


def test_a_worker_is_heard_of_while_it_works(run: Path) -> None:
    with Presence([run], lease_seconds=0.6) as presence:
        time.sleep(1.5)
        assert living(run, 0.6) == [presence.owner]


def test_a_killed_process_of_this_machine_is_gone_at_once(run: Path) -> None:
    """Nobody waits for the lease of a worker whose process does not run any more."""
    with Presence([run]) as presence:
        host, _, nonce = presence.owner.rsplit("-", 2)
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        theirs, elsewhere = f"{host}-{child.pid}-{nonce}", f"other-{child.pid}-{nonce}"
        for owner in (theirs, elsewhere):
            (run / WORKERS / owner).touch()
        assert set(living(run)) == {presence.owner, theirs, elsewhere}
        child.kill()
        child.wait()
        assert set(living(run)) == {presence.owner, elsewhere}


def test_a_dead_process_of_this_machine_is_struck_off(run: Path) -> None:
    with Presence([run]) as presence:
        forget(run, os.getpid() + 1)
        assert not presence.is_gone(presence.owner)
        forget(run, os.getpid())
        assert presence.is_gone(presence.owner)


def test_an_owner_that_was_thought_dead_does_no_harm(run: Path) -> None:
    """It may finish or give back what another has by now: the other keeps it."""
    with Presence([run]) as one, Presence([run]) as other:
        first, second = leases(run, one, 10), leases(run, other, 10)
        chunk = first.claim()
        assert chunk
        (run / WORKERS / one.owner).unlink()
        second.free_those_of_the_gone()
        held = second.claim()
        first.finish(chunk)
        first.give_back(chunk)
        assert held and names_in(run, "held") == [f"{held.name}.{other.owner}"] and names_in(run, "todo") == []


def test_a_new_round_follows_when_one_is_over(run: Path) -> None:
    with Presence([run]) as presence:
        mine = leases(run, presence, 10)
        chunk = mine.claim()
        assert chunk
        mine.finish(chunk)
        mine.begin(IMAGES[:2], 10)
        again = mine.claim()
        assert again and again.images == IMAGES[:2]


def test_an_image_is_given_up_after_its_tries(run: Path) -> None:
    with Presence([run]) as presence:
        mine = leases(run, presence)
        assert [mine.may_try("a") for _ in range(TRIES + 1)] == [True] * TRIES + [False]
        assert mine.may_try("b")
    assert given_up(run / "leases" / "a pass") == ["a"]


def test_damaged_chunks_are_told(run: Path) -> None:
    with Presence([run]) as presence:
        leases(run, presence)
        file = run / "leases" / "a pass" / "0001" / "chunks.json"
        file.write_text(file.read_text().replace("image 3", "image 4"))
        with pytest.raises(UserError, match="damaged or was edited"):
            leases(run, presence)
