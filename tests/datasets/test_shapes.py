"""The tiny world: frozen by a checksum, the same bytes everywhere, captions that tell the truth."""

import ast
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ovss.datasets import open_dataset, shapes
from ovss.datasets.shapes import CLASS_NAMES, STUFF_NAMES, TEST_SHA256, THING_NAMES, Stream, checksum, make_scene
from ovss.datasets.shapes.captions import SYNONYMS, caption_words, make_caption
from ovss.datasets.shapes.textures import COLOURS, wave
from ovss.methods.core.vocabulary import load_templates

MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15


def mix(z: int) -> int:
    """The output function of SplitMix64, in plain integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def uniforms(key: tuple[int, ...], count: int) -> list[float]:
    """What ``Stream(*key).uniforms(count)`` must be."""
    seed = 0
    for part in key:
        seed = mix((seed + part + GAMMA) & MASK)
    return [(mix((seed + i * GAMMA) & MASK) >> 11) / (1 << 53) for i in range(1, count + 1)]


def test_the_plain_generator_gives_the_published_numbers() -> None:
    found = [mix((1234567 + i * GAMMA) & MASK) for i in range(1, 6)]
    assert found == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@pytest.mark.parametrize("key", [(0,), (3, 0), (1, 1999), (2, 99, 7), (MASK, MASK)])
def test_the_stream_is_splitmix64(key: tuple[int, ...]) -> None:
    stream = Stream(*key)
    found = [*stream.uniforms(3, 5).ravel(), stream.uniform(), *stream.uniforms(40)]
    assert found == uniforms(key, 56)


def test_draws_are_functions_of_the_uniform_numbers() -> None:
    expected = iter(uniforms((5, 6), 3 + 4))
    stream = Stream(5, 6)
    assert stream.integer(10, 20) == 10 + int(next(expected) * 10)
    assert stream.coin(0.5) == (next(expected) < 0.5)
    assert stream.uniform(-1, 3) == -1 + 4 * next(expected)
    assert sorted(stream.distinct(4, 4)) == [0, 1, 2, 3]
    counts = Counter(Stream(9, i).integer(0, 4) for i in range(2000))
    assert set(counts) == {0, 1, 2, 3}
    assert min(counts.values()) > 400


def test_streams_of_different_splits_and_scenes_share_no_number() -> None:
    keys = [(split, index) for split in shapes.SPLITS.values() for index in range(20)]
    seen = [v for key in keys for v in Stream(*key).uniforms(500)]
    assert len(set(seen)) == len(seen)


def test_the_test_split_is_frozen() -> None:
    scenes = [make_scene("test", i) for i in range(300)]
    assert checksum(scenes) == TEST_SHA256
    present = np.bincount(np.concatenate([s.label.ravel() for s in scenes]), minlength=len(CLASS_NAMES))
    assert len(CLASS_NAMES) == 22 and (present > 0.005 * present.mean()).all()


def test_the_data_set_gives_exactly_these_scenes() -> None:
    data = open_dataset("shapes")
    assert len(data.ids) == 300 and data.ids == tuple(sorted(set(data.ids)))
    sample, scene = data.load(data.ids[7]), make_scene("test", 7)
    assert sample.image.tobytes() == scene.image.tobytes() and sample.label.tobytes() == scene.label.tobytes()
    assert len(open_dataset("shapes:val").ids) == 100
    assert not np.array_equal(open_dataset("shapes:val").load("val_00007").image, sample.image)


def test_the_checksum_sees_images_labels_and_order() -> None:
    a, b = make_scene("val", 0, size=16), make_scene("val", 1, size=16)
    assert checksum([a, b]) == checksum([a, b])
    assert checksum([a, b]) != checksum([b, a])
    touched = make_scene("val", 0, size=16)
    touched.label[3, 3] ^= 1
    assert checksum([touched]) != checksum([a])


@pytest.mark.parametrize("size", [8, 33, 64, 96, 192])
def test_any_size(size: int) -> None:
    scene, again = make_scene("val", 11, size=size), make_scene("val", 11, size=size)
    assert scene.image.shape == (size, size, 3) and scene.image.dtype == np.uint8
    assert scene.label.shape == (size, size) and scene.label.dtype == np.uint8
    assert scene.image.tobytes() == again.image.tobytes() and scene.label.tobytes() == again.label.tobytes()
    assert scene.things == again.things and scene.stuff == again.stuff


def test_labels_are_what_was_placed() -> None:
    for index in range(40):
        scene = make_scene("val", index)
        placed = {len(STUFF_NAMES) + t.kind for t in scene.things}
        assert set(np.unique(scene.label)) <= placed | set(scene.stuff)
        assert 1 <= len(scene.things) <= 5 and 1 <= len(scene.stuff) <= 3
        for thing in scene.things:
            assert thing.colour in COLOURS and 0 <= thing.kind < len(THING_NAMES)
        outside = np.ones(scene.label.shape, bool)
        for top, left, bottom, right in (t.box for t in scene.things):
            outside[top:bottom, left:right] = False
        assert set(np.unique(scene.label[outside])) <= set(scene.stuff)


def test_scenes_do_not_depend_on_what_was_drawn_before() -> None:
    first = make_scene("val", 3)
    make_scene("val", 4, size=50)
    np.random.seed(0)  # noqa: NPY002 - the global generator must not matter
    assert make_scene("val", 3).image.tobytes() == first.image.tobytes()


def test_only_exactly_rounded_operations_are_used() -> None:
    """No library sine, no matrix product, no generator whose stream may change: pixels are equal on every machine."""
    forbidden = {
        *("sin", "cos", "tan", "arctan2", "exp", "exp2", "log", "hypot", "power", "pow", "cbrt"),
        *("matmul", "dot", "einsum", "tensordot", "inner", "linalg", "fft", "random", "default_rng", "mean", "std"),
    }
    files = sorted(Path(shapes.__file__).parent.glob("*.py"))
    assert len(files) >= 5
    for path in files:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            where = f"{path.name}:{getattr(node, 'lineno', 0)}"
            assert not isinstance(node, ast.MatMult), where
            if isinstance(node, ast.Attribute):
                assert node.attr not in forbidden, f"{where} uses {node.attr}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {a.name for a in node.names} | {getattr(node, "module", None) or ""}
                assert not names & {"math", "cmath", "random", "scipy", "torch", "cv2"}, where


def test_the_wave_is_close_to_a_sine() -> None:
    turns = np.linspace(-3, 3, 1001)
    assert np.abs(wave(turns) - np.sin(2 * np.pi * turns)).max() < 0.06


def named_classes(caption: str) -> dict[int, str]:
    """Class -> the words that named it."""
    found = {}
    for index, name in enumerate(CLASS_NAMES):
        for word in (name, SYNONYMS.get(name, name)):
            if match := re.search(rf"(\w+ )?\b({word}(?:e?s)?)\b", caption):
                found[index] = match.group(0)
    return found


def captions(split: str, count: int, templates: tuple[str, ...]) -> list[tuple[shapes.Scene, str]]:
    scenes = [make_scene(split, i) for i in range(count)]
    return [(s, make_caption(Stream(77, i), s.label, s.stuff, s.things, templates)) for i, s in enumerate(scenes)]


def test_captions_name_only_what_is_visible() -> None:
    all_named: Counter[int] = Counter()
    for scene, caption in captions("val", 100, ("{}",)):
        share = np.bincount(scene.label.ravel(), minlength=len(CLASS_NAMES)) / scene.label.size
        named = named_classes(caption)
        assert named, caption
        for index, words in named.items():
            kinds = [t for t in scene.things if len(STUFF_NAMES) + t.kind == index]
            smallest = 0.006 if index >= len(STUFF_NAMES) else 0.0
            assert share[index] > smallest, f"{caption!r} names {CLASS_NAMES[index]}, which is not to be seen"
            first = words.split()[0]
            if first in COLOURS:
                assert first in {t.colour for t in kinds}, f"{caption!r}: no {CLASS_NAMES[index]} is {first}"
            if first == "two":
                assert len(kinds) == 2, f"{caption!r}: {len(kinds)} {CLASS_NAMES[index]}"
        all_named.update(named.keys())
    assert len(all_named) == len(CLASS_NAMES)  # the captions of 100 scenes name every class


def test_captions_are_deterministic_and_use_known_words_only() -> None:
    templates = load_templates("openai80")
    first = [c for _, c in captions("val", 60, templates)]
    assert first == [c for _, c in captions("val", 60, templates)]
    assert len(set(first)) > 50
    known = set(caption_words(templates))
    words = {w for c in first for w in "".join(x if x.isalpha() else " " for x in c.lower()).split()}
    assert words <= known
    assert caption_words(templates) == sorted(known)
