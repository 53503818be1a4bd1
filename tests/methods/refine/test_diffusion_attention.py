"""Diffusion attention against the plain form of ``attention_chain_reference``, on random weights."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ovss.methods.core.errors import UserError
from ovss.methods.models.stable_diffusion import StableDiffusion, tiny_stable_diffusion
from ovss.methods.refine import attention_chain, diffusion_attention
from ovss.methods.refine.attention_chain import AttentionChain, Heads
from ovss.methods.refine.diffusion_attention import DiffusionAttention, attention_modules, image_seed

from .attention_chain_reference import Rules, attention_maps, latent_of, refine, undecided

THRESHOLDS = (0.1, 0.35)
NAME = "2007_000033"


def photo(seed: int, height: int = 93, width: int = 141) -> Tensor:
    """Blocks of colour with noise, ``(3, height, width)`` uint8."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, (3, 8, 8), generator=generator).repeat_interleave(18, 1).repeat_interleave(18, 2)
    return (
        (blocks[:, :height, :width] + torch.randint(-20, 21, (3, height, width), generator=generator))
        .clamp(0, 255)
        .byte()
    )


def noise_of(parts: StableDiffusion, name: str, seed: int = 0) -> Tensor:
    side = parts.image_px // 8
    return torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(image_seed(seed, name)))


@pytest.fixture(scope="module")
def parts() -> StableDiffusion:
    """A four-level UNet of 32 channels and 2 heads, queries and keys times 6, on latents of 32 x 32."""
    return tiny_stable_diffusion()


@pytest.fixture(scope="module")
def small(parts: StableDiffusion) -> StableDiffusion:
    """The same on latents of 16 x 16."""
    return replace(parts, image_px=128)


@torch.no_grad()
def clear_case(parts: StableDiffusion) -> tuple[Tensor, list[Tensor]]:
    """An image and its maps, of which no entry is so close to a threshold that rounding decides."""
    for seed in range(50):
        image = photo(seed)
        maps = attention_maps(parts, latent_of(parts, image, noise_of(parts, NAME), Rules()), Rules())
        if not any(undecided(maps, threshold) for threshold in THRESHOLDS):
            return image, maps
    raise AssertionError("every image has an entry at a threshold")


@pytest.fixture(scope="module")
def case(parts: StableDiffusion) -> tuple[Tensor, list[Tensor]]:
    return clear_case(parts)


@pytest.fixture(scope="module")
def small_case(small: StableDiffusion) -> tuple[Tensor, list[Tensor]]:
    return clear_case(small)


def scores_for(parts: StableDiffusion, classes: int = 7) -> Tensor:
    side = parts.image_px // 8
    return torch.rand(classes, side, side, generator=torch.Generator().manual_seed(1))


def difference(found: Tensor, wanted: Tensor) -> float:
    """Relative, of the whole; not a number anywhere is an error."""
    assert found.shape == wanted.shape and found.isfinite().all() and wanted.isfinite().all()
    return float((found - wanted).norm() / wanted.norm())


# ---- against the reference


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("fusion", ["chain", "mean", "selection"])
def test_equals_the_dense_product(
    parts: StableDiffusion, case: tuple[Tensor, list[Tensor]], threshold: float, fusion: Any
) -> None:
    image, maps = case
    scores = scores_for(parts)
    seen = DiffusionAttention(parts, threshold, fusion).observe(image, NAME)
    assert seen.grid == (32, 32) and len(maps) == 4
    found, wanted = seen.propagate(scores), refine(maps, scores, threshold, fusion, Rules())
    assert difference(found, wanted) <= 1e-5
    assert float((found - wanted).abs().max() / wanted.abs().max()) <= 1e-5


@pytest.mark.parametrize("entries", [1, 5000, 65536 - 1, 1 << 30])
def test_blocks_of_any_size(
    small: StableDiffusion, small_case: tuple[Tensor, list[Tensor]], monkeypatch: pytest.MonkeyPatch, entries: int
) -> None:
    """Single rows, 19 rows (which do not divide 256), all but one row, and everything at once."""
    image, maps = small_case
    scores = scores_for(small)
    monkeypatch.setattr(attention_chain, "_BLOCK_CPU", entries)
    found = DiffusionAttention(small).observe(image, NAME).propagate(scores)
    assert difference(found, refine(maps, scores, 0.1, "chain", Rules())) <= 1e-5


