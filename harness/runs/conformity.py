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

from ...methods import Method, ScoreField, UserError, Vocabulary, WindowGeometry

Factory = Callable[[], Method]

_NAMES = ("circle", "square, box", "sky")
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

    ``factory`` returns a new method without a vocabulary at every call; the methods may share a backbone.  The checks
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


def _encoded(factory: Factory, vocabulary: Vocabulary | None = None) -> Method:
    method = factory()
    method.encode(vocabulary or _vocabulary())
    return method


def _check_scores(scores: Any, windows: int, queries: int) -> None:
    _require(isinstance(scores, Tensor), f"score_windows returned a {type(scores).__name__}, not a tensor")
    shape = tuple(scores.shape)
    _require(
        len(shape) == 4 and shape[:2] == (windows, queries) and min(shape[2:]) >= 1,
        f"score_windows returned {shape}, wanted ({windows}, {queries}, h, w)",
    )


def _check_field(field: Any, frame: tuple[int, int], queries: int) -> None:
    _require(isinstance(field, ScoreField), f"segment returned a {type(field).__name__}, not a ScoreField")
    _check_scores(field.dense().scores, len(field.boxes), queries)
    _require(tuple(field.frame) == frame, f"the field's frame is {tuple(field.frame)}, the image {frame}")
    seen = torch.zeros(frame, dtype=torch.bool)
    for box in field.boxes:
        seen[box.top : box.bottom, box.left : box.right] = True
    _require(bool(seen.all()), f"{int((~seen).sum())} pixels of the image lie in no window")


def _shapes(factory: Factory) -> None:
    method, image = _encoded(factory), _image(*_SIZE)
    single = method.score_windows(image[None])
    _check_scores(single, 1, _QUERIES)
    _check_scores(method.score_windows(torch.stack([_image(*_SIZE, seed) for seed in range(3)])), 3, _QUERIES)
    whole = method.segment(image)
    _check_field(whole, _SIZE, _QUERIES)
    _check_field(method.segment(image, WindowGeometry(64, 32), batch_size=2), _SIZE, _QUERIES)
    for name, scores in {"score_windows": single, "segment": whole.dense().scores}.items():
        _require(scores.dtype == torch.float32, f"{name} returned {scores.dtype}, wanted torch.float32")


def _same_twice(factory: Factory) -> None:
    method, windows = _encoded(factory), _image(*_SIZE)[None]
    first, second = method.score_windows(windows).clone(), method.score_windows(windows)
    _require(first.shape == second.shape, f"two calls gave {tuple(first.shape)} and {tuple(second.shape)}")
    first, second = (scores.contiguous().view(torch.uint8).reshape(scores.numel(), -1) for scores in (first, second))
    count = int((first != second).any(dim=1).sum())
    _require(count == 0, f"two calls with the same windows differ in {count} of {len(first)} scores")


def _batch(factory: Factory) -> None:
    method, windows = _encoded(factory), torch.stack([_image(*_SIZE, seed) for seed in (1, 2)])
    together = method.score_windows(windows)
    alone = torch.cat([method.score_windows(window[None]) for window in windows])
    span = float(alone.abs().max())
    error = float((together - alone).abs().max())
    _require(error <= _RTOL * span, f"a batch of two differs from two of one by {error:.3g} (scores up to {span:.3g})")
    if alone.shape[1] > 1:
        best = alone.topk(2, dim=1).values
        clear = best[:, 0] - best[:, 1] > 2 * _RTOL * span
        other = int(((together.argmax(1) != alone.argmax(1)) & clear).sum())
        _require(other == 0, f"a batch of two changes the best query of {other} positions")


def _sizes(sizes: tuple[tuple[int, int], ...]) -> Callable[[Factory], None]:
    def check(factory: Factory) -> None:
        method = _encoded(factory)
        for height, width in sizes:
            _check_field(method.segment(_image(height, width)), (height, width), _QUERIES)
            cover = method.cover(height, width)
            _require(cover.bottom > cover.top and cover.right > cover.left, f"the cover of {height}x{width} is {cover}")

    return check


def _number_of_classes(count: int) -> Callable[[Factory], None]:
    def check(factory: Factory) -> None:
        method = _encoded(factory, _vocabulary(tuple(f"thing {i}" for i in range(count))))
        _check_field(method.segment(_image(*_SIZE)), _SIZE, count)

    return check


def _finite(factory: Factory) -> None:
    method = _encoded(factory)
    flat = torch.full((3, *_SIZE), 127, dtype=torch.uint8)
    for name, image in {"random": _image(*_SIZE), "flat": flat, "black": flat * 0}.items():
        bad = int((~method.segment(image).dense().scores.isfinite()).sum())
        _require(bad == 0, f"{bad} scores of a {name} image are not finite")


def _parts_untouched(factory: Factory) -> None:
    method = factory()
    models = _modules(method)
    before = {name: _fingerprint(model) for name, model in models.items()}
    method.encode(_vocabulary())
    method.segment(_image(*_SIZE))
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
        _encoded(factory).segment(_image(*_SIZE))


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
    for method in (factory(), _encoded(factory)):
        found = method.provenance
        _require(
            isinstance(found, dict) and bool(found), f"provenance is {found!r}, wanted a dict with something in it"
        )
        text = json.dumps(found, sort_keys=True, allow_nan=False)
        _require(text == json.dumps(method.provenance, sort_keys=True), "provenance changes from call to call")


def _encode_again(factory: Factory) -> None:
    image, second = _image(*_SIZE), _vocabulary(("window", "tree", "road", "car", "dog"))
    method = _encoded(factory)
    method.segment(image)
    method.encode(second)
    _require(method.vocabulary == second, "after a second encode, vocabulary is still the first one")
    again, fresh = (m.segment(image).dense() for m in (method, _encoded(factory, second)))
    _check_field(again, _SIZE, 5)
    _require(
        again.query_to_class == second.query_to_class, "after a second encode, query_to_class is not the second one"
    )
    same = torch.allclose(again.scores, fresh.scores, rtol=_RTOL, atol=_RTOL * float(fresh.scores.abs().max()))
    _require(same, "scores after a second encode are not those of a fresh method")


def _encode_first(factory: Factory) -> None:
    calls: dict[str, Callable[[Method], Any]] = {
        "segment": lambda method: method.segment(_image(*_SIZE)),
        "score_windows": lambda method: method.score_windows(_image(*_SIZE)[None]),
    }
    for name, call in calls.items():
        try:
            call(factory())
        except UserError as error:
            _require("encode" in str(error), f"{name} before encode says {str(error)!r}, which does not mention encode")
        else:
            raise ViolationError(f"{name} before encode raises nothing, wanted a UserError that mentions encode")


CHECKS: dict[str, Callable[[Factory], None]] = {
    "parts untouched": _parts_untouched,  # first: damage that is done once would be there already for a later check
    "encode comes first": _encode_first,
    "shapes and dtypes": _shapes,
    "same result twice": _same_twice,
    "batch equals singles": _batch,
    "non-square images": _sizes(((64, 128), (128, 64))),
    "sizes off the patch grid": _sizes((_ODD_SIZE, (65, 65))),
    "one class": _number_of_classes(1),
    f"{_MANY} classes": _number_of_classes(_MANY),
    "finite scores": _finite,
    "no network": _no_network,
    "provenance": _provenance,
    "encode again": _encode_again,
}
