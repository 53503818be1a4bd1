"""FLOSS against outputs of the original program (tests/data/oracles), and files of experts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ovss.harness.decoding.decode import decode, decode_reference
from ovss.harness.decoding.rule import DecodeRule
from ovss.methods import Backbone, UserError, Vocabulary, create_method, load_backbone
from ovss.methods.blocks.clip_method import ClipWords
from ovss.methods.blocks.experts import choose, read_experts
from ovss.methods.floss import BASES, FLOSS, FLOSSOptions

from ..agreement import assert_same_labels
from .floss_parts import GEOMETRY, SIZES, TEMPLATES, VOCABULARY, experts_of, make_floss, picture_of
from .oracle_parts import TOLERANCE, error, load_oracle

pytestmark = pytest.mark.usefixtures("no_gradients")
AS_THEY_ARE = DecodeRule(activation="none")


@pytest.fixture(scope="module")
def oracle() -> dict[str, Tensor]:
    return load_oracle("floss")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("tiny-clip")


def stitched(method: FLOSS, name: str, step: int = 2) -> Tensor:
    """Mean over windows of the fused probabilities, ``(1, Q, H / step, W / step)``."""
    field = method.score(method.encode_image(picture_of(name), GEOMETRY), method.encode_text(VOCABULARY))
    assert field.activated and field.boxes == field.covers
    total, visits = torch.zeros(1, 5, *field.frame), torch.zeros(field.frame)
    for scores, box in zip(field.scores, field.boxes, strict=True):
        total[0, :, box.top : box.bottom, box.left : box.right] += scores
        visits[box.top : box.bottom, box.left : box.right] += 1
    return (total / visits)[:, :, ::step, ::step]


@pytest.mark.parametrize(("base", "vectors"), [("naclip", "naclip"), ("maskclip", "maskclip")])
def test_texts_of_experts(
    oracle: dict[str, Tensor], backbone: Backbone, monkeypatch: pytest.MonkeyPatch, base: str, vectors: str
) -> None:
    words = make_floss(backbone, oracle, monkeypatch, base=base).encode_text(VOCABULARY)
    wanted = oracle[f"expert_text_{vectors}"]
    assert error(words.experts, wanted[:-1]) <= TOLERANCE
    assert error(words.text, wanted[-1]) <= TOLERANCE
    other = make_floss(backbone, oracle, monkeypatch, base=base, unit_texts=base == "maskclip")
    assert error(other.encode_text(VOCABULARY).experts, wanted[:-1]) > 0.1


@pytest.mark.parametrize("name", SIZES)
def test_fused_probabilities_and_labels(
    oracle: dict[str, Tensor], backbone: Backbone, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    method = make_floss(backbone, oracle, monkeypatch)
    assert error(stitched(method, name), oracle[f"{name}.fused_stitched"]) <= TOLERANCE
    field = method.score(method.encode_image(picture_of(name), GEOMETRY), method.encode_text(VOCABULARY))
    size, wanted = SIZES[name][1], oracle[f"{name}.labels"]
    assert decode_reference(field, size, AS_THEY_ARE).equal(wanted)
    full = torch.nn.functional.interpolate(stitched(method, name, 1), size, mode="bilinear", align_corners=False)[0]
    assert_same_labels(decode(field, size, AS_THEY_ARE), wanted, full, VOCABULARY.query_to_class)


@pytest.mark.parametrize("name", SIZES)
def test_probabilities_of_every_expert_over_maskclip(
    oracle: dict[str, Tensor], backbone: Backbone, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    method = make_floss(backbone, oracle, monkeypatch, base="maskclip", fusion="patches")
    words, seen = method.encode_text(VOCABULARY), method.encode_image(picture_of(name), GEOMETRY).batches[0]
    first = replace(seen.patches, features=seen.patches.features[:1])
    texts = [*words.experts, words.text]
    found = torch.stack([method._probabilities(first, seen.size, ClipWords(VOCABULARY, t)) for t in texts])
    assert error(found, oracle[f"{name}.maskclip_probs_window0"]) <= TOLERANCE


@pytest.mark.parametrize("wrong", ["experts of other classes", "softmax after the resize", "no experts", "cooler"])
def test_misreadings_are_noticed(
    oracle: dict[str, Tensor], backbone: Backbone, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    method = make_floss(backbone, oracle, monkeypatch, logit_scale=40.0 if wrong == "cooler" else 100.0)
    if wrong == "experts of other classes":
        shifted = experts_of(oracle, chosen=tuple(tuple(r) for r in oracle["experts"].roll(1, 0).tolist()))
        method = FLOSS(backbone, FLOSSOptions(), experts=shifted)
    if wrong == "no experts":
        method = FLOSS(backbone, FLOSSOptions(), experts=experts_of(oracle, chosen=((),) * 5))
    if wrong == "softmax after the resize":

        def late(seen: object, size: tuple[int, int], words: ClipWords) -> Tensor:
            scores = method.base.score_windows(seen, words)  # type: ignore[arg-type]
            full = torch.nn.functional.interpolate(scores, size, mode="bilinear", align_corners=False)
            return (100 * full[0]).softmax(dim=0)

        monkeypatch.setattr(method, "_probabilities", late)
    assert error(stitched(method, "img0"), oracle["img0.fused_stitched"]) > 100 * TOLERANCE


def test_rule_by_hand(oracle: dict[str, Tensor], backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three pixels: nobody speaks, one does, two do and the surer one wins."""
    method = make_floss(backbone, oracle, monkeypatch, fusion="patches")
    tables = iter(
        torch.tensor(table).T[:, None]
        for table in (
            [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]],  # of all templates
            [[0.3, 0.7], [0.9, 0.1], [0.6, 0.4]],  # of the first query
            [[0.8, 0.2], [0.7, 0.3], [0.1, 0.9]],  # of the second
        )
    )
    monkeypatch.setattr(method, "_probabilities", lambda *_: next(tables))
    words = replace(method.encode_text(VOCABULARY), experts=torch.zeros(2, 2, 32))
    fused = method._fused(None, (1, 3), words)  # type: ignore[arg-type]
    assert torch.allclose(fused[:, 0].T, torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.1, 0.9]]))


