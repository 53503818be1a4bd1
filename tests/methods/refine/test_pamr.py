"""PAMR against a plain reference written from the formula."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.methods.refine.pamr import CLIP_MEAN, CLIP_STD, Pamr, affinity

SIZE = (61, 83)


def pamr_reference(
    image: Tensor, maps: Tensor, steps: int = 10, dilations: tuple[int, ...] = (8, 16), samples: str = "with centre"
) -> Tensor:
    """``(3, H, W)`` normalised image at output size, ``(k, H, W)`` maps; explicit neighbour stacks."""
    height, width = image.shape[1:]

    def patches(x: Tensor, dilation: int) -> Tensor:
        """(c, H, W) -> (c, 9, H, W), by clamped coordinates."""
        rows = (torch.arange(height)[:, None] + torch.tensor([-dilation, 0, dilation])).clamp(0, height - 1)
        columns = (torch.arange(width)[:, None] + torch.tensor([-dilation, 0, dilation])).clamp(0, width - 1)
        picked = x[:, rows][..., columns]  # (c, H, 3, W, 3)
        return picked.permute(0, 2, 4, 1, 3).flatten(1, 2)

    ring = [0, 1, 2, 3, 5, 6, 7, 8]
    everything = torch.cat([patches(image, d) for d in dilations], dim=1)
    around = torch.cat([patches(image, d)[:, ring] for d in dilations], dim=1)
    std = (everything if samples == "with centre" else around).std(dim=1, unbiased=True, keepdim=True)
    weights = (-(image[:, None] - around).abs() / (1e-8 + 0.1 * std)).mean(dim=0).softmax(dim=0)
    for _ in range(steps):
        maps = (torch.cat([patches(maps, d)[:, ring] for d in dilations], dim=1) * weights).sum(dim=1)
    return maps


def normalised(image: Tensor, size: tuple[int, int] = SIZE) -> Tensor:
    """Float64: in float32 the interpolation of a flat region leaves noise that the deviation blows up."""
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    pixels = (image.double() / 255 - mean) / std
    return F.interpolate(pixels[None], size=size, mode="bilinear", align_corners=False)[0]


@pytest.fixture
def image() -> Tensor:
    """Blocks with noise, and a part that is exactly flat (deviation 0)."""
    generator = torch.Generator().manual_seed(3)
    blocks = torch.randint(0, 256, (3, 6, 8), generator=generator)
    noise = torch.randint(-12, 13, (3, 48, 64), generator=generator)
    image = (blocks.repeat_interleave(8, 1).repeat_interleave(8, 2) + noise).clamp(0, 255)
    image[:, :, :40] = 77
    return image.to(torch.uint8)


@pytest.fixture
def maps() -> Tensor:
    """Cosines; the range of values is 1, so absolute errors below are relative to it."""
    return torch.rand(11, *SIZE, generator=torch.Generator().manual_seed(4)) - 0.5


@pytest.mark.parametrize("steps", [0, 1, 10])
def test_equals_the_formula(image: Tensor, maps: Tensor, steps: int) -> None:
    refined = Pamr(image, SIZE, steps=steps)(maps)
    assert refined.dtype == torch.float32
    assert (refined - pamr_reference(normalised(image), maps, steps)).abs().max() <= 1e-5


def test_refines_at_all(image: Tensor, maps: Tensor) -> None:
    assert (Pamr(image, SIZE)(maps) - maps).abs().max() > 0.3


@pytest.mark.parametrize("dilations", [(1,), (2, 5, 40)])
def test_other_dilations(image: Tensor, maps: Tensor, dilations: tuple[int, ...]) -> None:
    reference = pamr_reference(normalised(image), maps, 3, dilations)
    assert (Pamr(image, SIZE, steps=3, dilations=dilations)(maps) - reference).abs().max() <= 1e-5


def test_strips_do_not_show(image: Tensor, maps: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Pamr(image, SIZE)(maps)
    monkeypatch.setattr("ovss.methods.refine.pamr._STRIP_PX", 7 * SIZE[1])  # 7 rows: does not divide 61
    assert torch.equal(Pamr(image, SIZE)(maps), whole)


def test_maps_of_another_size_are_stretched_corner_to_corner(image: Tensor, maps: Tensor) -> None:
    small = maps[:, :30, :41].contiguous()

    def reference(align_corners: bool) -> Tensor:
        resized = F.interpolate(small[None], SIZE, mode="bilinear", align_corners=align_corners)[0]
        return pamr_reference(normalised(image), resized)

    refined = Pamr(image, SIZE)(small)
    assert (refined - reference(True)).abs().max() <= 1e-5
    assert (refined - reference(False)).abs().max() > 1e-2


def test_deviation_is_over_eighteen_samples(image: Tensor, maps: Tensor) -> None:
    mutant = pamr_reference(normalised(image), maps, samples="without centre")
    assert (Pamr(image, SIZE)(maps) - mutant).abs().max() > 1e-3


def test_constant_map_stays_constant(image: Tensor) -> None:
    constant = torch.tensor([0.25, -3.0]).view(2, 1, 1).expand(2, *SIZE).contiguous()
    assert torch.allclose(Pamr(image, SIZE)(constant), constant, rtol=0, atol=1e-5)


def test_chunk_size_does_not_matter(image: Tensor, maps: Tensor) -> None:
    pamr = Pamr(image, SIZE)
    together = pamr(maps)
    for size in (1, 3, 8):
        assert torch.equal(torch.cat([pamr(chunk) for chunk in maps.split(size)]), together)


def test_argument_is_left_alone_and_no_maps_are_fine(image: Tensor, maps: Tensor) -> None:
    before = maps.clone()
    pamr = Pamr(image, SIZE)
    pamr(maps)
    assert torch.equal(maps, before)
    assert pamr(maps[:0]).shape == (0, *SIZE)


def test_affinity_is_a_distribution_without_the_centre(image: Tensor) -> None:
    weights = affinity(normalised(image).float(), (8, 16))
    assert weights.shape == (16, *SIZE)
    assert torch.allclose(weights.sum(dim=0), torch.ones(SIZE))
    flat = affinity(torch.full((3, *SIZE), 0.3), (8, 16))  # deviation 0, all neighbours alike
    assert torch.allclose(flat, torch.full_like(flat, 1 / 16))
    assert weights[:, :, 60:].max() > 0.5  # not vacuous: some neighbours win clearly


def test_flat_regions_have_no_noise() -> None:
    """Upsampling a flat area must give a flat area: its neighbours then weigh exactly the same."""
    flat = torch.full((3, 33, 44), 201, dtype=torch.uint8)
    assert torch.equal(Pamr(flat, SIZE).affinity, torch.full((16, *SIZE), 1 / 16))


def test_wrong_input_is_refused(image: Tensor, maps: Tensor) -> None:
    with pytest.raises(ValueError, match="uint8"):
        Pamr(image.float(), SIZE)
    with pytest.raises(ValueError, match="steps"):
        Pamr(image, SIZE, steps=-1)
    with pytest.raises(ValueError, match="float32"):
        Pamr(image, SIZE)(maps.double())
