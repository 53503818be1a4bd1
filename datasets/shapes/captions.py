"""Captions of scenes: what the tiny CLIP is trained on (no masks).

A caption names a random part of what is visible, with synonyms, colours and counts, and is often wrapped in one of the
prompt templates so that template ensembling is in-vocabulary for the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .scene import CLASS_NAMES, STUFF_NAMES, THING_NAMES, PlacedThing
from .stream import Stream
from .textures import COLOURS

SYNONYMS: dict[str, str] = {
    "grass": "lawn",
    "sky": "clouds",
    "sand": "desert",
    "water": "sea",
    "brick": "brick wall",
    "wood": "wooden planks",
    "stone": "cobblestone",
    "tiles": "checkered floor",
    "moon": "crescent",
    "cross": "plus sign",
    "mug": "cup",
    "boat": "sailboat",
    "ring": "hoop",
    "house": "home",
}
_LINKS = ("on", "and", "with", "in front of")


@dataclass(frozen=True)
class CaptionStyle:
    """Probabilities of a caption, and the share of the image below which nothing is named."""

    synonym: float = 0.2
    colour: float = 0.25
    leave_out: float = 0.25
    template: float = 0.7
    smallest_thing: float = 0.006
    smallest_stuff: float = 0.03


def caption_words(templates: Sequence[str]) -> list[str]:
    """Every word that a caption can contain, sorted: the training text of the tiny tokenizer."""
    text = [*templates, *CLASS_NAMES, *SYNONYMS.values(), *COLOURS, *_LINKS, "a an two there is background other thing"]
    text += [_plural(name) for kind in THING_NAMES for name in (kind, SYNONYMS.get(kind, kind))]
    letters = "".join(c if c.isalpha() else " " for c in " ".join(text).lower())
    return sorted(set(letters.split()))


def make_caption(
    stream: Stream,
    label: NDArray[np.uint8],
    stuff: Sequence[int],
    things: Sequence[PlacedThing],
    templates: Sequence[str],
    style: CaptionStyle = CaptionStyle(),
) -> str:
    """One caption for the pixels of ``label`` (H, W); ``templates`` contain ``{}`` once."""
    share = np.bincount(label.reshape(-1), minlength=len(CLASS_NAMES)) / label.size
    thing_phrases = _shuffled(stream, _thing_phrases(stream, share, things, style))
    visible = [STUFF_NAMES[k] for k in stuff if share[k] > style.smallest_stuff]
    stuff_phrases = [_named(stream, n, style) for n in visible if not stream.coin(style.leave_out)]
    if not thing_phrases and not stuff_phrases:
        stuff_phrases = [_named(stream, STUFF_NAMES[int(share[: len(STUFF_NAMES)].argmax())], style)]
    sentence = _joined(stream, thing_phrases, _shuffled(stream, stuff_phrases))
    if not stream.coin(style.template):
        return sentence
    template = templates[stream.integer(0, len(templates))].rstrip(".")
    for article in ("a ", "an "):
        sentence = sentence.removeprefix(article)
    return template.format(sentence)


def _thing_phrases(
    s: Stream, share: NDArray[np.float64], things: Sequence[PlacedThing], style: CaptionStyle
) -> list[str]:
    colours: dict[int, list[str]] = {}
    for thing in things:
        colours.setdefault(thing.kind, []).append(thing.colour)
    phrases = []
    for kind, found in colours.items():
        if share[len(STUFF_NAMES) + kind] < style.smallest_thing or s.coin(style.leave_out):
            continue
        name = _named(s, THING_NAMES[kind], style)
        if len(found) == 2 and s.coin(0.3):
            phrases.append(f"two {_plural(name)}")
        else:
            phrases.append(_with_article(f"{found[0]} {name}" if s.coin(style.colour) else name))
    return phrases


def _joined(s: Stream, things: list[str], stuff: list[str]) -> str:
    if s.coin(0.2):
        return ", ".join(things + stuff)
    if not (things and stuff):
        return " and ".join(things + stuff)
    if s.coin(0.2):
        return f"{' and '.join(stuff)} with {' and '.join(things)}"
    return f"{' and '.join(things)} {_LINKS[s.integer(0, len(_LINKS))]} {' and '.join(stuff)}"


def _named(s: Stream, name: str, style: CaptionStyle) -> str:
    return SYNONYMS[name] if name in SYNONYMS and s.coin(style.synonym) else name


def _shuffled(s: Stream, phrases: list[str]) -> list[str]:
    return [phrases[i] for i in s.distinct(len(phrases), len(phrases))]


def _with_article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _plural(name: str) -> str:
    if name == "fish":
        return name
    return f"{name}es" if name.endswith(("s", "sh", "x")) else f"{name}s"
