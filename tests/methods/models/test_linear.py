"""Packed linear layers and attention in chunks against torch's own, and where they are chosen."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.methods import UserError
from ovss.methods.core.arithmetic import LINEARS, PLAIN, Arithmetic, arithmetic, computed_by
from ovss.methods.core.picture import Picture
from ovss.methods.models import linear as module
from ovss.methods.models import timed, vit
from ovss.methods.models.backbone import load_backbone
from ovss.methods.models.linear import Affine, attention, attention_in_chunks, linear
from ovss.methods.models.timed import choose_arithmetic, ratio

PACKED = Arithmetic(linears="packed")
CHUNKS = Arithmetic(attention="chunks")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def has_packing() -> bool:
    try:
        module.pack(torch.zeros(8, 8))
    except UserError:
        return False
    return True


needs_packing = pytest.mark.skipif(not has_packing(), reason="this torch packs no linear layers")


@pytest.fixture
def packings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the weights that were packed."""
    found: list[tuple[int, ...]] = []
    pack = module.pack

    def counted(weight: Tensor) -> Tensor:
        found.append(tuple(weight.shape))
        return pack(weight)

    monkeypatch.setattr(module, "pack", counted)
    return found


@needs_packing
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_is_the_layer_up_to_rounding(bias: bool, packings: list[tuple[int, ...]]) -> None:
    """Also of an input that is no contiguous block, and packed once however often it is used."""
    affine = Affine(random(768, 512), random(768, seed=1) if bias else None)
    before = affine.weight.clone()
    for x in (random(2, 5, 512), random(5, 2, 512).transpose(0, 1), random(1, 512)):
        exact = x.double() @ affine.weight.double().T
        expected = (exact if affine.bias is None else exact + affine.bias.double()).float()
        with computed_by(PACKED):
            found = linear(x, affine)
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert torch.equal(linear(x, affine), F.linear(x, affine.weight, affine.bias))
    assert packings == [(768, 512)] and torch.equal(affine.weight, before)


@needs_packing
def test_small_models_have_the_same_bits(packings: list[tuple[int, ...]]) -> None:
    backbone = load_backbone("tiny-clip")
    tower = backbone.tower(torch.device("cpu"), torch.float32)
    pixels = random(1, 3, 4 * tower.patch_px, 4 * tower.patch_px)
    plain = vit.run_trunk(tower, pixels)[0]
    with computed_by(PACKED):
        assert torch.equal(vit.run_trunk(tower, pixels)[0], plain)
    assert packings == []


@needs_packing
def test_a_block_of_a_large_tower_is_packed(packings: list[tuple[int, ...]]) -> None:
    """All four layers, and the block's weights are those that were read."""
    width = 512
    norm = Affine(torch.ones(width), torch.zeros(width))
    shapes = {"qkv": (3 * width, width), "out": (width, width), "fc": (4 * width, width), "proj": (width, 4 * width)}
    layers = {name: Affine(random(*shape) / math.sqrt(shape[1]), random(shape[0])) for name, shape in shapes.items()}
    block = vit.Block(norm, layers["qkv"], layers["out"], norm, layers["fc"], layers["proj"], None, None, F.gelu, 8)
    x = random(1, 9, width)
    plain = vit.run_block(block, x)
    with computed_by(PACKED):
        found = vit.run_block(block, x)
    assert (found - plain).abs().max() <= 1e-5 * plain.abs().max()
    assert packings == [*shapes.values()]


def test_packing_that_this_torch_lacks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        """Operators of a torch built without oneDNN."""

    monkeypatch.setattr(torch.ops, "mkldnn", Nothing())
    with pytest.raises(UserError, match=r"cannot be packed for float32 here.*OVSS_LINEARS=plain"):
        module.pack(torch.zeros(8, 8))
    timed._timed.cache_clear()
    assert choose_arithmetic("cpu", torch.float32, large=True) == PLAIN
    timed._timed.cache_clear()
    monkeypatch.setenv(LINEARS, "packed")
    with pytest.raises(UserError, match="cannot be packed"):
        choose_arithmetic("cpu", torch.float32, large=True)


