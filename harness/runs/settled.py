"""Settled: the programs that a run's layers are computed by, chosen once and followed by all who work on it.

They differ by rounding, which moves labels at ties, as another CPU does.  So the choice is no part of what a run is,
but it stands in its plan: whoever goes on with it, here or elsewhere, computes as its first process did.
"""

import os
from typing import TYPE_CHECKING

from ...methods import UserError
from ...methods.core.arithmetic import LINEARS, Arithmetic
from ...methods.models.backbone_names import TINY_CLIP
from .plan import Plan
from .run import PLAN, Run

if TYPE_CHECKING:  # what is finished is answered without torch
    from ...methods.core.method import Method


def settled(run: Run, plan: Plan, method: "Method", fresh: bool) -> Plan:
    """The plan with the choice of the run's folder; a run that begins makes it.

    Raises ``UserError`` where ``$OVSS_LINEARS`` is not what was chosen, and what ``choose_arithmetic`` raises.
    """
    known = None if fresh else _begun_with(run)
    if known is None:
        return plan.model_copy(update={"arithmetic": _chosen(plan, method)})
    if os.environ.get(LINEARS, "auto") != "auto" and _chosen(plan, method).linears != known.linears:
        raise UserError(
            f"${LINEARS} is {os.environ[LINEARS]!r}, and {run.folder} was begun with {known.linears} linear layers: "
            f"its rows would mix two roundings.  Set {LINEARS}={known.linears}, or begin again with --fresh"
        )
    return plan.model_copy(update={"arithmetic": known})


def _begun_with(run: Run) -> Arithmetic | None:
    """None for a run that has no plan, or a damaged one, which is made again."""
    try:
        return run.plan().arithmetic if (run.folder / PLAN).is_file() else None
    except UserError:
        return None


def _chosen(plan: Plan, method: "Method") -> Arithmetic:
    import torch

    from ...methods.models.timed import choose_arithmetic

    weights = (method.provenance.get("weights") or {}).get("name", TINY_CLIP)
    return choose_arithmetic(plan.spec.device, getattr(torch, plan.setting.precision), large=weights != TINY_CLIP)
