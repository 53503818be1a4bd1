"""TCL against its formulas in float64, its checkpoint, and the rules around it."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.harness.decoding.decode import decode
from ovss.harness.decoding.rule import DecodeRule
from ovss.harness.runs.conformity import check_method
from ovss.methods import UserError, Vocabulary, WindowGeometry
from ovss.methods.blocks.dense_clip import DenseClipOptions
from ovss.methods.core.picture import Picture
from ovss.methods.maskclip import MaskCLIP
from ovss.methods.models.checkpoints import file_sha256
from ovss.methods.models.tcl_checkpoint import TclModel, TclSizes, load_tcl
from ovss.methods.models.text import encode_queries
from ovss.methods.registry import check_options
from ovss.methods.tcl import TCL, TCLOptions

from .tcl_parts import (
    DECODER,
    DILATIONS,
    SMALL,
    State,
    plain_decoder,
    plain_masks,
    plain_pixels,
    plain_text,
    plain_trunk,
    random_state,
    random_tcl,
    tcl_of,
)
from .with_words import WithWords

NAMES = ["cat", "sofa", "sky", "a red car", "window"]
TEMPLATES = ["a photo of many {}.", "art of the {}."]
TOLERANCE = {True: 3e-5, False: 5e-6}  # of values in [0, 1], with and without PAMR, whose exponents are large
BLOCK = "masker.image_encoder.backbone.transformer.resblocks.1"


pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def state() -> State:
    return random_state()


@pytest.fixture(scope="module")
def model() -> TclModel:
    return random_tcl()


def photo(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    blocks = F.interpolate(torch.rand(1, 3, 5, 7, generator=generator), (height, width), mode="nearest")[0]
    return (30 + blocks * 180 + 12 * torch.randn(3, height, width, generator=generator)).clamp(0, 255).to(torch.uint8)


def made(model: TclModel, **options: float) -> TCL:
    return TCL(TCLOptions(**options), weights=model)  # type: ignore[arg-type]  # options of several types


def encoded(model: TclModel, names: list[str] = NAMES, templates: list[str] = TEMPLATES, **options: float) -> WithWords:
    return WithWords.of(made(model, **options), Vocabulary.from_names(names, templates=templates))


def doubles(state: State) -> State:
    return {name: tensor.double() for name, tensor in state.items()}


def plain_queries(state: State, sizes: TclSizes) -> Tensor:
    """Mean first, length after: the features of a text's prompts count by their length."""
    prompts = [template.format(name) for name in NAMES for template in TEMPLATES]
    return F.normalize(plain_text(state, sizes, prompts).unflatten(0, (len(NAMES), -1)).mean(dim=1), dim=1)


# --- the formulas ---------------------------------------------------------------------------------------------------


def test_equals_the_formulas_at_full_size() -> None:
    """Padded on all sides: 75 x 58 px become 5 x 4 patches.  Only the text tower is cut, as other tests cover it."""
    sizes, image = TclSizes(text_layers=2, text_width=128), photo(75, 58)
    state = random_state(sizes)
    parts, exact = tcl_of(state, sizes), doubles(state)
    state, queries = exact, plain_queries(exact, sizes)
    for pamr in (True, False):
        method = encoded(parts, pamr=pamr)
        assert (method.text - queries).abs().max() <= 1e-6
        scores, reference = method.score_windows(image[None])[0], plain_masks(state, sizes, image, queries, pamr)
        assert scores.shape == (5, 20, 16) and scores.dtype == torch.float32
        assert (scores - reference).abs().max() <= TOLERANCE[pamr]
        assert reference.max() - reference.min() > 0.2


@pytest.mark.parametrize("size", [(96, 80), (33, 70)])
@pytest.mark.parametrize("options", [{}, {"pamr": False}, {"mix": 0.0}, {"mix": 1.0}])
def test_equals_the_formulas(state: State, model: TclModel, size: tuple[int, int], options: dict[str, float]) -> None:
    image, exact = photo(*size), doubles(state)
    method = encoded(model, **options)
    reference = plain_masks(exact, SMALL, image, plain_queries(exact, SMALL), **options)  # type: ignore[arg-type]
    assert (method.score_windows(image[None])[0] - reference).abs().max() <= TOLERANCE[method.options.pamr]


