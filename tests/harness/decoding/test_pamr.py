"""PAMR by the compiled kernels has the bits of PAMR by torch."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from ovss.harness.decoding import pamr as by_kernels
from ovss.harness.decoding.pamr import refined
from ovss.harness.native import door
from ovss.methods.refine.pamr import Pamr

PHOTO = torch.randint(0, 256, (3, 30, 40), generator=torch.Generator().manual_seed(1)).byte()


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(door.KERNELS, raising=False)
    if door.kernels() is None:
        pytest.skip("`make setup` builds the kernels")
    if not by_kernels._torch_fuses():
        pytest.skip("torch rounds products and sums apart here, and does PAMR itself")


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def made(size: tuple[int, int], steps: int, dilations: tuple[int, ...] = (8, 16)) -> Pamr:
    return Pamr(PHOTO, size, steps=steps, dilations=dilations)


def some_maps(count: int, size: tuple[int, int]) -> Tensor:
    return torch.rand(count, *size, generator=torch.Generator().manual_seed(2)) - 0.5


def never(self: Pamr, maps: Tensor) -> Tensor:
    raise AssertionError("torch was asked")


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize(
    ("classes", "size", "steps", "dilations"),
    [
        (11, (61, 83), 10, (8, 16)),
        (1, (1, 1), 3, (8, 16)),
        (5, (1, 40), 2, (1,)),
        (4, (45, 1), 1, (2,)),
        (3, (37, 15), 2, (2, 5, 40)),
        (6, (50, 16), 3, (1, 2, 4)),
        (70, (33, 17), 2, (8,)),
        (9, (70, 150), 3, (1, 2, 4, 8, 12, 24)),
    ],
)
def test_same_bits(
    classes: int,
    size: tuple[int, int],
    steps: int,
    dilations: tuple[int, ...],
    number: int,
    threads: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads(number)
    pamr, maps = made(size, steps, dilations), some_maps(classes, size)
    before, by_torch = maps.clone(), pamr(maps)
    monkeypatch.setattr(Pamr, "__call__", never)
    assert torch.equal(refined(pamr, maps), by_torch)
    assert torch.equal(maps, before)


@pytest.mark.usefixtures("kernels")
def test_what_is_no_number_spreads_alike() -> None:
    pamr, maps = made((40, 50), 2), some_maps(5, (40, 50))
    maps[1, 3, 4], maps[2, 39, 49], maps[3, 0, 0] = float("nan"), float("inf"), float("-inf")
    found, by_torch = refined(pamr, maps), pamr(maps)
    assert torch.equal(found.isnan(), by_torch.isnan()) and found.isnan().any()
    assert torch.equal(found.nan_to_num(nan=7.0), by_torch.nan_to_num(nan=7.0))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("maps", "steps"),
    [
        (some_maps(3, (20, 30)), 2),  # of another size
        (some_maps(3, (50, 40)).transpose(1, 2), 2),  # not contiguous
        (some_maps(0, (40, 50)), 2),
        (some_maps(3, (40, 50)), 0),
    ],
)
def test_torch_does_the_rest(maps: Tensor, steps: int) -> None:
    pamr = made((40, 50), steps)
    assert torch.equal(refined(pamr, maps), pamr(maps))


@pytest.mark.parametrize("why", ["off", "torch rounds apart", "declined"])
def test_torch_does_it_where_the_kernels_cannot(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pamr, maps = made((40, 50), 2), some_maps(3, (40, 50))
    asked = []
    monkeypatch.setattr(Pamr, "__call__", lambda self, maps: asked.append(maps) or maps)
    if why == "off":
        monkeypatch.setenv(door.KERNELS, "0")
    elif why == "torch rounds apart":
        monkeypatch.setattr(by_kernels, "_torch_fuses", lambda: False)
    else:
        monkeypatch.setattr(by_kernels, "_failed", lambda *_: 1)
    assert refined(pamr, maps) is maps and len(asked) == 1
