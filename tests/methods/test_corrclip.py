"""CorrCLIP against outputs of the original program (tests/data/oracles), and what belongs to it here."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.harness.decoding.decode import decode
from ovss.harness.decoding.refinement import on_grid
from ovss.harness.decoding.rule import DecodeRule
from ovss.harness.decoding.vote import vote
from ovss.methods import Backbone, Picture, ScoreField, UserError, Vocabulary, WindowGeometry, create_method
from ovss.methods import corrclip as corrclip_module
from ovss.methods.blocks import region_tokens
from ovss.methods.blocks.clip_method import ClipWords
from ovss.methods.corrclip import CorrCLIP, CorrCLIPOptions
from ovss.methods.models.dino import Dino
from ovss.methods.proposals.base import Proposals, Proposer
from ovss.methods.proposals.regions import flat, region_map

from .oracle_parts import TOLERANCE, error, load_oracle, oracle_backbone

VOCABULARY = Vocabulary.from_texts([["a", "b", "c"], ["d"], ["e"], ["f"]], ["0", "1", "2", "3"], ["{}"])
CASES = {"zero": "window", "nozero": "window", "two": "window", "one": "window", "wide": "wide"}

pytestmark = pytest.mark.usefixtures("no_gradients")


class Given(Proposer):
    """Regions that the test has: ``(H, W)``, 0 is no mask; the higher the number, the surer."""

    name = "given"

    def __init__(self, regions: Tensor) -> None:
        self.device, self.regions = torch.device("cpu"), regions

    @property
    def provenance(self) -> dict[str, Any]:
        return {"name": self.name, "id": id(self)}

    def propose(self, picture: Picture) -> Proposals:
        assert picture.size == self.regions.shape
        numbers = [k for k in self.regions.unique().tolist() if k]
        masks = torch.stack([self.regions == k for k in numbers]) if numbers else self.regions[None] != 0
        return Proposals(masks.float(), torch.linspace(0.6, 1, len(masks))[:, None])


@pytest.fixture(scope="module")
def oracle() -> dict[str, Tensor]:
    found = load_oracle("corrclip")
    return {**found, "one.regions": torch.zeros(224, 224, dtype=torch.uint8)}


@pytest.fixture(scope="module")
def backbone(oracle: dict[str, Tensor]) -> Backbone:
    return oracle_backbone(oracle)


@pytest.fixture(scope="module")
def dino(oracle: dict[str, Tensor]) -> Dino:
    return Dino({k.removeprefix("dino."): t for k, t in oracle.items() if k.startswith("dino.")})


def make(backbone: Backbone, dino: Dino, regions: Tensor, **options: Any) -> CorrCLIP:
    return CorrCLIP(backbone, CorrCLIPOptions(**options), dino=dino, proposer=Given(regions))


def seen_by(method: CorrCLIP, picture: Picture, text: Tensor, geometry: WindowGeometry) -> ScoreField:
    return method.score(method.encode_image(picture, geometry), ClipWords(VOCABULARY, text))


@pytest.fixture
def scores(oracle: dict[str, Tensor], backbone: Backbone, dino: Dino) -> Callable[..., Tensor]:
    def found(case: str, **options: Any) -> Tensor:
        method = make(backbone, dino, oracle[f"{case}.regions"], **options)
        picture = Picture.of(oracle[f"{CASES[case]}.image"].permute(2, 0, 1))
        return seen_by(method, picture, oracle["text"], WindowGeometry()).scores[0]

    return found


@pytest.mark.parametrize("case", CASES)
def test_scores_of_a_window(oracle: dict[str, Tensor], scores: Callable[..., Tensor], case: str) -> None:
    assert error(scores(case), oracle[f"{case}.scores"]) <= TOLERANCE


def slide_picture(oracle: dict[str, Tensor]) -> Picture:
    """Its original has the size of the regions; nobody looks at its pixels."""
    image = oracle["slide.image"].permute(2, 0, 1)
    return Picture(image, torch.zeros(3, 75, 135, dtype=torch.uint8))


def test_an_image_in_windows(oracle: dict[str, Tensor], backbone: Backbone, dino: Dino) -> None:
    """Windows of 100 x 112 px are padded to 112; regions come at the size of the original."""
    method = make(backbone, dino, oracle["slide.regions"])
    field = seen_by(method, slide_picture(oracle), oracle["text"], WindowGeometry(112, 56))
    assert field.covers[0] == (-6, 0, 106, 112)
    assert error(on_grid(field, (75, 135)), oracle["slide.logits"]) <= TOLERANCE


def _straight_from_the_window(numbers: Tensor, features: Tensor, distance: float) -> Tensor:
    return torch.stack([one.unique(return_inverse=True)[1] for one in numbers])


def _fine_borders(size: tuple[int, int]) -> Callable[[Tensor, tuple[int, int]], Tensor]:
    """Copies are written by the map on DINO's grid, not by that on CLIP's."""
    kept: list[Tensor] = []

    def nearest(numbers: Tensor, grid: tuple[int, int]) -> Tensor:
        if grid == size and numbers.shape[1:] != size and kept:
            return kept[-1]
        if numbers.shape[1:] == size:
            kept.append(numbers)
        return region_tokens.nearest(numbers, grid)

    return nearest


def _copies_see_themselves(tower: Any, layers: tuple[Tensor, ...], regions: Tensor) -> Tensor:
    vit = region_tokens.vit
    seen = F.one_hot(regions).mT.bool()
    count = seen.shape[1]
    copies = layers[0][:, :1].expand(-1, count, -1)
    mask = torch.cat([torch.eye(count).bool()[None].expand(len(seen), -1, -1), F.pad(seen, (1, 0), value=True)], dim=2)
    for block, image in zip(tower.blocks, layers, strict=True):
        q, k, v = vit.split_heads(block, torch.cat([copies, image], dim=1))
        mixed = F.scaled_dot_product_attention(q[:, :, :count], k, v, attn_mask=mask[:, None])
        copies = vit.add_ffn(block, copies + vit.project_out(block, vit.merge_heads(mixed)))
    return copies


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("merge_regions", _straight_from_the_window),
        ("nearest", _fine_borders((28, 28))),
        ("class_copies", _copies_see_themselves),
        ("AVERAGED", {12: (5, 8)}),
        ("AVERAGED", {12: (4, 9)}),
    ],
    ids=["regions not merged", "fine borders", "copies see themselves", "to 8", "from 4"],
)
def test_misreadings_are_noticed(
    oracle: dict[str, Tensor],
    scores: Callable[..., Tensor],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    mistake: object,
) -> None:
    monkeypatch.setattr(corrclip_module, name, mistake)
    errors = [error(scores(case), oracle[f"{case}.scores"]) for case in ("zero", "nozero", "wide")]
    assert max(errors) > 20 * TOLERANCE


def test_the_padding_is_a_region(
    oracle: dict[str, Tensor], backbone: Backbone, dino: Dino, monkeypatch: pytest.MonkeyPatch
) -> None:
    pad = F.pad
    monkeypatch.setattr(
        corrclip_module.F, "pad", lambda x, by, value=0: pad(x, by, value=0 if x.dtype == torch.int64 else value)
    )
    method = make(backbone, dino, oracle["slide.regions"])
    field = seen_by(method, slide_picture(oracle), oracle["text"], WindowGeometry(112, 56))
    assert error(on_grid(field, (75, 135)), oracle["slide.logits"]) > 20 * TOLERANCE


@pytest.mark.parametrize(
    "wrong",
    [{"merge_distance": 0.05}, {"sharpness": 3.0}, {"spatial_weight": 0.9}, {"semantic_weight": 0.4}],
    ids=str,
)
def test_other_options_give_other_scores(
    oracle: dict[str, Tensor], scores: Callable[..., Tensor], wrong: dict[str, float]
) -> None:
    errors = [error(scores(case, **wrong), oracle[f"{case}.scores"]) for case in ("zero", "nozero", "wide")]
    assert max(errors) > 20 * TOLERANCE


def test_merging_is_transitive_and_leaves_the_lowest_alone() -> None:
    """Unit vectors at 0, 0, 30, 60 and 120 degrees: neighbours of 30 degrees are 0.134 apart, those of 60 0.5."""
    angles = torch.deg2rad(torch.tensor([0.0, 0, 30, 60, 120]))
    features = torch.stack([angles.cos(), angles.sin()], dim=1)[None]
    numbers = torch.tensor([[7, 10, 20, 30, 40]])
    merged = region_tokens.merge_regions
    assert merged(numbers, features, 0.2).tolist() == [[0, 1, 1, 1, 2]], "7 is where 10 is, and stays alone"
    assert merged(numbers, features, 0.1).tolist() == [[0, 1, 2, 3, 4]]
    assert merged(numbers, features, 0.0).tolist() == [[0, 1, 2, 3, 4]], "a region is always one with itself"
    assert merged(numbers, features, 0.5).tolist() == [[0, 1, 1, 1, 1]]
    assert merged(torch.tensor([[5, 5, 9, 9, 9]]), features, 9.0).tolist() == [[0, 0, 1, 1, 1]], "two are not merged"


def test_labels_of_the_original(oracle: dict[str, Tensor], backbone: Backbone, dino: Dino) -> None:
    method = make(backbone, dino, oracle["slide.regions"])
    field = seen_by(method, slide_picture(oracle), oracle["text"], WindowGeometry(112, 56))
    for threshold, name in ((0.0, "plain"), (0.9646, "thd")):
        rule = DecodeRule(40.0, probability_threshold=threshold, background=0)
        wanted = oracle[f"slide.labels_{name}"]
        labels = decode(field, (75, 135), rule)
        assert wanted.unique().numel() > 1 and torch.equal(labels, wanted)
    corrected = vote(labels, region_map(method.proposer, slide_picture(oracle)))
    assert torch.equal(corrected, oracle["slide.labels_corrected"]) and not torch.equal(corrected, labels)


def test_a_flat_window_keeps_its_own_values(backbone: Backbone, dino: Dino) -> None:
    """All cosines are their mean: outside a region nothing is above it but what a patch says of itself."""
    method = make(backbone, dino, torch.zeros(112, 112, dtype=torch.uint8))
    field = method.score(
        method.encode_image(Picture.of(torch.full((3, 112, 112), 127, dtype=torch.uint8)), WindowGeometry()),
        ClipWords(VOCABULARY, F.normalize(torch.randn(6, 64), dim=1)),
    )
    assert field.scores.isfinite().all()


def test_windows_in_a_batch_are_as_alone(
    oracle: dict[str, Tensor], backbone: Backbone, dino: Dino, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = make(backbone, dino, oracle["slide.regions"])
    together = seen_by(method, slide_picture(oracle), oracle["text"], WindowGeometry(112, 56)).scores
    monkeypatch.setattr(CorrCLIP, "batch_size", 1)
    alone = seen_by(method, slide_picture(oracle), oracle["text"], WindowGeometry(112, 56)).scores
    assert len(together) == 3 and error(alone, together) <= TOLERANCE


def test_half_precision_is_near(oracle: dict[str, Tensor], backbone: Backbone, dino: Dino) -> None:
    method = CorrCLIP(backbone, dtype=torch.bfloat16, dino=dino, proposer=Given(oracle["zero.regions"]))
    picture = Picture.of(oracle["window.image"].permute(2, 0, 1))
    found = seen_by(method, picture, oracle["text"], WindowGeometry()).scores[0]
    assert found.dtype == torch.float32 and error(found, oracle["zero.scores"]) < 0.2


def test_what_it_says_of_itself(backbone: Backbone, dino: Dino) -> None:
    with pytest.raises(UserError, match="bench weights fetch dino-vitb8"):
        create_method("corrclip", backbone, proposer="felzenszwalb")
    with pytest.raises(UserError, match="bench weights fetch sam2-hiera-l"):
        CorrCLIP(backbone, dino=dino)
    with pytest.raises(UserError, match="neither the method nor its proposer 'slic' has an option 'scale'"):
        create_method("corrclip", backbone, proposer="slic", scale=2.0)
    with pytest.raises(UserError, match="has an option 'pad'"):
        create_method("corrclip", backbone, proposer="slic", pad=False)
    own = create_method("corrclip", backbone, proposer="felzenszwalb", similarity="clip", scale=50.0)
    assert own.described.published is None and own.provenance["proposer"]["scale"] == 50 and not own.note
    other = make(backbone, dino, torch.zeros(2, 2))
    assert other.described == replace(CorrCLIP.info, published=None) and other.sees_whole_image
    other.proposer.name, other.proposer.supervision = "sam2", "masks of SA-1B"  # type: ignore[misc]
    assert not other.described.training_free and other.described.published == "CorrCLIP"
    assert "not training-free: proposer trained with masks of SA-1B" in other.note


@pytest.mark.parametrize("depth", [2, 3, 4, 5, 12, 24, 32])
def test_blocks_of_the_spatial_branch(depth: int) -> None:
    """Published for 12, 24 and 32 blocks; always some, and none behind the last but one."""
    first, last = corrclip_module.averaged_blocks(depth)
    assert 0 <= first <= last <= depth - 2
    wanted = {12: (5, 9), 24: (10, 21), 32: (2, 29), 5: (2, 2), 2: (0, 0)}
    assert (first, last) == wanted.get(depth, (first, last))


def test_masks_as_one_map() -> None:
    """Three masks in a row of six: the largest lies on top; with an objectness the surest, and none below a half."""
    masks = torch.tensor([[1.0, 1, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 0, 0]])[:, None]
    assert flat(Proposals(masks)).tolist() == [[3, 3, 3, 2, 0, 0]]
    sure = torch.tensor([[0.6], [0.9], [0.4]])
    assert flat(Proposals(masks, sure)).tolist() == [[1, 1, 2, 2, 0, 0]]
    soft = torch.tensor([[0.9, 0.9, 0.55, 0.4], [0.1, 0.6, 0.8, 0.45]])[:, None]
    assert flat(Proposals(soft, torch.tensor([[0.9], [0.8]]))).tolist() == [[2, 2, 1, 0]]
    assert flat(Proposals(masks[:0])).tolist() == [[0] * 6]


def test_two_methods_with_one_proposer_have_one_map(oracle: dict[str, Tensor], backbone: Backbone, dino: Dino) -> None:
    calls = []
    given = Given(oracle["zero.regions"])
    given.propose = lambda picture: (calls.append(1), Given.propose(given, picture))[1]  # type: ignore[method-assign]
    picture = Picture.of(oracle["window.image"].permute(2, 0, 1))
    for weight in (0.5, 0.4):
        method = CorrCLIP(backbone, CorrCLIPOptions(semantic_weight=weight), dino=dino, proposer=given)
        method.encode_image(picture, WindowGeometry(112, 112))
    assert calls == [1]
