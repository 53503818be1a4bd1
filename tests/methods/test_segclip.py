"""SegCLIP against plain formulas, its checkpoint, and the contract."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.harness.runs import conformity
from ovss.methods import UserError, Vocabulary
from ovss.methods.blocks.group_scores import GroupOptions
from ovss.methods.models.segclip_checkpoint import load_segclip
from ovss.methods.models.text import encode_queries
from ovss.methods.segclip import SegCLIP, assign, gather

from .group_parts import segclip_model, segclip_parts, segclip_state
from .with_words import WithWords

NAMES = ["cat", "dog", "sofa", "tree", "car", "sky", "boat"]
MEAN = torch.tensor([122.7709383, 116.7460125, 104.09373615])
STD = torch.tensor([68.5005327, 66.6321579, 70.32316305])


def make_windows(count: int, height: int, width: int) -> Tensor:
    """Blocks of colour and noise, uint8."""
    generator = torch.Generator().manual_seed(3)
    blocks = torch.randint(0, 200, (count, 3, -(-height // 24), -(-width // 24)), generator=generator)
    blocks = blocks.repeat_interleave(24, 2).repeat_interleave(24, 3)[..., :height, :width]
    return (blocks + torch.randint(0, 56, blocks.shape, generator=generator)).to(torch.uint8)


class Formulas:
    """The formulas of ``segclip``, one window at a time, from the tensors by their names in the file."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = {name.removeprefix("clip."): value for name, value in state.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self.state[name]

    def norm(self, x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * self[f"{name}.weight"] + self[f"{name}.bias"]

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self[f"{name}.weight"].T + self[f"{name}.bias"]

    def mlp(self, x: Tensor, name: str) -> Tensor:
        y = self.linear(x, f"{name}.c_fc")
        return self.linear(y * torch.sigmoid(1.702 * y), f"{name}.c_proj")

    def attention(self, q: Tensor, kv: Tensor, name: str) -> Tensor:
        """``(n, D)`` and ``(m, D)``, head by head."""
        weight, bias = self[f"{name}.in_proj_weight"].chunk(3), self[f"{name}.in_proj_bias"].chunk(3)
        q, k, v = (x @ w.T + b for x, w, b in zip((q, kv, kv), weight, bias, strict=True))
        heads = zip(*(part.split(64, dim=1) for part in (q, k, v)), strict=True)
        return self.linear(
            torch.cat([(a @ b.T / 8).softmax(dim=1) @ c for a, b, c in heads], dim=1), f"{name}.out_proj"
        )

    def block(self, x: Tensor, name: str) -> Tensor:
        y = self.norm(x, f"{name}.ln_1")
        x = x + self.attention(y, y, f"{name}.attn")
        return x + self.mlp(self.norm(x, f"{name}.ln_2"), f"{name}.mlp")

    def groups(self, window: Tensor, before: int) -> tuple[Tensor, Tensor, Tensor]:
        """Unit tokens ``(8, d)``, unit image token ``(d,)``, soft map ``(8, h, w)``."""
        pixels = (window.float() - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)
        patches = F.conv2d(pixels[None], self["visual.conv1.weight"], stride=16)[0]
        height, width = patches.shape[1:]
        position = self["visual.positional_embedding"][1:]
        side = math.isqrt(len(position))
        table = position.T.view(1, -1, side, side)
        if (height, width) != (side, side):
            table = F.interpolate(table, (height, width), mode="bicubic", align_corners=False)
        t = self.norm((patches + table[0]).flatten(1).T, "visual.ln_pre")
        for i in range(before):
            t = self.block(t, f"visual.transformer.layers0.{i}")
        g, soft = self.gather(t)
        for i in range(2):
            g = self.block(g, f"visual.transformer.layers2.{i}")
        tokens = torch.cat([g, g.max(dim=0).values[None]])
        unit = F.normalize(self.norm(tokens, "visual.ln_post") @ self["visual.proj"], dim=1)
        return unit[:8], unit[8], soft.view(8, height, width)

    def gather(self, t: Tensor) -> tuple[Tensor, Tensor]:
        name = "visual.transformer.semantic_layer2"
        q = self[f"{name}.semantic_center"]
        for i in range(2):
            block = f"{name}.cross_att.{i}"
            kv = self.norm(torch.cat([q, t]), f"{block}.ln_k")
            q = q + self.attention(self.norm(q, f"{block}.ln_x"), kv, f"{block}.attn")
            q = q + self.mlp(self.norm(q, f"{block}.ln_2"), f"{block}.mlp")
        q, n = self.norm(q, f"{name}.cross_ln"), self.norm(t, f"{name}.norm").T[None]
        heads = q.shape[1] // 64
        k = self.norm(F.conv1d(n, self[f"{name}.k_conv.weight"], groups=heads)[0].T, f"{name}.k_ln")
        v = F.conv1d(n, self[f"{name}.v_conv.weight"], groups=heads)[0].T
        products = q @ k.T
        owner = products.argmax(dim=0)
        mean = torch.stack([v[owner == i].sum(0) / max(int((owner == i).sum()), 1) for i in range(8)])
        x = self.linear(self.norm(q + mean, f"{name}.proj_o.ln"), f"{name}.proj_o.mlp.fc1")
        x = self.linear(x * 0.5 * (1 + torch.erf(x / math.sqrt(2))), f"{name}.proj_o.mlp.fc2")
        return x * torch.sigmoid(1.702 * x), products.softmax(dim=0)


def scores_of(unit: Tensor, image: Tensor, soft: Tensor, text: Tensor, scale: float, size: tuple[int, int]) -> Tensor:
    """The head, by hand: ``(Q, H, W)``."""
    keep = sorted(range(len(text)), key=lambda q: -float(image @ text[q]))[:5]
    weight = [[math.exp(scale * float(row @ text[q])) for q in range(len(text))] for row in unit]
    p1 = [[w if q in keep else 0.0 for q, w in enumerate(row)] for row in weight]
    products = torch.tensor(
        [[a * b / sum(x) / sum(y) for a, b in zip(x, y, strict=True)] for x, y in zip(weight, p1, strict=True)]
    )
    owner = F.interpolate(soft[None], size, mode="bilinear", align_corners=False)[0].argmax(dim=0)
    return products[owner.flatten()].T.unflatten(1, size)


def make_method(parts: Any, **options: Any) -> WithWords:
    return WithWords.of(SegCLIP(weights=parts, **options), Vocabulary.from_names(NAMES, templates="simple"))


@pytest.fixture(scope="module")
def full() -> tuple[WithWords, Formulas]:
    """The released size, by parts; the text side is small and checked elsewhere."""
    parts = segclip_parts(full=True)
    return make_method(parts), Formulas(segclip_state(parts.backbone.model))


@torch.no_grad()
def test_scores_of_the_released_size(full: tuple[WithWords, Formulas]) -> None:
    method, formulas = full
    window = make_windows(1, 224, 224)[0]
    unit, image, soft = formulas.groups(window, before=10)
    wanted = scores_of(unit, image, soft, method.text, 14.0, (224, 224))
    got = method.score_windows(window[None])[0]
    assert got.shape == (7, 224, 224) and got.dtype == torch.float32
    assert len(soft.argmax(dim=0).unique()) > 2 and wanted.std() > 1e-3  # the comparison says something
    groups = method.group(window)
    assert (groups.tokens - unit).abs().max() < 1e-4 and (groups.image - image).abs().max() < 1e-4
    away = (got - wanted).abs().amax(dim=0) > 1e-4
    assert away.float().mean() <= 2e-4  # pixels between two groups may go either way by rounding


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (64, 96), (128, 48)])
def test_scores_of_a_small_one(size: tuple[int, int]) -> None:
    """Grids other than the stored one, not square."""
    parts = segclip_parts()
    method, formulas = make_method(parts), Formulas(segclip_state(parts.backbone.model))
    window = make_windows(1, *size)[0]
    unit, image, soft = formulas.groups(window, before=2)
    wanted = scores_of(unit, image, soft, method.text, 14.0, size)
    got = method.score_windows(window[None])[0]
    assert ((got - wanted).abs().amax(dim=0) > 1e-5).float().mean() <= 2e-3
    assert wanted.std() > 1e-3


