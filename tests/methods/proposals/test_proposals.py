"""Proposers: partitions, clusters, models with random weights, files; and the same masks every time."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from ovss.methods import Backbone, UserError, load_backbone
from ovss.methods.core.options import describe_options, options_type
from ovss.methods.core.picture import Picture
from ovss.methods.models import vit
from ovss.methods.models.dino import Dino
from ovss.methods.proposals.base import Proposals, Proposer, ProposerParts, masks_of
from ovss.methods.proposals.clusters import normalised_cuts, soft_clusters, with_position
from ovss.methods.proposals.loading import find_proposer, list_proposers, load_proposer
from ovss.methods.proposals.mask_files import write_masks

from ..models.test_dino import random_state
from ..sam_parts import random_model

CPU = torch.device("cpu")
SIZE = (70, 100)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("tiny-clip")


def parts_for(backbone: Backbone, weights: Any = None) -> ProposerParts:
    vision = vit.read_vision(backbone.model.visual, CPU, torch.float32)
    return ProposerParts(vision, backbone.mean, backbone.std, CPU, torch.float32, weights)


def quarters(height: int = SIZE[0], width: int = SIZE[1], noise: int = 12) -> Tensor:
    """Four colours with a little noise, ``(3, height, width)`` uint8."""
    colours = torch.tensor([[[230, 20], [30, 120]], [[20, 220], [40, 120]], [[20, 30], [220, 120]]])
    image = F.interpolate(colours[None].float(), (height, width), mode="nearest")[0]
    generator = torch.Generator().manual_seed(0)
    return (image + torch.randint(0, noise, (3, height, width), generator=generator)).to(torch.uint8)


def propose(proposer: Proposer, image: Tensor, name: str = "") -> Proposals:
    return proposer.propose(Picture.of(image, name))


def same_masks(proposer: Proposer, again: Proposer, image: Tensor, name: str = "") -> Tensor:
    """Masks that ``propose`` gives, after both proposers gave the same and the image was left alone."""
    before = image.clone()
    first, second, third = (propose(one, image, name) for one in (proposer, proposer, again))
    assert torch.equal(first.masks, second.masks) and torch.equal(first.masks, third.masks)
    assert torch.equal(image, before)
    masks = first.masks
    assert masks.dtype == torch.float32 and masks.shape[1:] == image.shape[1:]
    assert ((masks >= 0) & (masks <= 1)).all()
    json.dumps(proposer.provenance, allow_nan=False)
    return masks


# ---- label maps


def test_parts_of_regions_are_masks_of_their_own() -> None:
    labels = np.zeros((40, 60), np.int64)
    labels[5:10, 5:10] = labels[20:30, 20:50] = 1
    labels[30, 50] = 1  # touches a corner only: a part by itself, too small to keep
    masks = masks_of(labels, True, CPU)
    assert sorted(masks.flatten(1).sum(1).int().tolist()) == [25, 300, 2400 - 326]
    assert masks.sum(dim=0).max() == 1 and masks[:, 30, 50].sum() == 0
    assert len(masks_of(labels, False, CPU)) == 2


# ---- superpixels


@pytest.mark.parametrize("name", ["felzenszwalb", "slic"])
@pytest.mark.parametrize("size", [SIZE, (64, 31)])
def test_superpixels_are_partitions(backbone: Backbone, name: str, size: tuple[int, int]) -> None:
    options = {"segments": 20} if name == "slic" else {}
    parts = parts_for(backbone)
    masks = same_masks(*(load_proposer(name, parts, **options) for _ in range(2)), quarters(*size))
    assert (masks.sum(dim=0) == 1).all() and masks.flatten(1).any(dim=1).all()
    if name == "felzenszwalb":
        owner = propose(load_proposer(name, parts), quarters(*size, noise=1)).masks.argmax(dim=0)
        quarter = [part[5:-5, 5:-5].unique().tolist() for half in owner.chunk(2) for part in half.chunk(2, dim=1)]
        assert [len(one) for one in quarter] == [1, 1, 1, 1], "inside, a flat colour is one segment"
        assert len({one[0] for one in quarter}) == 4
    flat = propose(load_proposer(name, parts, **options), torch.full((3, *size), 9, dtype=torch.uint8))
    assert (flat.masks.sum(dim=0) == 1).all() and flat.objectness is None


def test_felzenszwalb_grows_with_the_image(backbone: Backbone) -> None:
    """Smallest segments keep their share of the image."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (3, 56, 80), generator=generator, dtype=torch.uint8)
    proposer = load_proposer("felzenszwalb", parts_for(backbone))
    for factor in (1, 2, 4):
        image = noise.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        least = 224 * image[0].numel() / 224**2
        assert propose(proposer, image).masks.flatten(1).sum(dim=1).min() >= round(least)


