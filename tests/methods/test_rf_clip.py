"""RF-CLIP against outputs of the original program (tests/data/oracles), and what belongs to it here."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ovss.methods import Backbone, Picture, UserError, WindowGeometry, Windows, create_method
from ovss.methods import rf_clip as rf_module
from ovss.methods.blocks import moved_texts, text_groups
from ovss.methods.blocks.clip_method import ClipWords
from ovss.methods.rf_clip import RFCLIP, RFCLIPOptions, soften

from .oracle_parts import TOLERANCE, VOCABULARY, error, load_oracle, oracle_backbone

SINKS = "4,22,41,58,77,90,105,119"
NUMBERS = {"": (0.25, 0.04, 0.1), "strong.": (0.1, 0.3, 0.1), "plain.": (0.0, 0.0, 0.1)}
"""Weight of the overall score, of the image in the texts, and the distance of texts, by case of the vectors."""

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def oracle() -> dict[str, Tensor]:
    return load_oracle("rfclip")


@pytest.fixture(scope="module")
def backbone(oracle: dict[str, Tensor]) -> Backbone:
    return oracle_backbone(oracle)


def make(backbone: Backbone, numbers: str = "", dtype: torch.dtype = torch.float32, **options: Any) -> RFCLIP:
    g, m, h = NUMBERS[numbers]
    given = {"overall_weight": g, "image_weight": m, "text_distance": h, "sink_channels": SINKS, **options}
    return RFCLIP(backbone, RFCLIPOptions(**given), dtype=dtype)


def scores(method: RFCLIP, oracle: dict[str, Tensor], image: str, *windows: int) -> Tensor:
    seen = method.encode_image(Picture.of(oracle[f"{image}.image"].permute(2, 0, 1)), WindowGeometry(*windows))
    return method.score(seen, method.grouped(ClipWords(VOCABULARY, oracle["text"]))).dense().scores


@pytest.mark.parametrize("case", ["w224.", "w112.", "nonsquare.", "w112.strong.", "w112.plain."])
def test_scores_of_a_window(oracle: dict[str, Tensor], backbone: Backbone, case: str) -> None:
    image, _, numbers = case.partition(".")
    assert error(scores(make(backbone, numbers), oracle, image)[0], oracle[f"{case}scores"]) <= TOLERANCE


@pytest.mark.parametrize(("overall", "case"), [("image", "whole_cls"), ("window", "crop_cls")])
def test_four_windows_in_one_batch(oracle: dict[str, Tensor], backbone: Backbone, overall: str, case: str) -> None:
    found = scores(make(backbone, overall=overall), oracle, "slide", 112, 56)
    assert error(found, oracle[f"slide.{case}.window_scores"]) <= TOLERANCE
    other = {"whole_cls": "crop_cls", "crop_cls": "whole_cls"}[case]
    assert error(found, oracle[f"slide.{other}.window_scores"]) > 20 * TOLERANCE


def test_the_whole_image_is_looked_at_once_for_all_windows(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    method, picture = make(backbone), Picture.of(oracle["slide.image"].permute(2, 0, 1))
    sizes: list[tuple[int, ...]] = []
    with pytest.MonkeyPatch.context() as patch:
        run = RFCLIP._run
        patch.setattr(RFCLIP, "_run", lambda self, pixels: (sizes.append(tuple(pixels.shape)), run(self, pixels))[1])
        patch.setattr(RFCLIP, "batch_size", 1)
        seen = method.encode_image(picture, WindowGeometry(112, 56))
    assert sorted(sizes) == [(1, 3, 112, 112)] * 4 + [(1, 3, 120, 136)]
    wanted = torch.nn.functional.normalize(oracle["slide.global_whole"], dim=0)
    assert all(error(batch.overall[0], wanted) <= TOLERANCE for batch in seen.batches)


def test_texts_that_were_moved(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    for numbers in ("", "strong."):
        method = make(backbone, numbers)
        seen = method.encode_windows(Windows.of(oracle["w112.image"].permute(2, 0, 1)[None]))
        groups = text_groups.group_texts(oracle["text"], 0.1)
        assert groups.tolist() == [3, 3, 3, 0, 2, 2, 1]  # those of the vectors
        moved = text_groups.move_texts(
            *(oracle["text"], groups, seen.overall @ oracle["text"].T, seen.features.flatten(1, 2)),
            method.options.image_weight,
        )
        assert error(moved[0], oracle[f"w112.{numbers}adjusted_text"]) <= TOLERANCE


def _border_not_zero(tokens: Tensor, grid: tuple[int, int], sinks: tuple[int, ...]) -> Tensor:
    """The mean is divided by the number of places inside the window."""
    ones = torch.ones(1, 1, *grid)
    inside = torch.nn.functional.avg_pool2d(ones, 3, stride=1, padding=1).flatten()[:, None]
    softened = soften(tokens, grid, sinks)
    changed = (softened != tokens)[:, 1:].any(dim=-1, keepdim=True)
    near = (softened[:, 1:] - 0.6 * tokens[:, 1:]) / inside
    return torch.cat([tokens[:, :1], torch.where(changed, 0.6 * tokens[:, 1:] + near, tokens[:, 1:])], dim=1)


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("soften", _border_not_zero),
        ("soften", lambda tokens, grid, sinks: tokens),
        ("SINK_LEVEL", 4.0),
        ("similar", lambda x: torch.eye(x.shape[1]).expand(len(x), -1, -1)),
        ("move_texts", lambda text, groups, a, f, m: text_groups.move_texts(text, torch.arange(len(text)), a, f, m)),
    ],
    ids=["border not zero", "no softening", "level 4 / D", "S left out", "every text moved"],
)
def test_misreadings_are_noticed(
    oracle: dict[str, Tensor], backbone: Backbone, monkeypatch: pytest.MonkeyPatch, name: str, mistake: object
) -> None:
    monkeypatch.setattr(moved_texts if name == "move_texts" else rf_module, name, mistake)
    assert error(scores(make(backbone), oracle, "w224")[0], oracle["w224.scores"]) > 20 * TOLERANCE


def test_softening_by_hand() -> None:
    """Two by two patches of 8 channels: the level is 5 / 8 of the sum, and channel 1 is the sink."""
    patches = torch.zeros(4, 8)
    patches[:, 1] = 1.0
    patches[0] = torch.tensor([0.0, 9, 1, 0, 0, 0, 0, 0])  # 0.9 of its sum in channel 1
    patches[1] = torch.tensor([0.0, 6, 4, 0, 0, 0, 0, 0])  # 0.6, just below 0.625
    patches[2] = torch.tensor([0.0, 0, 9, 0, 0, 0, 0, 0])  # a peak that is no sink channel
    patches[3] = torch.tensor([-1.0, 8, -1, -1, -1, -1, -1, -1])  # shifted: 9 of 9
    tokens = torch.cat([torch.full((1, 8), 5.0), patches])[None]
    found = soften(tokens, (2, 2), (1,))[0]
    near = patches.sum(0) / 9  # every patch sees all four, and five places outside
    torch.testing.assert_close(found[1], 0.6 * patches[0] + 0.4 * near)
    torch.testing.assert_close(found[4], 0.6 * patches[3] + 0.4 * near)
    assert found[[0, 2, 3]].equal(tokens[0, [0, 2, 3]])


def test_half_precision_is_near(oracle: dict[str, Tensor], backbone: Backbone) -> None:
    found = scores(make(backbone, dtype=torch.bfloat16), oracle, "w112")[0]
    assert found.dtype == torch.float32 and error(found, oracle["w112.scores"]) < 0.1


def test_sink_channels(backbone: Backbone) -> None:
    assert make(backbone, sink_channels="3, 127").sinks == (3, 127)
    with pytest.raises(UserError, match=r"tokens are 128 wide.*--option rf-clip.sink_channels=4,22,41"):
        create_method("rf-clip", backbone)
    for wrong in ("128", "1,,2", "-1", "a", ""):
        with pytest.raises(UserError, match="whole numbers from 0 to 127"):
            create_method("rf-clip", backbone, sink_channels=wrong)
    assert rf_module._sinks(None, 768)[0] == 4 and len(rf_module._sinks(None, 1024)) == 8


def test_it_says_whether_windows_are_images_of_their_own(backbone: Backbone) -> None:
    assert make(backbone).sees_whole_image and not make(backbone, overall="window").sees_whole_image
