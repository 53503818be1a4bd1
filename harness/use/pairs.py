"""Every pair of some methods and some data sets, as runs to be done in one pass."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...methods import MethodInfo, UserError
from ...methods.core.errors import did_you_mean
from ...methods.core.options import options_type
from ...methods.models.backbone_names import TINY_CLIP
from ...methods.names import built_in_info
from ..runs.plan import RunSpec
from ..runs.sources import PREFIX, load_any, open_any, unused_words
from ..show.telling import Say, unsaid


def every_pair(
    methods: Sequence[str],
    datasets: Sequence[str],
    protocol: str | None = None,
    *,
    changes: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    backbone: str | None = None,
    weights: Path | None = None,
    data_root: Path | None = None,
    say: Say = unsaid,
    **asked: Any,
) -> list[RunSpec]:
    """Runs of every method on every data set, in the order given, methods first.

    ``protocol`` is a name or a file (default: that of each data set), ``changes`` change fields of it.  ``options``:
    ``name`` is for every method that takes it, ``METHOD.name`` for one.  ``backbone`` and ``weights`` go to every
    method that takes a backbone; on ``shapes`` the default is the embedded one.  ``asked`` are other fields of
    ``RunSpec``: ``device``, ``boundary``, ``confusion``.

    Raises ``UserError`` for what is named twice, unknown, or taken by none.
    """
    names = check_methods(methods)
    doubled = sorted({d for d in datasets if list(datasets).count(d) > 1})
    if doubled:
        raise UserError(f"--dataset names {', '.join(doubled)} twice: name every data set once")
    own = options_of(names, options or {})
    parts = parts_of(names, backbone, weights)
    protocols = {}
    for dataset in dict.fromkeys(datasets):
        record = open_any(dataset, data_root).record
        protocols[dataset] = record.key, load_any(protocol or record.protocol).changed(**(changes or {}))
        for text in unused_words(dataset, protocol):
            say(text)
    return [
        RunSpec(
            method=method,
            dataset=absolute_name(dataset),
            protocol=protocols[dataset][1],
            data_root=str(data_root.resolve()) if data_root else None,
            options=own[method],
            **named_parts(method, protocols[dataset][0], *parts[method]),
            **asked,
        )
        for method in names
        for dataset in datasets
    ]


def method_info(name: str) -> MethodInfo:
    """What tables say about a method; torch is imported only for methods of others.  Raises ``UserError``."""
    info = built_in_info(name)
    if info is None:
        from ...methods import find_method

        info = find_method(name).info
    return info


def check_methods(names: Sequence[str]) -> list[str]:
    """The names.  Raises ``UserError`` when there is none, or one stands there twice."""
    doubled = sorted({n for n in names if names.count(n) > 1})
    if doubled:
        raise UserError(f"--method names {', '.join(doubled)} twice: name every method once")
    if not names:
        raise UserError("no method was named")
    return list(names)


def options_of(methods: Sequence[str], options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Which method gets which options.  The only method gets all that are not addressed to another."""
    found: dict[str, dict[str, Any]] = {m: {} for m in methods}
    for key, value in sorted(options.items(), key=lambda item: "." in item[0]):  # what is addressed overrides
        address, _, name = key.rpartition(".")
        for method in _addressed(methods, address, key) if address else _takers(methods, name):
            found[method][name] = value
    return found


def _addressed(methods: Sequence[str], address: str, key: str) -> list[str]:
    """The method of that name; the command line writes ``_`` for ``-`` in the names of options."""
    same = [m for m in methods if m.replace("-", "_") == address.replace("-", "_")]
    if not same:
        raise UserError(
            f"option {key} is for {address!r}, which is none of the methods{did_you_mean(address, methods)}"
        )
    return same


def _takers(methods: Sequence[str], name: str) -> list[str]:
    if len(methods) == 1:  # whether it takes the option is said when its options are checked
        return list(methods)
    found = [m for m in methods if _takes(m, name)]
    if not found:
        raise UserError(f"none of the methods {', '.join(methods)} takes an option {name!r}")
    return found


def _takes(method: str, option: str) -> bool:
    from ...methods import find_method  # with torch

    kind = options_type(find_method(method))
    return option in kind.model_fields or kind.model_config.get("extra") == "allow"


def parts_of(
    methods: Sequence[str], backbone: str | None, weights: Path | None
) -> dict[str, tuple[str | None, Path | None]]:
    """Backbone and weights of each method.  The only method gets them as they are."""
    if len(methods) == 1 or (backbone is None and weights is None):
        return dict.fromkeys(methods, (backbone, weights))
    takers = [m for m in methods if method_info(m).backbone]
    if not takers:
        raise UserError(
            f"none of the methods {', '.join(methods)} takes a backbone: leave out --backbone and --weights"
        )
    return {m: (backbone, weights) if m in takers else (None, None) for m in methods}


def named_parts(method: str, key: str, backbone: str | None, weights: Path | None) -> dict[str, str | None]:
    """Backbone and weights as a plan keeps them: the embedded CLIP is the default on our own scenes."""
    tiny = backbone is None and weights is None and key == "shapes" and bool(method_info(method).backbone)
    return {"backbone": TINY_CLIP if tiny else backbone, "weights": str(weights.resolve()) if weights else None}


def absolute_name(name: str) -> str:
    """A name that any process understands: files by their full path."""
    prefix = PREFIX if name.startswith(PREFIX) else ""
    path = name.removeprefix(prefix)
    return f"{prefix}{Path(path).resolve()}" if path.endswith((".toml", ".py")) else name