# ---- clusters and cuts


def test_clusters_find_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = F.normalize(torch.randn(4, 16, generator=generator), dim=-1)
    owner = torch.randint(0, 4, (200,), generator=generator)
    points = F.normalize(directions[owner] + 0.05 * torch.randn(200, 16, generator=generator), dim=-1)
    shares = soft_clusters(points, 4)
    assert torch.allclose(shares.sum(dim=1), torch.ones(200))
    found = shares.argmax(dim=1)
    assert len({(int(a), int(b)) for a, b in zip(owner, found, strict=True)}) == 4, "a bijection"
    assert soft_clusters(points[:3], 16).shape == (3, 3), "no more clusters than points"
    assert soft_clusters(points, 1).shape == (200, 1)
    assert soft_clusters(points[:1].expand(50, -1), 5).isfinite().all(), "all points equal"


def test_farthest_first_and_positions() -> None:
    features = F.normalize(torch.ones(6, 3), dim=-1)
    placed = with_position(features, (2, 3))
    assert torch.allclose(placed.norm(dim=-1), torch.ones(6))
    assert torch.allclose(placed[0, -2:] / placed[0, 0] * 3**-0.5, torch.tensor([-0.1, -0.1]))
    assert torch.allclose(placed[5, -2:] / placed[5, 0] * 3**-0.5, torch.tensor([0.1, 0.1]))
    assert with_position(features[:1], (1, 1)).isfinite().all()
    columns = soft_clusters(with_position(features, (2, 3)), 2).argmax(dim=1).view(2, 3)
    assert len(columns.unique()) == 2, "equal features are told apart by place"


def test_cuts_of_separate_groups() -> None:
    features = torch.cat([torch.eye(3)[[i]].expand(n, -1) for i, n in enumerate((10, 6, 4))])
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    for count in (1, 2, 3):
        labels = normalised_cuts(features, count)
        assert labels.unique().tolist() == list(range(count))
        shuffled = normalised_cuts(features[order], count)
        assert torch.equal(labels[order][:, None] == labels[order], shuffled[:, None] == shuffled)
    three = normalised_cuts(features, 3)
    assert three.tolist() == [0] * 10 + [1] * 6 + [2] * 4
    assert normalised_cuts(features[:1], 5).tolist() == [0]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("clip-clusters", {}),
        ("clip-clusters", {"features": "key", "segments": 4, "side_px": 64}),
        ("dino-clusters", {"segments": 6}),
        ("ncut", {"segments": 5}),
        ("ncut", {"features": "value", "segments": 4}),
    ],
)
def test_regions_of_features(backbone: Backbone, name: str, options: dict[str, Any]) -> None:
    dino = Dino(random_state(64, 2, 8, 4))
    weights = dino if name == "dino-clusters" or (name == "ncut" and "features" not in options) else None
    proposers = [load_proposer(name, parts_for(backbone, weights), **options) for _ in range(2)]
    masks = same_masks(proposers[0], proposers[1], quarters())
    assert masks.sum(dim=0).max() == 1, "regions do not overlap"
    assert masks.sum(dim=0).mean() > 0.95, "and cover nearly everything"
    assert masks.flatten(1).sum(dim=1).min() >= 1e-3 * SIZE[0] * SIZE[1]
    for shape in ((13, 90), (96, 9)):
        assert propose(proposers[0], quarters(*shape)).masks.shape[1:] == shape


