"""CLIPer's presets, from the image to labels: the pipeline against the rule at ``DecodeRule``, written down plainly."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ovss.datasets import find_record, open_dataset
from ovss.harness.protocol.protocol import Setting, load_protocol
from ovss.harness.protocol.resize import resize_image
from ovss.harness.runs.photo import Photo
from ovss.harness.runs.pipeline import Clock, Pipeline
from ovss.methods import UserError, create_method
from ovss.methods.core.picture import Picture
from ovss.methods.models.backbone import Backbone, load_backbone

SIZE = (375, 500)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("tiny-clip")


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    scenes = open_dataset("shapes")
    return np.asarray(Image.fromarray(scenes.load(scenes.ids[3]).image).resize(SIZE[::-1]))


def setting_of(protocol: str, key: str, refine: str) -> Setting:
    """A preset with thresholds that a tiny model passes, on small images."""
    values: dict[str, Any] = {"refine": refine, "short_side_px": 192, "size_multiple_px": 8, "class_gate": 0.05}
    if protocol == "cliper-v2":
        values["probability_threshold"] = 0.3
    return load_protocol(protocol).changed(**values).setting(key)


def plain_labels(maps: Tensor, level: Tensor, classes: Tensor, background: int, how: Setting) -> Tensor:
    """The rule on foreground maps ``(C, h, w)``: up in one step, scaled, gated, compared."""
    maps = F.interpolate(maps[None], SIZE, mode="bilinear", align_corners=False)[0]
    maps = maps / (maps.amax((1, 2), keepdim=True) + 1e-5) * level[:, None, None]
    if how.class_scaling == "minmax":
        maps = maps - maps.amin((1, 2), keepdim=True)
        maps = maps / (maps.amax((1, 2), keepdim=True) + 1e-6)
    assert how.class_gate is not None
    passed = (level > how.class_gate)[:, None, None]
    if how.complement:
        best, index = (maps * passed).max(dim=0)
        return torch.where((1 - best) ** 2 >= best, background, classes[index])
    best, index = (torch.where(maps < how.probability_threshold, 0.0, maps) * passed).max(dim=0)
    return torch.where(best == 0, background, classes[index])


@pytest.mark.parametrize("refine", ["none", "tiny-sd"])
@pytest.mark.parametrize(
    ("protocol", "key"),
    [("cliper-v2", "voc21"), ("cliper-v2", "voc20"), ("cliper-v2", "context60"), ("cliper-v1-l14", "voc21")],
)
def test_labels_equal_the_spec(backbone: Backbone, photo: np.ndarray, protocol: str, key: str, refine: str) -> None:
    how = setting_of(protocol, key, refine)
    options = how.options_for("cliper") | ({"window_px": 128, "stride_px": 64} if protocol == "cliper-v2" else {})
    method = create_method("cliper", backbone, **options)
    pipeline = Pipeline(method, how, find_record(key))
    labels = pipeline.predict(Photo(photo, "photo"), Clock())

    small = resize_image(photo, how.short_side_px, how.long_side_px, how.resize, how.size_multiple_px)
    field = pipeline.scores(Picture.of(torch.from_numpy(small.copy()).permute(2, 0, 1)))
    owner, background = torch.tensor(field.query_to_class), pipeline.rule.background
    assert background is not None
    foreground = owner != background
    maps = field.scores[0][foreground]
    level = maps.amax((1, 2))
    if pipeline.guide is not None:
        affinity = pipeline.guide.observe(torch.from_numpy(photo.copy()).permute(2, 0, 1), "photo")
        maps = affinity.propagate(F.interpolate(maps[None], affinity.grid, mode="bilinear", align_corners=False)[0])
        level = 0.5 * maps.amax((1, 2)) + 0.5 * level
    expected = plain_labels(maps, level, owner[foreground], background, how)
    assert len(expected.unique()) > 1
    assert (labels.long() != expected).float().mean() <= 1e-4


def test_a_preset_of_other_patches_is_refused(backbone: Backbone) -> None:
    how = load_protocol("cliper-v2-l14").changed(refine="none").setting("voc21")
    with pytest.raises(UserError, match="multiples of 14 px, the backbone has patches of 8 px"):
        Pipeline(create_method("cliper", backbone), how, find_record("voc21"))
