"""Stable Diffusion from folders that diffusers itself saved: same outputs, and what is said about wrong ones."""

import gc
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ovss.methods import UserError
from ovss.methods.models.stable_diffusion import (
    StableDiffusion,
    empty_prompt,
    load_stable_diffusion,
    read_stable_diffusion,
    tiny_stable_diffusion,
)
from ovss.methods.models.weights import find_entry

from .stable_diffusion_parts import SmallFolder, change_json, save_small

UNET, VAE = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty caches, and no mirror."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("OVSS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OVSS_WEIGHTS", raising=False)


@pytest.fixture(scope="module", params=["sd21", "sd15"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SmallFolder:
    return save_small(tmp_path_factory.mktemp("saved") / request.param, request.param)


@pytest.fixture(scope="module")
def saved_21(tmp_path_factory: pytest.TempPathFactory) -> SmallFolder:
    return save_small(tmp_path_factory.mktemp("saved") / "sd21", "sd21")


@pytest.fixture
def mine(saved_21: SmallFolder, tmp_path: Path) -> SmallFolder:
    """A copy that a test may damage."""
    return replace(saved_21, folder=Path(shutil.copytree(saved_21.folder, tmp_path / "copy")))


def read(saved: SmallFolder, name: str = "sd21") -> StableDiffusion:
    return read_stable_diffusion(name, saved.architecture, "cpu", saved.folder)


def change(path: Path, edit: Callable[[State], object]) -> None:
    """Change the tensors of a file."""
    state = load_file(path)
    edit(state)
    save_file({key: value.contiguous() for key, value in state.items()}, path)


def latents_of(vae: Any) -> Tensor:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return vae.encode(image).latent_dist.mean


def noise_of(unet: Any, prompt: Tensor) -> Tensor:
    z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    return unet(z, 101, prompt).sample


# ---- the same models


@torch.no_grad()
def test_outputs_are_those_of_the_modules_that_were_saved(saved: SmallFolder) -> None:
    name = "sd21" if saved.unet.config.use_linear_projection else "sd15"
    before = torch.get_rng_state()
    got = read(saved, name)
    assert torch.equal(torch.get_rng_state(), before)
    tail = [0] * 75 if name == "sd21" else [49407] * 75
    prompt = saved.text_encoder(input_ids=torch.tensor([[49406, 49407, *tail]])).last_hidden_state
    assert torch.equal(got.prompt, prompt)
    assert prompt.std(dim=1).mean() > 0.1, "tokens that look alike would hide wrong ids"
    assert torch.equal(latents_of(got.vae), latents_of(saved.vae))
    assert torch.equal(noise_of(got.unet, got.prompt), noise_of(saved.unet, prompt))
    assert (got.name, got.timestep, got.image_px, got.note) == (name, 101, 64, "")
    assert got.alpha_bar == pytest.approx(0.892980, abs=1e-6)
    assert got.alpha_bar**0.5 == pytest.approx(0.944976, abs=1e-6)
    assert (1 - got.alpha_bar) ** 0.5 == pytest.approx(0.327139, abs=1e-6)


def test_padding_tells_the_versions_apart(saved_21: SmallFolder) -> None:
    wrong = replace(saved_21, architecture=replace(saved_21.architecture, padding=49407))
    assert not torch.allclose(read(wrong).prompt, read(saved_21).prompt, atol=0.1)
    assert empty_prompt(0).tolist() == [[49406, 49407] + [0] * 75]
    assert empty_prompt(49407).tolist() == [[49406] + [49407] * 76]


def test_modules_are_frozen_and_only_what_is_needed_is_kept(saved_21: SmallFolder) -> None:
    from transformers import CLIPTextModel

    gc.collect()
    encoders = sum(type(o) is CLIPTextModel for o in gc.get_objects())
    got = read(saved_21)
    assert sum(type(o) is CLIPTextModel for o in gc.get_objects()) == encoders
    for module in (got.unet, got.vae):
        assert isinstance(module, nn.Module) and not module.training
        assert not any(p.requires_grad for p in module.parameters())
        assert {(p.dtype, p.device.type) for p in module.state_dict().values()} == {(torch.float32, "cpu")}
    assert not got.prompt.requires_grad and got.prompt.grad_fn is None
    assert {name for name, _ in got.vae.named_children()} == {"encoder", "quant_conv"}
    assert (got.dtype, got.device) == (torch.float32, torch.device("cpu"))


def test_what_is_loaded_outlives_its_files(mine: SmallFolder) -> None:
    got = read(mine)
    shutil.rmtree(mine.folder)
    with torch.no_grad():
        assert torch.equal(noise_of(got.unet, got.prompt), noise_of(mine.unet, got.prompt))


@torch.no_grad()
def test_released_files_have_older_names(mine: SmallFolder) -> None:
    """Queries of the VAE's attention, a prefix and a constant in the text encoder; configurations without defaults."""
    modern = read(mine)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def back(state: State) -> None:
        for key in [k for k in state if ".attentions.0.to_" in k]:
            name = next(name for name in old if f".{name}." in key)
            state[key.replace(name, old[name])] = state.pop(key)

    def prefixed(state: State) -> None:
        for key in list(state):
            state[f"text_model.{key.removeprefix('text_model.')}"] = state.pop(key)
        state["text_model.embeddings.position_ids"] = torch.arange(77)[None]

    change(mine.folder / VAE, back)
    assert "encoder.mid_block.attentions.0.proj_attn.bias" in load_file(mine.folder / VAE)
    change(mine.folder / TEXT, prefixed)
    change_json(mine.folder / "text_encoder/config.json", torch_dtype="float16", _name_or_path="", dropout=0.0)
    got = read(mine)
    assert torch.equal(got.prompt, modern.prompt)
    assert torch.equal(latents_of(got.vae), latents_of(mine.vae))


@torch.no_grad()
@pytest.mark.parametrize("ending", [".fp16.safetensors", ".bin"])
def test_half_precision_and_pickle_files(mine: SmallFolder, ending: str) -> None:
    for file in (UNET, VAE, TEXT):
        path = mine.folder / file
        state = {key: value.half() for key, value in load_file(path).items()}
        path.unlink()
        if ending == ".bin":
            torch.save(state, path.with_name(path.stem.replace("model", "pytorch_model", file == TEXT) + ending))
        else:
            save_file(state, path.with_name(path.stem + ending))
    got = read(mine)
    assert got.dtype == got.unet.dtype == torch.float32
    own = mine.unet.state_dict()
    assert all(torch.equal(value, own[key].half().float()) for key, value in got.unet.state_dict().items())


def test_provenance_is_of_the_content(mine: SmallFolder, saved_21: SmallFolder) -> None:
    first, second = read(saved_21), read(mine)
    assert first.sha256 == second.sha256, "the folder's name must not count"
    assert first.sha256.startswith("file:") and len(first.sha256) == 69
    expected = {"name": "sd21", "source": "folder sd21", "timestep": 101, "precision": "float32"}
    assert first.provenance == expected | {"sha256": first.sha256}
    change(mine.folder / VAE, lambda state: state["encoder.conv_in.bias"].add_(1))
    third = read(mine)
    change_json(mine.folder / "scheduler/scheduler_config.json", clip_sample=True)
    assert len({first.sha256, third.sha256, read(mine).sha256}) == 3


# ---- wrong ones


def drop(key: str) -> Callable[[State], object]:
    return lambda state: state.pop(key)


def add(key: str) -> Callable[[State], object]:
    return lambda state: state.update({key: torch.ones(2)})


@pytest.mark.parametrize(
    ("file", "edit", "what"),
    [
        (UNET, drop("mid_block.resnets.0.conv1.bias"), "missing mid_block.resnets.0.conv1.bias"),
        (UNET, add("add_embedding.linear_1.weight"), "not in the model: add_embedding.linear_1.weight"),
        (UNET, add("conv_in.bias"), r"conv_in.bias has shape \(2,\), the model \(16,\)"),
        (VAE, drop("encoder.conv_in.weight"), "missing encoder.conv_in.weight"),
        (VAE, drop("decoder.conv_out.bias"), "missing decoder.conv_out.bias"),
        (VAE, add("encoder.extra"), "not in the model: encoder.extra"),
        (TEXT, add("final_layer_norm.bias"), r"final_layer_norm.bias has shape \(2,\), the model \(24,\)"),
        (TEXT, add("text_projection.weight"), "not in the model: text_projection.weight"),
    ],
)
def test_wrong_tensors_are_told(mine: SmallFolder, file: str, edit: Callable[[State], object], what: str) -> None:
    path = mine.folder / file
    change(path, edit)
    with pytest.raises(UserError, match=rf"{path} does not fit the model: {what}"):
        read(mine)


@pytest.mark.parametrize("file", [UNET, VAE, TEXT])
def test_truncated_files_are_told(mine: SmallFolder, file: str) -> None:
    path = mine.folder / file
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=rf"{path} cannot be read"):
        read(mine)


def test_no_code_of_a_pickle_is_run(mine: SmallFolder, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "executed",))

    (mine.folder / UNET).unlink()
    path = mine.folder / "unet/diffusion_pytorch_model.bin"
    path.write_bytes(pickle.dumps({"conv_in.weight": Trap()}, protocol=2))
    with pytest.raises(UserError, match=rf"{path} cannot be read"):
        read(mine)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("file", "changes", "what"),
    [
        ("unet/config.json", {"in_channels": 9}, "in_channels is 9, not 4"),  # inpainting
        ("unet/config.json", {"upcast_attention": True}, "upcast_attention is True, not False"),  # 2.1 of 768 px
        ("unet/config.json", {"attention_head_dim": 8}, r"attention_head_dim is 8, not \[1, 2, 4, 4\]"),
        ("unet/config.json", {"cross_attention_dim": 16}, "cross_attention_dim is 16, not 24"),
        ("unet/config.json", {"use_linear_projection": False}, "use_linear_projection is False, not True"),
        ("unet/config.json", {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 8}, "class_e"),
        ("unet/config.json", {"_class_name": "SD3Transformer2DModel"}, "_class_name is 'SD3Transformer2DModel'"),
        ("vae/config.json", {"scaling_factor": 0.13025}, "scaling_factor is 0.13025, not 0.18215"),  # SDXL
        ("vae/config.json", {"latent_channels": 16}, "latent_channels is 16, not 4"),
        ("text_encoder/config.json", {"hidden_act": "quick_gelu"}, "hidden_act is 'quick_gelu', not 'gelu'"),
        ("text_encoder/config.json", {"num_hidden_layers": 3}, "num_hidden_layers is 3, not 2"),
        ("scheduler/scheduler_config.json", {"prediction_type": "v_prediction"}, "prediction_type is 'v_prediction'"),
        ("scheduler/scheduler_config.json", {"_class_name": "DDIMScheduler"}, "_class_name is 'DDIMScheduler'"),
        ("scheduler/scheduler_config.json", {"steps_offset": 0}, "steps_offset is 0, not 1"),
    ],
)
def test_other_models_are_refused(mine: SmallFolder, file: str, changes: dict[str, Any], what: str) -> None:
    path = mine.folder / file
    change_json(path, **changes)
    with pytest.raises(UserError, match=rf"{path} is of another model: .*{what}"):
        read(mine)