VISIBLE = 1e-2  # a thousand times what is allowed above; the smallest difference is 0.026, of the 1e-5
# The 1e-5 beside the sum of a row is not among them: sums are 0 or at least the threshold, so that it moves a result by
# 1e-4 at most in each map.  Without it, zero rows are no numbers (below).
WRONG = {
    "transposed": Rules(transposed=True),
    "maximum over keys": Rules(maximum_over="keys"),
    "no 1e-5 at the maximum": Rules(epsilon=0.0),
    "no threshold": Rules(thresholded=False),
    "rows not normalised": Rules(rows_normalised=False),
    "product reversed": Rules(reversed_order=True),
    "layers swapped": Rules(layers_swapped=True),
    "posterior sampled": Rules(posterior="sample"),
    "bilinear squash": Rules(squash="bilinear"),
    "t = 81": Rules(timestep=81),
}


@pytest.mark.parametrize("rules", WRONG.values(), ids=WRONG)
@torch.no_grad()
def test_differs_from_what_it_could_be_taken_for(
    small: StableDiffusion, small_case: tuple[Tensor, list[Tensor]], rules: Rules
) -> None:
    image, _ = small_case
    scores = scores_for(small)
    found = DiffusionAttention(small).observe(image, NAME).propagate(scores)
    maps = attention_maps(small, latent_of(small, image, noise_of(small, NAME), rules), rules)
    assert difference(found, refine(maps, scores, 0.1, "chain", rules)) > VISIBLE


@torch.no_grad()
def test_cross_attention_is_not_taken(small: StableDiffusion, small_case: tuple[Tensor, list[Tensor]]) -> None:
    image, _ = small_case
    rules = Rules(attention="attn2")
    maps = attention_maps(small, latent_of(small, image, noise_of(small, NAME), rules), rules)
    assert {tuple(a.shape) for a in maps} == {(256, 77)}  # to words: no such map can be chained
    layers = DiffusionAttention(small).observe(image, NAME).layers
    assert [tuple(t.shape) for layer in layers for t in (layer.q, layer.k)] == [(2, 256, 16)] * 4


def test_fusions_differ(small: StableDiffusion, small_case: tuple[Tensor, list[Tensor]]) -> None:
    image, scores = small_case[0], scores_for(small)
    chain, mean, one = (
        DiffusionAttention(small, fusion=fusion).observe(image, NAME).propagate(scores)
        for fusion in ("chain", "mean", "selection")
    )
    assert min(difference(chain, mean), difference(mean, one), difference(one, chain)) > 0.1


# ---- the chain by itself


def chain_of(tokens: int, dtype: torch.dtype = torch.float32, threshold: float = 0.1, **options: Any) -> AttentionChain:
    generator = torch.Generator().manual_seed(5)
    side = int(tokens**0.5)
    layers = [Heads(*(2 * torch.randn(2, 3, tokens, 8, generator=generator)).to(dtype)) for _ in range(2)]
    return AttentionChain(tuple(layers), (side, side), threshold, **options)


def test_two_tokens_by_hand() -> None:
    """Rows of A are (3/4, 1/4) and (1/2, 1/2); of B (1, 1/2) and (2/3, 1); at threshold 0.6, T is (1, 0), (2/3, 1)."""
    q, k = torch.tensor([[[1.0], [0.0]]]), torch.log(torch.tensor([[[3.0], [1.0]]]))  # of dim 1, whose scale is 1
    seen = AttentionChain((Heads(q, k),), (1, 2), 0.6)
    found = seen.propagate(torch.tensor([[[10.0, 20.0]], [[1.0, 0.0]]]))
    assert torch.allclose(found, torch.tensor([[[10.0, 16.0]], [[1.0, 0.4]]]), rtol=1e-4)