def test_grid_of_features(backbone: Backbone) -> None:
    """Twice the trained side by default, 192 px here, and coarser where there would be too many patches."""
    features = load_proposer("clip-clusters", parts_for(backbone)).features  # type: ignore[attr-defined]
    found, grid = features(quarters(70, 140))
    assert grid == (24, 48) and found.shape[0] == 24 * 48
    assert torch.allclose(found.norm(dim=-1), torch.ones(len(found)), atol=1e-5)
    _, grid = features(quarters(70, 140), 200)
    assert grid == (10, 20)
    _, grid = features(quarters(2, 300), 200)
    assert grid[0] == 1 and grid[1] <= 200


def test_clusters_follow_colours(backbone: Backbone) -> None:
    """Tiny-clip's values tell four flat colours apart."""
    masks = propose(load_proposer("clip-clusters", parts_for(backbone), segments=4), quarters(96, 96)).masks
    for rows in (slice(10, 38), slice(58, 86)):
        for columns in (slice(10, 38), slice(58, 86)):
            assert masks[:, rows, columns].flatten(1).mean(dim=1).max() > 0.5


# ---- models of transformers


def tiny_swin() -> dict[str, Any]:
    return {"image_size": 64, "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4}


def write_maskformer(folder: Path) -> None:
    names = ["stage1", "stage2", "stage3", "stage4"]
    swin = transformers.MaskFormerSwinConfig(**tiny_swin(), out_features=names)
    detr = transformers.DetrConfig(
        d_model=32, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16, num_queries=7, encoder_layers=1
    )
    config = transformers.MaskFormerConfig(
        fpn_feature_size=32, mask_feature_size=32, backbone_config=swin, decoder_config=detr, num_labels=5
    )
    torch.manual_seed(0)
    transformers.MaskFormerForInstanceSegmentation(config).save_pretrained(folder)


def write_mask2former(folder: Path) -> None:
    swin = transformers.SwinConfig(**tiny_swin(), out_features=["stage1", "stage2", "stage3", "stage4"])
    config = transformers.Mask2FormerConfig(
        backbone_config=swin,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=7,
        num_labels=133,
    )
    torch.manual_seed(0)
    transformers.Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)


def write_sam(folder: Path) -> None:
    random_model().save_pretrained(folder)


def write_sam2(folder: Path) -> None:
    """All parts of SAM 2: Hiera in four stages with windows and global attention, neck, prompts, decoder."""
    hiera = transformers.Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[128, 128],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[8, 4, 4, 2],
        global_attention_blocks=[3],
    )
    vision = transformers.Sam2VisionConfig(
        backbone_config=hiera,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=32,
    )
    prompt = {"hidden_size": 32, "image_size": 128, "patch_size": 16, "mask_input_channels": 4}
    decoder = {"hidden_size": 32, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    decoder |= {"iou_head_hidden_dim": 16, "iou_head_depth": 2}
    config = transformers.Sam2Config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    torch.manual_seed(0)
    transformers.Sam2Model(config).save_pretrained(folder)


def write_eomt(folder: Path) -> None:
    config = transformers.EomtConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=64,
        patch_size=16,
        num_blocks=1,
        num_queries=7,
        num_register_tokens=4,
        num_labels=133,
    )
    torch.manual_seed(0)
    transformers.EomtForUniversalSegmentation(config).save_pretrained(folder)


@pytest.mark.parametrize(("name", "write"), [("maskformer", write_maskformer), ("mask2former", write_mask2former)])
def test_mask_transformers(backbone: Backbone, tmp_path: Path, name: str, write: Any) -> None:
    write(tmp_path)
    parts = parts_for(backbone, str(tmp_path))
    proposer = load_proposer(name, parts)
    masks = same_masks(proposer, load_proposer(name, parts), quarters())
    objectness = propose(proposer, quarters()).objectness
    assert len(masks) == 7 and objectness is not None and objectness.shape == (7, 1)
    assert proposer.soft and "masks of" in proposer.supervision
    assert ("COCO (panoptic), 133" in proposer.supervision) == (name == "mask2former")
    model = proposer.model  # type: ignore[attr-defined]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    pixels = torch.zeros(1, 3, 96, 128)
    pixels[0, :, :70, :100] = (quarters() - mean) / std
    with torch.no_grad():
        out = model(pixel_values=pixels)
    wanted = F.interpolate(out.masks_queries_logits, (96, 128), mode="bilinear", align_corners=False).sigmoid()
    assert torch.allclose(masks, wanted[0, :, :70, :100], atol=1e-5)
    assert torch.allclose(objectness[:, 0], 1 - out.class_queries_logits[0].softmax(-1)[:, -1], atol=1e-6)


