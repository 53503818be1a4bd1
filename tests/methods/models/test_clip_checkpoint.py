"""CLIP's weights in the forms that people have: each gives the model that was saved, and says what it is."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers
from open_clip import factory, pretrained
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ovss.methods import UserError, load_backbone
from ovss.methods.models import clip_checkpoint
from ovss.methods.models.clip_checkpoint import OPENAI_SHA256, read_clip
from ovss.methods.models.weights import find_entry

HEADS = 2


def small(quick_gelu: bool = True) -> dict[str, Any]:
    return {
        "embed_dim": 24,
        "quick_gelu": quick_gelu,
        "vision_cfg": {"image_size": 48, "layers": 3, "width": 64, "head_width": 64 // HEADS, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 40, "heads": HEADS, "layers": 2},
    }


def tower(layers: int, width: int, act: str, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": 4 * width}
    return {**sizes, "num_attention_heads": HEADS, "hidden_act": act, **more}


def theirs(act: str = "quick_gelu") -> Any:
    """A CLIPModel of transformers with random weights, among them norms that are not the identity."""
    torch.manual_seed(3)
    config = transformers.CLIPConfig(
        text_config=tower(2, 40, act),
        vision_config=tower(3, 64, act, patch_size=16, image_size=48),
        projection_dim=24,
    )
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(factory._MODEL_CONFIGS, "ViT-B-16", small(False))
    monkeypatch.setitem(factory._MODEL_CONFIGS, "ViT-B-16-quickgelu", small(True))


def open_clip_model(quick_gelu: bool = True) -> Any:
    return open_clip.CLIP(**small(quick_gelu)).eval()


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_the_models_of_both_libraries_are_one(tmp_path: Path, act: str) -> None:
    model = theirs(act)
    model.save_pretrained(tmp_path)
    name = "ViT-B-16-quickgelu" if act == "quick_gelu" else "ViT-B-16"
    backbone = load_backbone(name, weights=tmp_path)
    pixels, tokens = torch.randn(2, 3, 48, 48), backbone.tokenizer(["a cat", "a very long dog"])
    with torch.no_grad():
        images = model.vision_model(pixels).pooler_output @ model.visual_projection.weight.T
        # the mask says which tokens are words: with one, causal attention never reaches the padding
        texts = model.text_model(tokens).pooler_output @ model.text_projection.weight.T
        assert (backbone.model.encode_image(pixels) - images).abs().max() < 1e-5 * images.abs().max()
        assert (backbone.model.encode_text(tokens) - texts).abs().max() < 1e-5 * texts.abs().max()
    assert backbone.model.logit_scale == model.logit_scale
    assert backbone.provenance["activation_checked"]
    assert backbone.provenance["activation_note"] == "config.json beside the file"
    assert backbone.source == f"file {tmp_path.name}"


def test_the_other_activation_is_refused(tmp_path: Path) -> None:
    theirs("gelu").save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"trained with gelu \(config.json beside the file\).*Use --backbone ViT-B-16$"):
        load_backbone("ViT-B-16-quickgelu", weights=tmp_path / "model.safetensors")


def test_a_file_alone_and_older_ones(tmp_path: Path) -> None:
    """Without its configuration nothing tells the activation; older files are pickles with positions beside."""
    model = theirs()
    state = {**model.state_dict(), "text_model.embeddings.position_ids": torch.arange(77)[None]}
    torch.save(state, tmp_path / "clip.bin")
    backbone = load_backbone("ViT-B-16-quickgelu", weights=tmp_path / "clip.bin")
    assert not backbone.provenance["activation_checked"]
    assert torch.equal(backbone.model.visual.proj, model.visual_projection.weight.T)
    state.pop("vision_model.encoder.layers.1.self_attn.k_proj.bias")
    torch.save(state, tmp_path / "clip.bin")
    with pytest.raises(UserError, match=r"not all of queries, keys and values of visual.transformer.resblocks.1.attn"):
        load_backbone("ViT-B-16-quickgelu", weights=tmp_path / "clip.bin")


def test_keys_of_another_model_are_named(tmp_path: Path) -> None:
    state = {**theirs().state_dict(), "vision_model.head.probe": torch.ones(1)}
    del state["vision_model.post_layernorm.bias"]
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "clip.safetensors")
    with pytest.raises(UserError, match=r"missing visual.ln_post.bias; not in the model: vision_model.head.probe"):
        read_clip(tmp_path / "clip.safetensors", open_clip_model())


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"num_attention_heads": 4}, "has 4 heads, the backbone has 2"),
        ({"layer_norm_eps": 1e-6}, "layer_norm_eps"),
        ({"hidden_act": "gelu_new"}, "an activation"),
        ({"hidden_act": "gelu"}, "different activations"),
    ],
)
def test_another_configuration_is_refused(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    """Heads cannot be told from shapes: with the wrong number all numbers would be silently wrong."""
    theirs().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["vision_config"] |= change
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=what):
        read_clip(tmp_path, open_clip_model())
    config["vision_config_dict"] = {k: theirs().config.vision_config.to_dict()[k] for k in change}  # as older ones
    path.write_text(json.dumps(config))
    assert read_clip(tmp_path, open_clip_model()).activation == "quick_gelu"
    path.write_text("[]")
    with pytest.raises(UserError, match="is no configuration"):
        read_clip(tmp_path, open_clip_model())


# ---- OpenAI's own files


class Archive(nn.Module):
    """The state of a model as OpenAI's archives have it: float16, and constants among the weights."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        for name, child in model.half().named_children():
            if name != "token_embedding":
                self.add_module(name, Holder(child))
        self.token_embedding = model.token_embedding
        for name, parameter in model.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name in ("input_resolution", "context_length", "vocab_size"):
            self.register_buffer(name, torch.tensor(48))

    def forward(self, x: Tensor) -> Tensor:
        return x