def test_every_query_has_the_templates_of_its_class(
    oracle: dict[str, Tensor], backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = make_floss(backbone, oracle, monkeypatch)
    asked = experts_of(
        oracle, classes=("a", "b"), chosen=((3,), ()), entropy=((0.1,) * 12,) * 2, pixels=((1,) * 12,) * 2
    )
    method = FLOSS(backbone, FLOSSOptions(), experts=asked)
    two = Vocabulary.from_texts([["x", "y"], ["z"]], ["a", "b"], TEMPLATES)
    words = method.encode_text(two)
    assert words.experts.shape[0] == 3 and words.experts[0].equal(words.experts[1])
    first = torch.nn.functional.normalize(oracle["text_raw"][3], dim=-1)
    assert torch.allclose(words.experts[0], first, atol=1e-6)  # tables have five texts whatever is asked
    ranked = torch.nn.functional.normalize(oracle["text_raw"][:12], dim=-1).mean(dim=0)
    assert torch.allclose(words.experts[2], torch.nn.functional.normalize(ranked, dim=-1), atol=1e-6)


@pytest.mark.parametrize("base", BASES)
def test_over_every_base(backbone: Backbone, base: str) -> None:
    """Real features and texts: probabilities of the window's size, and the base's own where all experts are equal."""
    vocabulary = Vocabulary.from_names(["car", "tree"], templates=("a {}", "the {}"))
    same = {"classes": ("car", "tree"), "templates": ("a {}", "the {}"), "chosen": ((), ()), "images": 1}
    same |= {"entropy": ((0.5, 0.5),) * 2, "pixels": ((1, 1),) * 2}
    experts = experts_of(load_oracle("floss"), **same)
    method = create_method("floss", backbone, base=base, experts=experts, unit_texts=True)
    image = torch.randint(0, 256, (3, 48, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = method.segment(image, vocabulary, GEOMETRY).scores
    assert found.shape[1:] == (2, 48, 64) and torch.allclose(found.sum(dim=1), torch.ones(()), atol=1e-5)
    plain = create_method(base, backbone).segment(image, vocabulary, GEOMETRY).scores
    wanted = torch.nn.functional.interpolate((100 * plain).softmax(dim=1), (48, 64), mode="bilinear")
    assert torch.allclose(found, wanted, atol=1e-5)


def test_padded_windows_of_the_base(backbone: Backbone) -> None:
    """A base that pads evenly: its grid stretches beyond the window, and experts speak inside."""
    experts = experts_of(load_oracle("floss"))
    method = create_method("floss", backbone, base="maskclip", pad=True, experts=experts)
    box = method.base.cover(20, 28)  # type: ignore[attr-defined]
    assert box.top < 0 and method.cover(20, 28) == (0, 0, 20, 28)
    vocabulary = Vocabulary.from_texts(
        [["car"], ["tree"], ["sky"], ["sea"], ["dog"]], VOCABULARY.classes, TEMPLATES[:3]
    )
    image = torch.randint(0, 256, (3, 20, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert method.segment(image, vocabulary).scores.shape == (1, 5, 20, 28)


def test_what_tables_say(backbone: Backbone, oracle: dict[str, Tensor]) -> None:
    experts = experts_of(oracle)
    made = {base: create_method("floss", backbone, base=base, experts=experts) for base in BASES}
    named = {base: method.described.published for base, method in made.items()}
    assert (named["naclip"], named["maskclip"], named["sclip"]) == ("NACLIP + FLOSS", "MaskCLIP + FLOSS", None)
    assert named["clip-dinoiser"] == "CLIP-DINOiser + FLOSS"  # beside no value: its weights are not in the table
    assert made["naclip"].described.training_free and "chosen on 2 images" in made["naclip"].described.trained_on
    assert not made["clip-dinoiser"].described.training_free
    told = made["naclip"].provenance
    assert told["base"]["method"] == "naclip" and len(told["experts"]["sha256"]) == 64
    assert told["experts"]["images"] == 2 and made["naclip"].chosen_on == ("a", "b")
    changed = create_method("floss", backbone, experts=experts_of(oracle, chosen=((1,),) * 5)).provenance
    assert changed["experts"]["sha256"] != told["experts"]["sha256"]


def test_files(oracle: dict[str, Tensor], backbone: Backbone, tmp_path: Path) -> None:
    experts, path = experts_of(oracle), tmp_path / "e.json"
    path.write_bytes(experts.written())
    assert read_experts(path).experts == experts
    same = create_method("floss", backbone, experts=str(path))
    assert same.provenance == create_method("floss", backbone, experts=experts).provenance
    with pytest.raises(UserError, match=r"is for the 5 classes of made-up, from '0' to '4'.*`bench experts`"):
        same.encode_text(Vocabulary.from_names(["cat"]))
    with pytest.raises(UserError, match=r"floss needs a file of experts.*bench experts --method naclip"):
        create_method("floss", backbone)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        create_method("floss", backbone, experts=str(tmp_path / "none"))
    for text in (
        "{",
        "[]",
        '{"classes": ["a"]}',
        experts.written().decode().replace('"schema_version": 1', '"schema_version": 9'),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=r"is no file of experts.*`bench experts` makes one"):
            read_experts(path)


def test_tables_must_fit(oracle: dict[str, Tensor]) -> None:
    for wrong in ({"classes": ("a",)}, {"templates": TEMPLATES[:3]}, {"chosen": ((99,),) * 5}):
        with pytest.raises(ValueError, match="tables do not fit"):
            experts_of(oracle, **wrong)


def test_the_first_of_equal_templates_and_those_that_gave_nothing() -> None:
    assert choose(((0.2, None, 0.1, 0.1), (None,) * 4), 2) == ((2, 3), ())
    assert choose(((0.2, 0.1),), 4) == ((1, 0),)