@pytest.mark.parametrize("content", ["{", "[1]", '{"block_out_channels": "wide"}', '{"beta_schedule": "none"}'])
@pytest.mark.parametrize("part", ["unet/config", "scheduler/scheduler_config"])
def test_damaged_configurations_are_told(mine: SmallFolder, part: str, content: str) -> None:
    path = mine.folder / f"{part}.json"
    path.write_text(content)
    with pytest.raises(UserError, match=rf"{path} is (damaged|of another model)"):
        read(mine)


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"steps_offset": 0}, "element 45 of 50 steps is t = 100, not 101"), ({"beta_end": 0.01}, "alpha_bar at 101")],
)
def test_another_schedule_is_refused(mine: SmallFolder, changes: dict[str, Any], what: str) -> None:
    """Also where the configuration says what it should: libraries may come to read it differently."""
    path = mine.folder / "scheduler/scheduler_config.json"
    change_json(path, **changes)
    unasked = replace(mine, architecture=replace(mine.architecture, scheduler={}))
    with pytest.raises(UserError, match=rf"{path} is not the schedule .*{what}.* original scheduler_config.json"):
        read(unasked)


@pytest.mark.parametrize("name", ["sd21", "sd15", "sd14"])
def test_published_names_want_the_published_size(saved_21: SmallFolder, name: str) -> None:
    with pytest.raises(UserError, match=r"block_out_channels is \[16, 16, 32, 32\], not \[320, 640, 1280, 1280\]"):
        load_stable_diffusion(name, "cpu", saved_21.folder)


