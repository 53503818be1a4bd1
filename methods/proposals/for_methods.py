"""Options of methods that ask a proposer for masks, and what such a method says about it."""

from dataclasses import replace
from typing import Any

from pydantic import ConfigDict, Field, model_validator

from ..core.errors import UserError, did_you_mean
from ..core.info import MethodInfo
from ..core.options import Options, options_type, read_options
from .base import Proposer, ProposerParts
from .loading import find_proposer, load_proposer
from .names import ProposerName


class ProposerOptions(Options):
    """Which proposer; all options that the method does not have are the proposer's, and its record reads them."""

    model_config = ConfigDict(extra="allow")

    proposer: ProposerName = Field("felzenszwalb", description="what makes the masks; it has options of its own")
    proposer_weights: str | None = Field(None, exclude=True, description="the proposer's own weights or folder")

    @model_validator(mode="after")
    def _proposer_has_the_rest(self) -> "ProposerOptions":
        kind = options_type(find_proposer(self.proposer))
        for name in self.of_proposer:
            if name not in kind.model_fields:
                raise ValueError(
                    f"neither the method nor its proposer {self.proposer!r} has an option {name!r}"
                    + did_you_mean(name, [*type(self).model_fields, *kind.model_fields])
                )
        try:
            read_options(kind, self.of_proposer, f"proposer {self.proposer!r}")
        except UserError as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def of_proposer(self) -> dict[str, Any]:
        """Options of the proposer, as they were given."""
        return self.model_extra or {}

    @property
    def provenance(self) -> dict[str, Any]:
        """See ``Options.provenance``; the proposer has its own."""
        return self.model_dump(mode="json", exclude=set(self.of_proposer))

    def load(self, parts: ProposerParts, given: Proposer | None = None) -> Proposer:
        """The proposer that is asked for, or the one that is ``given``, which has its options already."""
        if given and self.of_proposer:
            raise UserError(f"a loaded proposer has its options: leave out {', '.join(self.of_proposer)}")
        return given or load_proposer(self.proposer, parts, **self.of_proposer)


def note_of(proposer: Proposer) -> str:
    """What has to be said beside every number of a method with this proposer; usually nothing."""
    return f"not training-free: proposer trained with {proposer.supervision}" if proposer.supervision else ""


def info_with(info: MethodInfo, proposer: Proposer) -> MethodInfo:
    """``info`` of a method with this proposer: training-free as long as that was not trained with masks."""
    if not proposer.supervision:
        return info
    return replace(info, training_free=False, trained_on=f"the proposer: {proposer.supervision}")