def test_every_part_counts(state: State, model: TclModel) -> None:
    """Otherwise the comparisons above would be blind to it."""
    image = photo(96, 80)
    scores = encoded(model).score_windows(image[None])
    for options in ({"pamr": False}, {"pamr_steps": 9}, {"mix": 0.2}):
        assert (encoded(model, **options).score_windows(image[None]) - scores).abs().max() > 1e-3, options
    for name in (f"{BLOCK}.ln_1.bias", f"{DECODER}.decoder.net.1.conv2.conv.bias", f"{DECODER}.image_proj.ln.weight"):
        other = tcl_of({**state, name: state[name] + 0.3 * torch.randn_like(state[name])}, SMALL)
        assert (encoded(other).score_windows(image[None]) - scores).abs().max() > 1e-3, name


def test_mean_of_texts_is_taken_before_their_length(model: TclModel) -> None:
    method = encoded(model)
    other = encode_queries(method.backbone, method.words.vocabulary, method.device)
    assert (method.text - other).abs().max() > 1e-4
    assert torch.allclose(method.text.norm(dim=1), torch.ones(len(NAMES)))


def test_gates_at_zero_only_enlarge(state: State) -> None:
    closed = {name: tensor * 0 if name.endswith("gate.gate") else tensor for name, tensor in state.items()}
    masks = encoded(tcl_of(closed, SMALL), pamr=False, mix=0.0).score_windows(photo(48, 64)[None])[0]
    cells = masks[:, ::4, ::4]
    assert cells.shape == (5, 3, 4)
    assert torch.equal(masks, cells.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2))
    assert len(cells[0].unique()) == 12


def test_decoder_equals_the_formulas(state: State, model: TclModel) -> None:
    maps = torch.randn(1, SMALL.width, 5, 3, generator=torch.Generator().manual_seed(1))
    pixels = plain_decoder(doubles(state), maps.double()).flatten(0, 1)
    assert (model.masker(torch.device("cpu"), torch.float32).embed(maps) - pixels).abs().max() <= 1e-6


def test_pamr_of_a_flat_image_is_the_mean_of_the_neighbours(model: TclModel) -> None:
    flat = torch.full((1, 3, 48, 64), 90, dtype=torch.uint8)
    before = encoded(model, pamr=False, mix=0.0).score_windows(flat)[0]
    after = encoded(model, pamr_steps=1, mix=0.0).score_windows(flat)[0]
    mean = torch.zeros_like(before)
    rows, columns = torch.arange(before.shape[1]), torch.arange(before.shape[2])
    for d in DILATIONS:
        for y, x in ((y, x) for y in (-d, 0, d) for x in (-d, 0, d) if (y, x) != (0, 0)):
            there = (rows + y).clamp(0, len(rows) - 1), (columns + x).clamp(0, len(columns) - 1)
            mean += before[:, there[0]][:, :, there[1]] / 48
    assert (after - mean).abs().max() <= 1e-6
    assert (after - before).abs().max() > 1e-3


def test_frozen_branch_is_maskclip(model: TclModel) -> None:
    """With one template, where the two means of texts agree."""
    image, template = photo(48, 64)[None], ["a photo of a {}."]
    maskclip = WithWords.of(
        MaskCLIP(model.clip, DenseClipOptions(pad=True, positions="size")),
        Vocabulary.from_names(NAMES, templates=template),
    )
    masks = (10 * (maskclip.score_windows(image) - 0.25)).sigmoid()
    masks = F.interpolate(masks, scale_factor=4, mode="bilinear", align_corners=False)
    assert (encoded(model, templates=template, mix=1.0).score_windows(image) - masks).abs().max() <= 1e-6