def test_absent_weights_name_the_command(tmp_path: Path, mine: SmallFolder) -> None:
    with pytest.raises(UserError, match="bench weights fetch stable-diffusion-2-1-base\nfetches them"):
        load_stable_diffusion("sd21")
    (mine.folder / TEXT).unlink()
    with pytest.raises(UserError, match="does not hold the weights 'stable-diffusion-v1-5'"):
        load_stable_diffusion("sd15", "cpu", mine.folder)
    with pytest.raises(UserError, match="unknown Stable Diffusion 'sd12'; did you mean"):
        load_stable_diffusion("sd12")


@pytest.mark.parametrize("name", ["stable-diffusion-2-1-base", "stable-diffusion-v1-5", "stable-diffusion-v1-4"])
def test_the_catalogue_lists_the_files_in_the_order_of_the_loader(name: str) -> None:
    assert [(file.name, file.instead) for file in find_entry(name).files] == [
        ("unet/config.json", ()),
        (UNET, ("unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.bin")),
        ("vae/config.json", ()),
        (VAE, ("vae/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.bin")),
        ("text_encoder/config.json", ()),
        (TEXT, ("text_encoder/model.fp16.safetensors", "text_encoder/pytorch_model.bin")),
        ("scheduler/scheduler_config.json", ()),
    ]


