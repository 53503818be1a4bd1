"""Patch similarity against a plain recomputation: the formula and its near misses, grids, rows left empty, loading."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.methods import UserError
from ovss.methods.models.dino import Dino
from ovss.methods.models.weights import find_entry
from ovss.methods.refine.guide import Affinity, Guide
from ovss.methods.refine.patch_similarity import (
    MODELS,
    PatchSimilarity,
    load_patch_similarity,
    patch_grid,
    similarity_matrix,
)

from ..models.test_dino import State, error, image, plain_normalise, plain_run, random_state, save
from ..models.test_dinov2 import random_v2

TOLERANCE = 1e-5


def plain_matrix(tokens: Tensor, wrong: str = "", beta: float = 1.2, gamma: float = 3.0) -> Tensor:
    """R row by row in float64; ``wrong`` is the name of a mistake."""
    unit = tokens.double()
    if wrong != "tokens as they are":
        unit = torch.stack([token / token.square().sum().sqrt() for token in unit])
    cosine = torch.einsum("id,jd->ij", unit, unit)
    rows = []
    for i, row in enumerate(cosine):
        mean = row.mean() if wrong == "mean of the row" else cosine.sum() / len(cosine) ** 2
        kept = torch.ones_like(row) if wrong == "nothing left out" else (row >= beta * mean).double()
        weight = kept * torch.exp(gamma * (row - row.max()))
        alone = torch.eye(len(row), dtype=torch.float64)[i]
        rows.append(weight / weight.sum() if kept.any() else alone)
    return torch.stack(rows)


def picture(height: int, width: int) -> Tensor:
    return (255 * image(height, width)[0]).round().to(torch.uint8)


pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def state() -> State:
    return random_state(width=128, depth=2, patch=8, side=4)


@pytest.fixture(scope="module")
def guide(state: State) -> PatchSimilarity:
    return PatchSimilarity(Dino(state))


def tokens_of(state: State, rgb: Tensor) -> Tensor:
    """Patch tokens ``(N, D)`` of one image, ``(3, H, W)`` in [0, 1]."""
    _, _, output = plain_run(state, plain_normalise(rgb[None]))
    return output[1:]


def test_a_case_by_hand() -> None:
    """Two equal tokens and one across: mean 5/9, threshold 2/3."""
    matrix, lone = similarity_matrix(torch.tensor([[2.0, 0.0], [0.5, 0.0], [0.0, 3.0]]))
    assert lone == 0
    assert torch.allclose(matrix, torch.tensor([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]), atol=1e-6)
    matrix, _ = similarity_matrix(torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]), beta=1.0)  # mean 5.8 / 9
    a, b = math.exp(3 * (1 - 5.8 / 9)), math.exp(3 * (0.8 - 5.8 / 9))
    wanted = torch.tensor([[1, 0, 0], [0, a / (a + b), b / (a + b)], [0, b / (a + b), a / (a + b)]])
    assert torch.allclose(matrix, wanted, atol=1e-6)


SIZES = [(32, 32), (40, 88), (53, 75), (90, 47), (8, 71), (5, 20)]


@pytest.mark.parametrize("size", SIZES)
def test_equals_the_formula(state: State, guide: PatchSimilarity, size: tuple[int, int]) -> None:
    seen = guide.observe(picture(*size), "any")
    rows, columns = max(1, size[0] // 8), max(1, size[1] // 8)
    assert seen.grid == (rows, columns)
    pixels = picture(*size)[None].float() / 255
    rgb = F.interpolate(pixels, (8 * rows, 8 * columns), mode="bilinear", antialias=True)[0]
    wanted = plain_matrix(tokens_of(state, rgb))
    assert error(seen.matrix, wanted) <= TOLERANCE
    maps = torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(0))
    refined = seen.propagate(maps)
    assert refined.shape == maps.shape
    assert refined.dtype == torch.float32
    for got, one in zip(refined, maps, strict=True):
        assert error(got.flatten(), (wanted @ one.flatten().double()).float()) <= TOLERANCE


@pytest.mark.parametrize("wrong", ["tokens as they are", "mean of the row", "nothing left out", "beta 1"])
def test_near_misses_show(state: State, guide: PatchSimilarity, wrong: str) -> None:
    tokens = tokens_of(state, picture(40, 88).float() / 255)
    kept = (plain_matrix(tokens) > 0).double().mean()
    assert 0.1 < kept < 0.9
    missed = plain_matrix(tokens, beta=1.0) if wrong == "beta 1" else plain_matrix(tokens, wrong)
    assert error(guide.observe(picture(40, 88), "any").matrix, missed) > 100 * TOLERANCE


def test_options(state: State) -> None:
    tokens = tokens_of(state, picture(40, 88).float() / 255)
    seen = PatchSimilarity(Dino(state), beta=0.5, gamma=7.0).observe(picture(40, 88), "any")
    assert error(seen.matrix, plain_matrix(tokens, beta=0.5, gamma=7.0)) <= TOLERANCE
    for wrong in ({"gamma": 0.0}, {"beta": math.nan}, {"gamma": math.inf}, {"most_patches": 0}):
        with pytest.raises(ValueError, match="wanted gamma > 0"):
            PatchSimilarity(Dino(state), **wrong)


def test_linear_and_constants_stay(guide: PatchSimilarity) -> None:
    seen = guide.observe(picture(53, 75), "any")
    assert (seen.matrix.sum(dim=1) - 1).abs().max() <= 1e-6
    a, b = torch.randn(2, 4, *seen.grid, generator=torch.Generator().manual_seed(0))
    assert error(seen.propagate(2 * a - 3 * b), 2 * seen.propagate(a) - 3 * seen.propagate(b)) <= TOLERANCE
    assert error(seen.propagate(a)[2:3], seen.propagate(a[2:3])) <= TOLERANCE
    constant = torch.full((1, *seen.grid), 0.37)
    assert error(seen.propagate(constant), constant) <= TOLERANCE
    assert seen.propagate(a[:0]).shape == (0, *seen.grid)


def test_the_same_image_gives_the_same(guide: PatchSimilarity) -> None:
    before = picture(53, 75)
    first, second = guide.observe(before, "one"), guide.observe(before, "another")
    assert torch.equal(first.matrix, second.matrix)
    assert torch.equal(before, picture(53, 75))


def test_rows_without_any_entry_keep_themselves(state: State) -> None:
    near = torch.ones(6, 16) + 0.01 * torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    matrix, lone = similarity_matrix(near)  # mean above 1 / 1.2
    assert lone == 6
    assert torch.equal(matrix, torch.eye(6))
    zero = torch.cat([near[:3], -near[3:5], torch.zeros(1, 16)])  # its cosine with itself is 0, the mean is above
    matrix, lone = similarity_matrix(zero)
    assert lone == 1
    assert torch.equal(matrix[5], torch.eye(6)[5])
    assert torch.isfinite(matrix).all()
    flat = torch.full((3, 32, 32), 120, dtype=torch.uint8)  # its patches differ by position only
    still = {**state, "pos_embed": torch.zeros_like(state["pos_embed"])}
    seen = PatchSimilarity(Dino(still)).observe(flat, "any")
    assert seen.lone_rows == 16
    maps = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(seen.propagate(maps), maps)


@pytest.mark.parametrize(
    ("size", "patch", "grid"),
    [
        ((375, 500), 8, (46, 62)),
        ((375, 500), 14, (26, 35)),
        ((375, 500), 16, (23, 31)),
        ((640, 640), 8, (80, 80)),
        ((7, 500), 8, (1, 62)),
    ],
)
def test_grid_of_an_image(size: tuple[int, int], patch: int, grid: tuple[int, int]) -> None:
    assert patch_grid(*size, patch, 6400) == grid


@pytest.mark.parametrize("size", [(1024, 1024), (1024, 2048), (648, 640), (3000, 20), (1, 60000), (60000, 1)])
def test_large_images_have_no_more_patches_than_asked(size: tuple[int, int]) -> None:
    rows, columns = patch_grid(*size, 8, 300)
    assert rows * columns <= 300
    if min(rows, columns) >= 10:
        assert rows * columns > 260
        assert abs(math.log(rows / columns * size[1] / size[0])) < 0.1


def test_a_large_image_is_shrunk_with_antialias(state: State) -> None:
    seen = PatchSimilarity(Dino(state), most_patches=20).observe(picture(96, 120), "any")
    assert seen.grid == (4, 5)
    pixels = picture(96, 120)[None].float() / 255
    rgb, aliased = (F.interpolate(pixels, (32, 40), mode="bilinear", antialias=on)[0] for on in (True, False))
    assert error(seen.matrix, plain_matrix(tokens_of(state, rgb))) <= TOLERANCE
    assert error(seen.matrix, plain_matrix(tokens_of(state, aliased))) > 100 * TOLERANCE


def test_what_does_not_fit(guide: PatchSimilarity) -> None:
    for bad in (torch.zeros(3, 8, 8), torch.zeros(1, 8, 8).byte(), torch.zeros(3, 0, 8).byte(), torch.zeros(8, 8)):
        with pytest.raises(ValueError, match=r"wanted \(3, H, W\) uint8"):
            guide.observe(bad, "any")
    seen = guide.observe(picture(40, 88), "any")
    for maps in (torch.zeros(1, 11, 5), torch.zeros(5, 11), torch.zeros(1, 5, 11, dtype=torch.float64)):
        with pytest.raises(ValueError, match="wanted"):
            seen.propagate(maps)


def test_provenance(state: State, guide: PatchSimilarity) -> None:
    kept: Guide = guide
    seen: Affinity = kept.observe(picture(40, 88), "any")
    assert seen.grid == (5, 11)
    assert kept.note == ""
    said = json.loads(json.dumps(kept.provenance))
    assert said.items() >= Dino(state).provenance.items()
    assert (said["beta"], said["gamma"], said["most_patches"]) == (1.2, 3.0, 6400)


# ---- loading


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of checkpoints; nothing else of this machine is seen."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv("OVSS_WEIGHTS", str(folder))
    monkeypatch.setenv("OVSS_CACHE", str(tmp_path / "cache"))
    return folder


def small_state(name: str) -> State:
    if name == "dinov2-b14-reg":
        return random_v2(width=128, depth=2, side=3, registers=4)
    return random_state(width=128, depth=2, patch=16 if name == "dino-b16" else 8, side=3)


@pytest.mark.parametrize("name", MODELS)
def test_loading_by_name(mirror: Path, name: str) -> None:
    entry = find_entry(MODELS[name])
    assert name in entry.used_by
    state = small_state(name)
    path = save(mirror, state, entry.files[0].name)
    seen: list[Any] = []
    for guide in (load_patch_similarity(name), load_patch_similarity(name, "cpu", path), PatchSimilarity(Dino(state))):
        seen.append(guide.observe(picture(53, 75), "any").matrix)
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[2])
    loaded = load_patch_similarity(name, beta=1.1, gamma=2.0, most_patches=9)
    assert loaded.provenance["source"] == f"file {path.name}"
    assert (loaded.beta, loaded.gamma, loaded.most_patches) == (1.1, 2.0, 9)


@pytest.mark.parametrize("name", MODELS)
def test_absent_weights_tell_how_to_fetch_them(mirror: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"bench weights fetch {MODELS[name]}"):
        load_patch_similarity(name)


def test_unknown_name(mirror: Path) -> None:
    with pytest.raises(UserError, match="unknown guide 'dino-b15'; did you mean dino-b16"):
        load_patch_similarity("dino-b15")
