"""GroupViT against plain formulas on the original's tensors, both kinds of checkpoint, and the contract."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from ovss.harness.report.published import WEIGHTS
from ovss.methods import UserError, Vocabulary
from ovss.methods.groupvit import IMAGENET_MEAN, IMAGENET_STD, GroupViT, GroupViTOptions
from ovss.methods.models.groupvit_checkpoint import (
    GroupViTParts,
    build_model,
    from_original,
    load_groupvit,
    original_name,
    tensor_shapes,
)
from ovss.methods.registry import check_options

from .group_parts import SMALL_GROUPVIT, groupvit_parts, to_original
from .test_segclip import make_windows, scores_of
from .with_words import WithWords

NAMES = ["cat", "dog", "sofa", "tree", "car", "sky", "boat"]
TEMPLATES = ["a photo of a {}.", "{} there", "it is one {} of very many others"]


class Formulas:
    """GroupViT's formulas, one window at a time, from the tensors by the original's names."""

    def __init__(self, state: dict[str, Tensor], heads: int, text_heads: int) -> None:
        self.state, self.heads, self.text_heads = state, heads, text_heads

    def __getitem__(self, name: str) -> Tensor:
        return self.state[name]

    def norm(self, x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * self[f"{name}.weight"] + self[f"{name}.bias"]

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self[f"{name}.weight"].flatten(1).T + self[f"{name}.bias"]

    def mlp(self, x: Tensor, name: str) -> Tensor:
        y = self.linear(x, f"{name}.fc1")
        return self.linear(y * 0.5 * (1 + torch.erf(y / math.sqrt(2))), f"{name}.fc2")

    def heads_of(self, q: Tensor, k: Tensor, v: Tensor, count: int, causal: bool = False) -> Tensor:
        size = q.shape[1] // count
        out = []
        for a, b, c in zip(*(part.split(size, dim=1) for part in (q, k, v)), strict=True):
            products = a @ b.T / math.sqrt(size)
            if causal:
                products = products + torch.full_like(products, float("-inf")).triu(1)
            out.append(products.softmax(dim=1) @ c)
        return torch.cat(out, dim=1)

    def block(self, x: Tensor, name: str) -> Tensor:
        q, k, v = self.linear(self.norm(x, f"{name}.norm1"), f"{name}.attn.qkv").chunk(3, dim=1)
        x = x + self.linear(self.heads_of(q, k, v, self.heads), f"{name}.attn.proj")
        return x + self.mlp(self.norm(x, f"{name}.norm2"), f"{name}.mlp")

    def assign(self, x: Tensor, groups: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """The grouping block: ``(N, D)`` and group tokens -> ``(g, D)`` and the soft map ``(g, N)``."""
        groups, x = self.norm(groups, f"{name}.norm_tokens"), self.norm(x, f"{name}.norm_x")
        q = self.norm(self.mlp(groups.T, f"{name}.mlp_inter").T, f"{name}.norm_post_tokens")
        cross = f"{name}.pre_assign_attn"
        parts = [self.linear(y, f"{cross}.attn.{n}_proj") for y, n in ((q, "q"), (x, "k"), (x, "v"))]
        q = q + self.linear(self.heads_of(*parts, self.heads), f"{cross}.attn.proj")
        q = self.norm(q + self.mlp(self.norm(q, f"{cross}.norm2"), f"{cross}.mlp"), f"{cross}.norm_post")
        parts = [self.linear(y, f"{name}.assign.{n}_proj") for y, n in ((q, "q"), (x, "k"), (x, "v"))]
        products = parts[0] @ parts[1].T / math.sqrt(x.shape[1])
        owner = products.argmax(dim=0)
        sums = [parts[2][owner == i].sum(0) / (int((owner == i).sum()) + 1) for i in range(len(q))]
        new = self.linear(torch.stack(sums), f"{name}.assign.proj") + q
        new = new + self.mlp(self.norm(new, f"{name}.norm_new_x"), f"{name}.mlp_channels")
        return new, products.softmax(dim=0)

    def depth(self, stage: int) -> int:
        return len({n.split(".")[4] for n in self.state if n.startswith(f"img_encoder.layers.{stage}.blocks.")})

    def groups(self, window: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit tokens ``(g, d)``, unit image token ``(d,)``, soft map ``(g, h, w)``."""
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        pixels = (window.float() / 255 - mean) / std
        patches = F.conv2d(
            pixels[None], self["img_encoder.patch_embed.proj.weight"], self["img_encoder.patch_embed.proj.bias"], 16
        )[0]
        grid = patches.shape[1:]
        table = self["img_encoder.pos_embed"][0].T
        side = math.isqrt(table.shape[1])
        table = table.view(1, -1, side, side)
        if tuple(grid) != (side, side):
            table = F.interpolate(table, grid, mode="bicubic", align_corners=False)
        x = self.norm(patches.flatten(1).T, "img_encoder.patch_embed.norm") + table[0].flatten(1).T
        groups, maps = x[:0], []
        for stage in range(3):
            name, count = f"img_encoder.layers.{stage}", len(x)
            if stage == 1:
                projected = self.norm(groups, f"{name}.group_projector.0").T
                groups = self[f"{name}.group_token"][0] + self.mlp(projected, f"{name}.group_projector.1").T
            elif stage == 0:
                groups = self[f"{name}.group_token"][0]
            x = torch.cat([x, groups]) if stage < 2 else x
            for i in range(self.depth(stage)):
                x = self.block(x, f"{name}.blocks.{i}")
            if stage < 2:
                groups = x[count:]
                x, soft = self.assign(x[:count], groups, f"{name}.downsample")
                maps.append(soft)
        x = self.norm(x, "img_encoder.norm")
        unit = F.normalize(self.projected(torch.cat([x, x.mean(0, keepdim=True)]), "img"), dim=1)
        return unit[:-1], unit[-1], (maps[0].T @ maps[1].T).T.unflatten(1, grid)

    def projected(self, x: Tensor, side: str) -> Tensor:
        x, name = self.linear(x, f"{side}_projector.linear_hidden.0"), f"{side}_projector.linear_hidden.1"
        x = (x - self[f"{name}.running_mean"]) / (self[f"{name}.running_var"] + 1e-5).sqrt()
        x = (x * self[f"{name}.weight"] + self[f"{name}.bias"]).relu()
        return self.linear(x, f"{side}_projector.linear_out")

    def text(self, prompt: str) -> Tensor:
        """Feature of one prompt without any padding, ``(d,)``."""
        tokens = SimpleTokenizer()([prompt])[0]
        tokens = tokens[: int(tokens.argmax()) + 1]
        x = self["text_encoder.token_embedding.weight"][tokens]
        x = x + self["text_encoder.positional_embedding"][: len(tokens)]
        for i in range(len({n for n in self.state if n.startswith("text_encoder.") and n.endswith("ln_1.bias")})):
            name = f"text_encoder.transformer.resblocks.{i}"
            y = self.norm(x, f"{name}.ln_1")
            qkv = y @ self[f"{name}.attn.in_proj_weight"].T + self[f"{name}.attn.in_proj_bias"]
            mixed = self.heads_of(*qkv.chunk(3, dim=1), self.text_heads, causal=True)
            x = x + self.linear(mixed, f"{name}.attn.out_proj")
            y = self.linear(self.norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc")
            x = x + self.linear(y * torch.sigmoid(1.702 * y), f"{name}.mlp.c_proj")
        return self.projected(self.norm(x, "text_encoder.ln_final")[-1:], "text")[0]

    def query(self, name: str) -> Tensor:
        return F.normalize(torch.stack([self.text(t.format(name)) for t in TEMPLATES]).mean(0), dim=0)


def make_method(weights: Any, **options: Any) -> WithWords:
    return WithWords.of(GroupViT(weights=weights, **options), Vocabulary.from_names(NAMES, templates=TEMPLATES))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[WithWords, Formulas]:
    """The released size, through a file in the original's format."""
    state = to_original(groupvit_parts(full=True).state)
    path = tmp_path_factory.mktemp("original") / "group_vit.pth"
    torch.save({"model": state, "epoch": 30}, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVSS_CACHE", str(path.parent))
        method = make_method(str(path))
    path.unlink()
    return method, Formulas(state, heads=6, text_heads=4)


@torch.no_grad()
@pytest.mark.parametrize("side", [224, 448])
def test_scores_of_the_released_size(full: tuple[WithWords, Formulas], side: int) -> None:
    method, formulas = full
    assert method.group_count == 8
    window = make_windows(1, side, side)[0]
    unit, image, soft = formulas.groups(window)
    wanted = scores_of(unit, image, soft, method.text, 14.0, (side, side))
    got = method.score_windows(window[None])[0]
    assert got.shape == (7, side, side) and got.dtype == torch.float32
    assert len(soft.argmax(dim=0).unique()) > 1 and wanted.std() > 1e-3  # the comparison says something
    groups = method.group(window)
    assert (groups.tokens - unit).abs().max() < 1e-4 and (groups.image - image).abs().max() < 1e-4
    assert ((got - wanted).abs().amax(dim=0) > 1e-4).float().mean() <= 2e-4  # ties between two groups


@torch.no_grad()
def test_texts_of_the_released_size(full: tuple[WithWords, Formulas]) -> None:
    method, formulas = full
    for row, name in list(zip(method.text, NAMES, strict=True))[:2]:
        assert (row - formulas.query(name)).abs().max() < 1e-5
        singly = torch.stack([F.normalize(formulas.text(t.format(name)), dim=0) for t in TEMPLATES])
        assert (row - F.normalize(singly.mean(0), dim=0)).abs().max() > 3e-4  # normalised first is something else
    assert method.text.std(dim=0).max() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (64, 96), (130, 57)])
