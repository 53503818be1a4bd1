"""mmsegmentation without compiled operators.

mmsegmentation 1.2 takes mmcv below 2.2, whose full version has to be compiled against the installed torch.
``mmcv-lite`` is the same package without the compiled part, so that ``mmcv.ops`` cannot be imported.
``mmseg.datasets`` reaches for one of these operators on import, by way of ``mmseg.utils`` -> ``mask_classification``:
``point_sample``, which only the training of mask classifiers ever calls.

With a stub for it these work (tried with mmsegmentation 1.2.2 and mmcv-lite 2.1.0): ``mmseg.datasets`` with its
transforms, ``mmseg.evaluation``, ``mmseg.structures``, ``mmseg.visualization`` and ``mmseg.registry``.

These do not: ``mmseg.models`` (losses, heads, segmentors, data preprocessor) and ``mmseg.apis``, which need more
operators, such as ``sigmoid_focal_loss``.
"""

import sys
import warnings
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any, NoReturn

from ...methods import UserError


def import_mmseg() -> ModuleType:
    """The ``mmseg`` module with ``mmseg.datasets`` and ``mmseg.evaluation`` imported.

    May be called any number of times.  Where the compiled mmcv is installed nothing is replaced.

    Raises ``UserError`` when mmseg or mmcv is absent or their versions do not fit.
    """
    try:
        if find_spec("mmcv") is not None and find_spec("mmcv._ext") is None:
            sys.modules.setdefault("mmcv.ops", _stub())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"Fail to import ``MultiScaleDeformableAttention``")
            mmseg = import_module("mmseg")
            import_module("mmseg.datasets")
            import_module("mmseg.evaluation")
    except (ImportError, AssertionError) as error:
        raise UserError(
            f"mmsegmentation cannot be imported: {error}.  This needs mmsegmentation 1.2 with mmcv-lite (or mmcv) "
            "below 2.2: pip install 'mmsegmentation>=1.2.2,<1.3' 'mmcv-lite>=2.0,<2.2'"
        ) from error
    return mmseg


def _stub() -> ModuleType:
    """``mmcv.ops`` with ``point_sample`` alone; asking it for any other operator is an ImportError."""
    ops: Any = module_from_spec(ModuleSpec("mmcv.ops", loader=None, origin="stub"))
    ops.__doc__ = __doc__
    ops.point_sample = point_sample
    return ops


def point_sample(*_args: Any, **_kwargs: Any) -> NoReturn:
    """Stands in for the operator of this name, and says so when called."""
    raise UserError("mmcv.ops.point_sample needs the compiled mmcv; only mmcv-lite is installed")
