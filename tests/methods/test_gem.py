"""GEM against outputs of the original program (tests/data/oracles) and a plain recomputation of its formula."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.harness.decoding.refinement import on_grid
from ovss.methods import Backbone, UserError, Windows, create_method
from ovss.methods.gem import GEM, GEMOptions
from ovss.methods.models import vit

from .oracle_parts import error, load_oracle
from .second_path_parts import TOLERANCE, oracle_clip, oracle_field

CASES = {"default": {}, "iter2_temp12": {"iterations": 2, "tau": 12.0}}
IMAGES = ("in0", "in1")  # 224 x 224, the stored grid, and 144 x 208 px

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def oracle() -> dict[str, Tensor]:
    return load_oracle("gem")


@pytest.fixture(scope="module")
def backbone(oracle: dict[str, Tensor]) -> Backbone:
    return oracle_clip(oracle)


def scores(oracle: dict[str, Tensor], backbone: Backbone, image: str, **options: Any) -> Tensor:
    return oracle_field(GEM(backbone, GEMOptions(**options)), oracle, image).scores[0]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("image", IMAGES)
def test_cosines_of_the_original(oracle: dict[str, Tensor], backbone: Backbone, image: str, case: str) -> None:
    assert error(scores(oracle, backbone, image, **CASES[case]), oracle[f"{image}.{case}.cos_grid"]) <= TOLERANCE


@pytest.mark.parametrize("image", IMAGES)
def test_heat_maps_of_the_original(oracle: dict[str, Tensor], backbone: Backbone, image: str) -> None:
    """Each class from 0 to 1 over the pixels, after they were blown up; the vectors hold every eighth pixel."""
    height, width = oracle[f"{image}.image_u8"].shape[:2]
    maps = on_grid(oracle_field(GEM(backbone), oracle, image), (height, width))
    low, high = (extreme(maps, dim=(1, 2), keepdim=True) for extreme in (torch.amin, torch.amax))
    heat = (maps - low) / (high - low)
    assert error(heat[:, ::8, ::8], oracle[f"{image}.default.heat"][0]) <= TOLERANCE


def test_the_last_block_alone(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    method = GEM(backbone, GEMOptions(running_sum=False))
    last = vit.project(method.tower, oracle["in1.default.gem_res_last"][1:])
    wanted = oracle["text"] @ F.normalize(last, dim=1).T
    assert error(oracle_field(method, oracle, "in1").scores[0].flatten(1), wanted) <= TOLERANCE


@pytest.mark.parametrize(
    "wrong",
    [{"blocks": 7}, {"blocks": 5}, {"positions": "size"}, {"positions": "factor"}, {"iterations": 0}, {"tau": 1.0}],
    ids=str,
)
def test_other_options_are_told_apart(oracle: dict[str, Tensor], backbone: Backbone, wrong: dict[str, Any]) -> None:
    assert error(scores(oracle, backbone, "in1", **wrong), oracle["in1.default.cos_grid"]) > 1000 * TOLERANCE


def plain_path(oracle: dict[str, Tensor], backbone: Backbone, mistake: str) -> Tensor:
    """GEM's stream after the last block, ``(T, 128)``, from the output of the first, head by head."""
    ordinary = path = oracle["in1.default.block0_out"]
    for block in backbone.model.visual.transformer.resblocks[1:]:
        u = block.ln_1(path if mistake == "its own stream" else ordinary)
        weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
        parts = (u @ weight.T + (0 if mistake == "no biases" else bias)).chunk(3, dim=1)
        length = (u[1:] if mistake == "tau without the class token" else u).norm(dim=1).mean()
        tau = length if mistake == "tau without the head size" else length / 8
        heads = []
        for q, k, v in zip(*(part.split(64, dim=1) for part in parts), strict=True):
            terms = []
            for y in (v, k, q):
                y = y / y.norm(dim=1, keepdim=True)
                y = (tau * y @ y.T).softmax(dim=1) @ y
                if mistake != "lengths after the first step":
                    y = y / y.norm(dim=1, keepdim=True)
                terms.append((tau * y @ y.T).softmax(dim=1) @ v)
            heads.append(sum(terms) / 3)
        path = path + block.attn.out_proj(torch.cat(heads, dim=1))
        if mistake == "with the MLP":
            path = path + block.mlp(block.ln_2(path))
        ordinary = block(ordinary[None])[0]
    return path


def test_plain_formula(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    assert error(plain_path(oracle, backbone, ""), oracle["in1.default.gem_stream"]) <= TOLERANCE


@pytest.mark.parametrize(
    "mistake",
    [
        "its own stream",
        "no biases",
        "tau without the class token",
        "tau without the head size",
        "lengths after the first step",
        "with the MLP",
    ],
)
def test_the_vectors_notice_a_mistake(oracle: dict[str, Tensor], backbone: Backbone, mistake: str) -> None:
    assert error(plain_path(oracle, backbone, mistake), oracle["in1.default.gem_stream"]) > 20 * TOLERANCE


def test_each_window_has_its_own_temperature(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    image = oracle["in1.image_u8"].permute(2, 0, 1)
    windows = torch.stack([image, image // 8])
    method = GEM(backbone)
    together = method.encode_windows(Windows.of(windows)).features
    for features, window in zip(together, windows, strict=True):
        assert error(features, method.encode_windows(Windows.of(window[None])).features[0]) <= TOLERANCE


def test_a_tower_with_fewer_blocks_takes_part_as_a_whole(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    assert torch.equal(scores(oracle, backbone, "in1", blocks=7), scores(oracle, backbone, "in1", blocks=24))


def test_layer_scale_reaches_the_second_path(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    """Factors of 0 leave the path as it started: the output of the first block."""
    method = GEM(backbone)
    blocks = tuple(vit.Block(**{**vars(b), "scale_1": torch.zeros(128)}) for b in method.tower.blocks[1:])
    method.tower = vit.VisionTransformer(**{**vars(method.tower), "blocks": (method.tower.blocks[0], *blocks)})
    start = vit.project(method.tower, oracle["in1.default.block0_out"][1:])
    wanted = oracle["text"] @ F.normalize(start, dim=1).T
    assert error(oracle_field(method, oracle, "in1").scores[0].flatten(1), wanted) <= TOLERANCE


def test_provenance_and_mistakes(backbone: Backbone) -> None:
    told = GEM(backbone).provenance
    expected = {"pad": False, "positions": "antialias", "blocks": 6, "iterations": 1, "tau": None, "running_sum": True}
    assert {name: told[name] for name in GEMOptions.model_fields} == expected
    with pytest.raises(UserError, match=r"option tau is 0\.0: allowed is a number above 0 or nothing"):
        create_method("gem", backbone, tau=0.0)
    with pytest.raises(UserError, match="option blocks is 0: allowed is a whole number from 1"):
        create_method("gem", backbone, blocks=0)
