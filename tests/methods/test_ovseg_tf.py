"""OVSeg's pipeline with vanilla CLIP against plain recomputations, with made-up proposals and with real ones.

``Given`` is a proposer that returns what the test wants.
"""

import re
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from ovss.harness.decoding.decode import decode
from ovss.harness.decoding.rule import DecodeRule
from ovss.harness.runs.conformity import check_method
from ovss.methods import Backbone, UserError, Vocabulary, WindowGeometry, create_method, load_backbone
from ovss.methods.blocks.mask_crops import cut_masked
from ovss.methods.core.picture import Picture
from ovss.methods.core.vocabulary import load_templates
from ovss.methods.ovseg_tf import OVSegTF, classify
from ovss.methods.proposals.base import Proposals, Proposer, ProposerParts
from ovss.methods.proposals.superpixels import Felzenszwalb
from ovss.methods.registry import check_options

from .with_words import WithWords

NAMES = ["cat", "sofa, couch", "sky"]
SIZE = (60, 90)


pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def tiny() -> Backbone:
    return load_backbone("tiny-clip")


@pytest.fixture(scope="module")
def large() -> Backbone:
    """ViT-B/16 with random weights that tell images apart."""
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-16-quickgelu", pretrained=None).eval()
    with torch.no_grad():
        for p in model.visual.parameters():
            if p.ndim >= 2:
                p.normal_(std=1.3 / p[0].numel() ** 0.5)
    return Backbone.from_module(model, SimpleTokenizer())


class Given(Proposer):
    """Masks that the test made."""

    name = "given"

    def __init__(self, masks: Tensor, objectness: Tensor | None = None) -> None:
        super().__init__(ProposerParts(None, (), (), torch.device("cpu"), torch.float32))  # type: ignore[arg-type]
        self.proposals = Proposals(masks.float(), objectness)

    def propose(self, picture: Picture) -> Proposals:
        assert picture.size == self.proposals.masks.shape[1:]
        return self.proposals


def image(height: int = SIZE[0], width: int = SIZE[1], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (1, 3, 6, 9), generator=generator).float()
    return F.interpolate(coarse, (height, width), mode="bilinear")[0].to(torch.uint8)


def blobs(count: int, height: int = SIZE[0], width: int = SIZE[1], seed: int = 1) -> Tensor:
    """Soft masks with centres all over the image, ``(count, height, width)``."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, 1, 1, generator=generator)
    size = 0.1 + 0.3 * torch.rand(count, 1, 1, generator=generator)
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.sigmoid(20 * (size - ((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2).sqrt()))


def make(backbone: Backbone, proposer: Proposer | None = None, names: list[str] = NAMES, **options: Any) -> WithWords:
    given = {} if proposer is None else {"proposer": proposer}
    method = create_method("ovseg-tf", backbone, **given, **options)
    return WithWords.of(method, Vocabulary.from_names(names, templates=["a {}"]))


def classified(made: WithWords, picture: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities of the queries for masks that are not empty, and which are not."""
    seen = made.method.look(picture, masks)
    return classify(seen, made.words.text), seen.valid


def labels(method: WithWords, picture: Tensor) -> Tensor:
    return decode(method.segment(picture), (picture.shape[1], picture.shape[2]), DecodeRule(activation="none"))


# ---- against plain formulas


@pytest.mark.parametrize("objectness", [False, True])
def test_plain_recomputation_at_full_size(large: Backbone, objectness: bool) -> None:
    picture, masks = image(160, 240), blobs(3, 160, 240)
    masks = torch.cat([masks, torch.full_like(masks[:1], 0.2)])  # nothing above the threshold: no crop
    sure = torch.tensor([[0.9], [0.3], [0.6], [0.5]]) if objectness else None
    method = make(large, Given(masks, sure), mask_threshold=0.5)
    field = method.segment(picture)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (large.mean, large.std))
    shown = [*(masks[:3] > 0.5), torch.ones(160, 240, dtype=torch.bool)]
    phat = []
    for mask in shown:
        rows, columns = (mask.any(dim=d).nonzero().flatten() for d in (1, 0))
        part = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
        pixels = ((picture.float() / 255 - mean) / std * mask)[:, part[0], part[1]]
        crop = F.interpolate(pixels[None], (224, 224), mode="bicubic", align_corners=False)
        feature = F.normalize(large.model.encode_image(crop), dim=-1)
        phat.append((100 * feature @ method.words.text.T).softmax(dim=-1)[0])
    power = 0.7 if objectness else 1.0
    scale = torch.ones(4) if sure is None else sure[:, 0] ** 0.3
    rows = [scale[i] * phat[i] ** power for i in range(3)]
    rows += [torch.full_like(phat[0], float(scale[3])) if objectness else torch.zeros_like(phat[0]), 1e-3 * phat[3]]
    assert field.mixing is not None and field.mixing.shape == (5, 4)
    wanted = torch.stack(rows)
    assert torch.allclose(field.mixing, wanted, rtol=1e-4, atol=1e-6)
    dense = torch.einsum("phw,pq->qhw", torch.cat([masks, torch.ones(1, 160, 240)]), wanted)
    assert torch.allclose(field.dense().scores[0], dense, rtol=1e-4, atol=1e-6)


