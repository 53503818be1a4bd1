"""Training pairs of the tiny CLIP: scenes and crops of ``shapes`` with tokenised captions, made in parallel."""

import gzip
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...datasets.shapes import SIZE_PX, STUFF_NAMES, CaptionStyle, SceneStyle, Stream, make_caption, make_scene

CROP_PX = SIZE_PX // 2
_CROP_CAPTIONS = CaptionStyle(colour=0.2, leave_out=0.12, smallest_thing=0.03, smallest_stuff=0.08)
_CROPS_PER_SCENE, _CAPTIONS_PER_IMAGE, _CHUNK = 4, 3, 250

Pair = tuple[NDArray[np.uint8], list[str]]


@dataclass(frozen=True)
class Pairs:
    """``images`` (N, S, S, 3) uint8 and ``tokens`` (N, captions, context) int16."""

    images: NDArray[np.uint8]
    tokens: NDArray[np.int16]


def build_bpe(words: Sequence[str]) -> bytes:
    """Byte-pair merges that make every word of ``words`` one token, in open_clip's gzip format (deterministic)."""
    pieces = {w: [*w[:-1], w[-1] + "</w>"] for w in words}
    merges: list[tuple[str, str]] = []
    while True:
        counts = Counter(pair for p in pieces.values() for pair in pairwise(p))
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        pieces = {w: _merged(p, best) for w, p in pieces.items()}
    text = "#version: ovss tiny-clip\n" + "\n".join(" ".join(m) for m in merges)
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as file:
        file.write(text.encode())
    return buffer.getvalue()


def _merged(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for piece in pieces:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return out


def make_pairs(
    kind: str, scenes: int, templates: Sequence[str], tokenizer: Any, workers: int, advance: Callable[[int], None]
) -> Pairs:
    """Images and captions of ``scenes`` training scenes.

    ``kind`` is "scenes" (whole) or "crops" (windows of half the side around things).  ``advance`` is told how many
    scenes are done.
    """
    size = SIZE_PX if kind == "scenes" else CROP_PX
    pairs = _parallel_pairs(kind, scenes, templates, workers, advance)
    images: list[NDArray[np.uint8]] = []
    captions: list[str] = []
    for image, texts in pairs:
        images.append(image)
        captions.extend(texts)
    tokens = _tokenise(captions, tokenizer).reshape(len(images), _CAPTIONS_PER_IMAGE, -1)
    return Pairs(np.stack(images).reshape(-1, size, size, 3), tokens)


def _parallel_pairs(
    kind: str, scenes: int, templates: Sequence[str], workers: int, advance: Callable[[int], None]
) -> Iterator[Pair]:
    make = partial(_chunk_of_pairs, kind, tuple(templates))
    chunks = [range(i, min(i + _CHUNK, scenes)) for i in range(0, scenes, _CHUNK)]
    with ExitStack() as stack:
        made: Iterable[list[Pair]] = map(make, chunks)
        if workers > 1:
            pool = stack.enter_context(ProcessPoolExecutor(workers, mp_context=get_context("spawn")))
            made = pool.map(make, chunks)
        for numbers, pairs in zip(chunks, made, strict=True):
            yield from pairs
            advance(len(numbers))


def _chunk_of_pairs(kind: str, templates: Sequence[str], numbers: Sequence[int]) -> list[Pair]:
    make = _scene_pairs if kind == "scenes" else _crop_pairs
    return [pair for number in numbers for pair in make(number, templates)]


def _scene_pairs(number: int, templates: Sequence[str]) -> Iterator[Pair]:
    scene = make_scene("train", number)
    stream = Stream(11, number)
    texts = [
        make_caption(stream, scene.label, scene.stuff, scene.things, templates) for _ in range(_CAPTIONS_PER_IMAGE)
    ]
    yield scene.image, texts


def _crop_pairs(number: int, templates: Sequence[str]) -> Iterator[Pair]:
    # Crops come from other scenes than whole images do: numbers far above any scene count.
    scene = make_scene("train", 10_000_000 + number, style=SceneStyle(things=(2, 5)))
    stream = Stream(12, number)
    pixels = np.bincount(scene.label.reshape(-1), minlength=len(STUFF_NAMES) + 32)
    for i in range(_CROPS_PER_SCENE):
        top, left, bottom, right = scene.things[i % len(scene.things)].box
        y = int((top + bottom - CROP_PX) / 2 + stream.uniform(-9, 9))
        x = int((left + right - CROP_PX) / 2 + stream.uniform(-9, 9))
        y, x = (min(max(v, 0), SIZE_PX - CROP_PX) for v in (y, x))
        label = scene.label[y : y + CROP_PX, x : x + CROP_PX]
        seen = np.bincount(label.reshape(-1), minlength=len(pixels))
        needed = np.maximum(0.45 * pixels, 0.03 * label.size)
        things = [t for t in scene.things if seen[len(STUFF_NAMES) + t.kind] > needed[len(STUFF_NAMES) + t.kind]]
        if not things and stream.coin(0.8):
            continue
        texts = [
            make_caption(stream, label, scene.stuff, things, templates, _CROP_CAPTIONS)
            for _ in range(_CAPTIONS_PER_IMAGE)
        ]
        yield scene.image[y : y + CROP_PX, x : x + CROP_PX].copy(), texts


def _tokenise(captions: Sequence[str], tokenizer: Any) -> NDArray[np.int16]:
    """Token ids, encoding each distinct word once (open_clip's own loop takes minutes for a million captions)."""
    words: dict[str, list[int]] = {}
    out = np.zeros((len(captions), tokenizer.context_length), np.int16)
    for row, caption in enumerate(captions):
        ids = [tokenizer.sot_token_id]
        for word in caption.lower().replace(",", " ,").replace(".", " .").split():
            if word not in words:
                words[word] = tokenizer.encode(word)
            ids += words[word]
        ids = [*ids[: tokenizer.context_length - 1], tokenizer.eot_token_id]
        out[row, : len(ids)] = ids
    return out