def test_scores_of_a_small_one(size: tuple[int, int]) -> None:
    """Grids other than the stored one, not square, off the patch grid."""
    parts = groupvit_parts()
    method, formulas = make_method(parts), Formulas(to_original(parts.state), heads=3, text_heads=2)
    window = make_windows(1, *size)[0]
    unit, image, soft = formulas.groups(window)
    wanted = scores_of(unit, image, soft, method.text, 14.0, size)
    got = method.score_windows(window[None])[0]
    assert ((got - wanted).abs().amax(dim=0) > 1e-5).float().mean() <= 2e-3
    assert wanted.std() > 1e-3 and len(soft.argmax(dim=0).unique()) > 1


def test_a_batch_is_its_windows_bit_by_bit() -> None:
    method, windows = make_method(groupvit_parts()), make_windows(3, 64, 80)
    together = method.score_windows(windows)
    assert torch.equal(together, torch.cat([method.score_windows(window[None]) for window in windows]))


@pytest.mark.parametrize("end", [2, 49407, 7])
def test_the_feature_is_read_at_the_end_of_text(end: int) -> None:
    """Files say 2, 49407 or nothing; padding is zeros, of which none may be taken for the end."""
    parts = groupvit_parts()
    config = {**SMALL_GROUPVIT, "text_config": {**SMALL_GROUPVIT["text_config"], "eos_token_id": end}}
    formulas = Formulas(to_original(parts.state), heads=3, text_heads=2)
    model = build_model(config)
    model.load_state_dict(parts.state)
    tokens = SimpleTokenizer()(["a photo of a cat.", "! !"])
    with torch.no_grad():
        found = model.text_projection(model.text_model(input_ids=tokens).pooler_output)
        for row, prompt in zip(found, ["a photo of a cat.", "! !"], strict=True):
            assert torch.allclose(row, formulas.text(prompt), atol=1e-4)


