"""DINOv2's ViT against transformers' and timm's: LayerScale, registers, both position rules, messages."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from ovss.methods import UserError
from ovss.methods.models.dino import Dino, load_dino

from .test_dino import State, error, image, plain_normalise, plain_position, random_state, save

TOLERANCE = 1e-5
REGISTERS = [0, 4]
# stored grid (5 x 5); smaller and larger; lying and standing; as many patches as stored but not square; one patch
SIZES = [(70, 70), (42, 98), (140, 56), (14, 350), (14, 14)]


def random_v2(width: int, depth: int, side: int, registers: int) -> State:
    """Random weights under the names of DINOv2's released files."""
    generator = torch.Generator().manual_seed(1)
    state = random_state(width, depth, patch=14, side=side)
    state["mask_token"] = torch.full((1, width), 1e4)  # would show anywhere
    if registers:
        state["register_tokens"] = torch.randn(1, registers, width, generator=generator)
    for i, j in itertools.product(range(depth), (1, 2)):
        state[f"blocks.{i}.ls{j}.gamma"] = 0.2 + torch.rand(width, generator=generator)
    return state


RENAMED = {
    r"^(cls_token|mask_token|register_tokens)$": r"embeddings.\1",
    r"^pos_embed$": "embeddings.position_embeddings",
    r"^patch_embed\.proj": "embeddings.patch_embeddings.projection",
    r"^blocks\.": "encoder.layer.",
    r"attn\.proj": "attention.o_proj",
    r"ls(\d)\.gamma": r"layer_scale\1.lambda1",
    r"^norm\.": "layernorm.",
}


def transformers_model(state: State) -> Any:
    """transformers' model with these weights: the class with registers where the state has some."""
    width, positions = state["cls_token"].shape[-1], state["pos_embed"].shape[1]
    config_class: Any = Dinov2WithRegistersConfig if "register_tokens" in state else Dinov2Config
    config = config_class(
        hidden_size=width,
        num_attention_heads=width // 64,
        num_hidden_layers=sum(name.endswith("norm1.bias") for name in state),
        image_size=14 * round((positions - 1) ** 0.5),
        patch_size=14,
        attn_implementation="eager",
    )
    renamed: State = {}
    for name, value in state.items():
        new = name
        for old, by in RENAMED.items():
            new = re.sub(old, by, new)
        if ".attn.qkv." in new:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                renamed[new.replace("attn.qkv", f"attention.{letter}_proj")] = part.contiguous()
        else:
            renamed[new] = value
    with torch.device("meta"):
        model: Any = (Dinov2WithRegistersModel if "register_tokens" in state else Dinov2Model)(config)
    model.load_state_dict(renamed, assign=True)
    return model.eval()