def test_head_0_of_the_first_layer_acts_last(small: StableDiffusion, small_case: tuple[Tensor, list[Tensor]]) -> None:
    image, scores = small_case[0], scores_for(small)
    seen = DiffusionAttention(small).observe(image, NAME)
    step = scores
    for layer in reversed(seen.layers):
        for head in (1, 0):
            single = Heads(layer.q[head : head + 1], layer.k[head : head + 1])
            step = AttentionChain((single,), seen.grid, 0.1).propagate(step)
    assert torch.equal(step, seen.propagate(scores))


@pytest.mark.parametrize("fusion", ["chain", "mean", "selection"])
def test_maps_are_independent_and_the_chain_is_linear(fusion: Any) -> None:
    seen = chain_of(64, fusion=fusion)
    maps = torch.rand(847, 8, 8, generator=torch.Generator().manual_seed(6))
    together = seen.propagate(maps)
    for n in (0, 1, 500, 846):
        assert difference(seen.propagate(maps[n : n + 1]), together[n : n + 1]) < 1e-6
    combined = seen.propagate(2 * maps[:3] - 0.5 * maps[3:6])
    assert torch.allclose(combined, 2 * together[:3] - 0.5 * together[3:6], atol=1e-6)
    constant = seen.propagate(torch.ones(1, 8, 8))
    assert float(constant.max()) < 1 and float(constant.min()) > 0.999  # rows sum to a little less than 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_probabilities(dtype: torch.dtype) -> None:
    seen, scores = chain_of(256, dtype), torch.rand(5, 16, 16, generator=torch.Generator().manual_seed(7))
    pairs = [(q, k) for layer in seen.layers for q, k in zip(layer.q, layer.k, strict=True)]
    maps = [torch.cat([block for _, block in attention_chain._attention(q, k)]) for q, k in pairs]
    assert all(a.dtype == torch.float32 and torch.equal(a, a.to(dtype).float()) for a in maps)
    assert difference(seen.propagate(scores), refine(maps, scores, 0.1, "chain", Rules())) <= 1e-5
    finer = AttentionChain(tuple(Heads(h.q.float(), h.k.float()) for h in seen.layers), seen.grid, 0.1)
    assert difference(finer.propagate(scores), refine(maps, scores, 0.1, "chain", Rules())) > 1e-4


@pytest.mark.parametrize("threshold", [0.9, 0.999])
def test_zero_rows_stay_zero(
    small: StableDiffusion, small_case: tuple[Tensor, list[Tensor]], threshold: float, caplog: pytest.LogCaptureFixture
) -> None:
    image, maps = small_case
    scores = 1 + scores_for(small)
    shares = maps[1] / (maps[1].amax(0) + 1e-5)
    empty = ~(shares >= threshold).any(dim=1).view(16, 16)
    assert 0.05 < float(empty.float().mean()) < 0.95
    with caplog.at_level(logging.DEBUG, logger="ovss"):
        found = DiffusionAttention(small, threshold, "selection").observe(image, NAME).propagate(scores)
    assert found.isfinite().all()
    assert torch.equal(found == 0, empty.expand_as(found))
    assert f"{100 * float(empty.float().mean()):.2f} % of the rows are zero" in caplog.text
    chained = DiffusionAttention(small, threshold).observe(image, NAME).propagate(scores)
    assert chained.isfinite().all() and int((chained == 0).sum()) > 0


def test_shares_are_only_counted_for_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="ovss"):
        chain_of(16).propagate(torch.rand(2, 4, 4))
    assert not caplog.records


@pytest.mark.parametrize("maps", [torch.rand(2, 4, 5), torch.rand(4, 4), torch.rand(2, 4, 4).double()])
def test_maps_that_do_not_fit(maps: Tensor) -> None:
    with pytest.raises(ValueError, match="propagate takes"):
        chain_of(16).propagate(maps)