# ---- the stand-in


@torch.no_grad()
def test_the_stand_in_is_the_same_every_time() -> None:
    before = torch.get_rng_state()
    first, second = tiny_stable_diffusion(), load_stable_diffusion("tiny-sd")
    assert torch.equal(torch.get_rng_state(), before)
    for part in ("unet", "vae"):
        states = [getattr(one, part).state_dict() for one in (first, second)]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert torch.equal(first.prompt, second.prompt)
    assert first.sha256 == second.sha256 and first.sha256.startswith("state:")
    assert first.provenance["name"] == "tiny-sd" and "no meaning" in first.note
    assert torch.equal(latents_of(first.vae), latents_of(second.vae))


@torch.no_grad()
def test_the_stand_in_has_the_attention_modules_of_the_real_one(saved_21: SmallFolder) -> None:
    tiny = tiny_stable_diffusion()

    def attention(unet: Any) -> list[str]:
        return [name for name, _ in unet.named_modules() if name.endswith((".attn1", ".attn2"))]

    assert len(attention(tiny.unet)) == 32
    assert attention(tiny.unet) == attention(saved_21.unet)
    latents = latents_of(tiny.vae)
    assert latents.shape == (1, 4, 8, 8)
    assert tiny.prompt.shape == (1, 77, tiny.unet.config.cross_attention_dim)
    assert tiny.image_px == 256 and tiny.alpha_bar == pytest.approx(0.892980, abs=1e-6)
    noise = noise_of(tiny.unet, tiny.prompt)
    assert noise.shape == (1, 4, 16, 16) and noise.isfinite().all() and noise.std() > 0.01


@torch.no_grad()
def test_attention_of_the_stand_in_is_not_flat() -> None:
    tiny = tiny_stable_diffusion()
    module = tiny.unet.get_submodule("up_blocks.3.attentions.1.transformer_blocks.0.attn1")
    seen: list[Tensor] = []
    module.register_forward_pre_hook(lambda _, args, kwargs: seen.append(args[0]), with_kwargs=True)
    noise_of(tiny.unet, tiny.prompt)
    q, k = (module.head_to_batch_dim(linear(seen[0])) for linear in (module.to_q, module.to_k))
    highest = (q @ k.transpose(1, 2) * module.scale).softmax(dim=-1).amax(dim=-1)
    assert highest.mean() > 10 / k.shape[1]


def test_the_libraries_are_imported_when_they_are_used() -> None:
    code = (
        "import sys, ovss.methods, ovss.methods.models.stable_diffusion; "
        "sys.exit(bool({'diffusers', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
