"""decode by the compiled kernels: the same tiles as ``tiles`` without a refiner, never written down.

Scores are sums of the same products in the same order as ``assemble`` makes them, one rounding each, so labels and best
scores have the same bits.  Exponentials are another program's than torch's: totals differ by rounding.

Queries that cannot be the best of a tile are left out before it is made, and probabilities that bounds of the softmax's
sum can compare with a threshold are not made (``docs/design/decode.md``).  Scores that are no numbers are found by the
kernels; torch then names them.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...methods import ScoreField
from ..native.door import kernels
from .assemble import Axis, lay_out, operator_for


def takes(field: ScoreField, scale: float | None) -> bool:
    """Whether the compiled kernels can decode ``field`` here, with totals if there is a ``scale``."""
    on_cpu = field.scores.device.type == "cpu" and field.scores.dtype == torch.float32
    if not on_cpu or field.mixing is not None or (scale is not None and scale <= 0) or kernels() is None:
        return False
    return field.class_scores is None or bool(field.class_scores.isfinite().all())


class Maps(Protocol):
    """What is filled in: ``decode.Best``."""

    labels: Tensor
    value: Tensor
    total: Tensor
    scale: float | None


def fill(maps: Maps, field: ScoreField, kept: Tensor | None) -> bool:
    """Write ``labels`` of the best of the ``kept`` (Q,) queries, and where there is room their ``value`` and ``total``.

    False, and nothing is written, for scores that are no numbers or so large that sums could overflow.
    """
    rivals = _rivals(field, kept)
    if maps.scale is None:  # those that cannot win are in no sum
        rivals = Rivals(rivals.order[: rivals.count], rivals.count)
    outputs = (maps.value.data_ptr() or None, maps.total.data_ptr() or None)
    return _run(field, rivals, maps.labels, outputs, maps.scale or 1.0, (0.0, 0))


def fill_decided(
    labels: Tensor, field: ScoreField, kept: Tensor | None, scale: float, threshold: float, background: int
) -> bool:
    """Write ``labels`` of the best of the ``kept`` (Q,) queries, ``background`` where its probability is too low.

    Probabilities are those of the softmax over all queries.  They are bounded first, and made only where the bounds do
    not say on which side of the threshold they lie.  Returns as ``fill``.
    """
    return _run(field, _rivals(field, kept), labels, (None, None), scale, (threshold, background))


@dataclass(frozen=True)
class Rivals:
    """Queries class by class, so that the first of equal scores is of the lowest class; the first ``count`` may win."""

    order: Tensor
    count: int


def _rivals(field: ScoreField, kept: Tensor | None) -> Rivals:
    order = torch.tensor(field.query_to_class).argsort(stable=True)
    if kept is None:
        return Rivals(order, len(order))
    may_win = kept[order]
    return Rivals(torch.cat([order[may_win], order[~may_win]]), int(may_win.sum()))


def _run(
    field: ScoreField,
    rivals: Rivals,
    labels: Tensor,
    outputs: tuple[int | None, int | None],
    scale: float,
    limit: tuple[float, int],
) -> bool:
    library = kernels()
    assert library is not None
    if not rivals.count:
        return True
    height, width = labels.shape
    grids = lay_out(field)
    if not torch.equal(rivals.order, torch.arange(grids.shape[2])):
        grids = grids[:, :, rivals.order].contiguous()
    classes = torch.tensor(field.query_to_class)[rivals.order].int()
    operator = operator_for(field, (height, width))
    (rows, row_shares), (columns, column_shares) = _taps(operator.rows), _taps(operator.columns)
    failed = library.ovss_decode(
        *(grids.data_ptr(), *grids.shape, rivals.count),
        *(rows.data_ptr(), row_shares.data_ptr(), rows.shape[1], height),
        *(columns.data_ptr(), column_shares.data_ptr(), columns.shape[1], width),
        *(classes.data_ptr(), labels.element_size(), labels.data_ptr(), *outputs),
        *(scale, *limit, torch.get_num_threads()),
    )
    return not failed


def _taps(axis: Axis) -> tuple[Tensor, Tensor]:
    """Places (out, k) int32 and shares (out, k) float32, contiguous."""
    return axis.places.int().contiguous(), axis.shares.contiguous()