def test_crops_are_clip(tiny: Backbone) -> None:
    crops, _, _ = cut_masked(image(), blobs(5) > 0.5, tiny.mean, tiny.std, side_px=96)
    found = make(tiny).method.encode_crops(crops)
    assert torch.allclose(found, tiny.model.encode_image(crops), rtol=1e-4, atol=1e-5)


def test_views_are_averaged_as_probabilities(tiny: Backbone) -> None:
    masks = blobs(4) > 0.5
    found = {view: classified(make(tiny, views=view), image(), masks)[0] for view in ("masked", "unmasked", "both")}
    assert torch.allclose(found["both"], (found["masked"] + found["unmasked"]) / 2, atol=1e-6)
    assert torch.allclose(found["unmasked"], classified(make(tiny, fill="keep"), image(), masks)[0], atol=1e-6)
    assert not torch.allclose(found["masked"], found["unmasked"], atol=1e-2)


@pytest.mark.parametrize("options", [{}, {"fill": "blur", "expand": 1.3}, {"square": True, "views": "both"}])
def test_batches_of_crops_equal_single_crops(tiny: Backbone, options: dict[str, Any]) -> None:
    masks = blobs(7) > 0.5
    found, valid = classified(make(tiny, crop_batch=64, **options), image(), masks)
    single, _ = classified(make(tiny, crop_batch=1, **options), image(), masks)
    assert found.shape == (7, 4) and valid.all()
    assert torch.allclose(found, single, rtol=1e-4, atol=1e-6)
    assert torch.allclose(found.sum(dim=1), torch.ones(7), atol=1e-5)


# ---- proposals


def test_number_and_order_of_proposals(tiny: Backbone) -> None:
    picture = image()
    for count in (0, 1, 300):
        masks = blobs(count, seed=count)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(2))
        found = labels(make(tiny, Given(masks)), picture)
        other = labels(make(tiny, Given(masks[order])), picture)
        assert found.shape == SIZE
        assert (found != other).float().mean() < 1e-3, "sums in another order round differently, no more"
    # nothing but the whole image
    field = make(tiny, Given(torch.zeros(0, *SIZE))).segment(picture)
    assert field.scores.shape == (1, 1, *SIZE) and (field.scores == 1).all()
    assert field.mixing is not None and float(field.mixing.sum()) == pytest.approx(1e-3, rel=1e-4)


def test_partitions_give_each_segment_its_best_query(tiny: Backbone) -> None:
    owner = torch.arange(SIZE[0] * SIZE[1]).view(SIZE) // 700
    masks = owner == torch.arange(8)[:, None, None]
    method = make(tiny, Given(masks), names=["grass", "sky", "water", "brick"])
    field = method.segment(image())
    assert field.scores.shape[1] == 8, "everything is covered: no whole image"
    phat, _ = classified(method, image(), masks)
    assert torch.equal(labels(method, image()), phat.argmax(dim=1)[owner].to(torch.uint8).to(labels(method, image())))


def test_whole_image_decides_only_where_nothing_else_does(tiny: Backbone) -> None:
    masks = torch.zeros(2, *SIZE)
    masks[0, 10:30, 10:40] = masks[1, 20:50, 30:80] = 1
    method = make(tiny, Given(masks), names=["grass", "sky", "water", "brick"])
    field = method.segment(image()).dense()
    phat, _ = classified(method, image(), torch.cat([masks > 0, torch.ones(1, *SIZE, dtype=torch.bool)]))
    assert torch.allclose(field.scores[0, :, 0, 0], 1e-3 * phat[2], rtol=1e-4)
    assert torch.allclose(field.scores[0, :, 25, 35], phat[0] + phat[1] + 1e-3 * phat[2], rtol=1e-4)


