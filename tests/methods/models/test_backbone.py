"""Loading backbones: formats, checks, messages.  Small models stand in under open_clip's names; no network."""

import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import pytest
import torch
from open_clip import factory
from safetensors.torch import save_file
from torch import Tensor, nn

from ovss.methods import Backbone, UserError, create_method, load_backbone
from ovss.methods.models.backbone import TINY_CLIP_FOLDER, list_backbones

State = dict[str, Tensor]
NAMES = {"ViT-B-32": False, "ViT-B-32-quickgelu": True}


def small_config(quick_gelu: bool) -> dict[str, Any]:
    return {
        "embed_dim": 16,
        "quick_gelu": quick_gelu,
        "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
    }


@pytest.fixture(autouse=True)
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, quick_gelu in NAMES.items():
        monkeypatch.setitem(factory._MODEL_CONFIGS, name, small_config(quick_gelu))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **kwargs: None)


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(5)
    return open_clip.CLIP(**small_config(True)).state_dict()


Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def save(content: Any, name: str = "weights.pt") -> Path:
        path = tmp_path / name
        if path.suffix == ".safetensors":
            save_file(content, path)
        else:
            torch.save(content, path)
        return path

    return save


def assert_loaded(backbone: Backbone, state: State) -> None:
    loaded = backbone.model.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[k], state[k].float()) for k in state)
    assert all(p.dtype == torch.float32 for p in backbone.model.parameters())
    assert not backbone.model.training


def test_safetensors(save: Save, state: State) -> None:
    path = save(state, "weights.safetensors")
    backbone = load_backbone("ViT-B-32-quickgelu", weights=path)
    assert_loaded(backbone, state)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert backbone.provenance == {
        "name": "ViT-B-32-quickgelu",
        "source": "file weights.safetensors",
        "sha256": f"file:{digest}",
        "activation": "quick_gelu",
        "activation_checked": False,
        "activation_note": "activation QuickGELU, by name, not checked",
    }
    assert backbone.licences == {"file weights.safetensors": "unknown: a file of your own"}
    assert backbone.mean == open_clip.OPENAI_DATASET_MEAN
    assert backbone.std == open_clip.OPENAI_DATASET_STD
    assert backbone.tokenizer(["a cat"]).shape == (1, 77)


@pytest.mark.parametrize("form", ["plain", "nested", "module prefix", "half", "old mask", "nested with extras"])
def test_pickles_of_tensors(save: Save, state: State, form: str) -> None:
    wanted = state
    content: Any = state
    if form == "nested":
        content = {"state_dict": state}
    elif form == "module prefix":
        content = {f"module.{k}": v for k, v in state.items()}
    elif form == "half":
        content = wanted = {k: v.half() for k, v in state.items()}
    elif form == "old mask":
        content = {**state, "attn_mask": torch.zeros(77, 77)}
    elif form == "nested with extras":
        content = {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}, "optimizer": {"lr": 0.1}}
    assert_loaded(load_backbone("ViT-B-32", weights=save(content)), wanted)


def refuse(path: Path, name: str = "ViT-B-32") -> str:
    """The message of the UserError; it must name the file."""
    with pytest.raises(UserError) as caught:
        load_backbone(name, weights=path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_keys_that_do_not_fit_are_named(save: Save, state: State, name: str) -> None:
    broken = dict(state)
    broken["visual.prj"] = broken.pop("visual.proj")
    broken["text_projection"] = torch.zeros(3, 4)
    message = refuse(save(broken, name))
    assert "missing visual.proj" in message
    assert "not in the model: visual.prj" in message
    assert "text_projection has shape (3, 4), the model (8, 16)" in message


def test_many_missing_keys_are_counted(save: Save, state: State) -> None:
    few = {k: state[k] for k in list(state)[:4]}
    assert f"and {len(state) - 4 - 5} more" in refuse(save(few))


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_damaged_file(save: Save, state: State, name: str, keep: float) -> None:
    path = save(state, name)
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if keep in (0, 10) else int(len(whole) * keep)])
    assert "cannot be read" in refuse(path)


