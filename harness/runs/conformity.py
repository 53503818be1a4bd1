"""Does a method keep the contract of ``Method``?

``bench test --method NAME`` and the test suite run the same checks on a built-in method and on anybody's own.  Every
check makes a fresh method, so that none sees what another left behind, and an exception is a failed check, not a crash.
"""

import hashlib
import json
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...methods import ScoreField, UserError, Vocabulary, WindowGeometry
from ...methods.core.method import Method
from ...methods.core.options import describe_options, options_type, read_options
from ...methods.core.picture import Picture

Factory = Callable[[], Method]

_NAMES = ("circle", "square, box", "sky")
_OTHERS = ("window", "tree", "road", "car", "dog")
_QUERIES = 4
_SIZE = (64, 96)  # px, height and width
_ODD_SIZE = (70, 91)
_MANY = 847  # classes of ADE20K full, the largest vocabulary of the catalogue
_RTOL = 1e-5


@dataclass(frozen=True)
class Check:
    """Outcome of one check; ``detail`` says what was wrong and is empty when it passed."""

    name: str
    passed: bool
    detail: str


def check_method(factory: Factory) -> Iterator[Check]:
    """Run every check on methods made by ``factory``, in the order of ``CHECKS``, one result at a time.

    ``factory`` returns a new method at every call; the methods may share a backbone.  The checks
    use small random images and made-up class names, no data set and no network.
    """
    for name, check in CHECKS.items():
        try:
            check(factory)
        except Exception as error:  # noqa: BLE001  a method may raise anything; the other checks must still run
            yield Check(
                name, False, str(error) if isinstance(error, ViolationError) else f"{type(error).__name__}: {error}"
            )
        else:
            yield Check(name, True, "")


class ViolationError(Exception):
    """The contract is broken; the message says where."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ViolationError(message)


def _image(height: int, width: int, seed: int = 0) -> Tensor:
    """Blocks and noise, ``(3, height, width)`` uint8."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 200, (3, -(-height // 16), -(-width // 16)), generator=generator)
    blocks = blocks.repeat_interleave(16, dim=1).repeat_interleave(16, dim=2)[:, :height, :width]
    return (blocks + torch.randint(0, 56, (3, height, width), generator=generator)).to(torch.uint8)


def _vocabulary(names: tuple[str, ...] = _NAMES) -> Vocabulary:
    return Vocabulary.from_names(names, templates="simple")


def _seen(method: Method, image: Tensor, geometry: WindowGeometry = WindowGeometry()) -> Any:
    return method.encode_image(Picture.of(image), geometry)


def _check_field(field: Any, frame: tuple[int, int], queries: int) -> None:
    _require(isinstance(field, ScoreField), f"score returned a {type(field).__name__}, not a ScoreField")
    scores = field.dense().scores
    shape = tuple(scores.shape)
    _require(
        shape[:2] == (len(field.boxes), queries) and min(shape[2:]) >= 1,
        f"score returned scores {shape}, wanted ({len(field.boxes)}, {queries}, h, w)",
    )
    _require(tuple(field.frame) == frame, f"the field's frame is {tuple(field.frame)}, the image {frame}")
    seen = torch.zeros(frame, dtype=torch.bool)
    for box in field.boxes:
        seen[box.top : box.bottom, box.left : box.right] = True
    _require(bool(seen.all()), f"{int((~seen).sum())} pixels of the image lie in no window")
    empty = [cover for cover in field.covers if cover.bottom <= cover.top or cover.right <= cover.left]
    _require(not empty, f"{len(empty)} grids of scores stretch over nothing: {empty[:1]}")


def _shapes(factory: Factory) -> None:
    method = factory()
    for geometry in (WindowGeometry(), WindowGeometry(64, 32)):
        field = method.segment(_image(*_SIZE), _vocabulary(), geometry)
        _check_field(field, _SIZE, _QUERIES)
        _require(field.scores.dtype == torch.float32, f"score returned {field.scores.dtype}, wanted torch.float32")


