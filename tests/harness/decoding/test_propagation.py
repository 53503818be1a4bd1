"""PEARL's propagation: against the original program's vectors, a dense solution, and through the pipeline."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.datasets import DatasetRecord
from ovss.harness.decoding.decode import decode
from ovss.harness.decoding.propagation import Propagation
from ovss.harness.decoding.rule import DecodeRule
from ovss.harness.protocol.protocol import Setting
from ovss.harness.runs.pipeline import Pipeline
from ovss.methods import Picture, ScoreField, UserError, Vocabulary, WindowGeometry
from ovss.methods.blocks.clip_method import ClipWords
from ovss.methods.pearl import PEARL
from ovss.methods.refine import propagation as module
from ovss.methods.refine.propagation import own_affinity, pool_factors, propagate, weights_of

from ...methods.oracle_parts import TOLERANCE, error, load_oracle, oracle_backbone
from ...toys import Toy

SIZE = (163, 201)
EDGE_TOLERANCE = 3e-5  # the image's resize rounds otherwise than the original's

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def oracle() -> dict[str, Tensor]:
    return load_oracle("pearl")


@pytest.fixture(scope="module")
def pixels(oracle: dict[str, Tensor]) -> Tensor:
    return oracle["img0.image"].permute(2, 0, 1)


@pytest.fixture(scope="module")
def field(oracle: dict[str, Tensor], pixels: Tensor) -> ScoreField:
    """Cosines of the image's windows, by the method's own way."""
    owners = oracle["query_class"].tolist()
    texts = [[f"text {k}" for k, owner in enumerate(owners) if owner == c] for c in range(19)]
    vocabulary = Vocabulary.from_texts(texts, [str(c) for c in range(19)], ["{}"], background=0)
    assert vocabulary.query_to_class == tuple(owners)
    method = PEARL(oracle_backbone(oracle, layers=3))
    seen = method.encode_image(Picture.of(pixels), WindowGeometry(96, 48))
    return method.score(seen, ClipWords(vocabulary, oracle["text"]))


@pytest.fixture
def propagation(oracle: dict[str, Tensor]) -> Propagation:
    return Propagation(oracle["text"], 80)


def test_every_step_of_the_original(
    oracle: dict[str, Tensor], field: ScoreField, pixels: Tensor, propagation: Propagation
) -> None:
    scores, grey = propagation.pooled(field, pixels, SIZE)
    assert error(scores[None, :, ::2, ::2], oracle["img0.pooled"]) <= TOLERANCE
    weights = weights_of(scores, grey, oracle["text"], probable=False)
    assert error(weights.hold[None, None], oracle["img0.low_conf"]) <= TOLERANCE
    assert error(weights.right[None, None], oracle["img0.edge_h"]) <= EDGE_TOLERANCE
    assert error(weights.below[None, None], oracle["img0.edge_v"]) <= EDGE_TOLERANCE
    refined = propagation.refine(field, pixels, SIZE, probable=False)
    assert error(refined.scores[:, :, ::2, ::2], oracle["img0.cg_solution"]) <= TOLERANCE
    full = F.interpolate(refined.scores, SIZE, mode="bilinear", align_corners=False)
    assert error(full[:, :, ::4, ::4], oracle["img0.tlp_out"]) <= TOLERANCE


def test_labels_of_the_original(
    oracle: dict[str, Tensor], field: ScoreField, pixels: Tensor, propagation: Propagation
) -> None:
    rule = DecodeRule(40, probability_threshold=0.3, background=0)
    found = decode(propagation.refine(field, pixels, SIZE, probable=False), SIZE, rule)
    assert found.equal(oracle["img0.labels"])
    assert (decode(field, SIZE, rule) != oracle["img0.labels"]).sum() > 1000


@pytest.mark.parametrize(("name", "wrong"), [("STEPS", 20), ("EDGE", 4.0), ("FLOOR", 0.1), ("OWN", 1.0)])
def test_other_constants_are_noticed(
    oracle: dict[str, Tensor],
    field: ScoreField,
    pixels: Tensor,
    propagation: Propagation,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    wrong: float,
) -> None:
    monkeypatch.setattr(module, name, wrong)
    refined = propagation.refine(field, pixels, SIZE, probable=False)
    assert error(refined.scores[:, :, ::2, ::2], oracle["img0.cg_solution"]) > 3 * TOLERANCE


def test_step_sizes_are_those_of_all_queries(oracle: dict[str, Tensor], field: ScoreField, pixels: Tensor) -> None:
    """One query by itself takes other steps."""
    scores, grey = Propagation(oracle["text"], 80).pooled(field, pixels, SIZE)
    weights = weights_of(scores, grey, oracle["text"], probable=False)
    together = propagate(scores, weights)[:, ::2, ::2]
    alone = torch.cat([propagate(plane[None], weights) for plane in scores])[:, ::2, ::2]
    assert error(together[None], oracle["img0.cg_solution"]) <= TOLERANCE
    assert error(alone[None], oracle["img0.cg_solution"]) > 3 * TOLERANCE


@pytest.mark.parametrize("shape", [(4, 5), (1, 6), (6, 1), (1, 1)])
def test_it_solves_the_system(shape: tuple[int, int]) -> None:
    """A grid so small that 25 steps are enough, against the matrix itself."""
    draw = torch.Generator().manual_seed(0)
    scores, grey = torch.randn(3, *shape, generator=draw), torch.randn(shape, generator=draw)
    texts = F.normalize(torch.randn(3, 8, generator=draw), dim=1)
    weights = weights_of(scores, grey, texts, probable=False)
    rows, columns = shape
    cells = [(y, x) for y in range(rows) for x in range(columns)]
    matrix = torch.diag(weights.hold.flatten())
    for i, (y, x) in enumerate(cells):
        for j, (v, u) in enumerate(cells):
            if abs(y - v) + abs(x - u) == 1:
                w = weights.right[y, min(x, u)] if y == v else weights.below[min(y, v), x]
                matrix[i, i] += w
                matrix[i, j] -= w
    exact = torch.linalg.solve(matrix, (weights.hold * scores).flatten(1).T).T.view_as(scores)
    assert error(propagate(scores, weights), exact) < 1e-4


def test_what_lies_in_a_flat_region_moves_together() -> None:
    """Two flat halves: one sure cell decides its half, and an edge keeps the other."""
    grey = torch.cat([torch.zeros(4, 3), torch.ones(4, 3)], dim=1)
    scores = torch.zeros(2, 4, 6)
    scores[0, 1, 1] = scores[1, 2, 4] = 5.0
    refined = propagate(scores, weights_of(scores, grey, torch.eye(2), probable=False))
    assert refined.argmax(dim=0).equal((grey > 0).long())


def test_weights_by_hand() -> None:
    p = torch.tensor([[[0.6, 0.2]], [[0.4, 0.8]]])
    grey = torch.tensor([[0.0, 2.0]])
    own = (torch.e**2 / (torch.e**2 + 1) + 10) / 11
    assert own_affinity(torch.eye(2)).tolist() == pytest.approx([own, own], rel=1e-5)
    weights = weights_of(p, grey, torch.eye(2), probable=True)
    hold = [0.36 * (1 + own * 0.52), 0.64 * (1 + own * 0.68)]
    assert weights.hold.flatten().tolist() == pytest.approx(hold, rel=1e-5)
    alike = own * (0.6 * 0.2 + 0.4 * 0.8)
    assert weights.right.item() == pytest.approx(2.718281828**-5 * (1 + alike), rel=1e-4)
    softmax = weights_of(p, grey, torch.eye(2), probable=False)
    assert softmax.hold[0, 0] == pytest.approx(float(p.softmax(0)[0, 0, 0] ** 2 * (1 + own * 0.505)), rel=1e-2)


@pytest.mark.parametrize(
    ("size", "grid", "factors"),
    [((163, 201), 80, (2, 3)), ((20, 40), 80, (1, 1)), ((200, 280), 80, (2, 4)), ((1024, 2048), 224, (5, 9))],
)
def test_factors_round_half_to_even(size: tuple[int, int], grid: int, factors: tuple[int, int]) -> None:
    assert pool_factors(size, grid) == factors


RECORD = DatasetRecord(key="toy", title="Toy", images="", labels="", classes=("none", "cat", "dog"), background=0)


def test_a_method_without_texts_is_refused() -> None:
    with pytest.raises(UserError, match=r"refine is 'pearl'.*method 'toy' has none.*--refine pamr"):
        Pipeline(Toy(), Setting(refine="pearl"), RECORD)
    with pytest.raises(ValueError, match="class_scaling needs scores from 0 on"):
        Setting(refine="pearl", class_scaling="max", average="probability")


def test_image_level_scores_and_masks_pass_through(
    oracle: dict[str, Tensor], field: ScoreField, pixels: Tensor
) -> None:
    """Planes that are mixed into queries give what the queries themselves give."""
    one = ScoreField(field.scores[:1], field.boxes[:1], field.boxes[:1], (96, 96), field.query_to_class)
    mixed = replace(one, mixing=torch.eye(22), class_scores=torch.arange(19.0), activated=True)
    propagation, part = Propagation(oracle["text"], 80), pixels[:, :96, :96]
    found, plain = (propagation.refine(f, part, (96, 96), probable=True) for f in (mixed, one))
    assert found.activated and found.class_scores is not None and found.class_scores.equal(torch.arange(19.0))
    assert torch.allclose(found.scores, plain.scores, atol=1e-6)
