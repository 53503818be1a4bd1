"""Arithmetic: which of several programs compute the same layers on a CPU; they differ by rounding alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from pydantic import BaseModel, ConfigDict


class Arithmetic(BaseModel):
    """How large linear layers and attention are computed.

    ``linears``: "plain" is torch's own, "packed" reorders each weight once for oneDNN.  ``attention``: "whole" is
    torch's own, "chunks" takes some queries at a time.  The ratios say how many times as fast as the first the other
    was where it was timed; 0 where it was not.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    linears: Literal["plain", "packed"] = "plain"
    attention: Literal["whole", "chunks"] = "whole"
    linears_ratio: float = 0.0
    attention_ratio: float = 0.0

    @property
    def programs(self) -> tuple[str, str]:
        """What can move a rounding: values computed by other programs are other values."""
        return self.linears, self.attention

    @property
    def told(self) -> str:
        """For people: ``linears plain (packed is 1.01 times as fast)``; "" for torch's own that nobody timed."""
        said = [
            f"{layer} {taken}" + (f" ({other} is {ratio:.2f} times as fast)" if ratio else "")
            for layer, taken, other, usual, ratio in (
                ("linears", self.linears, "packed", "plain", self.linears_ratio),
                ("attention", self.attention, "in chunks", "whole", self.attention_ratio),
            )
            if ratio or taken != usual
        ]
        return ", ".join(said)


PLAIN = Arithmetic()
LINEARS = "OVSS_LINEARS"
"""Environment variable; read where a run begins, and nowhere else."""
_chosen: ContextVar[Arithmetic] = ContextVar("arithmetic", default=PLAIN)


def arithmetic() -> Arithmetic:
    """What the work at hand is to use."""
    return _chosen.get()


@contextmanager
def computed_by(choice: Arithmetic) -> Iterator[None]:
    """Layers are computed so for the time being, in this thread."""
    token = _chosen.set(choice)
    try:
        yield
    finally:
        _chosen.reset(token)
