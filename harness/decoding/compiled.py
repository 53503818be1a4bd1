"""decode by the compiled kernels: the same tiles as ``tiles`` without a refiner, never written down.

Scores are sums of the same products in the same order as ``assemble`` makes them, one rounding each, so labels and best
scores have the same bits.  Exponentials are another program's than torch's: totals differ by rounding.

Queries that cannot be the best of a tile are left out before it is expanded: the score of a pixel lies between those of
its cells, so a query that is below the worst of another one at all of them loses everywhere.
"""

from typing import Protocol

import torch
from torch import Tensor

from ...methods import ScoreField
from ..native.door import kernels
from .assemble import Axis, lay_out, operator_for


def takes(field: ScoreField, scale: float | None) -> bool:
    """Whether the compiled kernels can decode ``field`` here, with totals if there is a ``scale``."""
    on_cpu = field.scores.device.type == "cpu" and field.scores.dtype == torch.float32
    return on_cpu and field.mixing is None and (scale is None or scale > 0) and kernels() is not None


class Maps(Protocol):
    """What is filled in: ``decode.Best``."""

    labels: Tensor
    value: Tensor
    total: Tensor
    scale: float | None


def fill(maps: Maps, field: ScoreField, kept: Tensor | None, valued: bool) -> bool:
    """Write ``labels`` of the best of the ``kept`` (Q,) queries, their ``value`` if it is ``valued``, and ``total``.

    False, and nothing is written, for scores so large that sums could overflow.
    """
    library = kernels()
    assert library is not None
    height, width = maps.labels.shape
    order = torch.tensor(field.query_to_class).argsort(stable=True)  # the first of equals is of the lowest class
    order = order if kept is None else order[kept[order]]
    if not len(order):
        return True
    grids = lay_out(field)
    if not torch.equal(order, torch.arange(grids.shape[2])):
        grids = grids[:, :, order]
    classes, operator = torch.tensor(field.query_to_class)[order].int(), operator_for(field, (height, width))
    (rows, row_shares), (columns, column_shares) = _taps(operator.rows), _taps(operator.columns)
    failed = library.ovss_decode(
        *(grids.data_ptr(), *grids.shape),
        *(rows.data_ptr(), row_shares.data_ptr(), rows.shape[1], height),
        *(columns.data_ptr(), column_shares.data_ptr(), columns.shape[1], width),
        *(classes.data_ptr(), maps.labels.element_size(), maps.labels.data_ptr()),
        *(maps.value.data_ptr() if valued else None, None if maps.scale is None else maps.total.data_ptr()),
        *(maps.scale or 1.0, torch.get_num_threads()),
    )
    return not failed


def _taps(axis: Axis) -> tuple[Tensor, Tensor]:
    """Places (out, k) int32 and shares (out, k) float32, contiguous."""
    return axis.places.int().contiguous(), axis.shares.contiguous()
