"""The head of GroupViT and SegCLIP: five queries pass, every pixel has its group's row, the background's rule."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.harness import decode
from ovss.harness.runs import conformity
from ovss.methods import MethodInfo, UserError, Vocabulary, WindowGeometry
from ovss.methods.blocks.clip_method import ClipWords
from ovss.methods.blocks.group_scores import (
    GroupMethod,
    GroupOptions,
    Groups,
    background_column,
    class_products,
    pixel_owner,
)
from ovss.methods.core.options import read_options

from ..with_words import WithWords


def make_vocabulary(count: int, background: int | None = None, silent: bool = False) -> Vocabulary:
    texts = [[] if silent and i == background else [f"thing {i}"] for i in range(count)]
    return Vocabulary.from_texts(texts, [f"class {i}" for i in range(count)], "simple", background)


class Toy(GroupMethod):
    """Two groups, left and right half of a window; texts and tokens are made of numbers."""

    info = MethodInfo("toy", "Toy", "none", backbone="")
    group_count, logit_scale = 2, 3.0

    def __init__(self, background_threshold: float | None = None) -> None:
        super().__init__(GroupOptions(background_threshold=background_threshold))

    def encode_text(self, vocabulary: Vocabulary) -> ClipWords:
        generator = torch.Generator().manual_seed(1)
        return ClipWords(vocabulary, F.normalize(torch.randn(len(vocabulary.queries), 4, generator=generator), dim=-1))

    def group(self, window: Tensor) -> Groups:
        generator = torch.Generator().manual_seed(int(window.sum()))
        unit = F.normalize(torch.randn(3, 4, generator=generator), dim=-1)
        owner = torch.zeros(window.shape[1:], dtype=torch.long)
        owner[:, window.shape[2] // 2 :] = 1
        return Groups(unit[:2], unit[2], owner)


def test_five_queries_pass() -> None:
    """Cosines with the window 0.6, 0.5, ..., 0: queries 5 and 6 get nothing, the others what each group says."""
    image, scale = torch.tensor([1.0, 0.0]), 2.0
    cosines = [0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]
    text = torch.tensor([[c, math.sqrt(1 - c * c)] for c in cosines])
    tokens = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    for row, group in zip(class_products(tokens, image, text, scale), tokens, strict=True):
        each = [math.exp(2 * float(t @ group)) for t in text]
        wanted = [e / sum(each[:5]) * e / sum(each) for e in each[:5]] + [0.0, 0.0]
        assert row.tolist() == pytest.approx(wanted, abs=1e-6)


def test_the_window_only_chooses() -> None:
    """Groups that differ keep their own best among the five; the window's first would be query 0 for two of them."""
    generator = torch.Generator().manual_seed(0)
    text, tokens = (F.normalize(torch.randn(n, 16, generator=generator), dim=-1) for n in (7, 3))
    image = F.normalize(tokens.mean(dim=0), dim=-1)
    products = class_products(tokens, image, text, 10.0)
    assert products.argmax(dim=1).tolist() == [0, 5, 4]
    assert (products == 0).sum(dim=1).tolist() == [2, 2, 2]
    # how near the window is to each of the five does not matter, as long as they stay the five
    first = text[products[0] > 0]
    nearer = F.normalize(image + 1e-3 * first[0], dim=-1)
    assert torch.equal(class_products(tokens, nearer, text, 10.0), products)


def test_fewer_than_five_queries() -> None:
    unit = F.normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    assert torch.equal(class_products(unit[:3], unit[3], unit[:1], 50.0), torch.ones(3, 1))
    products = class_products(unit[:3], unit[3], unit[:2], 50.0)
    assert torch.allclose(products, (50 * unit[:3] @ unit[:2].T).softmax(1) ** 2)


def test_background_rule() -> None:
    products = torch.tensor([[0.5, 0.1], [0.2, 0.3], [0.05, 0.0]])
    assert background_column(products, 0.4).flatten().tolist() == [0, 1, 1]
    assert background_column(products, 0.1).flatten().tolist() == [0, 0, 1]
    # the largest of all is the limit where the threshold is above it: its group stays foreground
    assert background_column(products, 0.95).flatten().tolist() == [0, 1, 1]