def released_rule(model: Any, state: State) -> None:
    """DINOv2 without registers keeps DINO's scale factors; transformers' class asks for the target size."""

    def interpolate(tokens: Tensor, height: int, width: int) -> Tensor:
        return plain_position(state, height // 14, width // 14).to(tokens)[None]

    model.embeddings.interpolate_pos_encoding = interpolate


pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module", params=REGISTERS)
def state(request: pytest.FixtureRequest) -> State:
    return random_v2(width=128, depth=3, side=5, registers=request.param)


def without_registers(tokens: Tensor, state: State) -> Tensor:
    registers = state["register_tokens"].shape[1] if "register_tokens" in state else 0
    return torch.cat([tokens[:, :1], tokens[:, 1 + registers :]], dim=1)


@pytest.mark.parametrize("registers", REGISTERS)
def test_full_size_equals_transformers(tmp_path: Path, registers: int) -> None:
    """ViT-B/14, through the released format, on a grid that is neither square nor the stored one."""
    state = random_v2(768, 12, 37, registers)
    model = transformers_model(state)
    if not registers:
        released_rule(model, state)
    path = save(tmp_path, state, "dinov2.pth")
    dino = load_dino(path)
    path.unlink()  # a third of a GB, which pytest would keep
    assert dino.name == "DINOv2 ViT-B/14" + (" with 4 registers" if registers else "")
    assert (dino.patch_px, dino.width, dino.heads, dino.tower.stored_side) == (14, 768, 12, 37)
    rgb = image(98, 182)
    wanted = without_registers(model(plain_normalise(rgb)).last_hidden_state, state)
    assert error(dino.tokens(dino.normalise(rgb)), wanted) <= 1e-4


@pytest.mark.parametrize("size", SIZES)
def test_equals_transformers(state: State, size: tuple[int, int]) -> None:
    model, dino = transformers_model(state), Dino(state)
    if "register_tokens" not in state:
        released_rule(model, state)
    caught: list[Tensor] = []
    layer = model.encoder.layer[-1].attention
    for linear in (layer.q_proj, layer.k_proj, layer.v_proj):
        linear.register_forward_hook(lambda module, inputs, output: caught.append(output))
    pixels = plain_normalise(image(*size, batch=2))
    seen = model(pixels, output_attentions=True)
    tokens, last = dino.tokens(pixels), dino.qkv(pixels)
    assert last.grid == (size[0] // 14, size[1] // 14)
    assert tokens.shape[1] == 1 + last.grid[0] * last.grid[1]
    assert error(tokens, without_registers(seen.last_hidden_state, state)) <= TOLERANCE
    for part, wanted in zip((last.q, last.k, last.v), caught, strict=True):
        assert error(part, without_registers(wanted, state)[:, 1:]) <= TOLERANCE
    attention = seen.attentions[-1][:, :, 0]
    assert error(last.class_attention, attention[:, :, -part.shape[1] :]) <= TOLERANCE


@pytest.mark.parametrize("size", SIZES)
def test_each_kind_has_its_own_position_rule(size: tuple[int, int]) -> None:
    """Transformers' two classes: by size, and by size antialiased.  Only the second is what was released."""
    pixels = plain_normalise(image(*size))
    plain, other = random_v2(128, 3, 5, 0), random_v2(128, 3, 5, 4)
    by_size = error(Dino(plain).tokens(pixels), transformers_model(plain)(pixels).last_hidden_state)
    model = transformers_model(other)
    released_rule(model, other)
    by_factor = error(Dino(other).tokens(pixels), without_registers(model(pixels).last_hidden_state, other))
    for difference in (by_size, by_factor):
        assert difference <= TOLERANCE if size == (70, 70) else difference > 100 * TOLERANCE


@pytest.mark.parametrize("size", SIZES)
def test_registers_equal_timm(size: tuple[int, int]) -> None:
    """timm adds the class token's position to the token and holds positions of patches only."""
    state = random_v2(128, 3, 5, 4)
    shape: Any = {"embed_dim": 128, "depth": 3, "num_heads": 2, "img_size": 70}
    model = timm.create_model("vit_base_patch14_reg4_dinov2", num_classes=0, dynamic_img_size=True, **shape)
    renamed = {name: value for name, value in state.items() if name != "mask_token"}
    renamed["reg_token"] = renamed.pop("register_tokens")
    renamed["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
    renamed["pos_embed"] = state["pos_embed"][:, 1:]
    model.load_state_dict(renamed)
    pixels = plain_normalise(image(*size))
    wanted = without_registers(model.eval().forward_features(pixels), state)
    assert error(Dino(state).tokens(pixels), wanted) <= TOLERANCE


@pytest.mark.parametrize("part", ["register_tokens", "blocks.1.ls1.gamma", "blocks.2.ls2.gamma"])
def test_each_part_shows(part: str) -> None:
    state = random_v2(128, 3, 5, 4)
    pixels = plain_normalise(image(42, 98))
    other = {**state, part: torch.ones_like(state[part])}
    assert error(Dino(other).tokens(pixels), Dino(state).tokens(pixels)) > 100 * TOLERANCE


@pytest.mark.parametrize("form", ["plain", "safetensors", "teacher"])
def test_released_formats(tmp_path: Path, state: State, form: str) -> None:
    content: Any = {"teacher": {f"backbone.{k}": v for k, v in state.items()}} if form == "teacher" else state
    loaded = load_dino(save(tmp_path, content, "dino.safetensors" if form == "safetensors" else "dino.pth"))
    pixels = plain_normalise(image(42, 98))
    assert torch.equal(loaded.tokens(pixels), Dino(state).tokens(pixels))
    assert loaded.name.startswith("DINOv2 ViT-128x3/14")


def test_keys_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = random_v2(128, 2, 5, 4)

    def refuse(broken: State) -> str:
        path = save(tmp_path, broken)
        with pytest.raises(UserError) as caught:
            load_dino(path)
        assert str(path) in str(caught.value)
        return str(caught.value)

    lacking = {name: value for name, value in state.items() if name != "blocks.1.ls2.gamma"}
    assert "missing blocks.1.ls2.gamma" in refuse(lacking)
    assert "not in the model: reg_token" in refuse({**state, "reg_token": torch.zeros(1, 4, 128)})
    wrong = refuse({**state, "register_tokens": torch.zeros(1, 4, 64), "mask_token": torch.zeros(128)})
    assert "register_tokens has shape (1, 4, 64), the model (1, 4, 128)" in wrong
    assert "mask_token has shape (128,), the model (1, 128)" in wrong
    assert "register_tokens has shape (4, 128)" in refuse({**state, "register_tokens": torch.zeros(4, 128)})
    giant = {name.replace("fc1", "w12").replace("fc2", "w3"): value for name, value in state.items()}
    assert "missing blocks.0.mlp.fc1.bias" in refuse(giant)
    unmasked = {name: value for name, value in state.items() if name != "mask_token"}
    assert "not in the model: blocks.0.ls1.gamma" in refuse(unmasked)
