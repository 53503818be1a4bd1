"""ProxyCLIP against outputs of the original program (tests/data/oracles), and what belongs to it here."""

from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from ovss.harness.decoding.refinement import on_grid
from ovss.methods import Backbone, Picture, UserError, Vocabulary, WindowGeometry, create_method
from ovss.methods.blocks.clip_method import ClipWords
from ovss.methods.models import dino as dino_module
from ovss.methods.models import vit
from ovss.methods.models.dino import Dino
from ovss.methods.models.sam import Sam
from ovss.methods.proxyclip import ProxyCLIP, ProxyCLIPOptions

from .models.test_dino import random_state
from .models.test_dinov2 import random_v2
from .oracle_parts import TOLERANCE, error, load_oracle
from .sam_parts import random_model

MEAN, STD = (122.771, 116.746, 104.094), (68.501, 66.632, 70.323)
VOCABULARY = Vocabulary.from_texts([["a", "b", "c"], ["d"], ["e"], ["f"]], ["0", "1", "2", "3"], ["{}"])

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def oracle() -> dict[str, Tensor]:
    return load_oracle("proxyclip")


def part(oracle: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{name}."): t for k, t in oracle.items() if k.startswith(f"{name}.")}


@pytest.fixture(scope="module")
def backbone(oracle: dict[str, Tensor]) -> Backbone:
    vision = {"image_size": 224, "layers": 2, "width": 128, "head_width": 64, "patch_size": 16}
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1}
    model = open_clip.CLIP(embed_dim=64, vision_cfg=vision, text_cfg=text, quick_gelu=True).eval()
    missing, unexpected = model.load_state_dict(part(oracle, "clip"), strict=False)
    assert not unexpected and not [name for name in missing if name.startswith("visual")]
    mean, std = (tuple(v / 255 for v in values) for values in (MEAN, STD))
    return Backbone(model, SimpleTokenizer(context_length=16), "tiny", "oracle", mean, std)  # type: ignore[arg-type]


@pytest.mark.parametrize(("case", "options"), [("window0", {}), ("window1", {"beta": 0.9, "gamma": 5.0})])
def test_scores_of_a_window(
    oracle: dict[str, Tensor], backbone: Backbone, case: str, options: dict[str, float]
) -> None:
    method = ProxyCLIP(backbone, ProxyCLIPOptions(**options), dino=Dino(part(oracle, "dino")))
    seen = method.encode_image(Picture.of(oracle["window.image"].permute(2, 0, 1)), WindowGeometry())
    found = method.score(seen, ClipWords(VOCABULARY, oracle["text"]))
    assert error(found.scores[0], oracle[f"{case}.scores"]) <= TOLERANCE
    for wrong in ({"beta": 1.1}, {"gamma": 3.3}):
        other = ProxyCLIP(backbone, ProxyCLIPOptions(**wrong), dino=method.dino)
        picture = Picture.of(oracle["window.image"].permute(2, 0, 1))
        field = other.score(other.encode_image(picture, WindowGeometry()), ClipWords(VOCABULARY, oracle["text"]))
        assert error(field.scores[0], oracle[f"{case}.scores"]) > 20 * TOLERANCE, wrong


