"""CLIP-DIY against a plain recomputation: its 59 crops, the maps of its scales, the fusion, and the contract.

FOUND is made of random weights of DINO ViT-S/8 (two blocks); its own tests are in test_found.
"""

from pathlib import Path

import cv2
import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from torch import Tensor

from ovss.harness.decoding.decode import decode
from ovss.harness.decoding.rule import DecodeRule
from ovss.harness.protocol.protocol import load_protocol
from ovss.methods import Backbone, Box, Picture, UserError, Vocabulary, WindowGeometry, create_method
from ovss.methods.clip_diy import CLIPDIY, cut_crops, mean_of_scales
from ovss.methods.core.vocabulary import load_templates
from ovss.methods.models.dino import Dino
from ovss.methods.models.found import Found

from ..agreement import assert_best
from .blocks.test_dense_clip import error, make_image
from .models.test_dino import random_state
from .with_words import WithWords

TOLERANCE = 1e-5
NAMES = ["background", "cat", "sofa", "sky", "red car"]
TEMPLATE = "a photo of a {}"
SIZE = (75, 133)


pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def model() -> open_clip.CLIP:
    """A narrow ViT-B/32."""
    torch.manual_seed(0)
    vision = {"image_size": 224, "layers": 3, "width": 128, "head_width": 64, "patch_size": 32}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    model = open_clip.CLIP(embed_dim=64, vision_cfg=vision, text_cfg=text).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim >= 2:
                p.normal_(std=1.3 / p[0].numel() ** 0.5)
    return model


@pytest.fixture(scope="module")
def found() -> Found:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(1, 384, 1, 1, generator=generator) / 10
    return Found(Dino(random_state(width=384, depth=2, patch=8, side=7)), weight, torch.tensor([0.3]))


@pytest.fixture(scope="module")
def backbone(model: open_clip.CLIP) -> Backbone:
    return Backbone.from_module(model, SimpleTokenizer())


def make(backbone: Backbone, found: Found, background: int | None = 0, names: list[str] = NAMES) -> WithWords:
    method = create_method("clip-diy", backbone=backbone, found=found)
    return WithWords.of(method, Vocabulary.from_names(names, templates=[TEMPLATE], background=background))


def plain_crops(image: Tensor, side: int = 224, columns_first: bool = False) -> list[Tensor]:
    """``(3, side, side)`` uint8 each.  ``columns_first`` is the mistake of listing crops column by column."""
    square = cv2.resize(
        np.ascontiguousarray(image.permute(1, 2, 0).numpy()), (256, 256), interpolation=cv2.INTER_LINEAR
    )
    crops = []
    for px in (256, 128, 64):
        starts = range(0, 256 - px + 1, px // 2)
        places = [(a, b) for a in starts for b in starts]
        for top, left in [(b, a) for a, b in places] if columns_first else places:
            picture = Image.fromarray(square[top : top + px, left : left + px])
            picture = picture.resize((side, side), Image.Resampling.BICUBIC)
            crops.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1))
    return crops


def plain_cosines(model: open_clip.CLIP, image: Tensor, names: list[str] = NAMES, **mistake: bool) -> Tensor:
    """``(59, Q)``."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    crops = torch.stack([(crop / 255 - mean) / std for crop in plain_crops(image, **mistake)])
    text = model.encode_text(SimpleTokenizer()([TEMPLATE.format(name) for name in names]))
    return F.normalize(model.encode_image(crops), dim=1) @ F.normalize(text, dim=1).T


def plain_maps(cosines: Tensor) -> Tensor:
    """``(Q, 256, 256)``: OpenCV's bilinear resize of every class and scale by itself."""
    maps = []
    for column in cosines.T.numpy():
        grids = [column[:1].reshape(1, 1), column[1:10].reshape(3, 3), column[10:].reshape(7, 7)]
        large = [cv2.resize(grid, (256, 256), interpolation=cv2.INTER_LINEAR) for grid in grids]
        maps.append(torch.from_numpy((large[0] + large[1] + large[2]) / 3))
    return torch.stack(maps)


def plain_saliency(found: Found, image: Tensor) -> Tensor:
    """``(256, 256)``."""
    logits = found.logits(image[None].float() / 255)
    large = F.interpolate(logits, scale_factor=8, mode="bilinear", align_corners=False)
    soft = large[0, 0, : image.shape[1], : image.shape[2]].sigmoid().numpy()
    return torch.from_numpy(cv2.resize(soft, (256, 256), interpolation=cv2.INTER_LINEAR))


