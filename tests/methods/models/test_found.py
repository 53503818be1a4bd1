"""FOUND's head against a plain recomputation, its file format, and the pseudo-label against a plain loop."""

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.methods import UserError
from ovss.methods.models.checkpoints import state_sha256
from ovss.methods.models.dino import Dino, load_dino
from ovss.methods.models.found import Found, coarse_background, load_found

from .test_dino import TOLERANCE, State, error, image, plain_normalise, plain_run, random_state

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def state() -> State:
    return random_state(width=384, depth=2, patch=8, side=7)


@pytest.fixture(scope="module")
def head() -> State:
    """Weights that put the logits on both sides of 0."""
    generator = torch.Generator().manual_seed(1)
    return {"weight": torch.randn(1, 384, 1, 1, generator=generator) / 10, "bias": torch.tensor([0.3])}


@pytest.fixture(scope="module")
def found(state: State, head: State) -> Found:
    return Found(Dino(state), **head)


def plain_logits(state: State, head: State, rgb: Tensor, pad_first: bool = False) -> Tensor:
    """``(ceil(H / 8), ceil(W / 8))``.  ``pad_first`` is the mistake of padding with black."""
    height, width = (8 * math.ceil(side / 8) for side in rgb.shape[2:])
    padded = torch.zeros(1, 3, height, width)
    padded[:, :, : rgb.shape[2], : rgb.shape[3]] = rgb if pad_first else plain_normalise(rgb)
    parts, _, _ = plain_run(state, plain_normalise(padded) if pad_first else padded)
    logits = [
        sum(a * b for a, b in zip(key.tolist(), head["weight"].view(-1).tolist(), strict=True)) for key in parts["k"]
    ]
    return torch.tensor(logits).view(height // 8, width // 8) + head["bias"]


def plain_upsample(logits: Tensor, height: int, width: int) -> Tensor:
    """Pixel p lies at ``(p + 0.5) / 8 - 0.5`` of the grid; the border is repeated."""

    def matrix(count: int, size: int) -> Tensor:
        rows = torch.zeros(count, size)
        for p in range(count):
            place = min(max((p + 0.5) / 8 - 0.5, 0), size - 1)
            low = math.floor(place)
            rows[p, low] += 1 - (place - low)
            rows[p, min(low + 1, size - 1)] += place - low
        return rows

    h, w = logits.shape
    return matrix(height, h) @ logits @ matrix(width, w).T


@pytest.mark.parametrize("size", [(56, 56), (48, 80), (50, 75), (41, 33)])
def test_equals_the_formula(state: State, head: State, found: Found, size: tuple[int, int]) -> None:
    rgb = image(*size)
    wanted = plain_logits(state, head, rgb)
    assert wanted.min() < 0 < wanted.max()
    logits, mask = found.logits(rgb), found.pixel_mask(rgb)
    assert logits.shape == (1, 1, *wanted.shape)
    assert logits.dtype == mask.dtype == torch.float32
    assert error(logits[0, 0], wanted) <= TOLERANCE
    assert error(found.saliency(rgb)[0, 0], 1 / (1 + (-wanted).exp())) <= TOLERANCE
    assert error(mask[0, 0], 1 / (1 + (-plain_upsample(wanted, *size)).exp())) <= TOLERANCE


def test_padding_before_normalisation_shows(state: State, head: State, found: Found) -> None:
    rgb = image(50, 75)
    assert error(found.logits(rgb)[0, 0], plain_logits(state, head, rgb, pad_first=True)) > 100 * TOLERANCE


def test_sigmoid_before_upsampling_shows(found: Found) -> None:
    rgb = image(50, 75)
    early = F.interpolate(found.saliency(rgb), scale_factor=8, mode="bilinear")[:, :, :50, :75]
    assert error(found.pixel_mask(rgb), early) > 100 * TOLERANCE


def test_a_batch_is_its_windows(found: Found) -> None:
    rgb = image(50, 75, batch=3)
    for run in (found.logits, found.saliency, found.pixel_mask):
        assert error(run(rgb), torch.cat([run(rgb[i : i + 1]) for i in range(3)])) <= TOLERANCE


def test_half_precision_stays_near(state: State, head: State, found: Found) -> None:
    rgb = image(50, 75)
    rough = Found(Dino(state, dtype=torch.bfloat16), **head).saliency(rgb)
    assert rough.dtype == torch.float32
    assert 0 < (rough - found.saliency(rgb)).abs().max() <= 0.03


def test_saliency_may_be_the_target_of_a_loss(found: Found) -> None:
    with torch.enable_grad():
        target = found.saliency(image(16, 16))
        assert not target.requires_grad
        guess = torch.zeros_like(target, requires_grad=True)
        F.binary_cross_entropy_with_logits(guess, target, reduction="sum").backward()
    assert error(guess.grad, 0.5 - target) <= TOLERANCE


def save(folder: Path, content: Any) -> Path:
    path = folder / "decoder_weights.pt"
    torch.save(content, path)
    return path


def test_full_size_through_the_released_files(tmp_path: Path, head: State) -> None:
    state = random_state(width=384, depth=12, patch=8, side=28)
    weights = tmp_path / "dino_deitsmall8_300ep_pretrain.pth"
    torch.save(state, weights)
    path = save(tmp_path, {"decoder": head})
    found = load_found(path, load_dino(weights))
    weights.unlink()  # 80 MB, which pytest would keep
    rgb = image(50, 75)
    assert error(found.logits(rgb)[0, 0], plain_logits(state, head, rgb)) <= TOLERANCE
    provenance = found.provenance
    assert provenance["source"] == "file decoder_weights.pt"
    assert provenance["sha256"] == f"file:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert provenance["dino"]["name"] == "DINO ViT-S/8"
    assert provenance["dino"]["source"] == "file dino_deitsmall8_300ep_pretrain.pth"


def test_the_head_is_left_alone(state: State, head: State) -> None:
    before = state_sha256(head)
    found = Found(Dino(state), **head)
    found.pixel_mask(image(16, 24))
    assert state_sha256(head) == before
    assert found.sha256 == f"state:{before}"


def refuse(path: Path, dino: Dino) -> str:
    """The message of the UserError; it must name the file."""
    with pytest.raises(UserError) as caught:
        load_found(path, dino)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_files_that_do_not_fit(tmp_path: Path, state: State, head: State, found: Found) -> None:
    assert "does not exist" in refuse(tmp_path / "none.pt", found.dino)
    assert "missing bias" in refuse(save(tmp_path, {"decoder": {"weight": head["weight"]}}), found.dino)
    wide = {"decoder": {"weight": torch.zeros(1, 768, 1, 1), "bias": torch.zeros(1)}}
    assert "weight has shape (1, 768, 1, 1), the model (1, 384, 1, 1)" in refuse(save(tmp_path, wide), found.dino)
    assert "missing bias, weight" in refuse(save(tmp_path, state), found.dino)
    path = save(tmp_path, {"decoder": head})
    path.write_bytes(path.read_bytes()[:1000])
    assert "cannot be read" in refuse(path, found.dino)


@pytest.mark.parametrize(("width", "patch"), [(384, 16), (768, 8), (192, 8)])
def test_only_small_vit_with_patches_of_8_px(tmp_path: Path, head: State, width: int, patch: int) -> None:
    dino = Dino(random_state(width, depth=1, patch=patch, side=2))
    with pytest.raises(UserError, match="dino_deitsmall8_300ep_pretrain") as caught:
        load_found(save(tmp_path, {"decoder": head}), dino)
    assert f"DINO ViT-{width}x1/{patch}" in str(caught.value)


def plain_background(keys: Tensor, attention: Tensor) -> list[bool]:
    """One image: keys ``(N, heads * d)``, attention ``(heads, N)``."""
    rows, heads = attention.tolist(), len(attention)
    count, size = len(rows[0]), keys.shape[1] // len(attention)
    threshold = sum(map(sum, rows)) / (heads * count)
    fraction = [sum(a > threshold for a in row) / count + 1e-10 for row in rows]
    beta = [math.log(sum(fraction) / q) for q in fraction]
    weighted = [sum(beta[h] * rows[h][i] for h in range(heads)) for i in range(count)]
    seed = weighted.index(min(weighted))
    scaled = [[x * beta[j // size] for j, x in enumerate(key)] for key in keys.tolist()]
    length = [math.hypot(*key) for key in scaled]
    return [
        sum(a * b for a, b in zip(key, scaled[seed], strict=True)) / (length[i] * length[seed]) > 0.3
        for i, key in enumerate(scaled)
    ]


def test_coarse_background_equals_the_loop() -> None:
    generator = torch.Generator().manual_seed(3)
    attention = (4 * torch.randn(40, 6, 35, generator=generator)).softmax(dim=2)
    attention[:, 2] *= 0.05  # a head that never exceeds the mean: Q is 0, beta large
    keys = torch.randn(40, 35, 6 * 4, generator=generator) + torch.randn(40, 1, 6 * 4, generator=generator)
    assert ((attention > attention.mean(dim=(1, 2), keepdim=True)).sum(dim=2)[:, 2] == 0).any()
    got = coarse_background(keys, attention)
    wanted = torch.tensor([plain_background(k, a) for k, a in zip(keys, attention, strict=True)])
    assert got.dtype == torch.bool
    assert torch.equal(got, wanted)
    assert 0.1 < wanted.float().mean() < 0.9
    assert torch.equal(coarse_background(keys[2:3], attention[2:3]), got[2:3])


def test_coarse_background_by_hand() -> None:
    """Two heads of size 1.  The mean is 0.25; Q = 1/4 and 2/4, so beta = log 3 = 1.0986 and log 1.5 = 0.4055."""
    # weighted sums 0.931, 0.140, 0.106, 0.327: the seed is patch 2, and without beta it would be patch 1
    attention = torch.tensor([[[0.7, 0.12, 0.03, 0.15], [0.4, 0.02, 0.18, 0.4]]])
    # scaled by beta, the last key's cosine with the seed's is 0.4055 / hypot(2.1972, 0.4055) = 0.18, and without beta
    # it would be 1 / sqrt(5) = 0.45
    keys = torch.tensor([[[1.0, 0.0], [0.5, 1.0], [0.0, 1.0], [2.0, 1.0]]])
    assert coarse_background(keys, attention).tolist() == [[False, True, True, False]]


def test_coarse_background_of_dino(found: Found) -> None:
    last = found.dino.qkv(found.dino.normalise(image(40, 64, batch=2)))
    got = coarse_background(last.k, last.class_attention)
    wanted = [plain_background(k, a) for k, a in zip(last.k, last.class_attention, strict=True)]
    assert got.shape == (2, 40)
    assert got.tolist() == wanted
