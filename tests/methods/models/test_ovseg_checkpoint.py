"""OVSeg's checkpoints: every tensor of the released layout finds its place, and what does not fit is named."""

from collections import defaultdict
from pathlib import Path

import open_clip
import pytest
import torch

from ovss.methods import UserError, Vocabulary, create_method
from ovss.methods.models.mask_former import MaskNet
from ovss.methods.models.ovseg_checkpoint import read_ovseg, released_name
from ovss.methods.ovseg import OVSeg, OVSegOptions

from ..ovseg_parts import (
    R101C_VIT_B_16,
    SMALL,
    SMALL_RESNET,
    SWIN_B_VIT_L_14,
    Sizes,
    clip_shapes,
    random_ovseg,
    random_state,
    released_shapes,
)

UNUSED_NORM = "model.pixel_level_module.encoder.model.layernorm."


@pytest.mark.parametrize(
    "sizes", [SMALL, SMALL_RESNET, SWIN_B_VIT_L_14, R101C_VIT_B_16], ids=["swin", "resnet", "swin-b", "r101c"]
)
def test_every_tensor_of_the_mask_network_has_its_place(sizes: Sizes) -> None:
    """Forth and back, one to one; only named extras stay outside."""
    released = released_shapes(sizes)
    with torch.device("meta"):
        net = MaskNet(released)
    parts = defaultdict(list)
    back = {}
    for key, value in net.state_dict().items():
        if not key.startswith(UNUSED_NORM):
            name, part = released_name(key)
            parts[name].append(part)
            back[name] = (value.shape[0] * (1 if part is None else 3), *value.shape[1:])
    assert back == {k: v for k, v in released.items() if not k.startswith(("clip_adapter.", "criterion."))}
    thirds = {name for name in back if ".qkv." in name or ".in_proj_" in name}
    assert {name for name, found in parts.items() if sorted(p or 0 for p in found) == [0, 1, 2]} == thirds
    assert all(found == [None] for name, found in parts.items() if name not in thirds)


def test_names_of_older_transformers_lead_to_the_same_tensors() -> None:
    layer = "model.transformer_module.decoder.layers.3."
    for old, new in {"self_attn.out_proj.bias": "self_attn.o_proj.bias", "fc2.weight": "mlp.fc2.weight"}.items():
        assert released_name(layer + old) == released_name(layer + new)
    assert released_name(f"{layer}fc1.bias") == (
        "sem_seg_head.predictor.transformer.decoder.layers.3.linear1.bias",
        None,
    )
    assert released_name(f"{layer}encoder_attn.v_proj.weight") == (
        "sem_seg_head.predictor.transformer.decoder.layers.3.multihead_attn.in_proj_weight",
        2,
    )