def _same_twice(factory: Factory) -> None:
    method, words = factory(), _vocabulary()
    first = method.segment(_image(*_SIZE), words).dense().scores.clone()
    second = method.segment(_image(*_SIZE), words).dense().scores
    _require(first.shape == second.shape, f"two calls gave {tuple(first.shape)} and {tuple(second.shape)}")
    first, second = (scores.contiguous().view(torch.uint8).reshape(scores.numel(), -1) for scores in (first, second))
    count = int((first != second).any(dim=1).sum())
    _require(count == 0, f"two calls with the same image differ in {count} of {len(first)} scores")


def _near(first: ScoreField, second: ScoreField) -> bool:
    a, b = first.dense().scores, second.dense().scores
    return a.shape == b.shape and torch.allclose(a, b, rtol=_RTOL, atol=_RTOL * float(b.abs().max()))


def _no_state(factory: Factory) -> None:
    """What a method returns depends on what it is given: other pictures and words in between change nothing."""
    method = factory()
    with torch.inference_mode():
        words, seen = method.encode_text(_vocabulary()), _seen(method, _image(*_SIZE))
        others = method.encode_text(_vocabulary(_OTHERS))
        method.score(_seen(method, _image(*_SIZE, seed=1)), others)
        both = method.score(seen, others)
        after = method.score(seen, words)
    _check_field(both, _SIZE, len(_OTHERS))
    for field, names in ((after, _NAMES), (both, _OTHERS)):
        fresh = factory().segment(_image(*_SIZE), _vocabulary(names))
        _require(_near(field, fresh), "after other words and another image, scores are not those of a fresh method")


def _shared(factory: Factory) -> None:
    """A picture that another method of the kind has looked at already gives the same scores."""
    picture, words = Picture.of(_image(*_SIZE)), _vocabulary()
    with torch.inference_mode():
        fields = [
            method.score(method.encode_image(picture, WindowGeometry()), method.encode_text(words))
            for method in (factory(), factory())
        ]
    _require(_near(*fields), "scores are others on a picture that was looked at before")


def _batch(factory: Factory) -> None:
    """Windows do not see each other: those of one image are, each, like an image of their own."""
    method, height = factory(), _SIZE[0]
    if method.sees_whole_image:
        return  # it says so
    wide = torch.cat([_image(height, height, seed) for seed in (1, 2)], dim=2)
    together = method.segment(wide, _vocabulary(), WindowGeometry(height, height)).dense()
    if len(together.boxes) == 1:
        return  # it cuts the image itself
    alone = torch.cat(
        [method.segment(wide[:, :, k * height : (k + 1) * height], _vocabulary()).dense().scores for k in (0, 1)]
    )
    span = float(alone.abs().max())
    error = float((together.scores - alone).abs().max())
    _require(error <= _RTOL * span, f"two windows differ from two images by {error:.3g} (scores up to {span:.3g})")
    best = alone.topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > 2 * _RTOL * span
    other = int(((together.scores.argmax(1) != alone.argmax(1)) & clear).sum())
    _require(other == 0, f"two windows at once change the best query of {other} positions")


def _sizes(sizes: tuple[tuple[int, int], ...]) -> Callable[[Factory], None]:
    def check(factory: Factory) -> None:
        method = factory()
        for height, width in sizes:
            _check_field(method.segment(_image(height, width), _vocabulary()), (height, width), _QUERIES)

    return check


def _number_of_classes(count: int) -> Callable[[Factory], None]:
    def check(factory: Factory) -> None:
        words = _vocabulary(tuple(f"thing {i}" for i in range(count)))
        _check_field(factory().segment(_image(*_SIZE), words), _SIZE, count)

    return check


def _finite(factory: Factory) -> None:
    method = factory()
    flat = torch.full((3, *_SIZE), 127, dtype=torch.uint8)
    for name, image in {"random": _image(*_SIZE), "flat": flat, "black": flat * 0}.items():
        bad = int((~method.segment(image, _vocabulary()).dense().scores.isfinite()).sum())
        _require(bad == 0, f"{bad} scores of a {name} image are not finite")


