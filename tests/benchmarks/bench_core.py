"""Speed of the numerical core against its peers, both sides in one run.

    python tests/benchmarks/bench_core.py --rounds 7

Every line first asserts that both sides agree.  Then they take turns, the first place changing from round to round, on
one thread; time is CPU time of the process.  Shown is the median over rounds of peer / ours, with its quartiles; a
goal is met when the lower quartile reaches it.  Lines run in the order given; ``--only a,c`` picks some.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ovss.harness.decoding.decode import decode, decoder_name
from ovss.harness.decoding.rule import DecodeRule
from ovss.harness.metrics.counting import count
from ovss.harness.mmseg.shim import import_mmseg
from ovss.methods import Backbone, Box, Picture, ScoreField, Vocabulary, WindowGeometry, Windows
from ovss.methods.blocks.clip_method import ClipWords
from ovss.methods.models.text import encode_queries
from ovss.methods.sclip import SCLIP

MEBIBYTE = 1 << 20
LOGIT_SCALE = 40.0


@dataclass(frozen=True)
class Line:
    """One comparison: ``agree`` raises when the results of the two sides differ."""

    title: str
    peer_title: str
    ours: Callable[[], Any]
    peer: Callable[[], Any]
    agree: Callable[[Any, Any], None]
    goal: float


@dataclass(frozen=True)
class Result:
    """Seconds (or bytes) of both sides, medians, and quartiles of the paired ratio."""

    ours: float
    peer: float
    quartiles: tuple[float, float, float]


def measure(line: Line, rounds: int) -> Result:
    """Paired CPU seconds of both sides."""
    line.agree(line.ours(), line.peer())
    pairs = []
    for number in range(rounds):
        sides = {"ours": line.ours, "peer": line.peer}
        order = list(sides) if number % 2 else list(sides)[::-1]
        pairs.append({name: cpu_seconds(sides[name]) for name in order})
    low, middle, high = np.percentile([p["peer"] / p["ours"] for p in pairs], [25, 50, 75])
    ours, peer = (float(np.median([p[name] for p in pairs])) for name in ("ours", "peer"))
    return Result(ours, peer, (float(low), float(middle), float(high)))


def cpu_seconds(run: Callable[[], Any], at_least: float = 0.05) -> float:
    """CPU time of one call, averaged over as many as fill ``at_least`` seconds."""
    calls, start = 0, time.process_time()
    while (used := time.process_time() - start) < at_least or not calls:
        run()
        calls += 1
    return used / calls


def blocky(shape: tuple[int, ...], values: int, block: int, seed: int) -> Tensor:
    """Piecewise constant random map, int64."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, values, tuple(-(-n // block) for n in shape), generator=generator)
    return coarse.repeat_interleave(block, 0).repeat_interleave(block, 1)[: shape[0], : shape[1]].contiguous()


# --- (a), (b), (f): from scores to labels -------------------------------------------------------------------------


def clip_like_field(classes: int, frame: tuple[int, int], grid: tuple[int, int] = (28, 37)) -> ScoreField:
    """Cosines with regions of a few patches, a little noise, and many losing classes."""
    generator = torch.Generator().manual_seed(0)
    scores = 0.15 + 0.02 * torch.randn(1, classes, *grid, generator=generator)
    winner = blocky(grid, classes, 4, seed=1)
    scores.scatter_add_(1, winner[None, None], torch.full((1, 1, *grid), 0.08))
    box = (Box(0, 0, *frame),)
    return ScoreField(scores, box, box, frame, tuple(range(classes)))


def upsample_and_argmax(field: ScoreField, size: tuple[int, int]) -> Tensor:
    return F.interpolate(field.scores, size, mode="bilinear", align_corners=False)[0].argmax(0)


def assert_labels(ours: Tensor, peer: Tensor, share: float = 1e-4) -> None:
    differing = float((ours.long() != peer.long()).float().mean())
    assert differing <= share, f"{differing:.2%} of the pixels differ"
    assert len(peer.unique()) > 1, "one class everywhere proves nothing"


def decode_line(classes: int, size: tuple[int, int], noisy: bool = False) -> Line:
    field, kind = clip_like_field(classes, size), "CLIP-like"
    if noisy:
        noise = torch.randn(field.scores.shape, generator=torch.Generator().manual_seed(3))
        field, kind = replace(field, scores=0.15 + 0.05 * noise), "white noise"
    return Line(
        f"decode {classes} x 28 x 37 to {size[0]} x {size[1]}, {kind}, {decoder_name('cpu')}",
        "F.interpolate + argmax",
        lambda: decode(field, size),
        lambda: upsample_and_argmax(field, size),
        assert_labels,
        2.5 if decoder_name("cpu") == "torch" else 20.0,
    )