@pytest.mark.parametrize(
    ("name", "sizes"), [("ViT-L-14-quickgelu", SWIN_B_VIT_L_14), ("ViT-B-16-quickgelu", R101C_VIT_B_16)]
)
def test_sizes_of_clip_are_those_of_open_clip(name: str, sizes: Sizes) -> None:
    from ovss.methods.models.ovseg_checkpoint import _build_clip

    config = open_clip.get_model_config(name)
    with torch.device("meta"):
        theirs, ours = open_clip.CLIP(**config), _build_clip(clip_shapes(sizes))
    shapes = {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
    assert shapes == clip_shapes(sizes) == {key: tuple(value.shape) for key, value in ours.state_dict().items()}
    assert repr(ours) == repr(theirs)
    for mine, other in ((ours.visual, theirs.visual), (ours, theirs)):
        heads = {block.attn.num_heads for block in mine.transformer.resblocks}
        assert heads == {block.attn.num_heads for block in other.transformer.resblocks}


def test_every_tensor_arrives() -> None:
    state, parts = random_state(SMALL), random_ovseg()
    for key, value in parts.mask_net.state_dict().items():
        if not key.startswith(UNUSED_NORM):
            name, part = released_name(key)
            wanted = state[name] if part is None else state[name][part * len(value) : (part + 1) * len(value)]
            assert torch.equal(value, wanted), key
    for key, value in parts.clip.state_dict().items():
        assert torch.equal(value, state[f"clip_adapter.clip_model.{key}"]), key
    assert parts.prompts is not None
    assert torch.equal(parts.prompts, state["clip_adapter.clip_model.visual.mask_embedding"])
    assert torch.equal(parts.non_object, state["clip_adapter.non_object_embedding"])
    assert not parts.mask_net.training and not parts.clip.training


def test_a_file_is_found_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for entry, file in {"ovseg-swinb-vitl14": "ovseg_swinbase_vitL14_ft_mpt.pth", "other": "mine.pt"}.items():
        (tmp_path / entry).mkdir()
        torch.save({"model": random_state(SMALL), "iteration": 3}, tmp_path / entry / file)
    monkeypatch.setenv("OVSS_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match=r"not the catalogued file of 'ovseg-swinb-vitl14': its md5 is \w+, 526080 was"):
        OVSeg()
    monkeypatch.setattr("ovss.methods.models.weights.check_entry", lambda found: None)
    vocabulary = Vocabulary.from_names(["cat", "dog"], templates="simple")
    image = torch.randint(0, 256, (3, 70, 91), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    wanted = OVSeg(weights=random_ovseg()).segment(image, vocabulary)
    for weights in (None, tmp_path / "ovseg-swinb-vitl14", str(tmp_path / "other" / "mine.pt")):
        method = OVSeg(weights=weights)
        found = method.segment(image, vocabulary)
        assert torch.equal(found.scores, wanted.scores) and torch.equal(found.mixing, wanted.mixing)  # type: ignore[arg-type]
    assert method.provenance["weights"]["source"] == "file mine.pt"
    with pytest.raises(UserError, match="bench weights fetch ovseg-r101c-vitb16"):
        create_method("ovseg", checkpoint="ovseg-r101c-vitb16")
    with pytest.raises(UserError, match="allowed is ovseg-swinb-vitl14, ovseg-r101c-vitb16"):
        create_method("ovseg", checkpoint="ovseg")


def _refused(path: Path, state: object) -> str:
    torch.save(state, path)
    with pytest.raises(UserError) as error:
        read_ovseg(path)
    assert str(path) in str(error.value)
    return str(error.value)


def test_wrong_tensors_are_named(tmp_path: Path) -> None:
    state, path = random_state(SMALL), tmp_path / "x.pth"
    gone, sized = "backbone.layers.2.blocks.1.attn.qkv.bias", "sem_seg_head.predictor.query_embed.weight"
    clip = "clip_adapter.clip_model.visual.ln_post.bias"
    changed = {k: v for k, v in state.items() if k not in (gone, clip)}
    changed |= {"backbone.surprise": torch.zeros(1), "sem_seg_head.pixel_decoder.layer_2.weight": torch.zeros(2, 3)}
    message = _refused(path, {"model": changed})
    assert f"missing {gone}, {clip}" in message
    assert "not in the model: backbone.surprise" in message
    assert "sem_seg_head.pixel_decoder.layer_2.weight has shape (2, 3), the model (64, 64, 3, 3)" in message
    assert f"missing {sized}" in _refused(path, {"model": {k: v for k, v in state.items() if k != sized}})
    assert "contradict" in _refused(path, {"model": {**state, sized: torch.zeros(7)}})
    position = "clip_adapter.clip_model.visual.positional_embedding"
    for shape in ((), (10,), (10, 63), (10, 130)):
        assert "does not fit" in _refused(path, {"model": {**state, position: torch.zeros(shape)}})
    prompts = "clip_adapter.clip_model.visual.mask_embedding"
    message = _refused(path, {"model": {**state, prompts: torch.zeros(3, 5, 64)}})
    assert f"{prompts} has shape (3, 5, 64), the model (3, 9, 64)" in message
    other = "clip_adapter.non_object_embedding"
    assert f"missing {other}" in _refused(path, {"model": {k: v for k, v in state.items() if k != other}})


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    state, path = random_state(SMALL), tmp_path / "x.pth"
    clip = {k.removeprefix("clip_adapter.clip_model."): v for k, v in state.items() if "clip_model" in k}
    assert "CLIP alone" in _refused(path, clip)
    assert "mask network alone" in _refused(path, {"model": {k: v for k, v in state.items() if "clip_" not in k}})
    assert "its tensors are cls_token" in _refused(path, {"cls_token": torch.zeros(1)})
    torch.save({"model": state}, path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(UserError, match=r"x\.pth cannot be read"):
        read_ovseg(path)


def test_a_checkpoint_without_prompts(tmp_path: Path) -> None:
    without = random_ovseg(Sizes(depth=0))
    assert without.prompts is None
    with pytest.raises(UserError, match="mask_prompts=false"):
        OVSeg(weights=without)
    assert OVSeg(OVSegOptions(mask_prompts=False), weights=without).provenance["mask_prompts"] is False
