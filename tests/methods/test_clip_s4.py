"""clip-s4-like: encoder, k-means and prototypes against loops; its file; scores; messages; conformity."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from ovss.harness.runs.conformity import CHECKS, check_method
from ovss.methods import Backbone, Box, UserError, Vocabulary, WindowGeometry
from ovss.methods.clip_s4 import TINY_S4, CLIPS4Like, CLIPS4Options, smoothed
from ovss.methods.models.backbone import load_backbone
from ovss.methods.models.clip_s4 import (
    EncoderSpec,
    PixelEncoder,
    S4Parts,
    cluster,
    dump_weights,
    load_weights,
    segment_means,
    top_prototypes,
)
from ovss.methods.models.text import encode_queries
from ovss.methods.registry import check_options

from .with_words import WithWords

WORDS = Vocabulary.from_names(["grass", "sky", "star, heart"], templates="simple")


def unit(seed: int, *shape: int, dim: int = -1) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=dim)


def random_weights(dim: int = 128, pool: int | None = 40, seed: int = 0, **about: Any) -> S4Parts:
    torch.manual_seed(seed)
    encoder = PixelEncoder(EncoderSpec("small", width=4, bins=(1, 2)), dim).eval()
    return S4Parts(encoder, None if pool is None else unit(seed, pool, dim), 4, **about)


@pytest.fixture(scope="module")
def tiny() -> Backbone:
    return load_backbone("tiny-clip")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVSS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


# ---- parts


def plain_cluster(z: Tensor, side: int, rounds: int) -> list[int]:
    """One image, ``(d, h, w)``: loops in float64."""
    _, height, width = z.shape
    features, labels = [], []
    for y in range(height):
        for x in range(width):
            place = [y / (height - 1) - 0.5, x / (width - 1) - 0.5]
            f = torch.cat([z[:, y, x].double(), torch.tensor(place, dtype=torch.float64)])
            features.append(f / f.norm())
            labels.append((y * side // height) * side + x * side // width)
    for _ in range(rounds):
        centres = {}
        for name in sorted(set(labels)):
            total = sum(f for f, own in zip(features, labels, strict=True) if own == name)
            centres[name] = total / total.norm()
        labels = [max(centres, key=lambda name: float(f @ centres[name])) for f in features]
    return labels


@pytest.mark.parametrize(("side", "rounds"), [(1, 3), (2, 0), (2, 1), (3, 10), (4, 10)])
def test_kmeans_is_that_of_loops(side: int, rounds: int) -> None:
    z = unit(3, 2, 5, 8, 9, dim=1)
    labels = cluster(z, side, rounds)
    assert labels.shape == (2, 72)
    for image in range(2):
        assert labels[image].tolist() == plain_cluster(z[image], side, rounds)


def test_kmeans_drops_a_centre_without_pixels() -> None:
    z = torch.zeros(1, 3, 4, 4)
    z[:, 0] = 1.0
    z[0, :, 0, 0] = torch.tensor([-1.0, 0, 0])  # one pixel unlike all others: other cells lose and gain
    labels = cluster(z, 4, 10)[0]
    assert labels[0] not in labels[1:]
    assert cluster(-z, 2, 3).max() < 4, "centres that are unlike everything are still nearest to their own"


def test_segment_means_and_prototypes_by_hand() -> None:
    features = unit(0, 6, 3)
    segment = torch.tensor([1, 0, 1, 1, 3, 0])
    means = segment_means(features, segment, 4)
    for s in (0, 1, 3):
        total = features[segment == s].sum(0)
        assert torch.allclose(means[s], total / total.norm(), atol=1e-6)
    assert torch.equal(means[2], torch.zeros(3)), "an empty segment"
    text, pool = unit(1, 2, 3), unit(2, 9, 3)
    for top in (1, 4, 9, 50):
        found = top_prototypes(text, pool, top)
        for t, prototype in zip(text, found, strict=True):
            rows = sorted(range(9), key=lambda r: -float(t @ pool[r]))[:top]
            assert torch.allclose(prototype, F.normalize(pool[rows].mean(0), dim=0), atol=1e-6)


def test_smoothing_gives_every_pixel_its_segments_mean() -> None:
    z = unit(5, 2, 6, 8, 8, dim=1)
    labels, out = cluster(z, 2, 10), smoothed(z, 2)
    for image in range(2):
        flat, new = z[image].flatten(1), out[image].flatten(1)
        for name in labels[image].unique():
            own = labels[image] == name
            mean = F.normalize(flat[:, own].sum(1), dim=0)
            assert torch.allclose(new[:, own], mean[:, None].expand(-1, int(own.sum())), atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "stride"),
    [
        (EncoderSpec("small", 8), 4),
        (EncoderSpec("small", 8, (1, 2)), 4),
        (EncoderSpec("resnet50", bins=(1, 2)), 8),
    ],
)
def test_encoders_embed_cells(spec: EncoderSpec, stride: int) -> None:
    torch.manual_seed(0)
    encoder = PixelEncoder(spec, 24).eval()
    with torch.inference_mode():
        z = encoder(torch.randn(2, 3, 48, 64))
    assert spec.stride == stride and z.shape == (2, 24, 48 // stride, 64 // stride)
    assert torch.allclose(z.norm(dim=1), torch.ones(()), atol=1e-5)


# ---- the file


def test_file_keeps_what_was_trained(tmp_path: Path) -> None:
    weights = random_weights(clip_sha256="file:abc")
    content = dump_weights(weights, {"seed": 3})
    assert content == dump_weights(weights, {"seed": 3}), "the same bytes"
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    again = load_weights(path)
    assert again.encoder.spec == weights.encoder.spec and (again.top, again.clip_sha256) == (4, "file:abc")
    for name, tensor in weights.encoder.state_dict().items():
        stored = tensor.half().float() if tensor.is_floating_point() else tensor
        assert torch.equal(again.encoder.state_dict()[name], stored), name
    assert again.pool is not None and weights.pool is not None and torch.allclose(again.pool, weights.pool, atol=1e-3)
    assert again.provenance["sha256"].startswith("file:") and weights.provenance["sha256"].startswith("state:")
    path.write_bytes(dump_weights(random_weights(pool=None), {}))
    assert load_weights(path).pool is None


def broken(tmp_path: Path, metadata: dict[str, str] | None = None, **changes: Tensor | None) -> Path:
    """A good file with tensors replaced, added or (None) taken away; "__" in a name stands for a dot."""
    path = tmp_path / "w.safetensors"
    path.write_bytes(dump_weights(random_weights(), {}))
    with safe_open(path, "pt") as file:
        kept = file.metadata() if metadata is None else metadata
    state = safetensors.torch.load_file(path)
    for name, tensor in changes.items():
        state.pop(name.replace("__", "."), None)
        if tensor is not None:
            state[name.replace("__", ".")] = tensor
    path.write_bytes(safetensors.torch.save(state, metadata=kept))
    return path


def test_keys_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"w\.safetensors does not fit the model: missing encoder\.head\.out\.weight"):
        load_weights(broken(tmp_path, encoder__head__out__weight=None))
    with pytest.raises(UserError, match=r"not in the model: encoder\.extra"):
        load_weights(broken(tmp_path, encoder__extra=torch.zeros(1)))
    with pytest.raises(UserError, match=r"encoder\.head\.out\.bias has shape \(7,\), the model \(128,\)"):
        load_weights(broken(tmp_path, encoder__head__out__bias=torch.zeros(7)))
    with pytest.raises(UserError, match=r"pool has shape \(5, 3\), the model \(5, 128\)"):
        load_weights(broken(tmp_path, pool=torch.zeros(5, 3)))


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"training": "{"},
        {"training": json.dumps({"layout": {"dim": 128, "top": 4}})},
        {
            "training": json.dumps(
                {"layout": {"dim": 8, "top": 4, "encoder": {"trunk": "small", "deep": 1, "bins": []}}}
            )
        },
    ],
)
def test_a_file_without_a_layout_is_told(metadata: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a file that `bench train clip-s4` wrote"):
        load_weights(broken(tmp_path, metadata))


def test_files_of_other_kinds_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_weights(tmp_path / "no.safetensors")
    torch.save({"pool": torch.zeros(2, 3)}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="not a file that `bench train clip-s4` wrote"):
        load_weights(tmp_path / "w.pt")


# ---- the method


def windows(count: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("classifier", ["prototype", "text"])
def test_scores_are_cosines_with_prototypes_or_texts(tiny: Backbone, classifier: Any) -> None:
    weights = random_weights()
    method = WithWords.of(CLIPS4Like(tiny, CLIPS4Options(classifier=classifier), encoder=weights), WORDS)
    texts = encode_queries(tiny, WORDS, torch.device("cpu"))
    pixels = windows(2, 32, 48)
    scores = method.score_windows(pixels)
    assert scores.shape == (2, 4, 8, 12) and scores.dtype == torch.float32
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (tiny.mean, tiny.std))
    with torch.no_grad():
        z = weights.encoder((pixels / 255 - mean) / std)
    assert weights.pool is not None
    targets = top_prototypes(texts, weights.pool, 4) if classifier == "prototype" else texts
    assert torch.allclose(scores, torch.einsum("qd,bdhw->bqhw", targets, z), atol=1e-5)
    options = CLIPS4Options(classifier=classifier, smooth=2)
    smooth = WithWords.of(CLIPS4Like(tiny, options, encoder=weights), WORDS)
    assert torch.allclose(
        smooth.score_windows(pixels), torch.einsum("qd,bdhw->bqhw", targets, smoothed(z, 2)), atol=1e-4
    )


def test_windows_off_the_grid_are_filled_and_covered(tiny: Backbone) -> None:
    method = WithWords.of(CLIPS4Like(tiny, encoder=random_weights()), WORDS)
    pixels = windows(1, 33, 46)
    assert method.cover(33, 46) == Box(0, 0, 36, 48)
    filled = F.pad(pixels.float(), (0, 2, 0, 3), mode="replicate").to(torch.uint8)
    assert torch.allclose(method.score_windows(pixels), method.score_windows(filled), atol=1e-6)
    assert method.segment(pixels[0], WindowGeometry(32, 16)).scores.shape == (4, 4, 8, 8)


def test_it_says_that_it_is_ours(tiny: Backbone) -> None:
    method = CLIPS4Like(tiny, encoder=random_weights())
    assert "not CLIP-S4" in method.note and tiny.note in method.note
    assert method.info.published is None and not method.info.training_free
    assert {"classifier", "smooth", "trained"} <= method.provenance.keys()


def other_backbone(dim: int = 128) -> Backbone:
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 32, "patch_size": 16}
    text = {"context_length": 8, "vocab_size": 10, "width": 32, "heads": 1, "layers": 1}
    clip = open_clip.CLIP(embed_dim=dim, vision_cfg=vision, text_cfg=text).eval()
    return Backbone.from_module(clip, lambda texts: torch.zeros(len(texts), 8, dtype=torch.long))


def test_messages(tiny: Backbone, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no weights for backbone CLIP: nobody published any.*`bench train clip-s4"):
        CLIPS4Like(other_backbone())
    with pytest.raises(UserError, match="embeds in 128 dimensions, the backbone in 64"):
        CLIPS4Like(other_backbone(64), encoder=random_weights())
    with pytest.raises(UserError, match="was trained with another CLIP than CLIP"):
        CLIPS4Like(other_backbone(), CLIPS4Options(encoder=str(TINY_S4)))
    with pytest.raises(UserError, match=r"stores no pool.*classifier=text"):
        CLIPS4Like(tiny, encoder=random_weights(pool=None))
    CLIPS4Like(tiny, CLIPS4Options(classifier="text"), encoder=random_weights(pool=None))
    with pytest.raises(UserError, match="classifier is 'words': allowed is prototype or text"):
        check_options(CLIPS4Like, {"classifier": "words"})
    with pytest.raises(UserError, match="smooth is -1: allowed is a whole number from 0"):
        check_options(CLIPS4Like, {"smooth": -1})


@pytest.mark.parametrize("options", [{}, {"classifier": "text", "smooth": 3}], ids=str)
def test_embedded_weights_keep_the_contract(tiny: Backbone, options: dict[str, Any]) -> None:
    results = list(check_method(lambda: CLIPS4Like(tiny, CLIPS4Options(**options))))
    assert [r.name for r in results] == list(CHECKS)
    assert {r.name: r.detail for r in results if not r.passed} == {}