def _parts_untouched(factory: Factory) -> None:
    method = factory()
    models = _modules(method)
    before = {name: _fingerprint(model) for name, model in models.items()}
    method.segment(_image(*_SIZE), _vocabulary())
    for name, model in models.items():
        after = _fingerprint(model)
        changed = [part for part in after if after[part] != before[name][part]]
        _require(not changed, f"{name} changed in use: {', '.join(changed)}")


def _modules(method: Method) -> dict[str, nn.Module]:
    """Modules that the method holds, itself or in its backbone."""
    held: dict[str, Any] = dict(vars(method))
    held["backbone.model"] = getattr(held.get("backbone"), "model", None)
    return {name: part for name, part in held.items() if isinstance(part, nn.Module)}


def _fingerprint(model: nn.Module) -> dict[str, Any]:
    digest = hashlib.sha256()
    for key, value in model.state_dict().items():
        digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    parts = list(model.modules())
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "weights": digest.hexdigest(),
        "hooks": [len(getattr(part, kind)) for part in parts for kind in kinds],
        "modules": [(id(part), type(part)) for part in parts],
        "patched methods": [sorted(k for k, v in vars(part).items() if callable(v)) for part in parts],
        "training mode": [part.training for part in parts],
    }


def _no_network(factory: Factory) -> None:
    with _sockets_refused():
        factory().segment(_image(*_SIZE), _vocabulary())


@contextmanager
def _sockets_refused() -> Iterator[None]:
    """Note every attempt to make a socket and refuse it; an attempt that the method hides still counts."""
    attempts: list[str] = []

    class RefusedSocket(socket.socket):
        def __init__(self, *_args: Any, **_kwargs: Any) -> None:
            attempts.append(sys._getframe(1).f_code.co_filename)
            raise OSError("no network while a method is checked")

    original = socket.socket
    socket.socket = RefusedSocket  # type: ignore[misc]
    try:
        yield
    except Exception:
        if not attempts:
            raise
    finally:
        socket.socket = original  # type: ignore[misc]
    _require(not attempts, f"the method opened {len(attempts)} sockets (from {', '.join(sorted(set(attempts)))})")


def _provenance(factory: Factory) -> None:
    method = factory()
    found = method.provenance
    _require(isinstance(found, dict) and bool(found), f"provenance is {found!r}, wanted a dict with something in it")
    text = json.dumps(found, sort_keys=True, allow_nan=False)
    method.segment(_image(*_SIZE), _vocabulary())
    _require(text == json.dumps(method.provenance, sort_keys=True), "provenance changes from call to call")


def _options(factory: Factory) -> None:
    """Every option has a meaning and a default that is allowed, and an unknown one is refused."""
    kind = options_type(type(factory()))
    silent = [row.name for row in describe_options(kind) if not row.meaning]
    _require(not silent, f"options without a description: {', '.join(silent)}")
    read_options(kind, {}, "the defaults")
    try:
        read_options(kind, {"no_such_option": 1}, "")
    except UserError:
        return
    raise ViolationError("an option that does not exist is taken without a word")


CHECKS: dict[str, Callable[[Factory], None]] = {
    "parts untouched": _parts_untouched,  # first: damage that is done once would be there already for a later check
    "shapes and dtypes": _shapes,
    "same result twice": _same_twice,
    "no state": _no_state,
    "a shared picture": _shared,
    "windows are independent": _batch,
    "non-square images": _sizes(((64, 128), (128, 64))),
    "sizes off the patch grid": _sizes((_ODD_SIZE, (65, 65))),
    "one class": _number_of_classes(1),
    f"{_MANY} classes": _number_of_classes(_MANY),
    "finite scores": _finite,
    "no network": _no_network,
    "provenance": _provenance,
    "options": _options,
}