def test_pixels_take_the_largest_interpolated_group() -> None:
    """Along x the soft values of group 0 are 1 -> 0 between centres at 2 and 6 of 8 px: the middle decides."""
    soft = torch.tensor([[[1.0, 0.2]], [[0.0, 0.9]]])
    owner = pixel_owner(soft, 4, 8)
    position = [min(max((x + 0.5 - 2) / 4, 0), 1) for x in range(8)]
    wanted = [int(0.9 * p > 1 - 0.8 * p) for p in position]
    assert owner.tolist() == [wanted] * 4 and sum(wanted) == 4
    uneven = torch.tensor([[[1.0, 0.7]], [[0.0, 0.9]]])
    assert pixel_owner(uneven, 1, 8).tolist() == [[int(0.9 * p > 1 - 0.3 * p) for p in position]]


@pytest.mark.parametrize("silent", [True, False])
def test_background_gets_a_plane_of_its_own(silent: bool) -> None:
    method = WithWords.of(Toy(background_threshold=0.2), make_vocabulary(4, background=0, silent=silent))
    image = torch.arange(3 * 6 * 8).view(3, 6, 8).to(torch.uint8)
    field = method.segment(image).dense()
    assert field.query_to_class == ((1, 2, 3, 0) if silent else (0, 1, 2, 3, 0))
    queries, rule = field.scores[0, :-1], field.scores[0, -1]
    groups = method.group(image)
    products = class_products(groups.tokens, groups.image, method.text, 3.0)
    assert torch.equal(queries[:, 0, 0], products[0]) and torch.equal(queries[:, 0, -1], products[1])
    limit = min(0.2, float(products.max()))
    assert torch.equal(rule, (queries.amax(0) < limit).float())
    assert field.query_to_class[-1] == 0 and field.activated


def test_without_a_threshold_nothing_is_added() -> None:
    for background, silent in ((None, False), (0, False), (0, True)):
        vocabulary = make_vocabulary(4, background, silent)
        field = Toy().segment(torch.zeros(3, 6, 8, dtype=torch.uint8), vocabulary)
        assert field.query_to_class == vocabulary.query_to_class


@pytest.mark.parametrize("threshold", [None, 0.0, 0.2])
def test_masks_and_their_scores_are_the_dense_field(threshold: float | None) -> None:
    """With many classes the field is one mask per group and window, which says the same as a plane per query."""
    image = (torch.arange(3 * 6 * 20) * 7 % 251).view(3, 6, 20).to(torch.uint8)
    geometry = WindowGeometry(6, 4)
    method = WithWords.of(Toy(threshold), make_vocabulary(30, background=3, silent=True))
    field = method.segment(image, geometry)
    assert field.mixing is not None
    assert field.scores.shape == (5, 10, 6, 6) and len(field.query_to_class) == 29 + bool(threshold)
    windows = torch.stack([image[:, b.top : b.bottom, b.left : b.right] for b in field.boxes])
    alone = method.score_windows(windows)
    assert torch.equal(field.dense().scores, alone)
    assert torch.equal(plain_planes(method, windows), alone)
    assert method.method.segment(image, make_vocabulary(5), geometry).mixing is None


def plain_planes(method: WithWords, windows: Tensor) -> Tensor:
    """One plane per query, without masks: the formulas, pixel by pixel."""
    out = []
    for window in windows:
        groups = method.group(window)
        values = class_products(groups.tokens, groups.image, method.text, 3.0)
        if method.options.background_threshold:
            values = torch.cat([values, background_column(values, method.options.background_threshold)], dim=1)
        out.append(values.T[:, groups.owner])
    return torch.stack(out)


def test_the_background_wins_its_pixels() -> None:
    """A class without a text, the last one: it gets the pixels of the group below the threshold, and no others."""
    method = WithWords.of(Toy(0.95), make_vocabulary(4, background=3, silent=True))
    image = torch.arange(3 * 6 * 8).view(3, 6, 8).to(torch.uint8)
    groups = method.group(image)
    best = class_products(groups.tokens, groups.image, method.text, 3.0).max(dim=1)
    wanted = [3 if p < min(0.95, float(best.values.max())) else int(c) for p, c in zip(*best, strict=True)]
    labels = decode(method.segment(image), (6, 8))
    assert 3 in wanted and labels.unique(dim=0).tolist() == [[wanted[0]] * 4 + [wanted[1]] * 4]


def test_thresholds_are_probabilities() -> None:
    for wrong in (-0.1, 1.5):
        with pytest.raises(UserError, match="background_threshold"):
            read_options(GroupOptions, {"background_threshold": wrong}, "toy")


def test_contract() -> None:
    assert [c.name for c in conformity.check_method(Toy) if not c.passed] == []
