"""DINO's ViT against timm's and against a plain recomputation: released formats, grids of any shape, messages."""

import argparse
import hashlib
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from ovss.methods import UserError
from ovss.methods.models.checkpoints import state_sha256
from ovss.methods.models.dino import Dino, load_dino

State = dict[str, Tensor]
TOLERANCE = 1e-5


def random_state(width: int, depth: int, patch: int, side: int, seed: int = 0) -> State:
    """Weights under the released names, with attention far from uniform, so that a wrong term shows."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, std: float = 1.0) -> Tensor:
        return torch.empty(shape).normal_(std=std, generator=generator)

    state = {
        "cls_token": normal(1, 1, width, std=0.5),
        "pos_embed": normal(1, 1 + side * side, width, std=0.5),
        "patch_embed.proj.weight": normal(width, 3, patch, patch, std=1.5 / math.sqrt(3 * patch * patch)),
        "patch_embed.proj.bias": normal(width, std=0.2),
    }
    for block in (f"blocks.{i}." for i in range(depth)):
        for name, rows, columns, gain in [
            ("attn.qkv", 3, 1, 1.6),
            ("attn.proj", 1, 1, 0.7),
            ("mlp.fc1", 4, 1, 0.7),
            ("mlp.fc2", 1, 4, 0.7),
        ]:
            shape = rows * width, columns * width
            state[f"{block}{name}.weight"] = normal(*shape, std=gain / math.sqrt(shape[1]))
            state[f"{block}{name}.bias"] = normal(shape[0], std=0.2)
    for norm in [f"blocks.{i}.norm{j}" for i in range(depth) for j in (1, 2)] + ["norm"]:
        state[f"{norm}.weight"] = 1 + normal(width, std=0.3)
        state[f"{norm}.bias"] = normal(width, std=0.1)
    return state


def bicubic_matrix(size: int, count: int, factor: float) -> Tensor:
    """``(count, size)``: weights of a cubic kernel (a = -0.75) at ``(i + 0.5) / factor - 0.5``, border repeated."""
    matrix = torch.zeros(count, size, dtype=torch.float64)
    for i in range(count):
        place = (i + 0.5) / factor - 0.5
        for j in range(math.floor(place) - 1, math.floor(place) + 3):
            d = abs(place - j)
            near, far = 1.25 * d**3 - 2.25 * d**2 + 1, -0.75 * d**3 + 3.75 * d**2 - 6 * d + 3
            matrix[i, min(max(j, 0), size - 1)] += near if d <= 1 else far
    return matrix


def plain_position(state: State, h: int, w: int, added: float = 0.1) -> Tensor:
    """Position embedding ``(1 + h * w, D)``.  ``added=0`` is the mistake of asking for ``size=(h, w)``."""
    table = state["pos_embed"][0]
    side = math.isqrt(len(table) - 1)
    if (h, w) == (side, side):
        return table
    rows, columns = (bicubic_matrix(side, n, (n + added) / side) for n in (h, w))
    grid = torch.einsum("yv,xu,vud->yxd", rows, columns, table[1:].view(side, side, -1).double())
    return torch.cat([table[:1], grid.flatten(0, 1).float()])


def plain_run(state: State, pixels: Tensor, added: float = 0.1) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """q, k and v ``(N, D)``, class attention ``(heads, N)`` and output tokens ``(1 + N, D)`` of one image."""

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(dim=1, keepdim=True)
        scaled = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-6).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    x = F.conv2d(pixels, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=patch_of(state))[0]
    _, h, w = x.shape
    x = torch.cat([state["cls_token"][0], x.flatten(1).T]) + plain_position(state, h, w, added)
    width = x.shape[1]
    for i in itertools.count():
        if f"blocks.{i}.norm1.weight" not in state:
            break
        qkv = linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv")
        parts = {"q": qkv[:, :width], "k": qkv[:, width : 2 * width], "v": qkv[:, 2 * width :]}
        maps, outputs = [], []
        for start in range(0, width, 64):
            q, k, v = (part[:, start : start + 64] for part in parts.values())
            maps.append((q @ k.T / 8).softmax(dim=1))
            outputs.append(maps[-1] @ v)
        x = x + linear(torch.cat(outputs, dim=1), f"blocks.{i}.attn.proj")
        y = linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")
        y = y * (1 + torch.erf(y / math.sqrt(2))) / 2
        x = x + linear(y, f"blocks.{i}.mlp.fc2")
    attention = torch.stack(maps)[:, 0, 1:]
    return {name: part[1:] for name, part in parts.items()}, attention, norm(x, "norm")


def patch_of(state: State) -> int:
    return state["patch_embed.proj.weight"].shape[-1]


def image(height: int, width: int, batch: int = 1, seed: int = 0) -> Tensor:
    """RGB in [0, 1]: coarse blocks with noise, ``(B, 3, height, width)``."""
    generator = torch.Generator().manual_seed(seed)
    blocks = F.interpolate(torch.rand(batch, 3, 5, 6, generator=generator), (height, width), mode="nearest")
    return (blocks + 0.1 * torch.randn(batch, 3, height, width, generator=generator)).clamp(0, 1)


def plain_normalise(rgb: Tensor) -> Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (rgb - mean.view(3, 1, 1)) / std.view(3, 1, 1)


def error(got: Tensor, wanted: Tensor) -> float:
    """Largest difference relative to the largest value."""
    assert got.shape == wanted.shape
    return ((got - wanted).abs().max() / wanted.abs().max()).item()


pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def state() -> State:
    return random_state(width=128, depth=3, patch=8, side=7)


@pytest.fixture(scope="module")
def dino(state: State) -> Dino:
    return Dino(state)


def save(folder: Path, content: Any, name: str = "dino.pth") -> Path:
    path = folder / name
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


def test_the_random_weights_are_not_vacuous(state: State) -> None:
    _, attention, _ = plain_run(state, plain_normalise(image(56, 56)))
    rest = 1 - attention.sum(dim=1)
    entropy = -(attention * attention.log()).sum(dim=1) - rest * rest.log()
    assert (entropy < 0.85 * math.log(50)).all()  # log(50) is that of equal weights
    assert (rest > 1e-4).all()  # the class token attends to itself as well


@pytest.mark.parametrize(
    ("model_name", "name", "size"),
    [("vit_base_patch16_224", "DINO ViT-B/16", (768, 16)), ("vit_small_patch8_224", "DINO ViT-S/8", (384, 8))],
)
def test_full_size_equals_timm(tmp_path: Path, model_name: str, name: str, size: tuple[int, int]) -> None:
    """At 224 x 224 px the position table is used as it is, so timm's own ViT is a reference."""
    width, patch = size
    state = random_state(width, 12, patch, 224 // patch)
    with torch.device("meta"):
        model = timm.create_model(model_name, num_classes=0)
    model.load_state_dict(state, assign=True)
    assert model.eval().norm.eps == 1e-6
    path = save(tmp_path, state)
    dino = load_dino(path)
    path.unlink()  # a third of a GB, which pytest would keep
    assert (dino.name, dino.patch_px, dino.width, dino.heads) == (name, patch, width, width // 64)

    caught: list[Tensor] = []
    model.blocks[-1].attn.qkv.register_forward_hook(lambda module, inputs, output: caught.append(output))
    pixels = plain_normalise(image(224, 224))
    wanted = model.forward_features(pixels)
    assert error(dino.tokens(dino.normalise(image(224, 224))), wanted) <= TOLERANCE
    last = dino.qkv(pixels)
    for i, part in enumerate((last.q, last.k, last.v)):
        assert error(part, caught[0][:, 1:, i * width : (i + 1) * width]) <= TOLERANCE


# stored grid; other squares; lying and standing; as many patches as stored but not square; one patch
SIZES = [(56, 56), (24, 24), (96, 96), (40, 88), (80, 32), (8, 392), (8, 8)]


@pytest.mark.parametrize("size", SIZES)
def test_equals_the_formula(state: State, dino: Dino, size: tuple[int, int]) -> None:
    rgb = image(*size)
    pixels = dino.normalise(rgb)
    assert torch.allclose(pixels, plain_normalise(rgb), atol=1e-6)
    last, tokens = dino.qkv(pixels), dino.tokens(pixels)
    parts, attention, output = plain_run(state, plain_normalise(rgb))
    assert last.grid == (size[0] // 8, size[1] // 8)
    for got, wanted in [(last.q, parts["q"]), (last.k, parts["k"]), (last.v, parts["v"]), (tokens, output)]:
        assert got.dtype == torch.float32
        assert error(got[0], wanted) <= TOLERANCE
    assert error(last.class_attention[0], attention) <= TOLERANCE


@pytest.mark.parametrize("size", SIZES)
def test_position_by_size_shows(state: State, dino: Dino, size: tuple[int, int]) -> None:
    rgb = image(*size)
    wrong, _, _ = plain_run(state, plain_normalise(rgb), added=0)
    difference = error(dino.qkv(dino.normalise(rgb)).k[0], wrong["k"])
    assert difference <= TOLERANCE if size == (56, 56) else difference > 100 * TOLERANCE


def test_padding_by_the_caller_is_ordinary_pixels(state: State, dino: Dino) -> None:
    pixels = F.pad(dino.normalise(image(50, 75)), (0, 5, 0, 6))
    parts, attention, _ = plain_run(state, pixels)
    last = dino.qkv(pixels)
    assert last.grid == (7, 10)
    assert error(last.v[0], parts["v"]) <= TOLERANCE
    assert error(last.class_attention[0], attention) <= TOLERANCE


def test_a_batch_is_its_images(dino: Dino) -> None:
    pixels = dino.normalise(image(40, 88, batch=3))
    together, tokens = dino.qkv(pixels), dino.tokens(pixels)
    for i in range(3):
        alone = dino.qkv(pixels[i : i + 1])
        for name in ("q", "k", "v", "class_attention"):
            assert error(getattr(together, name)[i : i + 1], getattr(alone, name)) <= TOLERANCE
        assert error(tokens[i : i + 1], dino.tokens(pixels[i : i + 1])) <= TOLERANCE


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.08), (torch.float16, 0.02)])
def test_half_precision_stays_near(state: State, dino: Dino, dtype: torch.dtype, tolerance: float) -> None:
    pixels = dino.normalise(image(40, 88))
    rough = Dino(state, dtype=dtype)
    exact, got = dino.qkv(pixels), rough.qkv(pixels)
    for name in ("q", "k", "v", "class_attention"):
        assert getattr(got, name).dtype == torch.float32
        assert 0 < error(getattr(got, name), getattr(exact, name)) <= tolerance
    assert error(rough.tokens(pixels), dino.tokens(pixels)) <= tolerance
    assert rough.provenance["precision"] == str(dtype).removeprefix("torch.")