def test_sam(backbone: Backbone, tmp_path: Path) -> None:
    write_sam(tmp_path)
    parts = parts_for(backbone, str(tmp_path))
    options = {"points_per_side": 3, "least_iou": -100.0, "least_stability": 0.0, "most_overlap": 1.0}
    every = load_proposer("sam", parts, **options)
    masks = same_masks(every, load_proposer("sam", parts, **options), quarters())
    assert 0 < len(masks) <= 27 and masks.unique().tolist() in ([0, 1], [1])
    sizes = masks.flatten(1).sum(dim=1)
    assert (sizes[:-1] >= sizes[1:]).all(), "large masks first"
    assert len(propose(load_proposer("sam", parts, **{**options, "most_masks": 2}), quarters()).masks) == 2
    fewer = propose(load_proposer("sam", parts, **{**options, "most_overlap": 0.3}), quarters())
    assert 0 < len(fewer.masks) < len(masks)
    none = propose(load_proposer("sam", parts, points_per_side=2, least_iou=100.0), quarters())
    assert none.masks.shape == (0, *SIZE)
    assert "SA-1B" in every.supervision


def test_sam2(backbone: Backbone, tmp_path: Path) -> None:
    """The image is stretched to a square, and masks come straight from the decoder's size to the image's."""
    write_sam2(tmp_path)
    parts = parts_for(backbone, str(tmp_path))
    options = {"points_per_side": 2, "least_iou": -100.0, "least_stability": 0.0, "most_overlap": 1.0}
    every = load_proposer("sam2", parts, **options)
    assert len(same_masks(every, load_proposer("sam2", parts, **options), quarters())) <= 12
    single = load_proposer("sam2", parts, **options, multimask=False)
    masks = propose(single, quarters()).masks
    assert 0 < len(masks) <= 4 and "SA-V" in single.supervision
    model = single.model  # type: ignore[attr-defined]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    square = F.interpolate(quarters()[None].float(), (128, 128), mode="bilinear", antialias=True)[0].round()
    points = torch.tensor([[32.0, 32], [96, 32], [32, 96], [96, 96]]).view(1, 4, 1, 2)
    with torch.no_grad():
        out = model(pixel_values=((square - mean) / std)[None], input_points=points, multimask_output=False)
    wanted = F.interpolate(out.pred_masks[0].flatten(0, 1)[None], SIZE, mode="bilinear")[0] > 0
    wanted = wanted[wanted.flatten(1).any(dim=1)]
    rows = {row.numpy().tobytes() for row in wanted.flatten(1)}
    assert {row.numpy().tobytes() for row in masks.bool().flatten(1)} <= rows


def test_eomt(backbone: Backbone, tmp_path: Path) -> None:
    """100 x 70 px become 64 x 44 in a square of 64 px, black below."""
    write_eomt(tmp_path)
    parts = parts_for(backbone, str(tmp_path))
    proposer = load_proposer("eomt", parts)
    masks = same_masks(proposer, load_proposer("eomt", parts), quarters())
    objectness = propose(proposer, quarters()).objectness
    assert len(masks) == 7 and objectness is not None and "COCO (panoptic), 133" in proposer.supervision
    model = proposer.model  # type: ignore[attr-defined]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    square = torch.zeros(3, 64, 64)
    square[:, :44] = F.interpolate(quarters()[None].float(), (44, 64), mode="bilinear", antialias=True)[0].round()
    with torch.no_grad():
        out = model(pixel_values=((square - mean) / std)[None])
    logits = F.interpolate(out.masks_queries_logits, (64, 64), mode="bilinear")[:, :, :44]
    wanted = F.interpolate(logits, SIZE, mode="bilinear")[0].sigmoid()
    assert torch.allclose(masks, wanted, atol=1e-5)
    assert torch.allclose(objectness[:, 0], 1 - out.class_queries_logits[0].softmax(-1)[:, -1], atol=1e-6)


