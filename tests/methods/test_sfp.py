"""SFP against outputs of the original program (tests/data/oracles) and a plain recomputation of its formula."""

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.methods import Backbone, UserError, WindowGeometry, Windows, create_method
from ovss.methods import sfp as sfp_module
from ovss.methods.models.vit import position_for, read_vision
from ovss.methods.sfp import SFP, SFPOptions

from .oracle_parts import TOLERANCE, error, load_oracle, oracle_backbone, scores_of

DETECTORS = {"": "attention", "lof.": "local", "l2.": "norm"}

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def oracle() -> dict[str, Tensor]:
    return load_oracle("sfp")


@pytest.fixture(scope="module")
def backbone(oracle: dict[str, Tensor]) -> Backbone:
    return oracle_backbone(oracle)


@pytest.mark.parametrize("detector", DETECTORS)
def test_scores_and_outliers_of_a_window(oracle: dict[str, Tensor], backbone: Backbone, detector: str) -> None:
    method = SFP(backbone, SFPOptions(detector=DETECTORS[detector]))
    assert error(scores_of(method, oracle, "w112")[0], oracle[f"w112.{detector}scores"]) <= TOLERANCE
    windows = Windows.of(oracle["w112.image"].permute(2, 0, 1)[None])
    layers, _ = method.layers(windows)
    assert method._apart(layers[-2], layers[-1])[0].equal(oracle[f"w112.{detector}outliers"].bool())


