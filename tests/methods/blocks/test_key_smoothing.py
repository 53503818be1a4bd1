"""Prompt denoising and key smoothing against plain loops over positions, classes and channels."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.methods.blocks.key_smoothing import KeyNorm, denoise_prompts, projected_keys, smooth_by_keys
from ovss.methods.models.vit import read_vision

from .test_dense_clip import make_model

TOLERANCE = 1e-5
NORMS: tuple[KeyNorm, ...] = ("positions", "channels")


def plain_softmax(row: list[float]) -> list[float]:
    """Of ``100 * row``."""
    powers = [math.exp(100 * (value - max(row))) for value in row]
    return [power / sum(powers) for power in powers]


def plain_denoised(scores: Tensor, threshold: float) -> Tensor:
    """``(N, Q)`` -> the same."""
    probabilities = [plain_softmax(row) for row in scores.tolist()]
    out = scores.clone()
    for query in range(scores.shape[1]):
        if max(row[query] for row in probabilities) < threshold:
            out[:, query] = -100
    return out


def plain_smoothed(probabilities: Tensor, keys: Tensor, threshold: float, norm: str) -> Tensor:
    """``(N, Q)`` and ``(N, D)`` -> ``(N, Q)``, pair by pair, in double precision."""
    unit = keys.double().clone()
    for vector in unit.T if norm == "positions" else unit:  # views: columns, or rows
        vector /= math.sqrt(sum(value**2 for value in vector.tolist()))
    out = probabilities.double().clone()
    for i in range(len(out)):
        if max(probabilities[i].tolist()) < threshold:
            out[i] = sum((unit[i] @ unit[j]) * probabilities[j].double() for j in range(len(out)))
    return out.float()


def crafted_scores() -> Tensor:
    """``(5, 4)`` cosines: queries 0 and 3 are sure somewhere, 1 and 2 nowhere, and all are close together."""
    rows = [
        [0.250, 0.240, 0.235, 0.220],  # 0 at 0.63
        [0.240, 0.239, 0.238, 0.230],
        [0.235, 0.240, 0.239, 0.236],
        [0.220, 0.221, 0.222, 0.230],  # 3 at 0.45
        [0.200, 0.201, 0.202, 0.240],  # 3 at 0.94
    ]
    return torch.tensor(rows)


def crafted_keys(batch: int = 1) -> Tensor:
    """``(batch, 5, 6)`` with rows and columns of very different lengths, and negative products."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.tensor([0.2, 1, 3, 0.5, 2])[:, None], torch.tensor([5, 0.1, 1, 2, 0.3, 1])
    return torch.randn(batch, 5, 6, generator=generator) * rows * columns


def test_queries_that_are_sure_nowhere_are_removed() -> None:
    scores = crafted_scores()
    best = torch.tensor([plain_softmax(row) for row in scores.tolist()]).amax(dim=0)
    assert [value > 0.5 for value in best.tolist()] == [True, False, False, True]
    found = denoise_prompts(scores[None], 0.5)[0]
    assert torch.equal(found, plain_denoised(scores, 0.5))
    assert torch.equal(found[:, [0, 3]], scores[:, [0, 3]])
    assert bool((found[:, 1:3] == -100).all())


def test_each_image_is_denoised_by_itself() -> None:
    scores = torch.stack([crafted_scores(), crafted_scores()[:, [1, 0, 3, 2]]])
    found = denoise_prompts(scores, 0.5)
    assert torch.equal(found, torch.stack([plain_denoised(image, 0.5) for image in scores]))
    assert not torch.equal(found[0] == -100, found[1] == -100)


def test_threshold_of_zero_keeps_every_query_and_one_removes_almost_all() -> None:
    scores = crafted_scores()[None]
    assert torch.equal(denoise_prompts(scores, 0.0), scores)
    assert bool((denoise_prompts(scores, 1.0) == -100).all())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("threshold", [0.5, 1.0])
def test_smoothing(norm: KeyNorm, threshold: float) -> None:
    probabilities = torch.stack([(100 * crafted_scores()).softmax(1), (80 * crafted_scores().flip(0)).softmax(1)])
    keys = crafted_keys(2)
    unsure = (probabilities.amax(dim=2) < threshold).flatten()
    assert bool(unsure.any()) and bool(unsure.all()) == (threshold == 1)
    found = smooth_by_keys(probabilities, keys, threshold, norm)
    wanted = [plain_smoothed(p, k, threshold, norm) for p, k in zip(probabilities, keys, strict=True)]
    assert torch.allclose(found, torch.stack(wanted), rtol=0, atol=TOLERANCE)
    assert torch.equal(found.flatten(0, 1)[~unsure], probabilities.flatten(0, 1)[~unsure])


def test_the_axis_shows_and_negative_products_stay() -> None:
    probabilities, keys = (100 * crafted_scores()).softmax(1)[None], crafted_keys()
    positions, channels = (smooth_by_keys(probabilities, keys, 1.0, norm) for norm in NORMS)
    assert (positions - channels).abs().max() > 0.1
    unit = F.normalize(keys, dim=2)
    products = unit @ unit.transpose(1, 2)
    assert bool((products < -0.1).any())
    assert not torch.allclose(products.clamp(min=0) @ probabilities, channels, atol=0.01)
    assert not torch.allclose(products.softmax(2) @ probabilities, channels, atol=0.01)


def test_a_hand_computed_case() -> None:
    """Two positions, one channel: over positions the keys become 0.6 and 0.8, over channels 1 and 1."""
    probabilities, keys = torch.tensor([[[0.75, 0.25], [0.25, 0.75]]]), torch.tensor([[[3.0], [4.0]]])
    m = torch.tensor([[0.36, 0.48], [0.48, 0.64]])
    assert torch.allclose(smooth_by_keys(probabilities, keys, 1.0, "positions"), m @ probabilities)
    assert torch.allclose(smooth_by_keys(probabilities, keys, 1.0, "channels"), torch.ones(1, 2, 2))


@pytest.mark.parametrize("layer_scale", [None, 0.5])
def test_keys_go_through_the_output_projection(layer_scale: float | None) -> None:
    model = make_model(layers=1, layer_scale=layer_scale)
    block = model.visual.transformer.resblocks[0]
    tokens = torch.randn(2, 7, 192, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        keys = block.ln_1(tokens) @ block.attn.in_proj_weight[192:384].T + block.attn.in_proj_bias[192:384]
        wanted = block.ls_1(keys @ block.attn.out_proj.weight.T + block.attn.out_proj.bias)[:, 1:]
    weights = read_vision(model.visual, torch.device("cpu"), torch.float32)
    found = projected_keys(weights.blocks[0], tokens)
    assert found.shape == (2, 6, 192)
    assert torch.allclose(found, wanted, rtol=0, atol=TOLERANCE)
