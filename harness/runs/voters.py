"""Whose regions vote: a proposer of the list, or the one that the method itself has."""

import json

import torch

from ...methods import UserError
from ...methods.blocks.clip_method import ClipMethod
from ...methods.core.method import Method
from ...methods.core.options import options_type, read_options
from ...methods.models.open_model import shared
from ...methods.proposals.base import Proposer, ProposerParts
from ...methods.proposals.loading import find_proposer
from ..protocol.protocol import Setting


def voter_for(setting: Setting, method: Method) -> Proposer | None:
    """The proposer of a protocol's vote, on the device of the method; None if there is no vote.

    Equal proposers are one object.  Raises ``UserError`` for options that it does not have, absent weights, and a
    method without what is asked of it.
    """
    name = setting.region_vote
    if name == "none":
        return None
    if name == "method":
        return _own(method)
    kind = find_proposer(name)
    options = read_options(options_type(kind), setting.region_options, f"region_vote={name}, proposer {name!r}")
    if isinstance(method, ClipMethod):
        parts = ProposerParts(method.tower, *method.statistics, method.device, method.dtype)
    else:
        parts = ProposerParts(None, (), (), method.device, torch.float32)
    return shared((name, json.dumps(setting.region_options, sort_keys=True), parts), lambda: kind(parts, options))


def _own(method: Method) -> Proposer:
    found = getattr(method, "proposer", None)
    if not isinstance(found, Proposer):
        raise UserError(
            f"region_vote=method lets the regions of the method's own proposer vote, and {method.info.name!r} has "
            "none: --set region_vote=felzenszwalb or another proposer (bench list proposers)"
        )
    return found