def test_padding_is_on_all_sides_and_colourless(model: TclModel) -> None:
    method, image = TCL(weights=model), photo(75, 58)
    cover = method.cover(75, 58)
    assert (cover.top, cover.left, cover.bottom, cover.right) == (-2, -3, 78, 61)
    pixels = method.normalised(image[None])
    assert pixels.shape == (1, 3, 80, 64) and pixels[:, :, :2].abs().max() == 0
    assert (pixels - plain_pixels(image)).abs().max() <= 1e-6
    assert method.options.positions == "size"
    tokens, grid = plain_trunk(doubles(random_state()), SMALL, plain_pixels(image))
    assert grid == (5, 4) and len(tokens) == 21


# --- many texts, several vocabularies, the background ---------------------------------------------------------------


def test_chunks_of_texts_do_not_show(model: TclModel) -> None:
    names = [f"thing {k}" for k in range(131)]
    image = photo(48, 64)[None]
    together = encoded(model, names).score_windows(image)
    for first in (0, 60, 128):
        alone = encoded(model, names[first : first + 3]).score_windows(image)
        assert (together[:, first : first + 3] - alone).abs().max() <= 1e-6


def test_vocabularies_share_the_embedding(model: TclModel, monkeypatch: pytest.MonkeyPatch) -> None:
    method, image, geometry = made(model), photo(64, 96), WindowGeometry(64, 32)
    vocabularies = [Vocabulary.from_names(names, templates=TEMPLATES) for names in (NAMES, ["tree", "road"])]
    alone = [method.segment(image, vocabulary, geometry).scores for vocabulary in vocabularies]
    calls: list[int] = []
    embed = type(method.masker).embed
    monkeypatch.setattr(type(method.masker), "embed", lambda *a: (calls.append(1), embed(*a))[1])
    seen = method.encode_image(Picture.of(image), geometry)
    together = [method.score(seen, method.encode_text(vocabulary)) for vocabulary in vocabularies]
    assert len(calls) == len(together[0].boxes) == 2
    assert all(torch.equal(field.scores, scores) for field, scores in zip(together, alone, strict=True))


def test_constant_background_channel_is_a_threshold(model: TclModel) -> None:
    """Averaging windows and resizing leave a constant as it is, so that a plane for it is not needed."""
    method, image = TCL(weights=model), photo(64, 96)
    texts = [[], *([name] for name in NAMES)]
    vocabulary = Vocabulary.from_texts(texts, ["background", *NAMES], TEMPLATES, background=0)
    field = method.segment(image, vocabulary, WindowGeometry(64, 32))
    assert field.activated
    threshold = float(field.scores.amax(dim=1).median())
    rule = DecodeRule(probability_threshold=threshold, background=0, activation="none")
    labels = decode(field, (64, 96), rule)
    total, count = torch.zeros(1 + len(NAMES), 64, 96), torch.zeros(64, 96)
    for scores, box in zip(field.scores, field.boxes, strict=True):
        here = slice(box.top, box.bottom), slice(box.left, box.right)
        channel = torch.full((1, *scores.shape[1:]), threshold)
        planes = torch.cat([channel, scores])[None]
        total[(slice(None), *here)] += F.interpolate(planes, (64, 64), mode="bilinear", align_corners=False)[0]
        count[here] += 1
    plain = (total / count).argmax(dim=0)
    assert 0.2 < (plain == 0).float().mean() < 0.8
    assert (labels != plain).float().mean() <= 0.001  # ties within rounding


# --- checkpoint -----------------------------------------------------------------------------------------------------


def unused() -> State:
    names = ("clip_text_encoder.logit_scale", "clip_image_encoder.logit_scale", "pamr.aff_x.kernel")
    return {name: torch.ones(1) for name in names}