def test_scores_of_a_window_of_the_stored_size(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    assert error(scores_of(SFP(backbone), oracle, "w224")[0], oracle["w224.scores"]) <= TOLERANCE


@pytest.mark.parametrize("detector", DETECTORS)
def test_four_windows_in_one_batch(oracle: dict[str, Tensor], backbone: Backbone, detector: str) -> None:
    method = SFP(backbone, SFPOptions(detector=DETECTORS[detector]))
    found = scores_of(method, oracle, "slide", WindowGeometry(112, 56))
    assert error(found, oracle[f"slide.{detector}window_scores"]) <= TOLERANCE


@pytest.mark.parametrize(
    "wrong",
    [
        *({"class_weight": 0.25}, {"similarity_block": 9}, {"smoothing_block": 4}, {"first_summed": 4}),
        *({"last_summed": 10}, {"detector": "local"}),
    ],
    ids=str,
)
def test_other_options_give_other_scores(
    oracle: dict[str, Tensor], backbone: Backbone, wrong: dict[str, float]
) -> None:
    assert error(scores_of(SFP(backbone, SFPOptions(**wrong)), oracle, "w112")[0], oracle["w112.scores"]) > 1e-3


def _mean_without_zeros(s: Tensor) -> Tensor:
    above = 3 * (s - s[s > 0].mean())
    return above.masked_fill(above < 0, -1e9).softmax(-1)


@pytest.mark.parametrize(
    ("where", "name", "mistake"),
    [
        (sfp_module, "MOST_OUTLIERS", 9),
        (sfp_module, "pull", _mean_without_zeros),
        (SFP, "_values", SFP._main),
        (sfp_module, "repair", lambda tokens, apart, grid: tokens),
    ],
    ids=["one outlier less", "mean without the zeros", "q and k in the second pass", "no repair"],
)
def test_misreadings_are_noticed(
    oracle: dict[str, Tensor],
    backbone: Backbone,
    monkeypatch: pytest.MonkeyPatch,
    where: object,
    name: str,
    mistake: object,
) -> None:
    monkeypatch.setattr(where, name, mistake)
    assert error(scores_of(SFP(backbone), oracle, "w112")[0], oracle["w112.scores"]) > 20 * TOLERANCE


def _plain_attention(block: torch.nn.Module, x: Tensor, kind: str) -> tuple[list[Tensor], list[Tensor]]:
    """Softmax matrices and values of two heads, for tokens ``(T, D)``."""
    weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
    parts = dict(zip("qkv", F.linear(block.ln_1(x), weight, bias).chunk(3, dim=-1), strict=True))
    heads = [{n: p[:, h : h + 64] for n, p in parts.items()} for h in (0, 64)]
    return [(p[kind[0]] @ p[kind[1]].T / 8).softmax(-1) for p in heads], [p["v"] for p in heads]


def _plain_cosines(x: Tensor) -> Tensor:
    unit = x / x.norm(dim=1, keepdim=True)
    return torch.where(unit @ unit.T >= 0.4, unit @ unit.T, 0.0)


def _plain_repair(x: Tensor, apart: list[int], rows: int, columns: int) -> Tensor:
    out = x.clone()
    for i in apart:
        near = [
            r * columns + c
            for r in range(max(0, i // columns - 1), min(rows, i // columns + 2))
            for c in range(max(0, i % columns - 1), min(columns, i % columns + 2))
        ]
        sound = [j for j in near if j not in apart]
        if sound:
            out[i] = x[sound].mean(0)
    return out


def plain_sfp(model: open_clip.CLIP, pixels: Tensor) -> Tensor:
    """Features ``(h * w, dim)`` of a normalised window ``(3, H, W)``, step by step."""
    visual = model.visual
    x = visual.conv1(pixels[None])
    rows, columns = x.shape[2:]
    x = torch.cat([visual.class_embedding[None], x[0].flatten(1).T])
    x = visual.ln_pre(x + position_for(read_vision(visual, torch.device("cpu"), torch.float32), rows, columns))
    outputs = []
    for block in visual.transformer.resblocks:
        outputs.append(x := block(x[None])[0])
    looks = torch.stack(_plain_attention(visual.transformer.resblocks[10], outputs[9], "qk")[0]).mean(0)
    given = {i: 1.5 * float(looks[0, i + 1]) for i in range(rows * columns)}
    wanted = [i for i in given if given[i] > float(looks[i + 1, i + 1])]
    apart = sorted(wanted, key=lambda i: -given[i])[:10]
    s1 = _plain_cosines(_plain_repair(outputs[8][1:], apart, rows, columns))
    s2 = _plain_cosines(outputs[3][1:])
    s2 = s2 / (s2.sum(1, keepdim=True) + 1e-6)
    first = s1 / (s1.sum(1, keepdim=True) + 1e-6) @ _plain_repair(outputs[10][1:], apart, rows, columns)
    weights = torch.where(s1 >= s1.mean(), torch.exp(3 * (s1 - s1.mean())), 0.0)
    m = weights / weights.sum(1, keepdim=True)
    last = visual.transformer.resblocks[11]
    (qq, v), (kk, _) = _plain_attention(last, first, "qq"), _plain_attention(last, first, "kk")
    summed = sum(outputs[3:10])
    main = torch.cat([(a + b + m) / 3 @ u for a, b, u in zip(qq, kk, v, strict=True)], dim=1)
    second = torch.cat([m @ u for u in _plain_attention(last, summed[1:], "qq")[1]], dim=1)
    z = s2 @ (last.attn.out_proj(main) + 0.3 * outputs[10][0]) + s2 @ (last.attn.out_proj(second) + 0.3 * summed[0])
    return F.normalize(visual.ln_post(z) @ visual.proj, dim=-1)


@pytest.mark.parametrize("size", [(64, 64), (112, 64), (48, 80)])
def test_windows_of_other_sizes(oracle: dict[str, Tensor], backbone: Backbone, size: tuple[int, int]) -> None:
    """The vectors have square windows with more than ten candidates only; 64 x 64 px has six."""
    method = SFP(backbone)
    image = oracle["w112.image"].permute(2, 0, 1)[None, :, : size[0], : size[1]]
    plain = plain_sfp(backbone.model, method.normalised(image)[0])
    assert error(method.encode_windows(Windows.of(image)).features[0].flatten(0, 1), plain) <= TOLERANCE
    if size == (64, 64):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sfp_module, "DETECTOR_FACTOR", 1 / 0.3)
            unscaled = method.encode_windows(Windows.of(image)).features[0].flatten(0, 1)
        assert error(unscaled, plain) > 20 * TOLERANCE


def test_half_precision_is_near(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    found = scores_of(SFP(backbone, dtype=torch.bfloat16), oracle, "w112")[0]
    assert found.dtype == torch.float32 and error(found, oracle["w112.scores"]) < 0.2


def test_blocks_that_are_not_there(backbone: Backbone) -> None:
    with pytest.raises(UserError, match="similarity_block is 11"):
        create_method("sfp", backbone, similarity_block=11)
    with pytest.raises(UserError, match="first_summed is 7 and last_summed 5"):
        create_method("sfp", backbone, first_summed=7, last_summed=5)