@pytest.fixture
def _precision() -> Iterator[None]:
    before = torch.backends.cuda.matmul.fp32_precision
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.usefixtures("_precision")
@pytest.mark.parametrize("before", ["highest", "high", "medium"])
def test_full_float32_whatever_the_process_allows(before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    torch.set_float32_matmul_precision(before)
    switches = [b.fp32_precision for b in backends]
    within = []

    def spy(q: Tensor, k: Tensor) -> Any:
        within.append((torch.get_float32_matmul_precision(), *(b.fp32_precision for b in backends)))
        return attention(q, k)

    attention = attention_chain._attention
    monkeypatch.setattr(attention_chain, "_attention", spy)
    chain_of(16).propagate(torch.rand(2, 4, 4))
    assert set(within) == {("highest", "ieee", "ieee")}
    assert torch.get_float32_matmul_precision() == before
    assert [b.fp32_precision for b in backends] == switches


@pytest.mark.usefixtures("_precision")
def test_a_backend_that_was_switched_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.15 then refuses to say what the process allows."""
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    within, attention = [], attention_chain._attention

    def spy(q: Tensor, k: Tensor) -> Any:
        within.append(torch.backends.cuda.matmul.fp32_precision)
        return attention(q, k)

    monkeypatch.setattr(attention_chain, "_attention", spy)
    chain_of(16).propagate(torch.rand(2, 4, 4))
    assert set(within) == {"ieee"}
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"


# ---- latent and noise


class Seen(Exception):  # noqa: N818
    """Carries what a stand-in was called with."""


def stop_with(*arguments: Any, **named: Any) -> Any:
    raise Seen(arguments[0])


def latent_given_to_the_unet(guide: DiffusionAttention, image: Tensor, name: str) -> Tensor:
    blind = DiffusionAttention(guide.parts, noise=guide.noise, seed=guide.seed)
    blind.parts = replace(guide.parts, unet=stop_with)
    with pytest.raises(Seen) as seen:
        blind.observe(image, name)
    return seen.value.args[0]


def test_pixels_equal_the_image_processor(parts: StableDiffusion) -> None:
    from diffusers.image_processor import VaeImageProcessor

    image = torch.randint(0, 256, (3, 375, 500), dtype=torch.uint8, generator=torch.Generator().manual_seed(8))
    guide = DiffusionAttention(replace(parts, image_px=512))
    guide.parts = replace(guide.parts, vae=type("Vae", (), {"encode": staticmethod(stop_with)}))
    with pytest.raises(Seen) as seen:
        guide.observe(image, NAME)
    wanted = VaeImageProcessor(vae_scale_factor=8).preprocess(image[None].float() / 255, height=512, width=512)
    assert torch.equal(seen.value.args[0], wanted)
    nearest = torch.nn.functional.interpolate(image[None].float() / 255, (512, 512), mode="nearest")
    assert torch.equal(wanted, 2 * nearest - 1)


@pytest.mark.parametrize("size", [(93, 141), (200, 31), (1, 700)])
@torch.no_grad()
def test_latent_equals_the_scheduler(parts: StableDiffusion, size: tuple[int, int]) -> None:
    from diffusers import PNDMScheduler

    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
    scheduler = PNDMScheduler(skip_prk_steps=True, steps_offset=1, timestep_spacing="leading", **betas)
    scheduler.set_timesteps(50)
    step = scheduler.timesteps[45]
    assert len(scheduler.timesteps) == 51 and int(step) == parts.timestep == 101
    kept = float(scheduler.alphas_cumprod[step])
    assert (kept**0.5, (1 - kept) ** 0.5) == pytest.approx((0.944976, 0.327139), abs=1e-5)
    assert parts.alpha_bar == pytest.approx(kept, rel=1e-6)

    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(10))
    clean = latent_given_to_the_unet(DiffusionAttention(parts, noise="zero"), image, NAME)
    noised = latent_given_to_the_unet(DiffusionAttention(parts), image, NAME)
    assert noised.shape == (1, 4, 32, 32)
    assert difference(scheduler.add_noise(clean / kept**0.5, noise_of(parts, NAME), step[None]), noised) < 1e-6
    assert difference(latent_of(parts, image, noise_of(parts, NAME), Rules()), noised) < 1e-6


def test_noise_is_that_of_seed_and_name(small: StableDiffusion) -> None:
    image, other = photo(1), photo(2, 60, 50)

    def latent(noise: Any, seed: int, name: str, first: Callable[[], Any] = lambda: None) -> Tensor:
        first()
        return latent_given_to_the_unet(DiffusionAttention(small, noise=noise, seed=seed), image, name)

    guide = DiffusionAttention(small)
    once = latent("per-image", 0, "a")
    assert torch.equal(once, latent("per-image", 0, "a", lambda: (guide.observe(other, "z"), torch.randn(7))))
    for changed in (("per-image", 1, "a"), ("per-image", 0, "b"), ("fixed", 0, "a"), ("zero", 0, "a")):
        assert difference(once, latent(*changed)) > 0.1
    assert torch.equal(latent("fixed", 3, "a"), latent("fixed", 3, "b"))
    assert difference(latent("fixed", 3, "a"), latent("fixed", 4, "a")) > 0.1
    assert torch.equal(latent("zero", 3, "a"), latent("zero", 4, "b"))


def test_seed_of_an_image_is_the_same_for_ever() -> None:
    """63 bits from the front of sha256 of "0 2007_000033" and "1 2007_000033"."""
    assert [image_seed(seed, NAME) for seed in (0, 1)] == [0x20DB2989EDA96458, 0x66D8A7407CDEF129]
    assert image_seed(1, "1 a") != image_seed(11, " a")


@pytest.mark.parametrize("noise", ["per-image", "fixed", "zero"])
def test_same_bits_and_no_random_state_used(small: StableDiffusion, noise: Any) -> None:
    image, scores = photo(3, 50, 140), scores_for(small)
    before = torch.random.get_rng_state()
    first, second = (DiffusionAttention(small, noise=noise).observe(image, "a") for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(
        torch.equal(a.q, b.q) and torch.equal(a.k, b.k) for a, b in zip(first.layers, second.layers, strict=True)
    )
    assert torch.equal(first.propagate(scores), second.propagate(scores))


# ---- the UNet


def traces(unet: Any) -> dict[str, Any]:
    """What a forgotten patch would change."""
    return {
        name: (
            id(getattr(module, "processor", None)),
            sorted(vars(module)),
            list(module._modules),
            len(module._forward_hooks) + len(module._forward_pre_hooks),
        )
        for name, module in unet.named_modules()
    }


def test_layers_are_numbered_in_the_order_they_run(parts: StableDiffusion) -> None:
    names = {module: name for name, module in parts.unet.named_modules()}
    numbered = attention_modules(parts.unet)
    ran: list[str] = []
    hooks = [m.register_forward_pre_hook(lambda module, args: ran.append(names[module])) for m in numbered]
    with torch.no_grad():
        parts.unet(torch.zeros(1, 4, 16, 16), 101, encoder_hidden_states=parts.prompt)
    for hook in hooks:
        hook.remove()
    assert len(numbered) == 32
    assert [names[m] for m in numbered] == ran
    assert all(name.endswith(("attn1", "attn2")[n % 2]) for n, name in enumerate(ran))
    assert [names[m] for m in DiffusionAttention(parts)._modules] == [
        "up_blocks.3.attentions.1.transformer_blocks.0.attn1",
        "up_blocks.3.attentions.0.transformer_blocks.0.attn1",
    ]


def test_nothing_runs_after_the_last_wanted_layer_and_nothing_stays(small: StableDiffusion) -> None:
    before, ran = traces(small.unet), set()
    names = (
        "up_blocks.2.attentions.2",
        "up_blocks.3.attentions.0.transformer_blocks.0.attn1.to_out.0",
        "up_blocks.3.attentions.1.transformer_blocks.0.attn1.to_v",
        "up_blocks.3.attentions.2",
        "conv_out",
    )
    modules = [small.unet.get_submodule(name) for name in names]
    hooks = [
        m.register_forward_pre_hook(lambda module, args, name=name: ran.add(name))
        for name, m in zip(names, modules, strict=True)
    ]
    DiffusionAttention(small).observe(photo(1), NAME)
    for hook in hooks:
        hook.remove()
    assert ran == set(names[:2])
    assert traces(small.unet) == before


def test_other_modules_keep_their_processors(small: StableDiffusion) -> None:
    attention = attention_modules(small.unet)
    before, within = [m.processor for m in attention], []
    middle = small.unet.up_blocks[3].resnets[0]
    hook = middle.register_forward_pre_hook(lambda module, args: within.extend(m.processor for m in attention))
    guide = DiffusionAttention(small)
    guide.observe(photo(1), NAME)
    hook.remove()
    changed = [n - 32 for n, (a, b) in enumerate(zip(before, within, strict=True)) if a is not b]
    assert changed == [-6, -4]
    assert all(m.processor is processor for m, processor in zip(attention, before, strict=True))


@pytest.mark.parametrize("place", ["down_blocks.0", "up_blocks.3.resnets.1"])
def test_nothing_stays_after_an_error(small: StableDiffusion, place: str) -> None:
    """Before either layer, and between the two."""
    before, scores = traces(small.unet), scores_for(small)
    wanted = DiffusionAttention(small).observe(photo(1), NAME).propagate(scores)
    hook = small.unet.get_submodule(place).register_forward_pre_hook(stop_with)
    guide = DiffusionAttention(small)
    with pytest.raises(Seen):
        guide.observe(photo(1), NAME)
    hook.remove()
    assert traces(small.unet) == before
    assert torch.equal(guide.observe(photo(1), NAME).propagate(scores), wanted)


def test_observation_keeps_no_graph_and_no_maps(small: StableDiffusion) -> None:
    seen = DiffusionAttention(small).observe(photo(1), NAME)
    tensors = [t for layer in seen.layers for t in (layer.q, layer.k)]
    assert all(t.shape == (2, 256, 16) and t.is_contiguous() and not t.requires_grad for t in tensors)
    assert all(t.untyped_storage().nbytes() == 4 * t.numel() for t in tensors)


# ---- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.0}, "at least 0 and below 1"),
        ({"threshold": -0.1}, "at least 0 and below 1"),
        ({"threshold": float("nan")}, "at least 0 and below 1"),
        ({"fusion": "chian"}, "did you mean chain.*chain, mean, selection"),
        ({"noise": "random"}, "fixed, per-image, zero"),
        ({"seed": -1}, "at least 0"),
        ({"layers": (-3, -5)}, "-32, -30, .* -4, -2"),
        ({"layers": ()}, "different self-attention layers"),
        ({"layers": (-4, 28)}, "different self-attention layers"),
        ({"layers": (-4, -34)}, "different self-attention layers"),
    ],
)
def test_values_that_are_not_allowed(parts: StableDiffusion, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DiffusionAttention(parts, **options)


def test_layers_of_two_resolutions(small: StableDiffusion) -> None:
    guide = DiffusionAttention(small, layers=(-4, -8))
    before = traces(small.unet)
    with pytest.raises(UserError, match=r"layers \[-4, -8\] of tiny-sd work on \[64, 256\] tokens"):
        guide.observe(photo(1), NAME)
    assert traces(small.unet) == before
    assert DiffusionAttention(small, layers=(-8, -10)).observe(photo(1), NAME).grid == (8, 8)


def test_image_that_does_not_fit(small: StableDiffusion) -> None:
    for image in (torch.rand(3, 8, 8), photo(1)[None], photo(1)[:1]):
        with pytest.raises(ValueError, match="observe takes"):
            DiffusionAttention(small).observe(image, NAME)


def test_provenance_and_note(parts: StableDiffusion) -> None:
    guide = DiffusionAttention(parts, 0.2, "mean", "fixed", 7)
    options = {"threshold": 0.2, "fusion": "mean", "noise": "fixed", "seed": 7, "layers": [-4, -6]}
    assert guide.provenance == parts.provenance | options
    assert json.loads(json.dumps(guide.provenance)) == guide.provenance
    assert guide.note == parts.note
    assert diffusion_attention.LAYERS == (-4, -6)