def test_equal_masks_are_classified_once(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = blobs(3) > 0.5
    many = masks[[0, 1, 0, 2, 1, 0]]
    method = make(tiny)
    seen: list[int] = []
    encode = OVSegTF.encode_crops

    def counted(self: OVSegTF, crops: Tensor) -> Tensor:
        seen.append(len(crops))
        return encode(self, crops)

    monkeypatch.setattr(OVSegTF, "encode_crops", counted)
    found, _ = classified(method, image(), many)
    assert sum(seen) == 3
    assert torch.equal(found, classified(method, image(), masks)[0][[0, 1, 0, 2, 1, 0]])


def test_windows_of_the_protocol_change_nothing(tiny: Backbone) -> None:
    method = make(tiny)
    whole, cut = method.segment(image()), method.segment(image(), WindowGeometry(32, 16))
    assert torch.equal(whole.scores, cut.scores) and whole.boxes == cut.boxes == ((0, 0, *SIZE),)
    with pytest.raises(ValueError, match="a picture is"):
        method.segment(image().float())


# ---- the fast path


def test_fast_path_with_full_masks_is_the_whole_image(tiny: Backbone) -> None:
    """At the size that the tower was trained for, one region over everything is CLIP's own class token."""
    picture = image(96, 96)
    method = make(tiny, fast="F2")
    found, _ = classified(method, picture, torch.ones(1, 96, 96, dtype=torch.bool))
    exact, _ = classified(make(tiny), picture, torch.ones(1, 96, 96, dtype=torch.bool))
    assert torch.allclose(found, exact, rtol=1e-3, atol=1e-5)
    masks = blobs(6, 96, 96) > 0.5
    found, exact = classified(method, picture, masks)[0], classified(make(tiny), picture, masks)[0]
    assert not torch.allclose(found, exact, atol=1e-2), "regions of the whole image are not crops"


def test_fast_path_is_labelled(tiny: Backbone) -> None:
    method = make(tiny, fast="F2")
    assert "approximation F2" in method.method.note and method.method.provenance["fast"] == "F2"
    assert "approximation" not in make(tiny).method.note and make(tiny).method.provenance["fast"] == ""
    assert method.segment(image(50, 77)).scores.shape[2:] == (50, 77)


def test_fast_path_makes_large_images_smaller(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the side that the tower was trained for, 192 px here, and whole patches; small images stay."""
    seen: list[tuple[int, ...]] = []

    def looked(_weights: object, pixels: Tensor, patches: Tensor, _depth: int) -> Tensor:
        seen.append((*pixels.shape[2:], patches.shape[1]))
        return torch.ones(len(patches), 128)

    monkeypatch.setattr("ovss.methods.ovseg_tf.region_features", looked)
    method = make(tiny, fast="F2")
    for size in ((384, 800), (61, 90)):
        classified(method, image(*size), torch.ones(1, *size, dtype=torch.bool))
    assert seen == [(192, 400, 24 * 50), (64, 88, 8 * 11)]


# ---- contract and options


@pytest.mark.parametrize(
    "options",
    [
        {"scale": 2000.0, "min_size": 2000.0},
        {"proposer": "clip-clusters", "segments": 2, "side_px": 32},
        {"fast": "F2", "scale": 2000, "min_size": 2000},
    ],
)
def test_conformity(tiny: Backbone, options: dict[str, Any]) -> None:
    outcomes = list(check_method(lambda: create_method("ovseg-tf", tiny, **options)))
    assert len(outcomes) > 8
    assert not [(one.name, one.detail) for one in outcomes if not one.passed]


def test_backgrounds(tiny: Backbone) -> None:
    """With texts it is a class like any; without, it wins where no score reaches the threshold."""
    texts = [[], ["grass"], ["sky"], ["water"]]
    names = ["background", "grass", "sky", "water"]
    bare = Vocabulary.from_texts(texts, names, ["a {}"], background=0)
    full = Vocabulary.from_texts([["thing"], *texts[1:]], names, ["a {}"], background=0)
    masks = torch.zeros(1, *SIZE)
    masks[0, :, :45] = 1
    method = make(tiny, Given(masks)).method
    field = method.segment(image(), bare)
    assert field.query_to_class == (1, 2, 3)
    rule = DecodeRule(probability_threshold=0.1, background=0, activation="none")
    found = decode(field, SIZE, rule)
    assert (found[:, 60:] == 0).all(), "the whole image's 1e-3 stays below the threshold"
    assert (found[:, :30] > 0).all()
    assert method.segment(image(), full).query_to_class == (0, 1, 2, 3)


def test_what_is_said_about_it(tiny: Backbone) -> None:
    method = make(tiny).method
    assert method.info.name == "ovseg-tf" and make(tiny).segment(image()).activated
    assert method.described.published is None and method.described.training_free
    assert method.provenance["proposer"]["name"] == "felzenszwalb"
    assert method.provenance["proposer"]["supervision"] == "none" and "not training-free" not in method.note
    trained = Given(blobs(2))
    trained.supervision = "masks of COCO"
    method = make(tiny, trained).method
    assert "not training-free: proposer trained with masks of COCO" in method.note
    assert not method.described.training_free and "masks of COCO" in method.described.trained_on
    assert len(load_templates("vild14")) == 14, "the released text side, for protocols that want it"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fill": "black"}, "option fill is 'black': allowed is mean, blur or keep (outside the mask"),
        ({"views": "all"}, "option views is 'all': allowed is masked, unmasked or both"),
        ({"fast": "F9"}, "option fast is 'F9': allowed is \"\" or F2"),
        ({"fast": "F2", "square": True}, "fast=F2 makes no crops"),
        ({"mask_threshold": 1.5}, "option mask_threshold is 1.5: allowed is a number from 0 to 1"),
        ({"ensemble_weight": -1.0}, "option ensemble_weight is -1.0: allowed is a number from 0 to 1"),
        ({"crop_batch": -1}, "option crop_batch is -1: allowed is a whole number from 0 to 4096"),
        ({"crop_px": -1}, "option crop_px is -1: allowed is a whole number from 0 to 4096"),
        ({"fast_depth": -1}, "option fast_depth is -1: allowed is a whole number from 0"),
        ({"proposer": "nothing"}, "option proposer is 'nothing': allowed is felzenszwalb, slic, "),
        ({"sclae": 3}, "neither the method nor its proposer 'felzenszwalb' has an option 'sclae'; did you mean scale?"),
        ({"mask_treshold": 0.3}, "has an option 'mask_treshold'; did you mean mask_threshold?"),
        ({"proposer": "slic", "scale": 3.0}, "neither the method nor its proposer 'slic' has an option 'scale'"),
        (
            {"proposer": "slic", "segments": 0},
            "proposer 'slic': option segments is 0: allowed is a whole number from 1",
        ),
    ],
)
def test_wrong_options(tiny: Backbone, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str) -> None:
    """Refused before the proposer is made, and by the check that loads nothing."""
    monkeypatch.setattr("ovss.methods.proposals.for_methods.load_proposer", None)
    for refuse in (lambda: create_method("ovseg-tf", tiny, **options), lambda: check_options(OVSegTF, options)):
        with pytest.raises(UserError, match=re.escape("method 'ovseg-tf': ") + ".*" + re.escape(message)):
            refuse()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_px": 3}, "crop_px is 3; the image tower has patches of 8 px"),
        ({"fast_depth": 99}, "fast_depth is 99; the image tower has 6 blocks"),
        ({"proposer": Given(blobs(2)), "scale": 2.0}, "a loaded proposer has its options: leave out scale"),
    ],
)
def test_options_that_do_not_fit_the_parts(tiny: Backbone, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_method("ovseg-tf", tiny, **options)


def test_options_of_the_proposer_stand_once_in_the_provenance(tiny: Backbone) -> None:
    """An option that is named with its default is the default."""
    told = [create_method("ovseg-tf", tiny, **options).provenance for options in ({}, {"scale": 224.0}, {"scale": 9.0})]
    assert told[0] == told[1] and "scale" not in told[0]
    assert told[2]["proposer"]["scale"] == 9 and told[2] == {**told[0], "proposer": told[2]["proposer"]}


# ---- what is shared


@torch.inference_mode()
def test_two_vocabularies_encode_crops_once(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    method = create_method("ovseg-tf", tiny, scale=2000.0, min_size=2000.0)
    vocabularies = [Vocabulary.from_names(names, templates=["a {}"]) for names in (NAMES, ["grass", "water"])]
    alone = [method.segment(image(), vocabulary) for vocabulary in vocabularies]
    calls: list[int] = []
    encode = OVSegTF.encode_crops
    monkeypatch.setattr(OVSegTF, "encode_crops", lambda self, crops: calls.append(1) or encode(self, crops))
    seen = method.encode_image(Picture.of(image()), WindowGeometry())
    count = len(calls)
    assert count > 0
    for vocabulary, wanted in zip(vocabularies, alone, strict=True):
        found = method.score(seen, method.encode_text(vocabulary))
        assert torch.equal(found.scores, wanted.scores) and torch.equal(found.mixing, wanted.mixing)
    assert len(calls) == count


@torch.inference_mode()
def test_two_methods_with_one_proposer_run_it_once(
    tiny: Backbone, large: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    run = Felzenszwalb.propose
    monkeypatch.setattr(Felzenszwalb, "propose", lambda self, picture: calls.append(1) or run(self, picture))
    picture = Picture.of(image())
    for backbone, options in ((tiny, {}), (tiny, {"views": "both"}), (large, {"fast": "F2"})):
        create_method("ovseg-tf", backbone, scale=2000.0, **options).encode_image(picture, WindowGeometry())
    assert len(calls) == 1
    create_method("ovseg-tf", tiny, scale=1000.0).encode_image(picture, WindowGeometry())
    assert len(calls) == 2
