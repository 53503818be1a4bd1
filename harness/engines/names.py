"""Names of engines; the command line declares them without importing one."""

from typing import Literal

EngineName = Literal["local", "slurm", "ray"]
