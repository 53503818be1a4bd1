"""Names of backbones as people write them, and what is refused before anything heavy is imported."""

import subprocess
import sys
from pathlib import Path

import open_clip
import pytest

from ovss.methods import UserError
from ovss.methods.models.backbone_names import check_backbone_request, model_names, resolve_backbone


def test_the_names_are_open_clips() -> None:
    assert set(open_clip.list_models()) <= set(model_names())


@pytest.mark.parametrize(
    ("name", "model", "tag"),
    [
        ("ViT-B-16", "ViT-B-16", ""),
        ("ViT-B/16", "ViT-B-16", ""),
        ("vit-b-16", "ViT-B-16", ""),
        ("ViT-B/16/openai", "ViT-B-16", "openai"),
        ("vit_b_16/laion2b_s34b_b88k", "ViT-B-16", "laion2b_s34b_b88k"),
        ("ViT-B/16-quickgelu/openai", "ViT-B-16-quickgelu", "openai"),
        ("ViT-B-16-quickgelu/openai", "ViT-B-16-quickgelu", "openai"),
        ("ViT-L/14@336px", "ViT-L-14-336", ""),
        ("tiny-clip", "tiny-clip", ""),
    ],
)
def test_spellings(name: str, model: str, tag: str) -> None:
    assert resolve_backbone(name, open_clip.list_models()) == (model, tag)


def test_every_model_is_found_under_its_own_name() -> None:
    for name in open_clip.list_models():
        assert resolve_backbone(name, model_names()) == (name, "")
        assert resolve_backbone(f"{name}/x", model_names()) == (name, "x")


def test_an_unknown_name_has_a_suggestion() -> None:
    with pytest.raises(UserError, match=r"unknown backbone 'ViT-B/61'; did you mean ViT-B-16\?"):
        resolve_backbone("ViT-B/61/openai", model_names())
    with pytest.raises(UserError, match=r"unknown backbone 'nothing'\. See `bench list"):
        resolve_backbone("nothing", model_names())


def test_requests_that_cannot_work(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    good, absent = tmp_path / "model.safetensors", tmp_path / "modle.safetensors"
    check_backbone_request(None, None)
    check_backbone_request("ViT-B/16", good)
    check_backbone_request("ViT-B-16/openai", None)
    check_backbone_request(None, tmp_path)  # a folder, of a method that takes one
    for backbone, weights, what in (
        (None, absent, r"does not exist; did you mean .*model\.safetensors"),
        ("ViT-B-16", tmp_path / "no" / "x", r"does not exist$"),
        ("ViT-B-61", good, "unknown backbone"),
        ("ViT-B-16", None, "and not both"),
        ("ViT-B-16/openai", good, "and not both"),
        ("tiny-clip", good, "embedded"),
        ("tiny-clip/openai", None, "no pretrained tags"),
    ):
        with pytest.raises(UserError, match=what):
            check_backbone_request(backbone, weights)


def test_nothing_heavy_is_imported() -> None:
    code = """
import sys
from pathlib import Path
from ovss.methods.models.backbone_names import check_backbone_request
check_backbone_request("ViT-B/16/openai", None)
print(sorted({"torch", "open_clip", "numpy", "transformers", "pydantic"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
