"""The door that every engine stands behind."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ..runs.worker_task import WorkerTask


@dataclass(frozen=True)
class Status:
    """How a worker is.  ``failed``: it died; ``refused``: it ended with the error ``said``, which a user can mend."""

    state: Literal["waiting", "running", "done", "failed", "refused"]
    said: str = ""


class Engine(Protocol):
    """Starts workers somewhere.  Which images are done is never its business: parts say that."""

    poll_seconds: float

    def submit(self, tasks: Sequence[WorkerTask]) -> list[str]:
        """Start a worker for each task; their names, by which another process can find them where that is possible."""

    def poll(self, names: Sequence[str]) -> dict[str, Status]:
        """How workers are; cheap."""

    def cancel(self, names: Sequence[str]) -> None:
        """End workers; those of this machine finish the image that they are at, and have ended when this returns."""
