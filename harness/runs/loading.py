"""Loading: how images come to the model.  Nothing here needs torch."""

import os
from dataclasses import dataclass
from pathlib import Path

THREADS_BESIDE_GPU = 4
"""They decode some 2,000 JPEG or 120 PNG of Cityscapes a second."""


@dataclass(frozen=True)
class Loading:
    """``threads`` load ahead of the model; 0: it waits while each image is loaded; None: as suits the device.

    ``decoded``: a folder that keeps images and labels in a form that is read at once (``datasets.decoded``).
    """

    threads: int | None = None
    decoded: Path | None = None

    def threads_for(self, device: str, workers: int = 1) -> int:
        """Threads in each of ``workers`` processes.

        On a CPU none: the model uses every core, and a thread beside it would take some of it away.
        """
        if self.threads is not None:
            return self.threads
        return max(1, min(THREADS_BESIDE_GPU, _cores() // workers)) if device.startswith("cuda") else 0


BY_DEVICE = Loading()
IN_LINE = Loading(threads=0)


def _cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
