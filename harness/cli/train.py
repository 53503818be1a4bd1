"""``bench train``."""

import dataclasses
from pathlib import Path

from ...methods import UserError
from ..show.progress import print_record, progress
from ..show.tables import print_line


def train_tiny_clip_command(output: Path, device: str, seed: int, workers: int, scale: float) -> None:
    """Train the embedded model; a log line every 100 steps."""
    from ...methods.registry import find_device
    from ..training.tiny_clip import train
    from ..training.tiny_clip_recipe import SHIPPED

    find_device(device)
    if output.exists() and any(output.iterdir()):
        raise UserError(f"folder {output} is not empty: choose another with --output")
    recipe = dataclasses.replace(SHIPPED, seed=seed)
    train(output, recipe if scale == 1.0 else recipe.scaled(scale), device, workers, print_record)
    print_line(f"wrote {output}; try it by copying it over methods/models/tiny_clip")


def train_tiny_dino_command(output: Path, device: str, seed: int, stop_after: int | None) -> None:
    """Train it, or go on with it; a line for every checkpoint."""
    from ...methods.models.backbone import TINY_CLIP, load_backbone
    from ...methods.models.dino import Dino
    from ...methods.models.second_dino import TINY_DINO_FILE
    from ...methods.proxyclip import ProxyCLIP
    from ...methods.registry import find_device
    from ..training.images import Scenes
    from ..training.loop import score_on_scenes, train
    from ..training.tiny_dino import WEIGHTS, Recipe, Trainer

    recipe = Recipe()
    trainer = Trainer(recipe, find_device(device), seed)
    validate = score_on_scenes(lambda: ProxyCLIP(load_backbone(TINY_CLIP), dino=Dino(trainer.trained())))
    with progress("train tiny-dino", recipe.iterations) as advance:
        train(output, trainer, Scenes(recipe, seed), stop_after, validate, print_record, advance)
    if trainer.iteration < recipe.iterations:
        print_line(f"stopped after {trainer.iteration} of {recipe.iterations} iterations; the same command goes on")
    print_line(
        f"wrote {output / WEIGHTS}, the form that is embedded: it lies in {TINY_DINO_FILE.parent.name}/; try it with"
    )
    print_line(f"  bench run -m proxyclip -d shapes --option proxyclip.dino={output / WEIGHTS}")


def train_clip_dinoiser_command(
    data: str,
    output: Path,
    recipe: str | None,
    backbone: str | None,
    weights: Path | None,
    device: str,
    seed: int,
    stop_after: int | None,
    allow_download: bool,
) -> None:
    """Train the heads, or go on with it; a line for every checkpoint."""
    from ...methods.clip_dinoiser import TINY_HEADS, CLIPDINOiser, CLIPDINOiserOptions
    from ...methods.models.backbone import TINY_CLIP, load_backbone
    from ...methods.registry import find_device
    from ..runs.storing import store
    from ..training.clip_dinoiser import HEADS, Trainer, default_recipe
    from ..training.clip_dinoiser_recipe import find_recipe
    from ..training.clip_dinoiser_teachers import frozen_model, teachers_for
    from ..training.images import find_images
    from ..training.loop import score_on_scenes, train

    chosen = find_recipe(recipe or default_recipe(data))
    images = find_images(data, chosen, seed)
    base = load_backbone(backbone or chosen.backbone, weights, allow_download)
    model = frozen_model(chosen, base, find_device(device))
    trainer = Trainer(chosen, model, teachers_for(chosen, model), seed)
    validate = None
    if chosen.pick == "scenes":
        options = CLIPDINOiserOptions(gamma=chosen.gamma)
        validate = score_on_scenes(lambda: CLIPDINOiser(base, options, device, heads=trainer.trained()))
    with progress("train clip-dinoiser", chosen.iterations) as advance:
        train(output, trainer, images, stop_after, validate, print_record, advance)
    if trainer.iteration < chosen.iterations:
        print_line(f"stopped after {trainer.iteration} of {chosen.iterations} iterations; the same command goes on")
    elif base.name == TINY_CLIP:
        store(output / TINY_HEADS.name, trainer.embedded())
        print_line(
            f"wrote {output / TINY_HEADS.name}, the form that is embedded: copy it over {TINY_HEADS.parent.name}/"
        )
    heads, dataset = output / HEADS, "shapes" if chosen.pick == "scenes" else "voc21"
    print_line(f"wrote {heads}; try it with")
    print_line(
        f"  bench run -m clip-dinoiser -d {dataset} --backbone {backbone or chosen.backbone}"
        f"{f' --weights {weights}' if weights else ''} --option heads={heads} --option gamma={chosen.gamma}"
    )