def test_a_batch_is_its_windows_bit_by_bit() -> None:
    method, windows = make_method(segclip_parts()), make_windows(3, 64, 80)
    together = method.score_windows(windows)
    assert torch.equal(together, torch.cat([method.score_windows(window[None]) for window in windows]))


@torch.no_grad()
def test_every_patch_has_one_centre() -> None:
    method = SegCLIP(weights=segclip_parts())
    tokens = torch.randn(2, 196, 128, generator=torch.Generator().manual_seed(0))
    hard, soft = assign(torch.randn(2, 8, 128, generator=torch.Generator().manual_seed(1)), tokens)
    assert hard.sum(dim=(1, 2)).tolist() == [196, 196] and set(hard.unique().tolist()) == {0, 1}
    assert torch.equal(hard.argmax(1), soft.argmax(1)) and torch.allclose(soft.sum(1), torch.ones(2, 196))
    # windows of a batch do not see each other, as they do in the public code's cross-attention
    together = gather(method.grouping, tokens)
    for i in range(2):
        alone = gather(method.grouping, tokens[i : i + 1])
        assert all(torch.allclose(a[i], b[0], atol=1e-5) for a, b in zip(together, alone, strict=True))


def test_a_centre_without_patches_keeps_itself() -> None:
    """Counts of 0 divide by 1: the mean is 0, not a NaN."""
    method = make_method(segclip_parts())
    flat = torch.full((1, 3, 64, 64), 127, dtype=torch.uint8)
    assert method.score_windows(flat).isfinite().all()


