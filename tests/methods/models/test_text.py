"""Text side: truncated, sorted encoding equals open_clip's at full length; the cache."""

from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from ovss.methods import Backbone, Vocabulary, load_backbone
from ovss.methods.models import text
from ovss.methods.models.text import encode_prompts, encode_queries

CPU = torch.device("cpu")
PROMPTS = [
    "cat",
    "a photo of a very long and winding sentence about a cat that sits on a mat near a window.",
    "sofa",
    "",
    "a bad photo of the sofa.",
    "long " * 100,  # cut at 77 tokens
    "itap of a naïve zebra-crossing!",
]


def make_backbone(seed: int = 0, quick_gelu: bool = True) -> Backbone:
    torch.manual_seed(seed)
    model = open_clip.CLIP(
        embed_dim=32,
        vision_cfg={"image_size": 32, "layers": 1, "width": 64, "head_width": 64, "patch_size": 16},
        text_cfg={"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 3},
        quick_gelu=quick_gelu,
    ).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.startswith(("transformer", "positional", "token", "ln_final")) and p.ndim == 2:
                p.normal_(std=1.2 / p.shape[1] ** 0.5)
    return Backbone.from_module(model, SimpleTokenizer())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OVSS_CACHE", str(tmp_path))
    return tmp_path / "text"


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return make_backbone()


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary.from_names(["cat", "sofa, couch", "sky"], templates=["a {}.", "a photo of one {} there."])


@torch.no_grad()
def full_length(backbone: Backbone, prompts: list[str]) -> Tensor:
    return F.normalize(backbone.model.encode_text(backbone.tokenizer(prompts)), dim=-1)


def error(got: Tensor, wanted: Tensor) -> float:
    return ((got - wanted).abs().max() / wanted.abs().max()).item()


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_truncated_equals_full_length(quick_gelu: bool) -> None:
    backbone = make_backbone(quick_gelu=quick_gelu)
    features = encode_prompts(backbone, PROMPTS, CPU)
    assert features.dtype == torch.float32
    wanted = full_length(backbone, PROMPTS)
    assert error(features, wanted) <= 1e-5
    assert wanted.std(dim=0).max() > 0.05  # prompts differ, so the comparison says something


def test_order_and_batches_do_not_matter(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    together = encode_prompts(backbone, PROMPTS, CPU)
    backwards = encode_prompts(backbone, PROMPTS[::-1], CPU).flip(0)
    assert error(backwards, together) <= 1e-5
    monkeypatch.setattr(text, "_BATCH", 2)
    assert error(encode_prompts(backbone, PROMPTS, CPU), together) <= 1e-5


def test_other_text_towers_go_through_encode_text(backbone: Backbone) -> None:
    bidirectional = make_backbone()
    bidirectional.model.attn_mask = None
    features = encode_prompts(bidirectional, PROMPTS, CPU)
    assert torch.allclose(features, full_length(bidirectional, PROMPTS), atol=1e-5)
    assert (features - full_length(backbone, PROMPTS)).abs().max() > 1e-2


def test_mean_over_templates(backbone: Backbone, vocabulary: Vocabulary) -> None:
    rows = []
    for query in vocabulary.queries:
        total = torch.zeros(32)
        for template in vocabulary.templates:
            total += full_length(backbone, [template.replace("{}", query)])[0]
        rows.append(total / len(vocabulary.templates) / (total / len(vocabulary.templates)).norm())
    queries = encode_queries(backbone, vocabulary, CPU)
    assert queries.shape == (4, 32)
    assert error(queries, torch.stack(rows)) <= 1e-5


@pytest.fixture
def tower_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of prompts of every call of the text tower's entrance."""
    calls: list[int] = []
    original = text.encode_prompts

    def spy(backbone: Backbone, prompts: list[str], device: torch.device) -> Tensor:
        calls.append(len(prompts))
        return original(backbone, prompts, device)

    monkeypatch.setattr(text, "encode_prompts", spy)
    return calls


def test_second_call_reads_the_cache(
    backbone: Backbone, vocabulary: Vocabulary, cache: Path, tower_calls: list[int]
) -> None:
    first = encode_queries(backbone, vocabulary, CPU)
    assert [p.suffix for p in cache.iterdir()] == [".safetensors"]
    assert torch.equal(encode_queries(backbone, vocabulary, CPU), first)
    assert tower_calls == [8]


@pytest.mark.parametrize("damage", ["empty", "truncated", "noise", "other tensor"])
def test_damaged_cache_is_made_again(
    backbone: Backbone, vocabulary: Vocabulary, cache: Path, tower_calls: list[int], damage: str
) -> None:
    import safetensors.torch

    first = encode_queries(backbone, vocabulary, CPU)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    other = safetensors.torch.save({"something": torch.zeros(2)})
    path.write_bytes({"empty": b"", "truncated": whole[:-40], "noise": b"\xff" * 500, "other tensor": other}[damage])
    assert torch.equal(encode_queries(backbone, vocabulary, CPU), first)
    assert path.read_bytes() == whole
    assert tower_calls == [8, 8]


def test_what_changes_the_key(backbone: Backbone, vocabulary: Vocabulary, tower_calls: list[int]) -> None:
    encode_queries(backbone, vocabulary, CPU)
    other_weights = make_backbone(seed=1)
    other_tokenizer = replace(backbone, tokenizer=SimpleTokenizer(context_length=40))
    encode_queries(other_weights, vocabulary, CPU)
    encode_queries(other_tokenizer, vocabulary, CPU)
    encode_queries(backbone, replace(vocabulary, templates=vocabulary.templates[:1]), CPU)
    encode_queries(backbone, replace(vocabulary, templates=vocabulary.templates[::-1]), CPU)
    encode_queries(backbone, replace(vocabulary, queries=("cat", "sofa", "couch", "cloud")), CPU)
    assert len(tower_calls) == 6
    # who owns a query, what it is called and what is background do not change its embedding
    encode_queries(backbone, replace(vocabulary, query_to_class=(0, 1, 2, 2), background=0), CPU)
    assert len(tower_calls) == 6


def test_activation_is_part_of_the_key(vocabulary: Vocabulary, tower_calls: list[int]) -> None:
    plain, quick = make_backbone(quick_gelu=False), make_backbone(quick_gelu=True)
    assert not torch.equal(encode_queries(plain, vocabulary, CPU), encode_queries(quick, vocabulary, CPU))
    assert len(tower_calls) == 2


def test_no_flipped_bit_is_believed(
    backbone: Backbone, vocabulary: Vocabulary, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = encode_queries(backbone, vocabulary, CPU)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 8 * len(whole) // 97):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        caplog.clear()
        assert torch.equal(encode_queries(backbone, vocabulary, CPU), first)
        assert path.read_bytes() == whole and "will be made again" in caplog.text


@pytest.mark.parametrize("change", ["other key", "other length", "not unit", "not finite", "half"])
def test_a_cache_file_with_a_seal_is_judged_too(
    backbone: Backbone, vocabulary: Vocabulary, cache: Path, change: str
) -> None:
    """What a bug, not an accident, could have written."""
    import safetensors.torch

    from ovss.methods.models import text

    first = encode_queries(backbone, vocabulary, CPU)
    (path,) = cache.iterdir()
    wrong = {
        "other key": first.clone(),
        "other length": first[:-1].clone(),
        "not unit": first * 1.01,
        "not finite": first * float("nan"),
        "half": first.half(),
    }[change]
    named = path.with_name("0" * 64 + ".safetensors") if change == "other key" else path
    path.write_bytes(safetensors.torch.save({"queries": wrong}, {text._SEAL: text._seal(named, wrong)}))
    assert torch.equal(encode_queries(backbone, vocabulary, CPU), first)


def test_unusable_cache_is_no_failure(
    backbone: Backbone, vocabulary: Vocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = encode_queries(backbone, vocabulary, CPU)
    (tmp_path / "file").write_text("in the way")
    assert torch.equal(encode_queries(backbone, vocabulary, CPU, cache=tmp_path / "file" / "below"), wanted)

    def full(path: Path, content: bytes) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(text, "write_to_cache", full)
    assert torch.equal(encode_queries(backbone, vocabulary, CPU, cache=tmp_path / "elsewhere"), wanted)


def test_tiny_clip_has_a_causal_tower() -> None:
    from ovss.methods.models.backbone import TINY_CLIP_FOLDER

    if not (TINY_CLIP_FOLDER / "open_clip_model.safetensors").is_file():
        pytest.skip("the embedded weights are not there yet")
    tiny = load_backbone("tiny-clip")
    prompts = ["a red circle", "circle"]
    assert error(encode_prompts(tiny, prompts, CPU), full_length(tiny, prompts)) <= 1e-5