def test_a_folder_of_another_model_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    """The library would fill what it does not find with random numbers."""
    write_maskformer(tmp_path)
    with pytest.raises(UserError, match="Mask2FormerForUniversalSegmentation"):
        load_proposer("mask2former", parts_for(backbone, str(tmp_path)))
    state = tmp_path / "model.safetensors"
    from safetensors.torch import load_file, save_file

    tensors = load_file(state)
    left = {k: v for k, v in tensors.items() if not k.startswith("mask_embedder")}
    save_file(left, state, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"mask_embedder.* missing"):
        load_proposer("maskformer", parts_for(backbone, str(tmp_path)))
    state.write_bytes(b"no weights at all")
    with pytest.raises(UserError, match="cannot be read as a MaskFormer"):
        load_proposer("maskformer", parts_for(backbone, str(tmp_path)))
    state.unlink()
    with pytest.raises(UserError, match="does not hold the weights"):
        load_proposer("maskformer", parts_for(backbone, str(tmp_path)))


# ---- files


def test_masks_from_files(backbone: Backbone, tmp_path: Path) -> None:
    """By the image's id, not by its pixels."""
    image, other = quarters(), quarters(*SIZE[::-1])
    masks = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(0))
    assert write_masks(tmp_path, "ulm_01", masks, [0.5, 0.25, 1.0]) == tmp_path / "ulm_01.npz"
    assert write_masks(tmp_path, "val/2008.1#1", masks.mT > 0.5) == tmp_path / "val" / "2008.1#1.npz"
    proposer = load_proposer("files", parts_for(backbone, str(tmp_path)))
    found = propose(proposer, image, "ulm_01")
    assert torch.equal(same_masks(proposer, proposer, image, "ulm_01"), masks)
    assert torch.equal(propose(proposer, 255 - image, "ulm_01").masks, masks)
    assert found.objectness is not None and found.objectness.flatten().tolist() == [0.5, 0.25, 1.0]
    below = propose(proposer, other, "val/2008.1#1")
    assert torch.equal(below.masks, (masks.mT > 0.5).float()) and below.objectness is None
    seen = {str(proposer.provenance)}
    for name in ("ulm_01", "val/2008.1#1"):
        write_masks(tmp_path, name, 1 - masks)
        seen.add(str(load_proposer("files", parts_for(backbone, tmp_path)).provenance))
    (tmp_path / "ulm_01.npz").rename(tmp_path / "val" / "ulm_01.npz")
    seen.add(str(load_proposer("files", parts_for(backbone, tmp_path)).provenance))
    assert len(seen) == 4, "files in folders below count, and so does where a file lies"


def test_wrong_files(backbone: Backbone, tmp_path: Path) -> None:
    proposer = load_proposer("files", parts_for(backbone, tmp_path))
    with pytest.raises(UserError, match=r"no masks for image 'a/b': .*a/b\.npz does not exist.*100x70 px"):
        propose(proposer, quarters(), "a/b")
    write_masks(tmp_path, "x", np.zeros((2, 5, 5)))
    with pytest.raises(UserError, match=r"image 'x' has masks \(2, 5, 5\); .*\(Q, 70, 100\), .*protocol resizes"):
        propose(proposer, quarters(), "x")
    write_masks(tmp_path, "x", np.full((1, *SIZE), 255, np.uint8))
    with pytest.raises(UserError, match="must lie in"):
        propose(proposer, quarters(), "x")
    (tmp_path / "x.npz").write_bytes(b"PK broken")
    with pytest.raises(UserError, match="cannot be read"):
        propose(proposer, quarters(), "x")
    for weights in (None, str(tmp_path / "absent")):
        with pytest.raises(UserError, match="proposer=files reads a folder"):
            load_proposer("files", parts_for(backbone, weights))