def test_text_is_averaged_before_it_is_normalised() -> None:
    parts = segclip_parts()
    templates = ["a photo of a {}.", "{} there", "it is one {} of many others"]
    method = WithWords.of(SegCLIP(weights=parts), Vocabulary.from_names(["cat", "blue boat"], templates=templates))
    for row, name in zip(method.text, ["cat", "blue boat"], strict=True):
        tokens = parts.backbone.tokenizer([t.format(name) for t in templates])
        with torch.no_grad():
            features = parts.backbone.model.encode_text(tokens)
        assert torch.allclose(row, F.normalize(features.mean(0), dim=0), atol=1e-5)
        assert (row - F.normalize(F.normalize(features, dim=1).mean(0), dim=0)).abs().max() > 1e-4


def test_both_means_are_kept_apart_in_the_cache() -> None:
    backbone, cpu = segclip_parts().backbone, torch.device("cpu")
    vocabulary = Vocabulary.from_names(["cat", "blue boat"], templates=["a photo of a {}.", "{} in the far distance"])
    for _ in range(2):  # made, then read
        unit, raw = (encode_queries(backbone, vocabulary, cpu, unit_prompts=on) for on in (True, False))
        assert (unit - raw).abs().max() > 1e-4


def test_half_precision() -> None:
    method, window = make_method(segclip_parts(), dtype=torch.bfloat16), make_windows(2, 64, 96)
    scores = method.score_windows(window)
    assert scores.dtype == torch.float32 and scores.isfinite().all()
    same = scores.argmax(1) == make_method(segclip_parts()).score_windows(window).argmax(1)
    assert same.float().mean() > 0.5 and method.provenance["precision"] == "bfloat16"


def test_the_logit_scale_has_a_limit() -> None:
    parts = segclip_parts()
    parts.backbone.model.logit_scale.data.fill_(5.0)  # exp: 148.4
    assert SegCLIP(weights=parts).logit_scale == 100


# ---- the checkpoint


@pytest.fixture(scope="module")
def model() -> Any:
    return segclip_model(full=False)


def save(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save(state, path)
    return path


def test_the_file_is_read_back(tmp_path: Path, model: Any) -> None:
    path = save(tmp_path / "segclip.bin", segclip_state(model))
    window = make_windows(1, 64, 64)
    read = make_method(load_segclip(path, model))
    assert torch.equal(read.score_windows(window), make_method(segclip_parts()).score_windows(window))
    assert read.provenance["weights"]["source"] == "file segclip.bin"
    assert str(read.provenance["weights"]["sha256"]).startswith("file:")
    assert "grouping_sha256" in read.provenance and read.provenance["background_threshold"] is None


def test_what_only_training_uses_may_be_absent(tmp_path: Path, model: Any) -> None:
    unused = ("vis_mae", "clip.visual.transformer.layers_mae", "clip.visual.transformer.reconstruct")
    state = {f"module.{n}": v for n, v in segclip_state(model).items() if not n.startswith(unused)}
    load_segclip(save(tmp_path / "segclip.bin", state), model)


@pytest.mark.parametrize(
    "name",
    [
        "clip.visual.transformer.layers0.1.ln_2.bias",
        "clip.visual.transformer.layers2.0.attn.in_proj_weight",
        "clip.visual.transformer.semantic_layer2.v_conv.weight",
        "clip.transformer.resblocks.1.mlp.c_fc.weight",
        "clip.logit_scale",
    ],
)
def test_a_truncated_file_is_no_checkpoint(tmp_path: Path, model: Any, name: str) -> None:
    """The official loader takes what is missing from CLIP."""
    state = segclip_state(model)
    del state[name]
    with pytest.raises(UserError, match=f"missing {name.removeprefix('clip.')}"):
        load_segclip(save(tmp_path / "segclip.bin", state), model)


def test_unknown_and_misshapen_tensors_are_named(tmp_path: Path, model: Any) -> None:
    state = segclip_state(model)
    with pytest.raises(UserError, match=r"not in the model: visual\.extra"):
        load_segclip(save(tmp_path / "a.bin", state | {"clip.visual.extra": torch.zeros(1)}), model)
    name = "clip.visual.transformer.semantic_layer2.semantic_center"
    with pytest.raises(UserError, match=r"semantic_center has shape \(7, 128\), the model \(8, 128\)"):
        load_segclip(save(tmp_path / "b.bin", state | {name: torch.zeros(7, 128)}), model)


def test_blocks_as_in_clip_are_no_segclip(tmp_path: Path, model: Any) -> None:
    with pytest.raises(UserError, match=r"missing visual\.transformer\.layers0"):
        load_segclip(save(tmp_path / "clip.bin", model.state_dict()), model)


def test_absent_weights_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OVSS_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="bench weights fetch segclip"):
        SegCLIP()


# ---- the contract


def test_contract_with_a_threshold() -> None:
    parts = segclip_parts()
    options = GroupOptions(background_threshold=0.8)
    checks = conformity.check_method(lambda: SegCLIP(options, weights=parts))
    assert [c for c in checks if not c.passed] == []


def test_windows_below_a_patch_are_refused() -> None:
    with pytest.raises(UserError, match="smaller than one patch"):
        make_method(segclip_parts()).score_windows(make_windows(1, 12, 64))