def test_half_precision_keeps_text_and_projections() -> None:
    method = make_method(groupvit_parts(), dtype=torch.bfloat16)
    scores = method.score_windows(make_windows(2, 64, 96))
    assert scores.dtype == method.text.dtype == torch.float32 and scores.isfinite().all()
    assert torch.equal(method.text, make_method(groupvit_parts()).text)
    assert method.projection[0].weight.dtype == torch.float32
    assert method.provenance["precision"] == "bfloat16"


def test_the_logit_scale_has_a_limit() -> None:
    parts = groupvit_parts()
    parts.state["logit_scale"].fill_(5.0)  # type: ignore[index]
    assert GroupViT(weights=parts).logit_scale == 100


# ---- checkpoints


def write_folder(folder: Path, state: dict[str, Tensor], config: Any = SMALL_GROUPVIT) -> Path:
    folder.mkdir(parents=True)
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps({"model_type": "groupvit", **config}))
    return folder


def test_a_folder_is_read_back(tmp_path: Path) -> None:
    parts = groupvit_parts()
    ids = {"text_model.embeddings.position_ids": torch.arange(77)[None]}  # a constant that older files hold
    folder = write_folder(tmp_path / "groupvit", {**parts.state, **ids})
    method, window = make_method(folder), make_windows(1, 64, 64)
    assert torch.equal(method.score_windows(window), make_method(parts).score_windows(window))
    found = method.provenance["weights"]
    assert found["source"] == "folder groupvit, pytorch_model.bin" and str(found["sha256"]).startswith("file:")