def threshold_line(area: float) -> Line:
    """56 texts of 21 classes, as VOC 21 with synonyms, at 512 x 683."""
    size, owners = (512, 683), tuple(n * 21 // 56 for n in range(56))
    field = replace(clip_like_field(56, size), query_to_class=owners)
    rule = DecodeRule(LOGIT_SCALE, probability_threshold=0.4, area_threshold=area, background=0)

    def plain() -> Tensor:
        maps = F.interpolate(field.scores, size, mode="bilinear", align_corners=False)[0]
        softmax = (LOGIT_SCALE * maps).softmax(0)
        classes = torch.stack([softmax[[q for q in range(56) if owners[q] == c]].amax(0) for c in range(21)])
        labels = classes.argmax(0)
        if area:
            pixels = torch.bincount(labels.flatten(), minlength=21)
            lost = pixels <= area * (pixels.sum() - pixels[0])
            lost[0] = False
            classes[lost] = 0
            labels = classes.argmax(0)
        return labels.masked_fill_(classes.amax(0) < rule.probability_threshold, 0)

    return Line(
        f"decode 56 texts to 21 classes with a threshold{' and the area rule' if area else ''}, {decoder_name('cpu')}",
        "F.interpolate + softmax + maximum + argmax",
        lambda: decode(field, size, rule),
        plain,
        assert_labels,
        1.5 if decoder_name("cpu") == "torch" else 10.0,
    )


def peak_bytes(run: Callable[[], Any]) -> int:
    """Most bytes of tensors made by ``run`` that are alive at one time."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    live = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


# --- (c): counting ------------------------------------------------------------------------------------------------


def count_line() -> Line:
    size, classes = (512, 683), 150
    label = blocky(size, classes, 24, seed=2)
    prediction = torch.where(blocky(size, 10, 24, seed=3) < 6, label, blocky(size, classes, 24, seed=4))
    label[blocky(size, 10, 24, seed=5) == 0] = 255
    small_prediction, small_label = prediction.byte(), label.byte()
    metric = import_mmseg().evaluation.IoUMetric

    def agree(ours: Any, peer: Any) -> None:
        intersection, union, predicted, labelled = (t.double().numpy() for t in peer)
        assert np.array_equal(ours.tp, intersection) and np.array_equal(ours.pred, predicted)
        assert np.array_equal(ours.gt, labelled) and np.array_equal(ours.gt + ours.pred - ours.tp, union)

    return Line(
        f"count 150 classes, 512 x 683, blocky, {decoder_name('cpu')}",
        "mmseg intersect_and_union",
        lambda: count(small_prediction, small_label, classes),
        # int64, as mmseg's test loop hands them over
        lambda: metric.intersect_and_union(prediction, label, classes, 255),
        agree,
        9.0 if decoder_name("cpu") == "torch" else 30.0,
    )


# --- (d): a whole image -------------------------------------------------------------------------------------------


@cache
def backbone() -> Backbone:
    """ViT-B/16 with random weights, hashed once so that the hash is in no timing."""
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-16-quickgelu", pretrained=None)
    model.eval()
    made = Backbone.from_module(model, open_clip.get_tokenizer("ViT-B-16-quickgelu"))
    _ = made.sha256
    return made


@dataclass(frozen=True)
class Scene:
    """An ADE-size image, resized to short side 336, and SCLIP with 150 classes."""

    method: SCLIP
    words: ClipWords
    image: Tensor
    geometry: WindowGeometry = WindowGeometry(224, 112)  # noqa: RUF009 - it is frozen
    size: tuple[int, int] = (512, 683)

    @classmethod
    def make(cls) -> "Scene":
        method = SCLIP(backbone())
        names = [f"thing number {n}" for n in range(150)]
        words = method.encode_text(Vocabulary.from_names(names, templates=["a photo of a {}."]))
        # Random weights give almost equal texts; spread out, classes have winners as with trained ones.
        generator = torch.Generator().manual_seed(6)
        spread = torch.randn(words.text.shape, generator=generator)
        words = replace(words, text=F.normalize(spread, dim=-1))
        image = torch.stack([blocky((336, 448), 256, 20, seed=s) for s in range(3)])
        noise = torch.randint(-20, 20, image.shape, generator=generator)
        return cls(method, words, (image + noise).clamp(0, 255).byte())

    def ours(self) -> Tensor:
        return decode(self.field(), self.size, DecodeRule(LOGIT_SCALE))

    def field(self) -> ScoreField:
        """What the method says, from the pixels on."""
        return self.method.score(self.method.encode_image(Picture.of(self.image), self.geometry), self.words)

    @torch.inference_mode()
    def plain(self) -> Tensor:
        """Window by window: upsample, pad to the frame, add; divide, resize, softmax, argmax."""
        height, width = self.image.shape[1:]
        total, visits = torch.zeros(1, 150, height, width), torch.zeros(1, 1, height, width)
        for box in self.geometry.boxes(height, width):
            window = self.image[None, :, box.top : box.bottom, box.left : box.right]
            scores = F.interpolate(
                self.method.score_windows(self.method.encode_windows(Windows.of(window)), self.words),
                window.shape[2:],
                mode="bilinear",
            )
            total += F.pad(scores, (box.left, width - box.right, box.top, height - box.bottom))
            visits[:, :, box.top : box.bottom, box.left : box.right] += 1
        scores = F.interpolate(total / visits, self.size, mode="bilinear")
        return (LOGIT_SCALE * scores).softmax(1).argmax(1)[0]

    def parts(self) -> str:
        """Where the time of our side goes, in ms."""
        field = self.field()
        model = cpu_seconds(self.field)
        tail = cpu_seconds(lambda: decode(field, self.size, DecodeRule(LOGIT_SCALE)))
        peer = cpu_seconds(self.plain)
        return f"ours: model {1e3 * model:.0f} ms, decode {1e3 * tail:.0f} ms; plain loop {1e3 * peer:.0f} ms"


def image_line(scene: Scene) -> Line:
    title = "SCLIP, ViT-B/16, 336 x 448, six windows, to 512 x 683"
    return Line(title, "plain window loop", scene.ours, scene.plain, assert_labels, 1.5)


# --- (e): texts ---------------------------------------------------------------------------------------------------


def text_line(classes: int) -> Line:
    names = "cat,traffic light,sofa,person,swimming pool,car,tree,washing machine,sky,river,plant,dog,bus,train,road"
    words = (names + ",wall,book,lamp,chair,dining table").split(",")[:classes]
    vocabulary = Vocabulary.from_names(words, templates="openai80")
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

    title = f"texts, {len(vocabulary.queries)} classes x {len(vocabulary.templates)} templates, cold"
    return Line(title, "encode_text at 77 tokens", ours, per_class, agree, 5.0)


# --- the table ----------------------------------------------------------------------------------------------------


def lines(only: set[str], text_classes: int) -> Iterator[tuple[str, Line]]:
    makers: dict[str, Callable[[], Line]] = {
        "a": lambda: decode_line(171, (480, 640)),
        "b": lambda: decode_line(150, (512, 683)),
        "n": lambda: decode_line(150, (512, 683), noisy=True),
        "t": lambda: threshold_line(0.0),
        "r": lambda: threshold_line(0.02),
        "c": count_line,
        "d": lambda: image_line(Scene.make()),
        "e": lambda: text_line(text_classes),
    }
    yield from ((key, make()) for key, make in makers.items() if key in only)


def memory_rows() -> Iterator[tuple[str, int, int]]:
    """(f): what decode holds beside its argument, and what classes x height x width would be."""
    for classes, size in ((171, (480, 640)), (150, (512, 683)), (847, (512, 683))):
        field = clip_like_field(classes, size)
        decode(field, size)  # the operator is cached by geometry
        peak = peak_bytes(lambda field=field, size=size: decode(field, size))  # type: ignore[misc]
        yield f"{classes} classes, {size[0]} x {size[1]}", peak, 4 * classes * size[0] * size[1]


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the numerical core against its peers.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="a,b,n,t,r,c,d,e,f", help="letters of lines, separated by commas")
    parser.add_argument("--text-classes", type=int, default=4, help="classes of line e, at most 20")
    arguments = parser.parse_args()
    only = set(arguments.only.split(","))
    torch.set_num_threads(1)
    console = Console(width=160)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["OVSS_CACHE"] = folder
        table = Table(title=f"CPU time, one thread, {arguments.rounds} rounds, torch {torch.__version__}")
        for column in ("", "what", "peer", "ours ms", "peer ms", "ratio", "quartiles", "goal", ""):
            table.add_column(column)
        for key, line in lines(only, arguments.text_classes):
            found = measure(line, arguments.rounds)
            low, middle, high = found.quartiles
            table.add_row(
                key, line.title, line.peer_title, f"{1e3 * found.ours:.2f}", f"{1e3 * found.peer:.2f}", f"{middle:.2f}",
                f"{low:.2f} - {high:.2f}", f"{line.goal:g}", "met" if low >= line.goal else "MISSED",
            )  # fmt: skip
        console.print(table)
        if "d" in only:
            console.print("d:", Scene.make().parts())
        if "f" in only:
            for title, peak, full in memory_rows():
                console.print(
                    f"f: decode holds {peak / MEBIBYTE:.1f} MiB more than its argument ({title}); "
                    f"all scores at full size would be {full / MEBIBYTE:.0f} MiB, {full / peak:.1f} times as much"
                )


if __name__ == "__main__":
    main()
