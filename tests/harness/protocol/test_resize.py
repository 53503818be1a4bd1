"""Sizes and kernels of the resize, against sizes measured with mmcv, PyTorch and Pillow."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ovss.harness.protocol.resize import ResizeKind, resize_image, resized_size
from ovss.methods import WindowGeometry

KINDS: list[ResizeKind] = ["opencv-linear", "pillow-linear", "pillow-bicubic"]
TABLE = [  # image (w, h), short side, resized (w, h), windows (rows, columns) of 224/112, 336/112, 448/224
    ((500, 375), 336, (448, 336), (2, 3), (1, 2), (1, 1)),
    ((500, 333), 336, (505, 336), (2, 4), (1, 3), (1, 2)),
    ((333, 500), 336, (336, 505), (4, 2), (3, 1), (2, 1)),
    ((640, 427), 336, (504, 336), (2, 4), (1, 3), (1, 2)),
    ((640, 480), 448, (597, 448), (3, 5), (2, 4), (1, 2)),
    ((500, 281), 448, (797, 448), (3, 7), (2, 6), (1, 3)),
    ((2048, 1024), 448, (896, 448), (3, 7), (2, 6), (1, 3)),
    ((2048, 1024), 560, (1120, 560), (4, 9), (3, 8), (2, 4)),
    ((2000, 300), 336, (2048, 307), (2, 18), (1, 17), (1, 9)),
]


@pytest.mark.parametrize(("image", "short", "resized", "small", "middle", "large"), TABLE)
def test_keep_ratio_table(
    image: tuple[int, int], short: int, resized: tuple[int, int],
    small: tuple[int, int], middle: tuple[int, int], large: tuple[int, int],
) -> None:  # fmt: skip
    height, width = resized_size(image[1], image[0], short)
    assert (width, height) == resized
    for geometry, windows in (((224, 112), small), ((336, 112), middle), ((448, 224), large)):
        starts = WindowGeometry(*geometry).starts
        assert (len(starts(height)), len(starts(width))) == windows


GRIDS = [  # image (w, h), short side, patch, grid (rows, columns) of CLIPer's inputs
    ((500, 375), 336, 16, (21, 28)),
    ((640, 480), 336, 16, (21, 28)),
    ((683, 512), 336, 16, (21, 28)),
    ((500, 375), 336, 14, (24, 32)),
    ((500, 333), 336, 16, (21, 32)),
    ((500, 333), 336, 14, (24, 36)),
    ((1024, 1024), 560, 16, (35, 35)),
    ((1024, 1024), 448, 14, (32, 32)),
    ((2048, 1024), 560, 16, (35, 70)),
]


@pytest.mark.parametrize(("image", "short", "patch", "grid"), GRIDS)
def test_sides_are_multiples_of_the_patch(
    image: tuple[int, int], short: int, patch: int, grid: tuple[int, int]
) -> None:
    assert resized_size(image[1], image[0], short, multiple_px=patch) == (grid[0] * patch, grid[1] * patch)


def test_multiples_round_half_up_and_are_at_least_one() -> None:
    assert resized_size(40, 40, 0, multiple_px=16) == (48, 48)  # 2.5
    assert resized_size(39, 56, 0, multiple_px=16) == (32, 64)
    assert resized_size(3, 600, 0, multiple_px=16) == (16, 608)
    assert resized_size(300, 2000, 336, 2048, 16) == (304, 2048)  # the long side binds: 307.2 / 16 = 19.2
    assert resized_size(375, 500, 336, multiple_px=1) == resized_size(375, 500, 336)


def picture(height: int, width: int) -> np.ndarray:
    """Noise, a gradient and edges, so that kernels show."""
    image = np.random.default_rng(height + width).integers(0, 256, (height, width, 3), np.uint8)
    image[: height // 2] = np.linspace(0, 255, width).astype(np.uint8)[None, :, None]
    image[height // 4 : height // 3, width // 4 :] = 255
    return image


def by_torch(image: np.ndarray, size: tuple[int, int], mode: str, antialias: bool) -> np.ndarray:
    """Along x, then along y; like Pillow, 8 bits after each."""
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    for shape in ((image.shape[0], size[1]), size):
        resized = F.interpolate(tensor, shape, mode=mode, antialias=antialias, align_corners=False)
        tensor = resized.clamp(0, 255).round() if mode == "bicubic" else resized
    return tensor[0].round().permute(1, 2, 0).numpy()


def largest(a: np.ndarray, b: np.ndarray) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.mark.parametrize("short", [112, 224, 336, 448])
def test_kernels_equal_torch(short: int) -> None:
    image = picture(360, 480)
    made = {kind: resize_image(image, short, kind=kind) for kind in KINDS}
    size = resized_size(360, 480, short)
    assert all(one.shape == (*size, 3) and one.dtype == np.uint8 for one in made.values())
    assert largest(made["opencv-linear"], by_torch(image, size, "bilinear", antialias=False)) <= 1
    assert largest(made["pillow-linear"], by_torch(image, size, "bilinear", antialias=True)) <= 1
    assert largest(made["pillow-bicubic"], by_torch(image, size, "bicubic", antialias=True)) <= 1
    # The comparison tells kernels apart; the two linear ones are one when nothing shrinks.
    assert largest(made["pillow-linear"], made["pillow-bicubic"]) > 10
    assert (largest(made["opencv-linear"], made["pillow-linear"]) > 10) == (short < 360)


@pytest.mark.parametrize(("kind", "kernel"), [("pillow-linear", "BILINEAR"), ("pillow-bicubic", "BICUBIC")])
@pytest.mark.parametrize(("height", "width", "short", "multiple"), [(375, 500, 112, 0), (97, 131, 200, 14)])
def test_equals_pillow(kind: ResizeKind, kernel: str, height: int, width: int, short: int, multiple: int) -> None:
    image = picture(height, width)
    ours = resize_image(image, short, 2048, kind, multiple)
    size = resized_size(height, width, short, 2048, multiple)
    theirs = Image.fromarray(image, "RGB").resize(size[::-1], Image.Resampling[kernel])
    assert np.array_equal(ours, np.asarray(theirs))


@pytest.mark.parametrize("kind", KINDS)
def test_same_size_is_the_image_itself(kind: ResizeKind) -> None:
    image = picture(48, 64)
    assert resize_image(image, 0, kind=kind) is image
    assert resize_image(image, 48, kind=kind, multiple_px=16) is image
    assert resize_image(image, 0, kind=kind, multiple_px=14).shape == (42, 70, 3)
    assert largest(resize_image(np.full((48, 64, 3), 77, np.uint8), 30, kind=kind), np.full((30, 40, 3), 77)) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_views_of_an_image(kind: ResizeKind) -> None:
    """Columns cut out of an image are not contiguous."""
    image = picture(60, 80)
    part = image[:, 40:]
    assert np.array_equal(resize_image(part, 30, kind=kind), resize_image(part.copy(), 30, kind=kind))


def test_long_side_of_an_image_is_limited_without_being_asked() -> None:
    assert resize_image(np.zeros((32, 4096, 3), np.uint8), 32).shape == (16, 2048, 3)