def test_the_catalogue_finds_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVSS_WEIGHTS", str(tmp_path))
    write_folder(tmp_path / "groupvit-gcc-redcaps", dict(groupvit_parts().state))
    assert GroupViT(GroupViTOptions(checkpoint="groupvit-gcc-redcaps")).group_count == 3
    monkeypatch.setenv("OVSS_CACHE", str(tmp_path / "none"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    with pytest.raises(UserError, match="bench weights fetch groupvit-gcc-yfcc"):
        GroupViT()
    with pytest.raises(UserError, match="option checkpoint is 'gcc': allowed is groupvit-gcc-yfcc or"):
        check_options(GroupViT, {"checkpoint": "gcc"})


@pytest.mark.parametrize("place", ["groupvit-gcc-yfcc", "models--nvidia--groupvit-gcc-yfcc/snapshots/0123456789ab"])
def test_the_source_names_the_checkpoint_wherever_it_lies(tmp_path: Path, place: str) -> None:
    """Reported values are found by it, also for a folder of the hub's cache, which is named after a commit."""
    write_folder(tmp_path / place, dict(groupvit_parts().state))
    source = load_groupvit(tmp_path / place).source
    assert source == "folder groupvit-gcc-yfcc, pytorch_model.bin" and source in WEIGHTS


def test_nothing_is_filled_with_random_numbers(tmp_path: Path) -> None:
    state = dict(groupvit_parts().state)
    lost = state.pop("vision_model.encoder.stages.1.downsample.assign.q_proj.bias")
    with pytest.raises(UserError, match=r"missing vision_model\.encoder\.stages\.1\.downsample\.assign\.q_proj\.bias"):
        load_groupvit(write_folder(tmp_path / "a", state))
    state["vision_model.encoder.stages.1.downsample.assign.q_proj.bias"] = lost[:-1]
    with pytest.raises(UserError, match=r"q_proj\.bias has shape \(47,\), the model \(48,\)"):
        load_groupvit(write_folder(tmp_path / "b", state))
    with pytest.raises(UserError, match="not in the model: more"):
        load_groupvit(write_folder(tmp_path / "c", {**groupvit_parts().state, "more": torch.zeros(1)}))


@pytest.mark.parametrize("text", ["", "[]", '{"text_config": 3}'])
def test_a_damaged_configuration_is_named(tmp_path: Path, text: str) -> None:
    folder = write_folder(tmp_path / "a", dict(groupvit_parts().state))
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json is no configuration"):
        load_groupvit(folder)


@pytest.mark.parametrize("config", [SMALL_GROUPVIT, {}], ids=["small", "full"])
def test_the_key_map_is_one_to_one(config: dict[str, Any]) -> None:
    """Every tensor has its place in the original, no two the same, and thirds come in threes."""
    places = {name: original_name(name) for name in tensor_shapes(config)}
    assert len(set(places.values())) == len(places)
    joined = {theirs for theirs, part in places.values() if part is not None}
    assert joined.isdisjoint(theirs for theirs, part in places.values() if part is None)
    assert all({p for t, p in places.values() if t == name} == {0, 1, 2} for name in joined)
    known = ("img_encoder.", "text_encoder.", "img_projector.", "text_projector.", "logit_scale")
    assert all(theirs.startswith(known) for theirs, _ in places.values())
    assert original_name("text_model.encoder.layers.3.self_attn.v_proj.bias") == (
        "text_encoder.transformer.resblocks.3.attn.in_proj_bias",
        2,
    )


def test_forth_and_back_through_the_original_names() -> None:
    state = groupvit_parts().state
    original = to_original(state)
    back = from_original(Path("file.pth"), original, tensor_shapes(SMALL_GROUPVIT))
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)
    again = to_original(back)
    assert again.keys() == original.keys() and all(torch.equal(again[n], v) for n, v in original.items())


def test_original_files_are_checked_in_their_own_names() -> None:
    state, path, shapes = groupvit_parts().state, Path("file.pth"), tensor_shapes(SMALL_GROUPVIT)
    original = to_original(state)
    broken = {n: v for n, v in original.items() if n != "img_encoder.layers.0.blocks.0.attn.qkv.weight"}
    with pytest.raises(UserError, match=r"missing img_encoder\.layers\.0\.blocks\.0\.attn\.qkv\.weight"):
        from_original(path, broken, shapes)
    name = "text_encoder.transformer.resblocks.1.attn.in_proj_bias"
    short = {**original, name: original[name][:-1]}
    with pytest.raises(UserError, match=r"in_proj_bias has shape \(95,\), the model \(96,\)"):
        from_original(path, short, shapes)
    with pytest.raises(UserError, match=r"not in the model: img_encoder\.extra"):
        from_original(path, {**original, "img_encoder.extra": torch.zeros(1)}, shapes)


# ---- the contract


def test_background_and_tiny_windows() -> None:
    vocabulary = Vocabulary.from_texts([[], ["cat"], ["dog"]], ["background", "cat", "dog"], "simple", 0)
    made = GroupViT(GroupViTOptions(background_threshold=0.95), weights=groupvit_parts())
    method = WithWords.of(made, vocabulary)
    scores, field = method.score_windows(make_windows(2, 64, 64)), method.segment(make_windows(1, 64, 64)[0])
    assert scores.shape == (2, 3, 64, 64) and field.query_to_class == (1, 2, 0)
    assert set(scores[:, 2].unique().tolist()) <= {0.0, 1.0}
    assert (scores[:, :2].amax(1) < 0.95)[scores[:, 2] == 1].all()
    with pytest.raises(UserError, match="smaller than one patch"):
        method.score_windows(make_windows(1, 64, 9))


def test_another_configuration_is_another_model() -> None:
    """Heads do not show in shapes, but in scores: they belong to the hash, and to that of the cached texts."""
    parts = groupvit_parts()
    heads = {"num_attention_heads": 2 * SMALL_GROUPVIT["vision_config"].get("num_attention_heads", 4)}
    config = {**SMALL_GROUPVIT, "vision_config": {**SMALL_GROUPVIT["vision_config"], **heads}}
    other = GroupViTParts(config, parts.state)
    assert GroupViT(weights=parts).provenance["weights"] != GroupViT(weights=other).provenance["weights"]
