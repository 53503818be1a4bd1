"""clip-s4-like: losses and gradients against loops in float64, segments, prototypes, and the geometry of views."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.datasets.shapes import Stream, make_scene
from ovss.harness.training.clip_dinoiser_recipe import Jitter
from ovss.harness.training.clip_s4_losses import (
    Segments,
    contrast_loss,
    embedding_loss,
    find_segments,
    moved,
    pseudo_labels,
    semantic_loss,
)
from ovss.harness.training.clip_s4_recipe import RECIPES, Optimiser, Superpixels, Views, find_recipe
from ovss.harness.training.clip_s4_views import View, draw_view, recoloured, sample, superpixels
from ovss.methods import UserError
from ovss.methods.models.clip_s4 import segment_means

DIM = 6


def unit(seed: int, *shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def batch_of_views() -> tuple[Tensor, Tensor, Tensor]:
    """Clusters, superpixels and pictures of two views of two pictures, five pixels each."""
    clusters = torch.tensor([[0, 0, 1, 1, 2], [0, 1, 1, 1, 3], [2, 2, 2, 0, 0], [0, 0, 0, 0, 0]])
    regions = torch.tensor([[0, 0, 0, 4, 4], [0, 0, 1, 1, 1], [0, 4, 4, 7, 7], [1, 1, 1, 0, 2]])
    return clusters, regions, torch.tensor([0, 1, 0, 1])


def plain_segments(clusters: Tensor, regions: Tensor, picture: Tensor) -> list[tuple[int, int, int, int]]:
    """View, cluster, superpixel and picture of every pixel."""
    return [
        (view, int(clusters[view, p]), int(regions[view, p]), int(picture[view]))
        for view in range(len(clusters))
        for p in range(clusters.shape[1])
    ]


def plain_contrast(z: Tensor, keys: list[tuple[int, int, int, int]], kappa: float) -> Tensor:
    """Loops over pixels and segments, in the dtype of ``z``."""
    names = sorted(set(keys))
    means = {}
    for name in names:
        total = sum((z[p] for p, key in enumerate(keys) if key == name), torch.zeros(DIM, dtype=z.dtype))
        means[name] = total / total.norm()
    losses = []
    for p, key in enumerate(keys):
        same = [n for n in names if n[2:] == key[2:]]
        others = [n for n in same if n != key]
        numerator = sum(torch.exp(kappa * z[p] @ means[n]) for n in (others or same))
        denominator = sum(torch.exp(kappa * z[p] @ means[n]) for n in names)
        losses.append(-torch.log(numerator / denominator))
    return sum(losses) / len(losses)


def test_segments_are_clusters_cut_along_superpixels() -> None:
    clusters, regions, picture = batch_of_views()
    keys = plain_segments(clusters, regions, picture)
    found = find_segments(clusters, regions, picture)
    assert found.count == len(set(keys)) == 14
    for p, key in enumerate(keys):
        for q, other in enumerate(keys):
            assert (found.of_pixel[p] == found.of_pixel[q]) == (key == other)
            same = found.region[found.of_pixel[p]] == found.region[found.of_pixel[q]]
            assert same == (key[2:] == other[2:])


@pytest.mark.parametrize("kappa", [1.0, 16.0])
def test_contrast_and_gradient_are_those_of_loops(kappa: float) -> None:
    views = batch_of_views()
    keys, segments = plain_segments(*views), find_segments(*views)
    alone = [k for k in set(keys) if sum(n[2:] == k[2:] for n in set(keys)) == 1]
    assert alone, "a segment with nothing else in its superpixel has to occur"
    z = unit(0, len(keys), DIM).requires_grad_()
    loss = contrast_loss(z, segment_means(z, segments.of_pixel, segments.count), segments, kappa)
    loss.backward()
    copy = z.detach().double().requires_grad_()
    wanted = plain_contrast(copy, keys, kappa)
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert z.grad is not None and copy.grad is not None
    assert (z.grad - copy.grad).norm() < 1e-4 * copy.grad.norm()


def test_contrast_by_hand() -> None:
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    segments = Segments(torch.tensor([0, 1, 2]), torch.tensor([0, 0, 1]))  # two views of one superpixel, and another
    e = math.e
    first = -math.log(e / (2 * e + 1))  # its own segment is no positive, but counts below
    last = -math.log(e / (e + 2))  # nothing but its own
    assert contrast_loss(z, z, segments, 1.0).item() == pytest.approx((2 * first + last) / 3, rel=1e-6)


def test_contrast_stays_finite_for_opposite_embeddings() -> None:
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    segments = Segments(torch.tensor([0, 1]), torch.tensor([0, 0]))
    loss = contrast_loss(z, z, segments, 16.0)
    loss.backward()
    assert loss.item() == pytest.approx(32.0, rel=1e-5) and z.grad is not None and z.grad.isfinite().all()


def test_embedding_and_semantic_losses_and_gradients_are_those_of_loops() -> None:
    means, targets, prototypes, tau = unit(1, 7, DIM), unit(2, 7, DIM), unit(3, 4, DIM), 0.07
    labels = pseudo_labels(targets, prototypes)
    assert labels.tolist() == [max(range(4), key=lambda c: float(i @ prototypes[c])) for i in targets]
    v = means.clone().requires_grad_()
    losses = embedding_loss(v, targets), semantic_loss(v, labels, prototypes, tau)
    (losses[0] + 2 * losses[1]).backward()
    w = means.double().requires_grad_()
    embedding = torch.stack([1 - w[s] @ targets[s].double() for s in range(7)]).mean()
    semantic: Tensor = torch.zeros((), dtype=torch.float64)
    for s in range(7):
        powers = [torch.exp(w[s] @ c.double() / tau) for c in prototypes]
        semantic = semantic - torch.log(powers[int(labels[s])] / sum(powers)) / 7
    (embedding + 2 * semantic).backward()
    assert losses[0].item() == pytest.approx(embedding.item(), rel=1e-6)
    assert losses[1].item() == pytest.approx(semantic.item(), rel=1e-5)
    assert v.grad is not None and w.grad is not None
    assert (v.grad - w.grad).norm() < 1e-5 * w.grad.norm()


def test_prototypes_move_towards_what_chose_them() -> None:
    prototypes = torch.eye(3)
    targets, labels = F.normalize(torch.tensor([[1.0, 1, 0], [1, 0, 1], [0, 1, 1]]), dim=1), torch.tensor([0, 0, 1])
    new = moved(prototypes, targets, labels, 0.9)
    mean = F.normalize(targets[0] + targets[1], dim=0)
    assert torch.allclose(new[0], F.normalize(0.9 * prototypes[0] + 0.1 * mean, dim=0), atol=1e-6)
    assert torch.allclose(new[1], F.normalize(0.9 * prototypes[1] + 0.1 * targets[2], dim=0), atol=1e-6)
    assert torch.equal(new[2], prototypes[2]), "nobody chose it"


# ---- views


@pytest.mark.parametrize("flip", [False, True])
def test_one_geometry_cuts_pixels_superpixels_and_features(flip: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    rgb = torch.rand(1, 3, 32, 48, generator=generator)
    regions = torch.randint(0, 900, (1, 1, 32, 48), generator=generator).float()
    features = torch.rand(1, 5, 8, 12, generator=generator)  # a map of a quarter of the side
    view = View(8 / 32, 12 / 48, 16 / 32, 20 / 48, flip)

    def mirrored(x: Tensor) -> Tensor:
        return x.flip(-1) if flip else x

    assert torch.allclose(sample(rgb, [view], 16, 20), mirrored(rgb[:, :, 8:24, 12:32]), atol=1e-5)
    assert torch.equal(sample(regions, [view], 16, 20, nearest=True), mirrored(regions[:, :, 8:24, 12:32]))
    assert torch.allclose(sample(features, [view], 4, 5), mirrored(features[:, :, 2:6, 3:8]), atol=1e-5)


@pytest.mark.parametrize("flip", [False, True])
def test_maps_of_any_resolution_show_the_same_place(flip: bool) -> None:
    """A ramp of places, read off maps of two resolutions: bilinear sampling of a ramp is exact inside."""

    def places(rows: int, columns: int) -> Tensor:
        return (View().coordinates(rows, columns) / 2 + 0.5).permute(2, 0, 1)[None]

    view = View(0.21, 0.3, 0.47, 0.39, flip)
    fine, coarse = sample(places(96, 96), [view], 16, 16), sample(places(12, 12), [view], 16, 16)
    assert torch.allclose(fine, coarse, atol=1e-5)
    x = 0.3 + 0.39 * (torch.arange(16) + 0.5) / 16
    assert torch.allclose(fine[0, 0, 3], x.flip(0) if flip else x, atol=1e-5)
    assert torch.allclose(fine[0, 1, :, 3], 0.21 + 0.47 * (torch.arange(16) + 0.5) / 16, atol=1e-5)


def test_drawn_views_lie_in_the_picture_and_follow_their_stream() -> None:
    how = RECIPES["tiny"].views
    views = [draw_view(how, (96, 96), Stream(0, i)) for i in range(200)]
    assert views[3] == draw_view(how, (96, 96), Stream(0, 3))
    assert all(v.top >= 0 and v.left >= 0 and v.top + v.height <= 1 and v.left + v.width <= 1 for v in views)
    sides = [v.height * 96 for v in views]
    assert 64 / 1.5 <= min(sides) < 48 and 80 < max(sides) <= 64 / 0.75
    assert 60 < sum(v.flip for v in views) < 140
    wide = draw_view(Views(64, (0.5, 0.5), 0.0, Jitter(0.0), 0.0), (96, 256), Stream(1))
    assert (wide.top, wide.height, wide.width) == (0.0, 1.0, 0.5), "a view never leaves the picture"


def test_colours_change_and_may_go() -> None:
    pixels = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
    same = recoloured(pixels, Views(8, (1.0, 1.0), 0.0, Jitter(0.0), 0.0), Stream(0))
    assert torch.allclose(same, pixels)
    changed = recoloured(pixels, Views(8, (1.0, 1.0), 0.0, Jitter(1.0, brightness=0.5), 0.0), Stream(0))
    assert not torch.allclose(changed, pixels) and changed.min() >= 0 and changed.max() <= 1
    grey = recoloured(pixels, Views(8, (1.0, 1.0), 0.0, Jitter(0.0), 1.0), Stream(0))
    assert torch.equal(grey[0], grey[1]) and torch.equal(grey[0], grey[2])


def test_superpixels_keep_to_the_regions_of_a_scene() -> None:
    halves = torch.zeros(1, 3, 20, 20)
    halves[:, :, :, 12:] = 1.0
    found = superpixels(halves, Superpixels(100.0, 0.0, 5))
    assert found.dtype == torch.int64 and found.shape == (1, 20, 20)
    assert torch.equal(found[0], (torch.arange(20) >= 12).long().expand(20, -1))
    scenes = [make_scene("train", i) for i in range(6)]
    rgb = torch.stack([torch.from_numpy(s.image.copy()) for s in scenes]).permute(0, 3, 1, 2) / 255
    pure = []
    for regions, scene in zip(superpixels(rgb, RECIPES["tiny"].superpixels), scenes, strict=True):
        pairs = regions.flatten() * 22 + torch.from_numpy(scene.label).long().flatten()
        pure.append(float(pairs.bincount(minlength=22 * 9216).view(-1, 22).amax(dim=1).sum()) / 9216)
    assert sum(pure) / 6 > 0.9


# ---- recipes


def test_recipes_are_found_and_follow_their_schedule() -> None:
    tiny, photos = find_recipe("tiny"), find_recipe("photos")
    assert tiny.iterations == tiny.count // tiny.batch and tiny.augment is None
    assert 30000 <= photos.iterations <= 30100 and photos.augment is not None
    assert photos.views.crop_px // photos.encoder.stride == 28
    assert len(photos.known_names()) == 171 and tiny.known_names()[:3] == ["grass", "sand", "brick"]
    how = Optimiser("sgd", 0.02, 0.0)
    assert [how.at(done) for done in (0.0, 0.5, 1.0)] == pytest.approx([0.02, 0.02 * 0.5**0.9, 0.0])
    with pytest.raises(UserError, match="unknown recipe 'tinny'; did you mean tiny"):
        find_recipe("tinny")