@pytest.mark.parametrize("queries", [1, 128, 129, 300])
def test_attention_in_chunks(queries: int) -> None:
    q, k, v = random(2, 3, queries, 8), random(2, 3, 40, 8, seed=1), random(2, 3, 40, 8, seed=2)
    weights = torch.einsum("bhqd,bhkd->bhqk", q.double(), k.double()) / math.sqrt(8)
    expected = torch.einsum("bhqk,bhkd->bhqd", weights.softmax(-1), v.double()).float()
    assert torch.allclose(attention_in_chunks(q, k, v), expected, atol=1e-5)


def test_chunks_are_for_long_bfloat16_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded twice at most: bfloat16 has 8 bits."""
    calls: list[int] = []
    whole = attention_in_chunks
    monkeypatch.setattr(module, "attention_in_chunks", lambda *qkv: calls.append(1) or whole(*qkv))
    short, long = random(1, 1, 128, 8), random(1, 1, 129, 8)
    with computed_by(CHUNKS):
        attention(long, long, long)
        attention(short.bfloat16(), short.bfloat16(), short.bfloat16())
        attention(*[long.bfloat16()] * 3, causal=True)
        assert calls == []
        found = attention(*[long.bfloat16()] * 3)
    assert calls == [1]
    exact = F.scaled_dot_product_attention(*[long.bfloat16().double()] * 3)
    assert (found.double() - exact).abs().max() <= 2e-2 * exact.abs().max()
    attention(*[long.bfloat16()] * 3)
    assert calls == [1]


def test_nothing_is_timed_where_nothing_is_to_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timed, "_timed", lambda dtype: pytest.fail("timed"))
    assert choose_arithmetic("cpu", torch.float32, large=False) == PLAIN
    assert choose_arithmetic("cuda:0", torch.float32, large=True) == PLAIN
    assert choose_arithmetic("cpu", torch.float16, large=True) == PLAIN
    monkeypatch.setenv(LINEARS, "plain")
    assert choose_arithmetic("cpu", torch.float32, large=True) == PLAIN
    monkeypatch.setenv(LINEARS, "fast")
    with pytest.raises(UserError, match=r"\$OVSS_LINEARS is 'fast': plain"):
        choose_arithmetic("cpu", torch.float32, large=False)


@pytest.mark.parametrize(("times", "chosen"), [(0.0, "plain"), (1.2, "plain"), (1.3, "packed")])
def test_only_what_is_clearly_faster_is_taken(times: float, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    timed._timed.cache_clear()
    monkeypatch.setattr(timed, "_linears_ratio", lambda dtype: times)
    found = choose_arithmetic("cpu", torch.float32, large=True)
    timed._timed.cache_clear()
    assert (found.linears, found.linears_ratio, found.attention) == (chosen, times, "whole")


def test_the_ratio_is_that_of_lower_quartiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that each side moves: 4, 4, 4, 4 and 99 seconds against 2."""
    now, slow = [0.0], iter([0.0, 99.0, 4.0, 4.0, 4.0, 4.0])
    monkeypatch.setattr(timed.time, "perf_counter", lambda: now[0])

    def side(seconds: float) -> Tensor:
        now[0] += seconds
        return torch.ones(2)

    assert ratio(lambda: side(next(slow)), lambda: side(2.0), 1e-5) == 2.0


@pytest.mark.parametrize("wrong", [1.1, math.nan])
def test_a_program_with_other_values_is_never_faster(wrong: float) -> None:
    assert ratio(lambda: torch.ones(3), lambda: torch.tensor([1.0, 1.0, wrong]), 1e-5) == 0.0


def test_what_other_programs_computed_is_not_shared() -> None:
    picture = Picture.of(torch.zeros(3, 4, 4, dtype=torch.uint8))
    assert picture.once("layers", lambda: "plain") == "plain"
    with computed_by(PACKED):
        assert arithmetic() == PACKED and picture.once("layers", lambda: "packed") == "packed"
    assert arithmetic() == PLAIN and picture.once("layers", lambda: "again") == "plain"


def test_a_choice_is_told() -> None:
    assert PLAIN.told == ""
    assert Arithmetic(linears_ratio=1.014).told == "linears plain (packed is 1.01 times as fast)"
    both = Arithmetic(linears="packed", attention="chunks", attention_ratio=2.0)
    assert both.told == "linears packed, attention chunks (in chunks is 2.00 times as fast)"
