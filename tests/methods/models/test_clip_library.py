"""open_clip comes without what most models do not use of it, and with it for those that do.  A process for each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ovss.harness

HEAVY = ("transformers", "timm", "torchvision", "torch._dynamo")
LIGHT = """
import sys
from ovss.methods.models.clip_library import open_clip
HEAVY = {heavy!r}
assert not [name for name in HEAVY if name in sys.modules]
assert not [name for name, module in sys.modules.items() if type(module).__name__ == "_StandIn"]
"""
TIMM = """
config = {"embed_dim": 8, "vision_cfg": {"timm_model_name": "vit_tiny_patch16_224", "timm_model_pretrained": False,
    "timm_pool": "map", "timm_proj": "none", "image_size": 224},
    "text_cfg": {"context_length": 8, "vocab_size": 99, "width": 8, "heads": 1, "layers": 1}}
config["embed_dim"] = 192
model = open_clip.CustomTextCLIP(**config)
import timm, torch
assert isinstance(model.visual.trunk, timm.models.VisionTransformer)
assert model.encode_image(torch.zeros(1, 3, 224, 224)).shape == (1, 192)
"""
HUB = """
from unittest.mock import patch
import torch, transformers
tiny = transformers.RobertaConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
    vocab_size=99)
with patch.object(transformers.AutoConfig, "from_pretrained", lambda *a, **k: tiny):
    tower = open_clip.hf_model.HFTextEncoder("any", output_dim=4, proj_type="linear", pretrained=False)
assert isinstance(tower.transformer, transformers.RobertaModel)
assert tower(torch.ones(2, 5, dtype=torch.long)).shape == (2, 4)
"""
IMAGES = """
import numpy as np
from PIL import Image
prepare = open_clip.image_transform(16, is_train=False)
assert prepare(Image.fromarray(np.zeros((20, 30, 3), np.uint8))).shape == (3, 16, 16)
import torchvision.transforms
assert isinstance(prepare, torchvision.transforms.Compose)
assert open_clip.transform is sys.modules["open_clip.transform"]
assert issubclass(open_clip.transform.MaybeToTensor, torchvision.transforms.ToTensor)
model = open_clip.CLIP(8, {"layers": 1, "width": 8, "patch_size": 8, "image_size": 16, "head_width": 8},
    {"context_length": 8, "vocab_size": 99, "width": 8, "heads": 1, "layers": 1})
model.lock_image_tower(freeze_bn_stats=True)
assert open_clip.create_model("ViT-B-32-quickgelu", pretrained=None).visual.preprocess_cfg["size"] == (224, 224)
"""


def succeeds(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow  # imports all of it: seconds each
@pytest.mark.parametrize("use", [TIMM, HUB, IMAGES], ids=["timm", "hub", "images"])
def test_what_needs_more_gets_the_real_packages(use: str) -> None:
    succeeds(LIGHT.format(heavy=HEAVY) + use)


@pytest.mark.slow
def test_a_package_that_was_imported_before_stays_the_same() -> None:
    succeeds(
        "import sys, transformers\n"
        "from ovss.methods.models.clip_library import open_clip\n"
        "assert sys.modules['transformers'] is transformers is open_clip.hf_model.transformers\n"
        "assert open_clip.hf_model.AutoModel is transformers.AutoModel\n"
        "assert 'timm' not in sys.modules\n"
    )


def test_a_package_that_is_not_there_is_missing_as_ever() -> None:
    succeeds(
        "import sys; sys.modules['timm'] = None\n"
        "from ovss.methods.models.clip_library import open_clip\n"
        "assert open_clip.timm_model.timm is None\n"
    )


def test_no_other_module_imports_open_clip() -> None:
    root = Path(ovss.harness.__file__).resolve().parents[1]
    code = [path for room in ("methods", "datasets", "harness") for path in (root / room).rglob("*.py")]
    assert len(code) > 100
    lines = {path.name: path.read_text().splitlines() for path in code}
    found = {n for n, texts in lines.items() for t in texts if t.split()[:2] in (["import", "open_clip"],)}
    found |= {n for n, texts in lines.items() for t in texts if t.strip().startswith("from open_clip")}
    assert found == {"clip_library.py"}
