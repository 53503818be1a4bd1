"""Whole images, each method beside its original, and texts."""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from benchmarks.lines_decode import LOGIT_SCALE, same_labels
from benchmarks.made_up import ADE_PX, generator, photo
from benchmarks.originals import Name, Original, released_sclip
from benchmarks.table import AbsentError, Goal, Line, compared, timed, within
from torch import Tensor

from ovss.harness.decoding.decode import decode
from ovss.harness.decoding.rule import DecodeRule
from ovss.harness.mmseg.shim import import_mmseg
from ovss.methods import Backbone, Method, Picture, Vocabulary, WindowGeometry, create_method
from ovss.methods.models.dinoiser_heads import heads_of
from ovss.methods.models.text import encode_queries

MODEL = "ViT-B-16-quickgelu"
NAMES = tuple(f"thing number {n}" for n in range(150))
WORDS = "cat,traffic light,sofa,person,swimming pool,car,tree,washing machine,sky,river,plant,dog,bus,train,road,wall"
TEXT_CLASSES = 2


@cache
def backbone() -> Backbone:
    """A ViT-B/16 with random weights of half precision, as OpenAI's are, hashed so that the hash is in no timing."""
    torch.manual_seed(0)
    model = open_clip.create_model(MODEL, pretrained=None).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(parameter.half().float())
    made = Backbone.from_module(model, open_clip.get_tokenizer(MODEL))
    _ = made.sha256
    return made


@cache
def spread_texts() -> Tensor:
    """Random weights give almost equal texts; spread out, classes have winners as with trained ones."""
    return F.normalize(torch.randn(len(NAMES), 512, generator=generator(6)), dim=-1)


def has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 itself."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def ours_on(name: str, image: Tensor, geometry: WindowGeometry, dtype: torch.dtype) -> Callable[[], Tensor]:
    """Our labels of an image, from its resized pixels on."""
    method: Method = create_method(name, backbone(), dtype=dtype)
    words = method.encode_text(Vocabulary.from_names(list(NAMES), templates="simple"))
    words = replace(words, text=spread_texts())  # type: ignore[type-var]  # words of a CLIP

    @torch.inference_mode()
    def labels() -> Tensor:
        field = method.score(method.encode_image(Picture.of(image), geometry), words)
        return decode(field, ADE_PX, DecodeRule(LOGIT_SCALE))

    return labels


def image_line(name: Name, goal: Goal, bf16: bool = False) -> Line:
    """An image of ADE's size, 150 classes, from resized pixels to labels."""
    if bf16 and not has_bf16():
        raise AbsentError("this processor has no bf16 instructions")
    original = Original(name, backbone().model, spread_texts())
    image = photo(336, 448)
    if name == "maskclip":
        original, image = replace(original, window_px=448, stride_px=224), photo(448, 597)
    geometry = WindowGeometry(original.window_px, original.stride_px)
    count = len(geometry.boxes(image.shape[1], image.shape[2]))
    return compared(
        f"{name}, ViT-B/16, {image.shape[1]} x {image.shape[2]}, {count} windows{', bf16' if bf16 else ''}",
        "original sequence of operations, fp32",
        ours_on(name, image, geometry, torch.bfloat16 if bf16 else torch.float32),
        lambda: original.predict(image, ADE_PX),
        lambda a, b: same_labels(a, b, 0.02 if bf16 else 1e-4),
        goal,
    )


def released_line(folder: Path | None, context: ExitStack) -> Line:
    """The released program itself, where a checkout of it is at hand."""
    if folder is None:
        raise AbsentError("no checkout of the original program was given with --peer")
    import_mmseg()
    image, geometry = photo(336, 448), WindowGeometry(224, 112)
    predict = context.enter_context(released_sclip(folder, backbone().model, spread_texts(), ADE_PX))
    return compared(
        "sclip, ViT-B/16, 336 x 448, 6 windows",
        "released program's predict",
        ours_on("sclip", image, geometry, torch.float32),
        lambda: predict(image),
        same_labels,
        Goal(1.5, 2.9),
    )