@pytest.mark.parametrize("nest", ["model", "state_dict", None])
def test_a_file_gives_the_same_masks(state: State, model: TclModel, tmp_path: Path, nest: str | None) -> None:
    tensors = {f"module.{name}": tensor for name, tensor in {**state, **unused()}.items()}
    tensors["module.masker.sim2mask.w"] = tensors["module.masker.sim2mask.w"].view(1)
    torch.save({nest: tensors, "epoch": 3} if nest else tensors, tmp_path / "tcl.pth")
    loaded = load_tcl(tmp_path / "tcl.pth", SMALL)
    image = photo(48, 64)[None]
    assert torch.equal(encoded(loaded).score_windows(image), encoded(model).score_windows(image))
    provenance = TCL(weights=loaded).provenance
    assert provenance["weights"]["source"] == "file tcl.pth"
    assert provenance["weights"]["sha256"] == f"file:{file_sha256(tmp_path / 'tcl.pth')}"
    assert provenance["weights"]["activation"] == "quick_gelu"


def test_convolutions_without_a_bias(tmp_path: Path) -> None:
    state = random_state(conv_bias=False)
    torch.save(state, tmp_path / "tcl.pth")
    image, exact = photo(48, 64), doubles(state)
    scores = encoded(load_tcl(tmp_path / "tcl.pth", SMALL)).score_windows(image[None])[0]
    assert (scores - plain_masks(exact, SMALL, image, plain_queries(exact, SMALL))).abs().max() <= TOLERANCE[True]


@pytest.mark.parametrize("name", [f"{BLOCK}.mlp.c_fc.bias", f"{DECODER}.decoder.net.0.conv2.gate.gate"])
def test_wrong_keys_are_named(state: State, tmp_path: Path, name: str) -> None:
    path = tmp_path / "tcl.pth"
    torch.save({k: v for k, v in state.items() if k != name}, path)
    with pytest.raises(UserError, match=rf"tcl\.pth does not fit the model: missing {name}$"):
        load_tcl(path, SMALL)
    torch.save({**state, name + "2": state[name]}, path)
    with pytest.raises(UserError, match=f"not in the model: {name}2$"):
        load_tcl(path, SMALL)
    torch.save({**state, name: torch.ones(7, 2)}, path)
    with pytest.raises(UserError, match=rf"{name} has shape \(7, 2\), the model "):
        load_tcl(path, SMALL)


@pytest.mark.parametrize("name", [f"{DECODER}.decoder.net.1.conv.conv.bias", "clip_image_encoder.clip_proj.proj"])
def test_missing_keys_of_other_parts_are_named(state: State, tmp_path: Path, name: str) -> None:
    torch.save({k: v for k, v in state.items() if k != name}, tmp_path / "tcl.pth")
    with pytest.raises(UserError, match=f"missing {name}$"):
        load_tcl(tmp_path / "tcl.pth", SMALL)


def test_absent_weights_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bench weights fetch tcl"):
        TCL()
    torch.save({"epoch": torch.ones(1)}, tmp_path / "tcl.pth")
    with pytest.raises(UserError, match=r"(?s)does not fit the model.*bench weights fetch tcl"):
        TCL(weights=tmp_path)


# --- contract -------------------------------------------------------------------------------------------------------


def test_conformity(model: TclModel) -> None:
    failed = [f"{c.name}: {c.detail}" for c in check_method(lambda: TCL(weights=model)) if not c.passed]
    assert not failed


def test_half_precision_is_near(model: TclModel) -> None:
    image = photo(48, 64)[None]
    method = TCL(weights=model, dtype=torch.bfloat16)
    scores = WithWords.of(method, Vocabulary.from_names(NAMES, templates=TEMPLATES)).score_windows(image)
    assert scores.dtype == torch.float32
    assert 0 < (scores - encoded(model).score_windows(image)).abs().max() < 0.1


def test_options(model: TclModel) -> None:
    for options in ({"mix": 1.5}, {"pamr_steps": -1}):
        with pytest.raises(UserError, match=f"method 'tcl': option {next(iter(options))}"):
            check_options(TCL, options)
    assert TCL(weights=model).described.published == "TCL (PAMR)"
    assert made(model, pamr=False).described.published == "TCL"
    assert made(model, mix=0.5).described.published is None
    assert TCL(weights=model).activated and not TCL.info.training_free