class Holder(nn.Module):
    """The parameters of a module without its code, which this version of TorchScript might not take."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        for name, child in module.named_children():
            self.add_module(name, Holder(child))
        for name, parameter in module.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        self.attn_mask = torch.zeros(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.fixture
def archive(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    torch.manual_seed(4)
    model = open_clip_model()
    state = {name: value.half() for name, value in model.state_dict().items()}
    torch.jit.save(torch.jit.script(Archive(model)), tmp_path / "ViT-B-16.pt")
    return tmp_path / "ViT-B-16.pt", state


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_openais_archive(archive: tuple[Path, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch) -> None:
    path, state = archive
    backbone = load_backbone("ViT-B/16-quickgelu", weights=path)
    loaded = backbone.model.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[k], state[k].float()) for k in state)
    assert backbone.name == "ViT-B-16-quickgelu"
    assert not backbone.provenance["activation_checked"]  # it is not OpenAI's
    monkeypatch.setitem(OPENAI_SHA256, backbone.provenance["sha256"].partition(":")[2], "ViT-B-16")
    known = load_backbone("ViT-B-16-quickgelu", weights=path)
    assert known.provenance["activation_note"] == "SHA-256 of OpenAI's ViT-B-16.pt"
    assert known.source == "file ViT-B-16.pt, OpenAI's ViT-B-16.pt"
    assert "MIT" in known.licences["OpenAI's ViT-B-16.pt"]
    with pytest.raises(UserError, match=r"trained with quick_gelu .*Use --backbone ViT-B-16-quickgelu$"):
        load_backbone("ViT-B-16", weights=path)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_tag_finds_openais_own_file_and_refuses_another(
    archive: tuple[Path, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    path, _ = archive
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **kwargs: None)
    monkeypatch.setenv("OVSS_WEIGHTS", str(path.parent))
    with pytest.raises(UserError, match=r"not the catalogued file .* 5806e77cd80f8b59890b7e101eabd078d9fb84e6937f"):
        load_backbone("ViT-B-16-quickgelu/openai")
    entry = find_entry("clip-vit-b-16-openai-original")
    file = entry.files[0].model_copy(update={"sha256": clip_checkpoint.file_sha256(path)})
    fitting = entry.model_copy(update={"files": (file,)})
    monkeypatch.setattr("ovss.methods.models.backbone.find_entry", lambda name: fitting)
    assert load_backbone("ViT-B-16-quickgelu/openai").source == "OpenAI's ViT-B-16.pt"


def test_the_checksums_are_those_of_the_public_addresses() -> None:
    for sha256, model in OPENAI_SHA256.items():
        assert f"/{sha256}/" in pretrained.get_pretrained_url(f"{model}-quickgelu", "openai")
    for model in ("b-16", "l-14"):
        (file,) = find_entry(f"clip-vit-{model}-openai-original").files
        assert file.sha256 in OPENAI_SHA256 and OPENAI_SHA256[file.sha256] == f"ViT-{model.upper()}"
        assert file.url == pretrained.get_pretrained_url(f"ViT-{model.upper()}-quickgelu", "openai")


def test_a_damaged_file_of_the_hub_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache stores a file under the SHA-256 that the hub told."""
    import huggingface_hub

    save_file(open_clip_model().state_dict(), tmp_path / "x.safetensors")
    blob = tmp_path / "blobs" / clip_checkpoint.file_sha256(tmp_path / "x.safetensors")
    blob.parent.mkdir()
    (tmp_path / "x.safetensors").rename(blob)
    link = tmp_path / "open_clip_model.safetensors"
    link.symlink_to(blob)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **kwargs: str(link))
    load_backbone("ViT-B-16-quickgelu/openai")
    state = load_file(blob)
    state["logit_scale"] += 1
    save_file(state, blob)
    with pytest.raises(UserError, match="is damaged: its sha256 is"):
        load_backbone("ViT-B-16-quickgelu/openai")
