"""``bench train clip-s4``."""

from pathlib import Path

from ..show.progress import print_record, progress
from ..show.tables import print_line


def train_clip_s4_command(
    data: str,
    output: Path,
    recipe: str | None,
    initial: Path | None,
    backbone: str | None,
    weights: Path | None,
    device: str,
    seed: int,
    stop_after: int | None,
    allow_download: bool,
) -> None:
    """Train the encoder, or go on with it; a line for every checkpoint."""
    from ...methods.clip_s4 import TINY_S4, CLIPS4Like
    from ...methods.maskclip_value import MaskCLIPValue
    from ...methods.models.backbone import TINY_CLIP, load_backbone
    from ...methods.registry import find_device
    from ..training.clip_s4 import WEIGHTS, Trainer
    from ..training.clip_s4_recipe import find_recipe
    from ..training.images import SHAPES, find_images
    from ..training.loop import score_on_scenes, train

    chosen = find_recipe(recipe or ("tiny" if data == SHAPES else "photos"))
    images = find_images(data, chosen, seed)
    base = load_backbone(backbone or chosen.backbone, weights, allow_download)
    trainer = Trainer(chosen, MaskCLIPValue(base, device=find_device(device)), seed, initial)
    validate = None
    if chosen.pick == "scenes":
        validate = score_on_scenes(lambda: CLIPS4Like(base, device=device, encoder=trainer.trained()))
    with progress("train clip-s4", chosen.iterations) as advance:
        train(output, trainer, images, stop_after, validate, print_record, advance)
    file = output / WEIGHTS
    if trainer.iteration < chosen.iterations:
        print_line(f"stopped after {trainer.iteration} of {chosen.iterations} iterations; the same command goes on")
    elif base.name == TINY_CLIP:
        print_line(f"{file} is the form that is embedded: copy it over {TINY_S4.parent.name}/")
    dataset = "shapes" if chosen.pick == "scenes" else "voc20"
    print_line(f"wrote {file}; try it with")
    print_line(
        f"  bench run -m clip-s4-like -d {dataset} --backbone {backbone or chosen.backbone}"
        f"{f' --weights {weights}' if weights else ''} --option encoder={file}"
    )
