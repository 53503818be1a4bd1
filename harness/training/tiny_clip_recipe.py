"""Recipe of the embedded model: its shape and its schedule, as data."""

from dataclasses import asdict, dataclass
from typing import Any

from ...datasets.shapes import SIZE_PX

PATCH_PX, LAYERS, CONTEXT = 8, 6, 32


@dataclass(frozen=True)
class Stage:
    """One part of the schedule: ``samples`` images in batches, cosine decay from the two learning rates."""

    kind: str
    scenes: int
    samples: int
    batch: int
    adamw_lr: float
    muon_lr: float
    end_share: float
    patch_dropout: float
    ema: float


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, besides the machine."""

    stages: tuple[Stage, ...]
    seed: int = 0
    blind_share: float = 0.65
    weight_decay: float = 0.1
    warmup_steps: int = 150
    query_key_gain: float = 2.0

    def scaled(self, factor: float) -> "Recipe":
        """The same recipe with fewer samples and scenes (for trials and tests)."""
        stages = tuple(
            Stage(**{**asdict(s), "scenes": max(64, int(s.scenes * factor)), "samples": int(s.samples * factor)})
            for s in self.stages
        )
        return Recipe(**{**self.__dict__, "stages": stages})


SHIPPED = Recipe(
    stages=(
        Stage("crops", 30_000, 540_000, 192, 2e-3, 4e-3, 0.3, 0.0, 0.998),
        Stage("scenes", 45_000, 320_000, 128, 1.2e-3, 2.4e-3, 0.02, 0.2, 0.999),
    )
)


def model_config(vocab_size: int) -> dict[str, Any]:
    """open_clip's model configuration of the tiny CLIP (1.8 million parameters)."""
    return {
        "embed_dim": 128,
        "vision_cfg": {
            "image_size": SIZE_PX,
            "layers": LAYERS,
            "width": 128,
            "head_width": 32,
            "patch_size": PATCH_PX,
            "mlp_ratio": 4.0,
        },
        "text_cfg": {"context_length": CONTEXT, "vocab_size": vocab_size, "width": 128, "heads": 2, "layers": 2},
    }