def test_an_image_in_windows(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    """Windows of 100 x 112 px are padded to 112: 6 px above and below, with the mean colour, for DINO too."""
    method = ProxyCLIP(backbone, dino=Dino(part(oracle, "dino")))
    picture = Picture.of(oracle["slide.image"].permute(2, 0, 1))
    seen = method.encode_image(picture, WindowGeometry(112, 56))
    field = method.score(seen, ClipWords(VOCABULARY, oracle["text"]))
    assert field.covers[0] == (-6, 0, 106, 112)
    assert error(on_grid(field, (75, 135)), oracle["slide.logits"]) <= TOLERANCE


def test_dino_looks_once_for_all_on_its_tower(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    dino, picture = Dino(part(oracle, "dino")), Picture.of(oracle["window.image"].permute(2, 0, 1))
    calls: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        trunk = Dino.trunk
        patch.setattr(dino_module.Dino, "trunk", lambda *given: (calls.append(1), trunk(*given))[1])
        for options in ({}, {"beta": 0.9}):
            ProxyCLIP(backbone, ProxyCLIPOptions(**options), dino=dino).encode_image(picture, WindowGeometry())
    assert calls == [1]


def test_a_flat_window_keeps_its_own_values(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    """The mean of S is above 1 / beta: the original masks every entry, and gives NaN."""
    method = ProxyCLIP(backbone, ProxyCLIPOptions(beta=50.0), dino=Dino(part(oracle, "dino")))
    field = method.segment(torch.full((3, 112, 112), 127, dtype=torch.uint8), VOCABULARY)
    assert field.scores.isfinite().all()


def test_absent_weights_and_provenance(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    with pytest.raises(UserError, match="bench weights fetch dino-vitb8"):
        create_method("proxyclip", backbone)
    with pytest.raises(UserError, match=r"there is no option 'pad'"):
        create_method("proxyclip", backbone, pad=False)
    told = ProxyCLIP(backbone, dino=Dino(part(oracle, "dino"))).provenance
    assert (told["beta"], told["gamma"]) == (1.2, 3.0) and told["dino"]["sha256"].startswith("state:")


@pytest.mark.parametrize(
    ("encoder", "weights"),
    [
        ("dino-b16", "dino-vitb16"),
        ("dinov2-b14", "dinov2-vitb14"),
        ("mae-b16", "mae-vitb16"),
        ("sam-b16", "sam-vitb-hf"),
    ],
)
def test_absent_encoders(backbone: Backbone, encoder: str, weights: str) -> None:
    with pytest.raises(UserError, match=f"bench weights fetch {weights}\n"):
        create_method("proxyclip", backbone, encoder=encoder)


@pytest.mark.parametrize(
    ("encoder", "name", "patch_px"),
    [
        ("dino-b16", "DINO ViT-128x1/16", 16),
        ("dinov2-b14", "DINOv2 ViT-128x1/14", 14),
        ("dinov2-b14-reg", "DINOv2 ViT-128x1/14 with 4 registers", 14),
        ("mae-b16", "MAE ViT-128x1/16", 16),
    ],
)
def test_other_encoders(tmp_path: Path, backbone: Backbone, encoder: str, name: str, patch_px: int) -> None:
    """A window of 100 x 130 px is padded to 112 x 168; scores live on the encoder's grid over that."""
    if encoder.startswith("dinov2"):
        state: dict[str, Tensor] = random_v2(128, 1, 5, 4 if encoder.endswith("reg") else 0)
    else:
        state = random_state(128, 1, patch_px, 5)
    if encoder == "mae-b16":
        state["pos_embed"][0, 0] = 0
    path = tmp_path / "second.pth"
    torch.save({"model": state} if encoder == "mae-b16" else state, path)
    method = create_method("proxyclip", backbone, encoder=encoder, dino=str(path))
    assert isinstance(method, ProxyCLIP)
    assert (method.dino.name, method.provenance["dino"]["name"]) == (name, name)
    assert method.described.published is None and method.described.trained_on == f"nothing; {name} is self-supervised"
    image = torch.randint(0, 256, (3, 100, 130), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = method.score(
        method.encode_image(Picture.of(image), WindowGeometry()), ClipWords(VOCABULARY, random_texts())
    )
    assert found.scores.shape == (1, 6, 112 // patch_px, 168 // patch_px)
    assert found.scores.isfinite().all() and float(found.scores.std()) > 0


def test_sam_sees_windows_stretched_to_its_square(tmp_path: Path, backbone: Backbone) -> None:
    """A window of 100 x 130 px, padded to 112 x 168, against the library's embedding; scores live on SAM's grid."""
    random_model().save_pretrained(tmp_path)
    method = create_method("proxyclip", backbone, encoder="sam-b16", dino=str(tmp_path))
    assert isinstance(method, ProxyCLIP) and isinstance(method.dino, Sam)
    assert (method.dino.name, method.described.published) == ("SAM 16x1", None)
    assert method.described.trained_on == "nothing; SAM 16x1 is trained with masks"
    image = torch.randint(0, 256, (3, 100, 130), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = method.encode_image(Picture.of(image), WindowGeometry()).batches[0]
    shown = method.shown(image[None])
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    square = torch.nn.functional.interpolate(shown * 255, (64, 64), mode="bilinear", align_corners=False)
    places = method.dino.model.get_image_embeddings((square - mean) / std)[0].flatten(1).T
    similar = torch.nn.functional.normalize(places, dim=1) @ torch.nn.functional.normalize(places, dim=1).T
    logits = 3.0 * (similar - 1.2 * similar.mean())
    mixed = torch.where(logits < 0, -torch.inf, logits).softmax(1)
    block = method.tower.blocks[-1]
    tokens, grid = vit.run_trunk(method.tower, method.normalised(image[None]), method.options.positions)
    values = vit.values(block, tokens[:, 1:])[0].T.unflatten(1, grid)[None]
    values = torch.nn.functional.interpolate(values, (4, 4), mode="bilinear", align_corners=False)[0].flatten(1).T
    wanted = vit.project(method.tower, vit.project_out(block, (mixed @ values)[None]))[0]
    wanted = torch.nn.functional.normalize(wanted, dim=1).unflatten(0, (4, 4))
    torch.testing.assert_close(found.features[0], wanted, atol=1e-5, rtol=1e-4)


def random_texts() -> Tensor:
    return torch.nn.functional.normalize(torch.randn(6, 64, generator=torch.Generator().manual_seed(1)), dim=1)


def test_reported_values_are_those_of_the_default_encoder(backbone: Backbone) -> None:
    usual = ProxyCLIP(backbone, dino=Dino(random_state(768, 12, 8, 2)))
    assert usual.described == replace(usual.info, trained_on="nothing; DINO ViT-B/8 is self-supervised")
