"""The 448/224 protocol in numbers: windows, what is averaged over them, sizes, and the rows of the ablation.

The windows are merged by a plain loop here.
"""

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import ovss.harness
from ovss.datasets import DatasetRecord
from ovss.harness.cli.name_value import parse_options
from ovss.harness.protocol.protocol import Setting, load_protocol
from ovss.harness.runs.photo import Photo
from ovss.harness.runs.pipeline import Clock, Pipeline
from ovss.methods import MethodInfo, Vocabulary, create_method, load_backbone

from ...agreement import assert_best
from ...methods.random_parts import random_parts
from ...toys import Toy

PROTOCOL = load_protocol("tcl")
NAMES = ("background", "cat", "sofa", "sky", "red car")
SIZES = {  # (height, width) of the resized image: windows per axis, top ends and left ends
    (448, 448): ([0], [0]),
    (448, 449): ([0], [0, 1]),
    (448, 672): ([0], [0, 224]),
    (448, 673): ([0], [0, 224, 225]),
    (1000, 448): ([0, 224, 448, 552], [0]),
    (448, 897): ([0], [0, 224, 448, 449]),
}


class RandomScores(Toy):
    """Scores of the windows in the order in which they come, whatever they show."""

    info = MethodInfo("random", "Random", "nobody, never")

    def __init__(self, activated: bool) -> None:
        super().__init__()
        self._activated, self._generator = activated, torch.Generator().manual_seed(0)
        self.seen: list[Tensor] = []

    @property
    def activated(self) -> bool:
        return self._activated

    def score_pixels(self, pixels: Tensor, vocabulary: Vocabulary) -> Tensor:
        grid = (len(pixels), len(NAMES), *(-(-side // 16) for side in pixels.shape[2:]))
        scores = 0.03 * torch.randn(grid, generator=self._generator)  # as far apart as cosines are
        self.seen += [*((100 * scores).softmax(dim=1) if self._activated else scores)]
        return torch.stack(self.seen[-len(pixels) :])


pytestmark = pytest.mark.usefixtures("no_gradients")


def record() -> DatasetRecord:
    fields = {"title": "made up", "images": "i", "labels": "l", "classes": NAMES, "background": 0}
    return DatasetRecord.model_validate({"key": "made_up", **fields})


def photo(height: int, width: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def setting() -> Setting:
    return PROTOCOL.setting("voc21").model_copy(update={"vocabulary": "official"})


def starts(side: int) -> list[int]:
    count = max(side - 448 + 223, 0) // 224 + 1
    ends = [min(224 * i + 448, side) for i in range(count)]
    return [max(end - 448, 0) for end in ends]


def merge(windows: list[Tensor], frame: tuple[int, int], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Mean over windows, ``(Q, *size)``, and how many windows saw each pixel of the frame."""
    places = [(top, left) for top in starts(frame[0]) for left in starts(frame[1])]
    total, visits = torch.zeros(len(NAMES), *frame), torch.zeros(frame)
    for (top, left), scores in zip(places, windows, strict=True):
        shape = min(448, frame[0] - top), min(448, frame[1] - left)
        maps = F.interpolate(scores[None], shape, mode="bilinear", align_corners=False)[0]
        total[:, top : top + shape[0], left : left + shape[1]] += maps
        visits[top : top + shape[0], left : left + shape[1]] += 1
    return F.interpolate((total / visits)[None], size, mode="bilinear", align_corners=False)[0], visits


@pytest.mark.parametrize("frame", SIZES)
@pytest.mark.parametrize("activated", [False, True])
def test_windows_are_merged(frame: tuple[int, int], activated: bool) -> None:
    """The image has its size already.  Cosines become probabilities at the patch grid, before they are averaged."""
    assert (starts(frame[0]), starts(frame[1])) == SIZES[frame]
    method = RandomScores(activated)
    labels = Pipeline(method, setting(), record()).predict(Photo(photo(*frame)), Clock())
    boxes = setting().geometry.boxes(*frame)
    assert [(box.top, box.left) for box in boxes] == [(t, left) for t in SIZES[frame][0] for left in SIZES[frame][1]]
    windows = method.seen if activated else [(100 * scores).softmax(dim=0) for scores in method.seen]
    maps, visits = merge(windows, frame, frame)
    assert (visits.min(), visits.max()) == (1, min(3, len(boxes)))
    assert_best(labels, maps)


@pytest.mark.parametrize("activated", [False, True])
def test_what_is_averaged_shows(activated: bool) -> None:
    """Neither the mean of cosines nor a second softmax gives the same labels."""
    frame = (448, 673)
    method = RandomScores(activated)
    labels = Pipeline(method, setting(), record()).predict(Photo(photo(*frame)), Clock())
    wrong = [(100 * scores).softmax(dim=0) for scores in method.seen] if activated else method.seen
    assert (labels.long() != merge(wrong, frame, frame)[0].argmax(dim=0)).float().mean() > 0.01


@pytest.mark.parametrize(
    ("size", "frame"),
    [
        ((300, 401), (448, 599)),  # 598.83
        ((375, 500), (448, 597)),  # 597.33
        ((500, 333), (673, 448)),  # 672.67
        ((200, 1000), (410, 2048)),  # the long side is the limit: 409.6
        ((896, 1200), (448, 600)),
    ],
)
def test_sizes(size: tuple[int, int], frame: tuple[int, int]) -> None:
    """The short side becomes 448 px unless the long one would pass 2048; labels have the image's own size."""
    method = RandomScores(activated=True)
    labels = Pipeline(method, setting(), record()).predict(Photo(photo(*size)), Clock())
    assert labels.shape == size
    assert len(method.seen) == len(starts(frame[0])) * len(starts(frame[1]))
    assert_best(labels, merge(method.seen, frame, size)[0])


def test_resized_by_opencv_without_antialias() -> None:
    seen: list[Tensor] = []

    class Keeps(RandomScores):
        def score_pixels(self, pixels: Tensor, vocabulary: Vocabulary) -> Tensor:
            seen.extend(pixels)
            return super().score_pixels(pixels, vocabulary)

    pixels = photo(600, 600)
    Pipeline(Keeps(activated=True), setting(), record()).predict(Photo(pixels), Clock())
    wanted = cv2.resize(pixels, (448, 448), interpolation=cv2.INTER_LINEAR)
    assert torch.equal(seen[0].permute(1, 2, 0), torch.from_numpy(wanted))


# --- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, *PROTOCOL.dataset])
def test_dense_methods_pad_and_place_as_clip_dinoiser_does(key: str | None) -> None:
    found = PROTOCOL.setting(key)
    assert found.method_options == {"pad": "end", "positions": "size"}
    for name in ("clip", "maskclip", "maskclip-value", "sclip", "clearclip", "naclip", "clip-dinoiser"):
        provenance = create_method(name, backbone="tiny-clip", **found.options_for(name)).provenance
        assert (provenance["pad"], provenance["positions"]) == ("end", "size")


def test_the_rule_is_on_where_the_paper_has_it() -> None:
    on = {key for key in PROTOCOL.dataset if PROTOCOL.setting(key).options_for("clip-dinoiser")["background"] != "none"}
    assert on == {"voc21", "coco_object"}
    assert PROTOCOL.setting("camvid").options_for("clip-dinoiser")["background"] == "none"
    for key in PROTOCOL.dataset:
        found = PROTOCOL.setting(key)
        assert (found.probability_threshold, found.area_threshold, found.refine) == (0, 0, "none")


def documented_rows() -> dict[str, tuple[str, dict[str, Any]]]:
    """The rows that comments of the preset list: title -> method and options."""
    text = (Path(ovss.harness.__file__).parent / "protocol" / "protocols" / "tcl.toml").read_text(encoding="utf-8")
    found = re.findall(r"^#   (\S.*?) +--method (\S+)(.*)$", text, flags=re.MULTILINE)
    return {title: (method, parse_options(rest.split(" --option ")[1:], "--option")) for title, method, rest in found}


def test_documented_rows_of_the_ablation() -> None:
    """Every row can be asked for beside the options of the data set, and no two are the same."""
    rows, backbone = documented_rows(), load_backbone("tiny-clip")
    assert len(rows) == len({(method, *sorted(given.items())) for method, given in rows.values()}) == 12
    parts = {
        k: v for name in ("clip-dinoiser", "dino-pool", "clip-diy") for k, v in random_parts(name, backbone).items()
    }
    for title, (name, given) in rows.items():
        for key in ("voc21", "ade20k"):
            options = {**PROTOCOL.setting(key).options_for(name), **given, **(parts if name == "clip-dinoiser" else {})}
            provenance = create_method(name, backbone=backbone, **options).provenance
            assert provenance.items() >= {k: v for k, v in given.items() if k != "heads"}.items(), title