def test_the_state_is_left_alone(state: State) -> None:
    before, values = state_sha256(state), {k: id(v) for k, v in state.items()}
    dino = Dino(state)
    dino.qkv(dino.normalise(image(40, 88)))
    dino.tokens(dino.normalise(image(40, 88)))
    assert state_sha256(state) == before
    assert {k: id(v) for k, v in state.items()} == values


def test_what_comes_out_may_enter_a_loss(dino: Dino) -> None:
    with torch.enable_grad():
        weight = torch.zeros(128, requires_grad=True)
        keys = dino.qkv(dino.normalise(image(16, 16))).k
        assert not keys.requires_grad
        (keys @ weight).sum().backward()
    assert error(weight.grad, keys.sum(dim=(0, 1))) <= TOLERANCE


@pytest.mark.parametrize("shape", [(1, 3, 50, 56), (1, 3, 56, 50), (1, 3, 0, 8), (3, 56, 56), (1, 1, 56, 56)])
def test_sizes_that_do_not_fit(dino: Dino, shape: tuple[int, ...]) -> None:
    for run in (dino.qkv, dino.tokens):
        with pytest.raises(ValueError, match="multiples of 8 px"):
            run(torch.zeros(shape))


def test_bytes_are_not_normalised(dino: Dino) -> None:
    with pytest.raises(ValueError, match="divide by 255"):
        dino.normalise(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize("form", ["plain", "safetensors", "training", "training, plain head", "module prefix"])
def test_released_formats(tmp_path: Path, state: State, dino: Dino, form: str) -> None:
    head = {"head.mlp.0.weight": torch.zeros(8, 128), "head.last_layer.weight_g": torch.ones(4, 1)}
    if form == "training, plain head":
        head = {"head.mlp.weight": torch.zeros(8, 128)}
    teacher = {**{f"backbone.{k}": v for k, v in state.items()}, **head}
    student = {f"module.{k}": torch.zeros_like(v) for k, v in teacher.items()}
    content: Any = state
    if form.startswith("training"):
        content = {"student": student, "teacher": teacher, "epoch": 1, "args": argparse.Namespace(arch="vit_base")}
    elif form == "module prefix":
        content = {f"module.{k}": v for k, v in state.items()}
    name = "dino.safetensors" if form == "safetensors" else "dino.pth"
    loaded = load_dino(save(tmp_path, content, name))
    pixels = dino.normalise(image(40, 88))
    assert torch.equal(loaded.tokens(pixels), dino.tokens(pixels))
    digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert loaded.provenance == {
        "name": "DINO ViT-128x3/8",
        "source": f"file {name}",
        "sha256": f"file:{digest}",
        "precision": "float32",
    }


def test_provenance_of_tensors(state: State, dino: Dino) -> None:
    assert dino.provenance["source"] == "tensors given by the caller"
    assert dino.sha256 == f"state:{state_sha256(state)}"


def refuse(path: Path) -> str:
    """The message of the UserError; it must name the file."""
    with pytest.raises(UserError) as caught:
        load_dino(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_keys_that_do_not_fit_are_named(tmp_path: Path, state: State) -> None:
    broken = dict(state)
    broken["blocks.1.attn.qvk.weight"] = broken.pop("blocks.1.attn.qkv.weight")
    broken["blocks.0.ls1.gamma"] = torch.ones(128)
    broken["norm.bias"] = torch.zeros(64)
    message = refuse(save(tmp_path, broken))
    assert "missing blocks.1.attn.qkv.weight;" in message
    assert "not in the model: blocks.0.ls1.gamma, blocks.1.attn.qvk.weight;" in message
    assert "norm.bias has shape (64,), the model (128,)" in message
    hole = {k: v for k, v in state.items() if not k.startswith("blocks.1.")}
    assert "missing blocks.1.attn.proj.bias" in refuse(save(tmp_path, hole))
    assert "not in the model: head.weight" in refuse(save(tmp_path, {**state, "head.weight": torch.zeros(9, 128)}))


def test_files_of_other_models(tmp_path: Path, state: State) -> None:
    assert "holds no DINO ViT" in refuse(save(tmp_path, {"decoder": {"weight": torch.zeros(1, 384, 1, 1)}}))
    assert "holds no DINO ViT" in refuse(save(tmp_path, {"visual.conv1.weight": torch.zeros(8, 3, 4, 4)}))
    assert "holds no DINO ViT" in refuse(save(tmp_path, {k: v for k, v in state.items() if "blocks" not in k}))
    flat = {**state, "pos_embed": state["pos_embed"][0]}
    assert "holds no DINO ViT" in refuse(save(tmp_path, flat))
    assert "its 48 position embeddings" in refuse(save(tmp_path, {**state, "pos_embed": state["pos_embed"][:, :49]}))
    narrow = random_state(width=96, depth=1, patch=8, side=2)
    assert "its width 96 is no multiple of 64" in refuse(save(tmp_path, narrow))


@pytest.mark.parametrize("name", ["dino.pth", "dino.safetensors"])
@pytest.mark.parametrize("keep", [0, 0.5, 0.99])
def test_truncated_file(tmp_path: Path, state: State, name: str, keep: float) -> None:
    path = save(tmp_path, state, name)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    assert "cannot be read" in refuse(path)