def dinoiser_line() -> Line:
    """One window of 448 px: what CLIP-DINOiser's two light convolutions add to MaskCLIP."""
    shapes = {
        "obj_proj.weight": (256, 768, 3, 3),
        "obj_proj.bias": (256,),
        "bkg_decoder.weight": (1, 768, 1, 1),
        "bkg_decoder.bias": (1,),
    }
    state = {name: 0.02 * torch.randn(shape, generator=generator(8)) for name, shape in shapes.items()}
    found = {
        "maskclip": create_method("maskclip", backbone(), pad="end", positions="size"),
        "clip-dinoiser": create_method("clip-dinoiser", backbone(), heads=heads_of(state, "random")),
    }
    vocabulary = Vocabulary.from_names(["background", *NAMES[:20]], templates="simple", background=0)
    words = {name: method.encode_text(vocabulary) for name, method in found.items()}
    image = photo(448, 448)

    def scored(name: str) -> Callable[[], Tensor]:
        method = found[name]
        return lambda: method.score(method.encode_image(Picture.of(image), WindowGeometry()), words[name]).scores

    def agree(ours: Tensor, peer: Tensor) -> None:
        """Two methods: neither is NaN, and they are not the same."""
        assert bool(ours.isfinite().all() and peer.isfinite().all()) and not torch.equal(ours, peer)

    sides = scored("clip-dinoiser"), scored("maskclip")
    return compared("clip-dinoiser, a window of 448 px", "our maskclip", *sides, agree, Goal.same(1 / 1.1))


def cold_texts_line() -> Line:
    vocabulary = Vocabulary.from_names(WORDS.split(",")[:TEXT_CLASSES], templates="openai80")
    model, tokenizer = backbone().model, backbone().tokenizer

    def ours() -> Tensor:
        with tempfile.TemporaryDirectory() as folder:
            return encode_queries(backbone(), vocabulary, torch.device("cpu"), Path(folder))

    @torch.inference_mode()
    def per_class() -> Tensor:
        rows = []
        for query in vocabulary.queries:
            features = model.encode_text(tokenizer([t.format(query) for t in vocabulary.templates]))
            rows.append(F.normalize(F.normalize(features, dim=-1).mean(0), dim=-1))
        return torch.stack(rows)

    def agree(a: Tensor, b: Tensor) -> None:
        assert float((a - b).abs().max() / b.abs().max()) <= 1e-5

    what = f"texts, {TEXT_CLASSES} classes x 80 templates, cold"
    return compared(what, "encode_text at 77 tokens", ours, per_class, agree, Goal.same(6.0))


def warm_texts_line(folder: Path) -> Line:
    """150 classes that were encoded before: no pass through the encoder."""
    vocabulary = Vocabulary.from_names(list(NAMES), templates="simple")

    def ours() -> Tensor:
        return encode_queries(backbone(), vocabulary, torch.device("cpu"), folder / "texts")

    def agree() -> None:
        assert torch.equal(ours(), ours())

    return within("texts, 150 classes, warm", 0.1, timed(ours), agree)


def lines(folder: Path, peer: Path | None, context: ExitStack) -> dict[str, Callable[[], Line]]:
    return {
        "sclip": lambda: image_line("sclip", Goal(1.5, 2.9)),
        "sclip-released": lambda: released_line(peer, context),
        "sclip-bf16": lambda: image_line("sclip", Goal(None, 5.9), bf16=True),
        "naclip": lambda: image_line("naclip", Goal()),
        "maskclip": lambda: image_line("maskclip", Goal()),
        "dinoiser": dinoiser_line,
        "texts-cold": cold_texts_line,
        "texts-warm": lambda: warm_texts_line(folder),
    }
