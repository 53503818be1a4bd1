"""The memo of a picture: each value once, and nobody seems faster than it is alone."""

import gc
import random
import weakref
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from ovss.methods.core import picture as module
from ovss.methods.core.picture import Bill, Memo, Picture, Windows

IMAGE = torch.zeros(3, 4, 6, dtype=torch.uint8)


class Watch:
    """Time that moves only when somebody works."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)

    def work(self, seconds: float, value: object = None) -> object:
        self.now += seconds
        return value


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


def test_the_second_who_asks_gets_the_same_object(watch: Watch) -> None:
    memo, value = Memo(), object()
    assert memo.once("a", lambda: watch.work(3, value)) is value
    assert memo.once("a", lambda: pytest.fail("computed twice")) is value
    assert memo.once("b", lambda: "other") == "other"
    assert watch.now == 103


def test_an_asker_owes_what_another_has_computed_once(watch: Watch) -> None:
    memo, first, second = Memo(), Bill(), Bill()
    with memo.charged_to(first):
        memo.once("a", lambda: watch.work(3))
        memo.once("a", lambda: watch.work(3))
    with memo.charged_to(second):
        memo.once("a", lambda: watch.work(3))
        memo.once("a", lambda: watch.work(3))
    assert (first.seconds, second.seconds, watch.now) == (0, 3, 103)


def test_a_value_in_a_value_is_paid_once(watch: Watch) -> None:
    """The trunk takes 5 s; features from it 2 s more.  Whoever comes by another way pays the same parts."""
    memo = Memo()

    def trunk() -> object:
        return memo.once("trunk", lambda: watch.work(5))

    def features() -> object:
        return memo.once("features", lambda: (trunk(), watch.work(2)))

    whole, above, below, both = Bill(), Bill(), Bill(), Bill()
    with memo.charged_to(whole):
        features()
    with memo.charged_to(above):
        features()
    with memo.charged_to(below):
        trunk()
    with memo.charged_to(both):
        trunk()
        features()
    assert (whole.seconds, above.seconds, below.seconds, both.seconds) == (0, 7, 5, 7)
    assert watch.now == 107


def test_whoever_needs_a_part_of_another_pays_for_it_beside_its_own_work(watch: Watch) -> None:
    memo, first, second = Memo(), Bill(), Bill()
    with memo.charged_to(first):
        memo.once("trunk", lambda: watch.work(5))
    started = watch.now
    with memo.charged_to(second):
        memo.once("mine", lambda: (memo.once("trunk", lambda: watch.work(5)), watch.work(2)))
    assert (watch.now - started, second.seconds) == (2, 5)  # 7 s alone


@pytest.mark.parametrize("seed", range(20))
def test_seconds_are_those_of_being_alone(watch: Watch, seed: int) -> None:
    """Any values that need others, any askers in any order: watch and bill together are the seconds alone."""
    generator = random.Random(seed)
    cost = {k: generator.randint(1, 9) for k in range(8)}
    needs = {k: [n for n in range(k) if generator.random() < 0.4] for k in cost}
    asked = [[generator.randrange(8) for _ in range(4)] for _ in range(3)]

    def ask(memo: Memo, key: int) -> None:
        memo.once(key, lambda: [*(ask(memo, n) for n in needs[key]), watch.work(cost[key])])

    def seconds(memo: Memo, keys: list[int]) -> float:
        bill, started = Bill(), watch.now
        with memo.charged_to(bill):
            for key in keys:
                ask(memo, key)
        return bill.seconds + watch.now - started

    alone = [seconds(Memo(), keys) for keys in asked]
    together = Memo()
    assert [seconds(together, keys) for keys in asked] == alone


def look(picture: Picture) -> SimpleNamespace:
    return picture.once("seen", lambda: SimpleNamespace(picture=picture, tokens=torch.zeros(4)))


def test_values_that_hold_their_picture_are_forgotten_with_the_image() -> None:
    gc.disable()
    try:
        with Memo() as memo:
            gone = weakref.ref(look(Picture(IMAGE, IMAGE, "x", memo)).tokens)
        assert gone() is None
    finally:
        gc.enable()


def test_what_raises_is_not_kept(watch: Watch) -> None:
    memo, bill = Memo(), Bill()

    def fail() -> None:
        watch.work(4)
        raise ValueError("no")

    with memo.charged_to(bill):
        with pytest.raises(ValueError, match="no"):
            memo.once("outer", lambda: memo.once("a", fail))
        assert memo.once("a", lambda: watch.work(1, "yes")) == "yes"
    assert bill.seconds == 0


def test_views_and_parts_are_kept_apart() -> None:
    calls: Counter[str] = Counter()

    def compute(name: str) -> str:
        calls[name] += 1
        return name

    memo = Memo()
    small, large = (Picture(IMAGE, IMAGE, "x", memo, view=size, part=0) for size in ("small", "large"))
    column = Picture(IMAGE, IMAGE, "x#1", memo, view="small 1", part=1)
    for picture in (small, large, small, column):
        picture.once("tokens", lambda p=picture: compute(f"tokens {p.view}"))  # type: ignore[misc]
        picture.once_of_original("dino", lambda p=picture: compute(f"dino {p.part}"))  # type: ignore[misc]
    assert calls == {"tokens small": 1, "tokens large": 1, "tokens small 1": 1, "dino 0": 1, "dino 1": 1}


def test_windows_are_kept_apart_by_their_place() -> None:
    picture = Picture.of(IMAGE)
    first, again, other = (Windows(IMAGE[None], picture, place) for place in ("a", "a", "b"))
    assert first.once("t", object) is again.once("t", object) is not other.once("t", object)
    assert Windows.of(IMAGE[None]).picture is not Windows.of(IMAGE[None]).picture


@pytest.mark.parametrize("wrong", [IMAGE.float(), IMAGE[:1], IMAGE[0]])
def test_a_picture_is_three_planes_of_bytes(wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="uint8"):
        Picture.of(wrong)
    with pytest.raises(ValueError, match="uint8"):
        Picture(IMAGE, wrong)
