"""open_clip, imported without what most models do not need of it: the only module that imports it.

Importing open_clip imports transformers (text towers of the hub), timm (its image towers, SigLIP) and torchvision (what
prepares images; with it the compiler of torch).  That is three quarters of the seconds, and our path uses none of them.
So while open_clip is imported, stand-ins answer for these packages and for ``open_clip.transform``: every name that is
imported from one of them is a ``_Later``, which imports the real thing when it is first called or looked into.
Afterwards no stand-in is left in ``sys.modules``: who imports one of the packages gets the real one.

``importlib.util.LazyLoader`` does not do: ``from timm.layers import Mlp`` loads a lazy module at once.  A package that
was imported before, or that is not installed, gets no stand-in; nor does anything when open_clip was imported before.
A thread that imports one of the packages in the same moment would get the stand-in, which works, but is no package.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_OPTIONAL = ("transformers", "timm", "torchvision")
_PREPARING = "open_clip.transform"


class _Later:
    """A name of a module that is imported when the name is first used."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def _real(self) -> Any:
        return getattr(importlib.import_module(self._module), self._name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._real()(*args, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # typing and inspect ask for these
            raise AttributeError(name)
        return getattr(self._real(), name)

    def __instancecheck__(self, value: object) -> bool:
        return isinstance(value, self._real())

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._real(),)


class _StandIn(ModuleType):
    """A module that has every name: a ``_Later`` while it is in ``sys.modules``, then that of the real module."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            return _Later(self.__name__, name)
        return getattr(importlib.import_module(self.__name__), name)


class _StandIns(MetaPathFinder, Loader):
    """Finds a stand-in for every module of some packages."""

    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = packages

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        if name == _PREPARING or name.partition(".")[0] in self._packages:
            return ModuleSpec(name, self, is_package=name != _PREPARING)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def _stand_ins() -> Iterator[None]:
    absent = [name for name in _OPTIONAL if name not in sys.modules and importlib.util.find_spec(name)]
    finder = _StandIns(absent)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name, module in sys.modules.items() if isinstance(module, _StandIn)]:
            del sys.modules[name]


if "open_clip" in sys.modules:
    import open_clip
else:
    with _stand_ins():
        import open_clip
SimpleTokenizer = open_clip.tokenizer.SimpleTokenizer

__all__ = ["SimpleTokenizer", "open_clip"]
