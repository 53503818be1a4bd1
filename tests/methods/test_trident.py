"""Trident against outputs of the original program (tests/data/oracles), and what belongs to it here."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from ovss.harness.decoding.decode import decode
from ovss.harness.decoding.refinement import stretched
from ovss.harness.decoding.rule import DecodeRule
from ovss.methods import Backbone, Picture, UserError, Vocabulary, WindowGeometry, create_method
from ovss.methods import trident as module
from ovss.methods.blocks.clip_method import ClipWords
from ovss.methods.core.score_field import ScoreField
from ovss.methods.models import vit
from ovss.methods.models.dino import Dino
from ovss.methods.models.sam import Sam, rounded_up
from ovss.methods.proposals.base import ProposerParts
from ovss.methods.proposals.loading import load_proposer
from ovss.methods.proxyclip import ProxyCLIP, ProxyCLIPOptions
from ovss.methods.refine.sam_prompts import load_sam_prompts
from ovss.methods.trident import Trident, TridentOptions, sam_matrix
from ovss.methods.trident import stretched as stretch

from .oracle_parts import TOLERANCE, error, load_oracle, oracle_backbone
from .sam_parts import random_model, random_sam

VOCABULARY = Vocabulary.from_texts([["a", "b", "c"], ["d"], ["e"], ["f"]], ["0", "1", "2", "3"], ["{}"])
WINDOWS = {"window_px": 112, "stride_px": 48}
ENCODER_TOLERANCE = 1e-4

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def oracle() -> dict[str, Tensor]:
    return load_oracle("trident")


@pytest.fixture(scope="module")
def backbone(oracle: dict[str, Tensor]) -> Backbone:
    return oracle_backbone(oracle, layers=2)


@dataclass(frozen=True)
class GivenAttention:
    """What ``SamAttention`` says, as tensors."""

    grid: tuple[int, int]
    values: Tensor
    attention: Tensor

    def of_head(self, head: int) -> Tensor:
        return self.attention[head].clone()


@dataclass(frozen=True)
class GivenView:
    attention: GivenAttention


class GivenSam:
    """A SAM whose answers are given."""

    def __init__(self, oracle: dict[str, Tensor]) -> None:
        self.oracle = oracle

    def _view(self, name: str) -> GivenView:
        values, attention = self.oracle[f"{name}.v"][0], self.oracle[f"{name}.attention"][0]
        grid = (values.shape[1], values.shape[2])
        return GivenView(GivenAttention(grid, values.flatten(1, 2), attention))

    def look(self, picture: Picture, multiple_px: int) -> GivenView:
        assert picture.original.shape == (3, 93, 124) and multiple_px == 16
        return self._view("sam")

    def look_at_halves(self, picture: Picture, multiple_px: int) -> tuple[GivenView, GivenView]:
        return self._view("sam.left"), self._view("sam.right")


def part(oracle: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{name}."): t for k, t in oracle.items() if k.startswith(f"{name}.")}


def field_of(oracle: dict[str, Tensor], backbone: Backbone, sam: Any, **options: Any) -> ScoreField:
    method = Trident(backbone, TridentOptions(**{**WINDOWS, **options}), dino=Dino(part(oracle, "dino")), sam=sam)
    pixels, original = (oracle[name].permute(2, 0, 1) for name in ("image", "file_image"))
    seen = method.encode_image(Picture(pixels, original), WindowGeometry())
    return method.score(seen, ClipWords(VOCABULARY, oracle["text"]))


GIVEN = {
    "given_1.2_true": {},
    "given_1.2_false": {"refine_negative_cosine": False},
    "given_0_true": {"cosine_factor": 0.0},
    "given_3_false": {"cosine_factor": 3.0, "refine_negative_cosine": False},
    "halves_3_false": {"cosine_factor": 3.0, "refine_negative_cosine": False, "halves": True},
}


@pytest.mark.parametrize("case", GIVEN)
def test_scores(oracle: dict[str, Tensor], backbone: Backbone, case: str) -> None:
    found = field_of(oracle, backbone, GivenSam(oracle), **GIVEN[case])
    assert found.boxes == found.covers == ((0, 0, 150, 200),)
    assert error(found.scores[0], oracle[f"{case}.scores"]) <= TOLERANCE


@pytest.mark.parametrize("wrong", [{"cosine_factor": 1.1}, {"beta": 1.1}, {"gamma": 3.3}, {"stride_px": 64}])
def test_other_constants_give_other_scores(
    oracle: dict[str, Tensor], backbone: Backbone, wrong: dict[str, Any]
) -> None:
    found = field_of(oracle, backbone, GivenSam(oracle), **wrong)
    assert error(found.scores[0], oracle["given_1.2_true.scores"]) > 20 * TOLERANCE


def oracle_sam(oracle: dict[str, Tensor]) -> Sam:
    """The vectors' encoder under transformers' names; the rest, which Trident does not read, is random."""
    vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 128, "window_size": 14}
    vision |= {"global_attn_indexes": [1], "output_channels": 16, "num_pos_feats": 8, "layer_norm_eps": 1e-6}
    prompt = {"hidden_size": 16, "mask_input_channels": 4}
    decoder = {"hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    decoder |= {"iou_head_hidden_dim": 16, "iou_head_depth": 2}
    torch.manual_seed(0)
    model = transformers.SamModel(
        transformers.SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    ).eval()
    names = {"blocks.": "layers.", "patch_embed.proj": "patch_embed.projection"}
    names |= {"norm1": "layer_norm1", "norm2": "layer_norm2"}
    state = {}
    for name, tensor in part(oracle, "sam.image_encoder").items():
        for old, new in names.items():
            name = name.replace(old, new)
        state[name] = tensor
    missing, unexpected = model.vision_encoder.load_state_dict(state, strict=False)
    assert not unexpected and all(name.startswith("neck") for name in missing)
    return Sam(model)


def test_scores_with_the_encoder(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    """From the file's pixels to scores, by SAM's own weights."""
    found = field_of(oracle, backbone, oracle_sam(oracle))
    assert error(found.scores[0], oracle["encoder.scores"]) <= ENCODER_TOLERANCE


@pytest.mark.parametrize(("threshold", "wanted"), [(0.0, "labels_thd0"), (0.7995, "labels_thd1")])
def test_labels(oracle: dict[str, Tensor], backbone: Backbone, threshold: float, wanted: str) -> None:
    """Scores go from SAM's grid to the file's size at once."""
    field = field_of(oracle, backbone, GivenSam(oracle))
    rule = DecodeRule(logit_scale=40.0, probability_threshold=threshold, background=0)
    labels = decode(stretched(field, (93, 124)), (93, 124), rule)
    assert int((labels != oracle[wanted]).sum()) <= 1
    assert int((decode(field, (93, 124), rule) != oracle[wanted]).sum()) > 5, "by way of the resized image"


def test_the_mean_of_cosines_is_one_for_all_windows(
    oracle: dict[str, Tensor], backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = module.similarity_matrix
    monkeypatch.setattr(module, "similarity_matrix", lambda tokens, beta, gamma, mean: own(tokens, beta, gamma))
    found = field_of(oracle, backbone, GivenSam(oracle))
    assert error(found.scores[0], oracle["given_1.2_true.scores"]) > 20 * TOLERANCE


def test_the_threshold_is_one_for_all_heads(oracle: dict[str, Tensor]) -> None:
    """A plain computation, and the same with a threshold for each head."""
    values, attention = oracle["sam.v"][0].flatten(1, 2), oracle["sam.attention"][0]
    unit = values / values.norm(dim=-1, keepdim=True)
    cosines = torch.einsum("mid,mjd->mij", unit, unit)
    common = (1.2 * cosines.mean(dim=(0, 2))).clamp(max=0.9)[None, :, None]
    apart = (1.2 * cosines.mean(dim=2)).clamp(max=0.9)[:, :, None]
    plain, other = ((attention * (cosines > t)).mean(dim=0) for t in (common, apart))
    plain, other = (matrix / matrix.sum(dim=1, keepdim=True) for matrix in (plain, other))
    found = sam_matrix(GivenAttention((12, 16), values, attention), 1.2, True)  # type: ignore[arg-type]
    rows = torch.linspace(0, 191, 12).long()
    assert error(found, plain) < 1e-5
    assert error(found[rows], oracle["given_1.2_true.sam_matrix"]) < 1e-5
    assert error(other[rows], oracle["given_1.2_true.sam_matrix"]) > 1e-2


def random_method(oracle: dict[str, Tensor], backbone: Backbone, **options: Any) -> Trident:
    given = TridentOptions(**options)
    return Trident(backbone, given, dino=Dino(part(oracle, "dino")), sam=random_sam() if given.affinity else None)


def noise(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_the_protocol_decides_windows_where_the_options_do_not(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    """And then DINO and the trunk are those of every method with these windows."""
    method, image = random_method(oracle, backbone, affinity=False), noise(128, 160)
    proxy = ProxyCLIP(backbone, ProxyCLIPOptions(), dino=method.dino)
    picture, geometry = Picture.of(image), WindowGeometry(112, 48)
    before = proxy.encode_image(picture, geometry)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dino, "tokens", None)
        patch.setattr(vit, "run_trunk", None)
        found = method.encode_image(picture, geometry)
    own = random_method(oracle, backbone, affinity=False, **WINDOWS).encode_image(Picture.of(image), WindowGeometry())
    assert torch.equal(found.batches[0].features, own.batches[0].features)
    assert before.boxes != found.boxes and found.batches[0].features.shape[1:3] == (8, 10)


def test_one_window_of_both_shapes(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    """Without SAM, a single window is ProxyCLIP's, brought to CLIP's grid: both are the same here."""
    method = random_method(oracle, backbone, affinity=False)
    proxy = ProxyCLIP(backbone, ProxyCLIPOptions(), dino=method.dino)
    image = noise(112, 224)
    found, wanted = (m.encode_image(Picture.of(image), WindowGeometry()).batches[0].features for m in (method, proxy))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_sam_looks_once(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    method, picture = random_method(oracle, backbone), Picture.of(noise(96, 128))
    assert method.sam is not None
    view = method.sam.look(picture)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sam, "see", None)
        method.encode_image(picture, WindowGeometry())
        assert method.sam.look(replace(picture, pixels=picture.pixels[:, ::2], view="half")) is view


def test_what_sam_sees(oracle: dict[str, Tensor]) -> None:
    """Some rows of its last block's attention, and its values; without relative positions they are others."""
    image = rounded_up(oracle["file_image"].permute(2, 0, 1), 16)
    view = oracle_sam(oracle).see(image)
    assert (view.size, view.shown, view.attention.grid) == ((96, 128), (768, 1024), (48, 64))
    rows = torch.linspace(0, 48 * 64 - 1, 12).long()[[0, 5, 11]]
    found = torch.stack([view.attention.of_head(head)[rows] for head in range(2)])
    assert error(found, oracle["encoder.sam_attention"]) <= TOLERANCE
    assert error(view.attention.values[:, rows], oracle["encoder.sam_v"]) <= TOLERANCE
    last = "sam.image_encoder.blocks.1.attn.rel_pos"
    flat = oracle_sam({k: t * 0 if k.startswith(last) else t for k, t in oracle.items()}).see(image)
    assert error(flat.attention.of_head(0)[rows], oracle["encoder.sam_attention"][0]) > 20 * TOLERANCE


