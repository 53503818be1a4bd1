"""MAE's encoder against timm's ViT, from the released layout, and what tells it from DINO."""

from pathlib import Path

import pytest
import timm
import torch

from ovss.methods import UserError
from ovss.methods.models.mae import Mae, load_mae

from .test_dino import State, error, image, plain_normalise, plain_run, random_state, save

TOLERANCE = 1e-5
pytestmark = pytest.mark.usefixtures("no_gradients")


def random_mae(width: int, depth: int, patch: int, side: int) -> State:
    """Random weights, the class token's position zero as in MAE's table."""
    state = random_state(width, depth, patch, side)
    state["pos_embed"][0, 0] = 0
    return state


def test_full_size_equals_timm(tmp_path: Path) -> None:
    """ViT-B/16 from the released layout, at the size that it was trained for."""
    state = random_mae(768, 12, 16, 14)
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224", num_classes=0)
    model.load_state_dict(state, assign=True)
    path = save(tmp_path, {"model": state}, "mae_pretrain_vit_base.pth")
    mae = load_mae(path)
    path.unlink()  # a third of a GB, which pytest would keep
    assert (mae.name, mae.patch_px, mae.width, mae.heads) == ("MAE ViT-B/16", 16, 768, 12)
    rgb = image(224, 224)
    assert error(mae.tokens(mae.normalise(rgb)), model.eval().forward_features(plain_normalise(rgb))) <= TOLERANCE


def test_other_grids_take_dino_s_rule() -> None:
    state, rgb = random_mae(128, 2, 16, 4), image(96, 40)
    tokens, grid = Mae(state).patches(rgb)
    wanted = plain_run(state, plain_normalise(rgb[:, :, :, :32]))[2]
    assert grid == (6, 2) and error(tokens[0], wanted[1:]) <= TOLERANCE


def test_files(tmp_path: Path) -> None:
    state = random_mae(128, 2, 16, 4)
    decoder = {"mask_token": torch.zeros(1, 1, 64), "decoder_embed.weight": torch.zeros(64, 128)}
    alone, whole = (save(tmp_path, {"model": c}, f"{n}.pth") for n, c in (("a", state), ("b", {**state, **decoder})))
    pixels = plain_normalise(image(64, 64))
    assert load_mae(whole).tokens(pixels).equal(load_mae(alone).tokens(pixels))
    assert load_mae(alone).provenance["source"] == "file a.pth"
    with pytest.raises(UserError, match="holds no MAE ViT: there the position of the class token is zero"):
        load_mae(save(tmp_path, random_state(128, 2, 16, 4), "dino.pth"))
    with pytest.raises(UserError, match=r"holds no MAE ViT.*such as mae_pretrain_vit_base.pth"):
        load_mae(save(tmp_path, {"visual.conv1.weight": torch.zeros(8, 3, 4, 4)}))
    with pytest.raises(UserError, match=r"missing blocks.1.attn.qkv.bias"):
        load_mae(save(tmp_path, {k: v for k, v in state.items() if k != "blocks.1.attn.qkv.bias"}))