class Bomb:
    """Unpickling this would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_code_in_a_pickle_is_not_run(save: Save, state: State, tmp_path: Path) -> None:
    path = save({"state_dict": state, "extra": Bomb(tmp_path / "trace")})
    assert_loaded(load_backbone("ViT-B-32", weights=path), state)
    assert "holds a" in refuse(save({"state_dict": Bomb(tmp_path / "trace")}))
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("content", [[torch.zeros(2)], torch.zeros(2), {"state_dict": [1, 2]}, {"state_dict": None}])
def test_pickle_that_is_no_state_dict(save: Save, content: Any) -> None:
    refuse(save(content))


def test_absent_file(tmp_path: Path) -> None:
    assert "does not exist" in refuse(tmp_path / "none.safetensors")
    assert "holds neither model.safetensors nor pytorch_model.bin" in refuse(tmp_path)


def test_names_that_are_unknown() -> None:
    with pytest.raises(UserError, match=r"unknown backbone 'ViT-B-61'; did you mean ViT-B-"):
        load_backbone("ViT-B-61/openai")
    with pytest.raises(UserError, match=r"no pretrained tag 'openia'; did you mean openai\?"):
        load_backbone("ViT-B-32-quickgelu/openia")


def test_tag_or_file_but_not_both(save: Save, state: State) -> None:
    for name, weights in [("ViT-B-32", None), ("ViT-B-32/openai", save(state))]:
        with pytest.raises(UserError, match="and not both"):
            load_backbone(name, weights=weights)
    with pytest.raises(UserError, match="embedded"):
        load_backbone("tiny-clip", weights=save(state))


def test_absent_weights_name_the_command() -> None:
    with pytest.raises(UserError) as caught:
        load_backbone("ViT-B-32-quickgelu/openai")
    assert "hf download timm/vit_base_patch32_clip_224.openai open_clip_model.safetensors" in str(caught.value)
    assert "--allow-download" in str(caught.value)


def test_nothing_is_downloaded_unless_allowed(
    save: Save, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0123456789abcdef").mkdir()
    path = save(state, "0123456789abcdef/open_clip_model.safetensors")
    asked: list[tuple[str, str]] = []

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(UserError, match="not on this machine"):
        load_backbone("ViT-B-32-quickgelu/openai")
    assert asked == []
    backbone = load_backbone("ViT-B-32-quickgelu/openai", allow_download=True)
    assert asked == [("timm/vit_base_patch32_clip_224.openai", "open_clip_model.safetensors")]
    assert_loaded(backbone, state)
    assert backbone.source == "hub timm/vit_base_patch32_clip_224.openai@0123456789ab"


def test_activation_is_asserted(save: Save, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(state, "open_clip_model.safetensors")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **kwargs: str(path))
    backbone = load_backbone("ViT-B-32-quickgelu/openai")
    assert backbone.provenance["activation"] == "quick_gelu"
    assert backbone.provenance["activation_checked"] is True
    assert backbone.provenance["activation_note"] == "pretrained tag 'openai'"
    with pytest.raises(UserError, match=r"Use --backbone ViT-B-32-quickgelu/openai"):
        load_backbone("ViT-B-32/openai")
    assert load_backbone("ViT-B-32/laion2b_s34b_b79k").provenance["activation"] == "gelu"


def test_both_towers_are_asserted(save: Save, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose image tower is right and whose text tower is wrong."""
    config = small_config(True)
    config["text_cfg"]["act_kwargs"] = None
    monkeypatch.setitem(factory._MODEL_CONFIGS, "ViT-B-32-quickgelu", config)
    path = save(state, "open_clip_model.safetensors")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **kwargs: str(path))
    original = open_clip.create_model

    def with_wrong_text_tower(*args: Any, **kwargs: Any) -> nn.Module:
        model = original(*args, **kwargs)
        for block in model.transformer.resblocks:
            block.mlp.gelu = nn.GELU()
        return model

    monkeypatch.setattr(open_clip, "create_model", with_wrong_text_tower)
    with pytest.raises(UserError, match="builds gelu"):
        load_backbone("ViT-B-32-quickgelu/openai")


def test_module_of_the_caller(state: State) -> None:
    model = open_clip.CLIP(**small_config(True))
    model.load_state_dict(state)
    backbone = Backbone.from_module(model, open_clip.tokenizer.SimpleTokenizer())
    assert backbone.provenance["source"] == "module given by the caller"
    assert backbone.sha256.startswith("state:")
    other = open_clip.CLIP(**small_config(True))
    assert Backbone.from_module(other, backbone.tokenizer).sha256 != backbone.sha256
    other.load_state_dict(state)
    assert Backbone.from_module(other, backbone.tokenizer).sha256 == backbone.sha256
    with pytest.raises(UserError, match="'visual'"):
        Backbone.from_module(nn.Linear(2, 2), backbone.tokenizer)


def test_list_backbones() -> None:
    known = list_backbones()
    assert known["tiny-clip"] == ["embedded"]
    assert "openai" in known["ViT-B-32-quickgelu"]
    assert not any("SigLIP" in name or name.startswith("RN") for name in known)


@pytest.mark.skipif(
    not (TINY_CLIP_FOLDER / "open_clip_model.safetensors").is_file(), reason="the embedded weights are not there yet"
)
def test_tiny_clip_loads() -> None:
    backbone = load_backbone("tiny-clip")
    assert backbone.source == "embedded"
    assert backbone.tokenizer(["circle"]).shape[0] == 1


@pytest.mark.parametrize("mistake", ["offline", "absent"])
def test_a_failed_download_is_one_paragraph(monkeypatch: pytest.MonkeyPatch, mistake: str) -> None:
    """Offline stops at once; a file that the repository does not have makes room for the next name."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    asked: list[str] = []

    def download(repository: str, file: str) -> str:
        asked.append(file)
        if mistake == "offline":
            raise LocalEntryNotFoundError("no connection")
        raise EntryNotFoundError("no such file")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(UserError, match="--weights FILE"):
        load_backbone("ViT-B-32/laion2b_s34b_b79k", allow_download=True)
    names = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    assert asked == (names[:1] if mistake == "offline" else names)


def test_weights_need_the_name_of_their_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--backbone ViT-B-16-quickgelu"):
        create_method("sclip", weights=tmp_path / "any.safetensors")
