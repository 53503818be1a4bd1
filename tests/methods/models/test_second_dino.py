"""Which DINO goes with a backbone, and that the embedded one has learnt something."""

import json

import pytest
import torch
from safetensors import safe_open

from ovss.datasets import open_dataset
from ovss.harness import load_protocol
from ovss.harness.runs.evaluation import evaluate_together
from ovss.methods import Backbone, UserError, create_method, load_backbone
from ovss.methods.lposs import LPOSS
from ovss.methods.models.dino import Dino
from ovss.methods.models.second_dino import TINY_DINO, TINY_DINO_FILE, open_dino
from ovss.methods.proxyclip import ProxyCLIP

from .test_dino import random_state


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("tiny-clip")


def test_tiny_clip_goes_with_tiny_dino(backbone: Backbone) -> None:
    proxy, lposs = create_method("proxyclip", backbone), create_method("lposs", backbone)
    assert isinstance(proxy, ProxyCLIP) and isinstance(lposs, LPOSS)
    assert proxy.dino is lposs.dino is open_dino("dino-vitb8", TINY_DINO, backbone, "cpu")
    told = proxy.provenance["dino"]
    assert told["name"] == "DINO ViT-128x4/8" and told["source"] == "embedded tiny-dino"
    assert told["sha256"].startswith("file:") and proxy.described.published is None


def test_what_is_named_is_taken(backbone: Backbone) -> None:
    for name, given in (("proxyclip", {"encoder": "dino-b16"}), ("lposs", {"dino": "dino-vitb16"})):
        with pytest.raises(UserError, match="bench weights fetch dino-vitb16"):
            create_method(name, backbone, **given)


def test_cass_pairs_heads_and_the_small_models_have_not_as_many(backbone: Backbone) -> None:
    with pytest.raises(UserError, match=r"the backbone has 4, DINO ViT-128x4/8 2"):
        create_method("cass", backbone)


def test_the_file_says_how_it_was_made() -> None:
    with safe_open(TINY_DINO_FILE, "pt") as file:
        about = json.loads(file.metadata()["training"])
    assert about["command"] == "bench train tiny-dino --seed 0" and about["images"]["data"] == "shapes:train"
    assert about["iterations"] * about["recipe"]["batch"] == about["recipe"]["count"] == about["images"]["images"]


def test_it_has_learnt_what_belongs_together(backbone: Backbone) -> None:
    """Against the same ViT with random weights, as ProxyCLIP's second model."""
    methods = {
        "trained": ProxyCLIP(backbone),
        "random": ProxyCLIP(backbone, dino=Dino(random_state(128, 4, 8, 12))),
    }
    with torch.inference_mode():
        found = evaluate_together(methods, open_dataset("shapes"), load_protocol("tiny"), limit=30)
    assert found["trained"].miou > found["random"].miou + 5