@pytest.mark.parametrize("name", ["", "..", "../x", "a/../../x", "/x", "."])
def test_names_that_lead_out_of_the_folder(backbone: Backbone, tmp_path: Path, name: str) -> None:
    inner = tmp_path / "masks"
    inner.mkdir()
    np.savez(tmp_path / "x.npz", masks=np.zeros((1, *SIZE)))
    proposer = load_proposer("files", parts_for(backbone, inner))
    with pytest.raises(UserError, match="has no place in a folder of masks"):
        propose(proposer, quarters(), name)
    with pytest.raises(UserError, match="has no place in a folder of masks"):
        write_masks(inner, name, np.zeros((1, *SIZE)))
    assert list(inner.iterdir()) == []


# ---- once for all


@pytest.mark.parametrize(("name", "of_features"), [("slic", False), ("clip-clusters", True)])
def test_proposers_that_are_the_same_look_once(backbone: Backbone, name: str, of_features: bool) -> None:
    """The tower counts where masks are made of its features."""
    one, other = (parts_for(backbone) for _ in range(2))
    first = load_proposer(name, one)
    picture = Picture.of(quarters())
    found = first.look(picture)
    assert torch.equal(found.masks, propose(first, quarters()).masks)
    assert load_proposer(name, one).look(picture) is found
    assert (load_proposer(name, other).look(picture) is found) == (not of_features)
    assert load_proposer(name, one, segments=7).look(picture) is not found
    assert first.look(Picture.of(quarters())) is not found


# ---- finding


def test_names_and_options(backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = parts_for(backbone)
    assert len(list_proposers()) == 11
    with pytest.raises(UserError, match=r"unknown proposer 'felzenswalb'.*felzenszwalb"):
        load_proposer("felzenswalb", parts)
    with pytest.raises(UserError, match=r"proposer 'felzenszwalb': there is no option 'compactness'.*scale, sigma"):
        load_proposer("felzenszwalb", parts, compactness=3)
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("felzenszwalb", {"scale": 0.0}, r"allowed is a number above 0 \(smaller values give smaller segments"),
        ("felzenszwalb", {"min_size": 0.5}, "allowed is a number from 1"),
        ("felzenszwalb", {"sigma": -1.0}, "allowed is a number from 0"),
        ("slic", {"segments": 0}, "allowed is a whole number from 1"),
        ("slic", {"compactness": 0.0}, "allowed is a number above 0"),
        ("clip-clusters", {"features": "query"}, "allowed is key or value"),
        ("clip-clusters", {"side_px": -1}, "allowed is a whole number from 0"),
        ("ncut", {"features": "query"}, "allowed is dino, key or value"),
        ("dino-clusters", {"patch": 14}, "allowed is 16 or 8"),
        ("sam", {"points_per_side": 0}, "allowed is a whole number from 1"),
        ("sam", {"most_masks": 0}, "allowed is a whole number from 1"),
    ]
    monkeypatch.setattr("ovss.methods.models.vit.run_trunk", None)
    monkeypatch.setattr("ovss.methods.proposals.clusters.open_model", None)
    monkeypatch.setattr("ovss.methods.proposals.sam.open_model", None)
    for name, options, allowed in wrong:
        option, value = next(iter(options.items()))
        with pytest.raises(UserError, match=f"proposer '{name}': option {option} is {value!r}: {allowed}"):
            load_proposer(name, parts, **options)
    monkeypatch.undo()
    silent = [
        r.name for n in list_proposers() for r in describe_options(options_type(find_proposer(n))) if not r.meaning
    ]
    assert not silent
    monkeypatch.setenv("OVSS_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("OVSS_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    for name, entry in (("dino-clusters", "dino-vitb16"), ("sam", "sam-vitb-hf"), ("mask2former", "mask2former-swinb")):
        with pytest.raises(UserError, match=f"bench weights fetch {entry}"):
            load_proposer(name, parts)