@pytest.mark.parametrize(
    ("size", "least", "wanted"),
    [
        ((96, 128), 336, (96, 128)),
        ((150, 200), 112, (160, 208)),
        ((50, 100), 336, (336, 336)),
        ((17, 100), 0, (32, 112)),
    ],
)
def test_sizes_of_the_whole_image(size: tuple[int, int], least: int, wanted: tuple[int, int]) -> None:
    """17 of 100 px become 19 of 112, and two patches."""
    assert stretch(noise(*size), 16, least).shape[1:] == wanted


def test_wrong_windows(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    with pytest.raises(UserError, match="stride_px of trident is 0: allowed is 1 to its window_px, 112"):
        random_method(oracle, backbone, affinity=False, window_px=112)
    method = random_method(oracle, backbone, affinity=False)
    with pytest.raises(UserError, match="no multiples of 16 px"):
        method.encode_image(Picture.of(noise(128, 160)), WindowGeometry(100, 50))


def test_without_sam_it_says_so(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    method = random_method(oracle, backbone, affinity=False)
    assert "without SAM's attention" in method.note and method.described.published is None
    assert method.provenance["affinity"] is False and "sam" not in method.provenance
    whole = random_method(oracle, backbone)
    assert "SAM" not in whole.note and whole.described.published == "Trident"
    assert whole.provenance["sam"]["name"] == "SAM 16x1" and whole.provenance["sam"]["sha256"].startswith("state:")


def test_absent_weights(backbone: Backbone, oracle: dict[str, Tensor]) -> None:
    with pytest.raises(UserError, match="bench weights fetch dino-vitb16"):
        create_method("trident", backbone)
    with pytest.raises(UserError, match="bench weights fetch sam-vitb-hf"):
        create_method("trident", backbone, dino=Dino(part(oracle, "dino")))


def test_a_flat_image_keeps_its_own_values(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    """The mean of S is above 1 / beta in all windows at once: the original makes NaN of the image."""
    method = random_method(oracle, backbone, affinity=False, beta=50.0)
    field = method.segment(torch.full((3, 112, 160), 127, dtype=torch.uint8), VOCABULARY, WindowGeometry(112, 48))
    assert field.scores.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(oracle: dict[str, Tensor], backbone: Backbone, dtype: torch.dtype) -> None:
    """SAM stays in float32."""
    given, dino = TridentOptions(**WINDOWS), part(oracle, "dino")
    picture = Picture(*(oracle[name].permute(2, 0, 1) for name in ("image", "file_image")))
    method = Trident(backbone, given, "cpu", dtype, Dino(dino, "cpu", dtype), GivenSam(oracle))  # type: ignore[arg-type]
    found = method.score(method.encode_image(picture, WindowGeometry()), ClipWords(VOCABULARY, oracle["text"]))
    assert found.scores.dtype == torch.float32
    assert error(found.scores[0], oracle["given_1.2_true.scores"]) < 0.03


def test_methods_proposers_and_the_refinement_share_one_sam(
    oracle: dict[str, Tensor], backbone: Backbone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One model, and one look at a picture."""
    random_model().save_pretrained(tmp_path / "sam-vitb-hf")
    monkeypatch.setenv("OVSS_WEIGHTS", str(tmp_path))
    method = create_method("trident", backbone, dino=Dino(part(oracle, "dino")))
    assert isinstance(method, Trident) and method.sam is not None
    statistics = (backbone.mean, backbone.std)
    proposer = load_proposer("sam", ProposerParts(method.tower, *statistics, torch.device("cpu"), torch.float32))
    guide = load_sam_prompts(0.1, "cpu", 16)
    assert proposer.sam is guide.sam is method.sam  # type: ignore[attr-defined]
    calls: list[Tensor] = []
    see = method.sam.see
    monkeypatch.setattr(method.sam, "see", lambda image: (calls.append(image), see(image))[1])
    picture = Picture.of(noise(90, 128))
    method.encode_image(picture, WindowGeometry())
    proposer.propose(picture)
    guide.look(picture)
    assert len(calls) == 1