def plain_scores(maps: Tensor, saliency: Tensor, background: int = 0) -> Tensor:
    fused = [m * (1 - saliency) if c == background else m * saliency for c, m in enumerate(maps)]
    return torch.stack(fused).softmax(dim=0)


def test_crops() -> None:
    image = make_image(*SIZE)
    found = cut_crops(image, 224)
    assert found.shape == (59, 3, 224, 224) and found.dtype == torch.uint8
    assert torch.equal(found, torch.stack(plain_crops(image)))
    assert cut_crops(image, 96).shape == (59, 3, 96, 96)


def test_crops_come_row_by_row() -> None:
    """Red grows to the right, green downwards: means of the crops say where they lie."""
    ramp = torch.arange(256, dtype=torch.uint8)
    image = torch.stack(
        [ramp.expand(256, 256), ramp[:, None].expand(256, 256), torch.zeros(256, 256, dtype=torch.uint8)]
    )
    red, green, _ = cut_crops(image, 32).float().mean(dim=(2, 3)).T
    places = [(top, left, px) for px in (256, 128, 64) for top in range(0, 257 - px, px // 2)
              for left in range(0, 257 - px, px // 2)]  # fmt: skip
    assert len(places) == 59
    for k, (top, left, px) in enumerate(places):
        assert abs(float(green[k]) - (top + (px - 1) / 2)) < 0.6
        assert abs(float(red[k]) - (left + (px - 1) / 2)) < 0.6


def test_maps_of_the_scales() -> None:
    cosines = torch.randn(59, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(mean_of_scales(cosines), plain_maps(cosines), rtol=0, atol=TOLERANCE)
    only = torch.zeros(59, 1)
    only[0] = 3  # the whole image, alike everywhere
    assert torch.allclose(mean_of_scales(only), torch.ones(1, 256, 256))
    only[0], only[1 + 2] = 0, 3  # the upper right of nine
    assert divmod(int(mean_of_scales(only).argmax()), 256)[0] < 86 <= 170 < int(mean_of_scales(only)[0, 0].argmax())


@pytest.mark.parametrize("background", [0, 3])
def test_scores(model: open_clip.CLIP, backbone: Backbone, found: Found, background: int) -> None:
    image = make_image(*SIZE)
    saliency = plain_saliency(found, image)
    assert saliency.min() < 0.4 and saliency.max() > 0.6
    wanted = plain_scores(plain_maps(plain_cosines(model, image)), saliency, background)
    field = make(backbone, found, background).segment(image)
    assert field.scores.shape == (1, 5, 256, 256) and field.activated
    assert field.frame == SIZE and field.covers == field.boxes == (Box(0, 0, *SIZE),)
    assert torch.allclose(field.scores[0], wanted, rtol=0, atol=TOLERANCE)
    assert_best(field.scores[0].argmax(0), wanted, gap=2 * TOLERANCE, share=0.9)


def test_mistakes_show(model: open_clip.CLIP, backbone: Backbone, found: Found) -> None:
    image = make_image(*SIZE)
    scores, saliency = make(backbone, found).segment(image).scores[0], plain_saliency(found, image)
    maps = plain_maps(plain_cosines(model, image))
    wrong = {
        "columns first": plain_scores(plain_maps(plain_cosines(model, image, columns_first=True)), saliency),
        "saliency of the small square": plain_scores(
            maps, plain_saliency(found, F.interpolate(image[None].float(), (256, 256))[0].to(torch.uint8))
        ),
        "mask instead of soft saliency": plain_scores(maps, (saliency > 0.5).float()),
        "no saliency": maps.softmax(dim=0),
        "scaled cosines": plain_scores(100 * maps, saliency),
        "background taken for an object": (maps * saliency).softmax(dim=0),
    }
    assert {name for name, other in wrong.items() if error(scores, other) <= 20 * TOLERANCE} == set()


def test_without_a_background_it_is_the_plain_mean(model: open_clip.CLIP, backbone: Backbone, found: Found) -> None:
    image = make_image(*SIZE)
    wanted = plain_maps(plain_cosines(model, image)).softmax(dim=0)
    assert torch.allclose(make(backbone, found, None).segment(image).scores[0], wanted, rtol=0, atol=TOLERANCE)
    silent = Vocabulary.from_texts([*([name] for name in NAMES), []], [*NAMES, "rest"], [TEMPLATE], background=5)
    scores = make(backbone, found).method.segment(image, silent).scores
    assert torch.allclose(scores[0], wanted, rtol=0, atol=TOLERANCE)


def test_every_text_of_the_background_gets_its_share(model: open_clip.CLIP, backbone: Backbone, found: Found) -> None:
    image, names = make_image(*SIZE), ["background", "wall", "cat"]
    method = make(backbone, found, names=["background, wall", "cat"])
    maps, saliency = plain_maps(plain_cosines(model, image, names)), plain_saliency(found, image)
    wanted = torch.stack([maps[0] * (1 - saliency), maps[1] * (1 - saliency), maps[2] * saliency]).softmax(dim=0)
    assert torch.allclose(method.segment(image).scores[0], wanted, rtol=0, atol=TOLERANCE)


def test_windows_have_no_effect(backbone: Backbone, found: Found) -> None:
    image, method = make_image(*SIZE), make(backbone, found)
    whole, windows = method.segment(image), method.segment(image, WindowGeometry(64, 32))
    assert windows.boxes == whole.boxes and torch.equal(windows.scores, whole.scores)
    labels = decode(whole, SIZE, DecodeRule(activation="none"))
    assert labels.shape == SIZE and len(labels.unique()) > 1


def test_found_is_asked_only_where_a_background_is_scored(backbone: Backbone, found: Found) -> None:
    """And once, whatever the number of vocabularies."""
    method, picture, calls = make(backbone, found), Picture.of(make_image(*SIZE)), []
    saliency = method.method._saliency
    method.method._saliency = lambda image: (calls.append(1), saliency(image))[1]
    seen = method.encode_image(picture, WindowGeometry())
    method.score(seen, make(backbone, found, None).words)
    assert calls == []
    for words in (method.words, make(backbone, found, names=NAMES[:3]).words):
        assert method.score(seen, words).scores.shape == (1, len(words.query_to_class), 256, 256)
    assert calls == [1]


def test_weights_that_are_not_there(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dino-vits8-300ep"):
        create_method("clip-diy", backbone=backbone)
    with pytest.raises(UserError, match=r"dino_deitsmall8_300ep_pretrain\.pth is expected there"):
        create_method("clip-diy", backbone=backbone, dino=str(tmp_path))


def test_weights_named_by_the_user(backbone: Backbone, found: Found, tmp_path: Path) -> None:
    state = random_state(width=384, depth=2, patch=8, side=7)
    weight = torch.randn(1, 384, 1, 1, generator=torch.Generator().manual_seed(1)) / 10
    torch.save(state, tmp_path / "dino.pth")
    torch.save({"decoder": {"weight": weight, "bias": torch.tensor([0.3])}}, tmp_path / "head.pt")
    files = {"dino": str(tmp_path / "dino.pth"), "found": str(tmp_path / "head.pt")}
    method = create_method("clip-diy", backbone=backbone, **files)
    assert method.provenance["found"]["source"] == "file head.pt"
    assert method.provenance["found"]["dino"]["source"] == "file dino.pth"
    vocabulary, image = Vocabulary.from_names(NAMES, templates=[TEMPLATE], background=0), make_image(*SIZE)
    assert torch.equal(method.segment(image, vocabulary).scores, make(backbone, found).segment(image).scores)


def test_protocol_and_default_backbone() -> None:
    protocol = load_protocol("clip-diy")
    for key in ("voc21", "coco_object", "coco_object@instances"):
        setting = protocol.setting(key)
        assert (setting.short_side_px, setting.window_px, setting.upsample) == (0, 0, "labels")
        assert setting.vocabulary == ("clip_diy" if key == "voc21" else "official")
        assert load_templates(setting.templates) == (TEMPLATE,)
        assert setting.options_for("clip-diy") == {}
    name, _, tag = CLIPDIY.info.backbone.partition("/")
    assert tag in open_clip.list_pretrained_tags_by_model(name)
    assert open_clip.get_model_config(name)["vision_cfg"]["patch_size"] == 32
    assert not CLIPDIY.info.offline
