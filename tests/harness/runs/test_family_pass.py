"""Six methods over a folder of photos in one pass: every model looks once at every image."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer

from ovss.datasets import open_dataset
from ovss.harness.protocol.protocol import load_protocol
from ovss.harness.runs.photo import Photo
from ovss.harness.runs.pipeline import Clock, Pipeline
from ovss.methods import Method, create_method
from ovss.methods.blocks.dense_clip import share_layers
from ovss.methods.core.picture import Memo
from ovss.methods.models import vit
from ovss.methods.models.backbone import Backbone
from ovss.methods.models.dino import Dino
from ovss.methods.models.sam import Sam

from ...methods.models.test_dino import random_state
from ...methods.sam_parts import random_model

FAMILY = ("sclip", "naclip", "proxyclip", "sc-clip", "corrclip", "trident")


def made(backbone: Backbone, sam: Path) -> dict[str, Method]:
    """The six on one CLIP, one DINO and one SAM, whose folder is read once."""
    dino = Dino(random_state(64, 2, 8, 4))
    all_masks = {"points_per_side": 4, "least_iou": -9.0, "least_stability": 0.0}
    own: dict[str, dict[str, Any]] = {
        "proxyclip": {"dino": dino},
        "trident": {"dino": dino, "sam": str(sam)},
        "corrclip": {"dino": dino, "proposer": "sam", "proposer_weights": str(sam), **all_masks},
    }
    return {name: create_method(name, backbone, **own.get(name, {})) for name in FAMILY}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often each model ran over windows or an image."""
    found: dict[str, int] = {}

    def count(owner: Any, name: str, label: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def call(*given: Any, **named: Any) -> Any:
            found[label] = found.get(label, 0) + 1
            return original(*given, **named)

        monkeypatch.setattr(owner, name, call)

    count(vit, "run_trunk", "trunk")
    count(vit, "run_layers", "trunk")
    count(Dino, "trunk", "DINO")
    count(Sam, "see", "SAM")
    return found


def labels_of(methods: dict[str, Method], names: tuple[str, ...], images: list[Any]) -> dict[str, list[torch.Tensor]]:
    """Label maps of methods in one pass, as a run makes them."""
    chosen = {name: methods[name] for name in names}
    share_layers(chosen.values())
    record = open_dataset("shapes").record
    setting = load_protocol("tiny").changed(short_side_px=112, window_px=112, stride_px=56).setting("shapes")
    pipelines = {name: Pipeline(method, setting, record) for name, method in chosen.items()}
    found: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    for number, image in enumerate(images):
        with Memo() as memo:
            photo = Photo(image, str(number), memo)
            for name, pipeline in pipelines.items():
                found[name].append(pipeline.predict(photo, Clock()))
    return found


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """A small ViT with patches of 16 px, and the tiny words."""
    vision = {"image_size": 112, "layers": 4, "width": 64, "head_width": 32, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(embed_dim=64, vision_cfg=vision, text_cfg=text, quick_gelu=True).eval()
    return Backbone(model, SimpleTokenizer(), "small", "random", (0.5, 0.4, 0.3), (0.3, 0.2, 0.3))


def test_every_model_looks_once(calls: dict[str, int], backbone: Backbone, tmp_path: Path) -> None:
    """Of two images of 112 x 168 px in one batch of windows each; alone, each method needs a look of its own."""
    random_model().save_pretrained(tmp_path)
    methods = made(backbone, tmp_path)
    images = [open_dataset("shapes").load(i).image[:112, :168] for i in ("test_00000", "test_00001")]
    together = labels_of(methods, FAMILY, images)
    assert calls == {"trunk": len(images), "DINO": len(images), "SAM": len(images)}
    calls.clear()
    for name in FAMILY:
        (alone,) = labels_of(made(backbone, tmp_path), (name,), images).values()
        assert all(map(torch.equal, alone, together[name])), name
    assert calls == {"trunk": 6 * len(images), "DINO": 3 * len(images), "SAM": 2 * len(images)}
