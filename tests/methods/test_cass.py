"""CASS against outputs of the original program (tests/data/oracles), and what belongs to it here."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ovss.harness.decoding.decode import decode
from ovss.harness.decoding.refinement import on_grid
from ovss.harness.decoding.rule import DecodeRule
from ovss.methods import Backbone, Picture, UserError, Vocabulary, WindowGeometry, Windows, create_method
from ovss.methods import cass as cass_module
from ovss.methods.blocks import head_graphs
from ovss.methods.blocks.clip_method import ClipWords
from ovss.methods.cass import CASS, CASSOptions
from ovss.methods.models import dino as dino_module
from ovss.methods.models.dino import Dino

from .models.test_dino import random_state
from .oracle_parts import TOLERANCE, error, load_oracle, oracle_backbone, oracle_dino

VOCABULARY = Vocabulary.from_texts([["a", "b", "c"], ["d"], ["e"], ["f"], ["g"], ["h"]], list("012345"), ["{}"])
CASES: dict[str, dict[str, Any]] = {
    "win0": {"overall_weight": 0.25, "image_weight": 0.1, "text_distance": 0.1},
    "win1": {"overall_weight": 0.4, "image_weight": 0.02, "text_distance": 0.1, "stretch": False},
    "img0": {"overall_weight": 0.3, "image_weight": 0.05, "text_distance": 0.06},
}

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def oracle() -> dict[str, Tensor]:
    return load_oracle("cass")


@pytest.fixture(scope="module")
def backbone(oracle: dict[str, Tensor]) -> Backbone:
    return oracle_backbone(oracle, 2)


@pytest.fixture(scope="module")
def dino(oracle: dict[str, Tensor]) -> Dino:
    return oracle_dino(oracle)


@pytest.fixture
def drawn(oracle: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """The random matrices that the original program drew, another for each window and head."""
    given = (oracle[f"{case}.randn_f64"].double() for case in CASES)
    by_patches = {matrices.shape[1]: matrices.unflatten(0, (-1, 3)) for matrices in given}
    monkeypatch.setattr(cass_module, "start_matrix", lambda patches, seed: by_patches[patches])


def make(backbone: Backbone, dino: Dino, case: str, dtype: torch.dtype = torch.float32, **options: Any) -> CASS:
    return CASS(backbone, CASSOptions(**{**CASES[case], **options}), dtype=dtype, dino=dino)


def picture_of(oracle: dict[str, Tensor], case: str) -> Picture:
    return Picture.of(oracle[f"{case}.image_u8"].permute(2, 0, 1))


def scores(method: CASS, oracle: dict[str, Tensor], case: str) -> Tensor:
    seen = method.encode_image(picture_of(oracle, case), WindowGeometry())
    return method.score(seen, method.grouped(ClipWords(VOCABULARY, oracle["text"]))).scores[0]


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("case", ["win0", "win1"])
def test_a_window(oracle: dict[str, Tensor], backbone: Backbone, dino: Dino, case: str) -> None:
    method, windows = make(backbone, dino, case), Windows.of(picture_of(oracle, case).pixels[None])
    seen = method.encode_windows(windows)
    assert error(seen.features[0].flatten(0, 1), oracle[f"{case}.feat"]) <= TOLERANCE
    assert error((seen.overall @ oracle["text"].T)[0], oracle[f"{case}.global_scores"]) <= TOLERANCE
    words = method.grouped(ClipWords(VOCABULARY, oracle["text"]))
    assert words.groups.tolist() == oracle[f"{case}.clusters"].tolist()
    assert error(scores(method, oracle, case), oracle[f"{case}.scores_grid"]) <= TOLERANCE


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("case", ["win0", "win1"])
def test_steps_within(oracle: dict[str, Tensor], backbone: Backbone, dino: Dino, case: str) -> None:
    method, windows = make(backbone, dino, case), Windows.of(picture_of(oracle, case).pixels[None])
    side = min(windows.pixels.shape[2:])
    square = cass_module._squared(cass_module.recoloured(windows.pixels, method.statistics)[0], side)
    assert torch.equal(square.permute(1, 2, 0), oracle[f"{case}.dino_image_u8"])
    _, grid = method.trunk(windows)
    keys = method.last_heads(windows)[1][:, :, 1:]
    assert error(method._graphs(windows, keys, grid)[0], oracle[f"{case}.mixed"]) <= TOLERANCE
    w = 1 - oracle[f"{case}.cost"]
    assert head_graphs.partners(w[None])[0].tolist() == oracle[f"{case}.partner"].tolist()


@pytest.mark.usefixtures("drawn")
def test_an_image_in_windows(oracle: dict[str, Tensor], backbone: Backbone, dino: Dino) -> None:
    method = make(backbone, dino, "img0")
    seen = method.encode_image(picture_of(oracle, "img0"), WindowGeometry(96, 48))
    words = method.grouped(ClipWords(VOCABULARY, oracle["text"]))
    found = method.score(seen, words)
    assert error(on_grid(found, (96, 144))[None, :, ::4, ::4], oracle["img0.stitched"]) <= TOLERANCE
    labels = decode(found, (120, 180), DecodeRule(40.0, probability_threshold=0.2, background=0))
    assert (labels != oracle["img0.labels"]).float().mean() <= 1e-3
    of_windows = make(backbone, dino, "img0", overall="window")
    other = of_windows.score(of_windows.encode_image(picture_of(oracle, "img0"), WindowGeometry(96, 48)), words)
    assert error(on_grid(other, (96, 144))[None, :, ::4, ::4], oracle["img0.stitched"]) > 20 * TOLERANCE


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize(
    "wrong",
    [
        {"stretch": False},
        {"overall_weight": 0.24},
        {"image_weight": 0.11},
        {"text_distance": 0.0},
        {"positions": "size"},
    ],
    ids=str,
)
def test_other_options_are_told_apart(
    oracle: dict[str, Tensor], backbone: Backbone, dino: Dino, wrong: dict[str, Any]
) -> None:
    assert error(scores(make(backbone, dino, "win0", **wrong), oracle, "win0"), oracle["win0.scores_grid"]) > 1e-4


def _the_other_way(w: Tensor) -> Tensor:
    return head_graphs.partners(w).argsort(dim=1)


MISREADINGS: dict[str, tuple[str, object]] = {
    "most alike": ("partners", lambda w: head_graphs.partners(-w)),
    "read from the columns": ("partners", _the_other_way),
    "no pairs": ("partners", lambda w: torch.arange(3).expand(len(w), -1)),
    "full rank": ("rough", lambda graph, start, scaled: graph.double()),
    "blue 0.225": ("_COLOUR_STD", (0.229, 0.224, 0.225)),
    "no Gaussian": ("gaussian_window", lambda h, w, sigma: torch.zeros(1 + h * w, 1 + h * w)),
    "share 9": ("SHARE", 9.0),
}


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("mistake", MISREADINGS)
def test_misreadings_are_noticed(
    oracle: dict[str, Tensor], backbone: Backbone, dino: Dino, monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    monkeypatch.setattr(cass_module, *MISREADINGS[mistake])
    found = make(backbone, dino, "win0").encode_windows(Windows.of(picture_of(oracle, "win0").pixels[None])).features
    assert error(found[0].flatten(0, 1), oracle["win0.feat"]) > 20 * TOLERANCE


def test_the_seed_and_nothing_else_draws(oracle: dict[str, Tensor], backbone: Backbone, dino: Dino) -> None:
    """A window alone and in a batch is scored alike; another seed moves scores by some percent."""
    first = scores(make(backbone, dino, "win0", overall="window"), oracle, "win0")
    method, pixels = make(backbone, dino, "win0", overall="window"), picture_of(oracle, "win0").pixels
    together = method.encode_windows(Windows.of(torch.stack([pixels.flip(2), pixels])))
    words = method.grouped(ClipWords(VOCABULARY, oracle["text"]))
    assert error(method.score_windows(together, words)[1], first) <= TOLERANCE
    assert torch.equal(scores(make(backbone, dino, "win0"), oracle, "win0"), first)
    assert 1e-4 < error(scores(make(backbone, dino, "win0", seed=1), oracle, "win0"), first) < 0.2


def test_few_patches_and_a_flat_window(backbone: Backbone, dino: Dino) -> None:
    """The original has no answer below ten patches; a flat window has keys that differ by their place alone."""
    method = make(backbone, dino, "win0")
    for size in ((16, 16), (32, 64), (40, 150)):
        image = torch.full((3, *size), 90, dtype=torch.uint8)
        image[0, :, ::3] = 200
        assert method.segment(image, VOCABULARY).scores.isfinite().all(), size
        assert method.segment(image.fill_(90), VOCABULARY).scores.isfinite().all(), size


def test_half_precision_is_near(oracle: dict[str, Tensor], backbone: Backbone, dino: Dino) -> None:
    found = scores(make(backbone, dino, "win0", dtype=torch.bfloat16), oracle, "win0")
    assert found.dtype == torch.float32
    assert error(found, scores(make(backbone, dino, "win0"), oracle, "win0")) < 0.1


def test_both_models_look_once(
    oracle: dict[str, Tensor], backbone: Backbone, dino: Dino, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, calls, qkv = picture_of(oracle, "img0"), [], Dino.qkv
    monkeypatch.setattr(dino_module.Dino, "qkv", lambda *given: (calls.append(1), qkv(*given))[1])
    for seed in (0, 1):
        make(backbone, dino, "img0", seed=seed).encode_image(picture, WindowGeometry(96, 48))
    assert calls == [1]


def test_provenance_and_mistakes(backbone: Backbone, dino: Dino) -> None:
    with pytest.raises(UserError, match="bench weights fetch dino-vitb8"):
        create_method("cass", backbone)
    with pytest.raises(UserError, match="the backbone has 3, DINO ViT-128x1/8 2"):
        CASS(backbone, dino=Dino(random_state(128, 1, 8, 4)))
    told = CASS(backbone, dino=dino).provenance
    assert (told["overall_weight"], told["stretch"], told["seed"]) == (0.25, True, 0)
    assert told["dino"]["sha256"].startswith("state:")
    assert CASS(backbone, dino=dino).sees_whole_image
