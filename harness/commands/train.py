"""``bench train``."""

import dataclasses
from pathlib import Path
from typing import Any

from ...methods import UserError
from ..progress import console
from ..tables import print_line


def train_tiny_clip_command(output: Path, device: str, seed: int, workers: int, scale: float) -> None:
    """Train the embedded model; a log line every 100 steps."""
    from ...methods.registry import find_device
    from ..tiny_clip_recipe import SHIPPED
    from ..train_tiny_clip import train

    find_device(device)
    if output.exists() and any(output.iterdir()):
        raise UserError(f"folder {output} is not empty: choose another with --output")
    recipe = dataclasses.replace(SHIPPED, seed=seed)
    screen = console()

    def report(record: dict[str, Any]) -> None:
        screen.print("  ".join(f"{k} {v}" for k, v in record.items()))

    train(output, recipe if scale == 1.0 else recipe.scaled(scale), device, workers, report)
    print_line(f"wrote {output}; try it by copying it over methods/tiny_clip")
