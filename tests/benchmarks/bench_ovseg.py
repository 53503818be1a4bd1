"""Crops of 100 proposals in the method's own batches against one by one, and what region queries save.

    python tests/benchmarks/bench_ovseg.py --rounds 3

Both sides cut and encode the same crops; first their probabilities must agree.  Then they take turns on one thread, the
first place changing from round to round; time is CPU time of the process.  Shown is the median over rounds of
one by one / batched, and where the batched time goes.  The goal is a ratio of 3; it is told, not enforced: with one
crop of ViT-B/16 the matrix products already fill a CPU core, and batching can save no more than what surrounds them.

Multiply-adds of the fast path are counted by torch on tensors without data, beside the formula.
"""

import argparse
import time

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ovss.methods import Backbone, Vocabulary, load_backbone
from ovss.methods.blocks.mask_crops import cut_masked
from ovss.methods.blocks.region_queries import default_depth, region_features
from ovss.methods.models import vit
from ovss.methods.ovseg_tf import OVSegTF, OVSegTFOptions, classify

PROPOSALS = 100
GOAL = 3.0
LEAST_SAVING = 8.0


def vit_b_16() -> Backbone:
    """Random weights."""
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-16-quickgelu", pretrained=None)
    model.eval()
    return Backbone.from_module(model, open_clip.get_tokenizer("ViT-B-16-quickgelu"))


def picture(height: int, width: int, proposals: int) -> tuple[Tensor, Tensor]:
    """A blocky image and rectangles all over it."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (1, 3, height // 20, width // 20), generator=generator).float()
    masks = torch.zeros(proposals, height, width, dtype=torch.bool)
    for mask, (top, left, tall, wide) in zip(
        masks, torch.rand(proposals, 4, generator=generator).tolist(), strict=True
    ):
        rows, columns = int(top * height * 0.7), int(left * width * 0.7)
        mask[rows : rows + 8 + int(tall * height * 0.3), columns : columns + 8 + int(wide * width * 0.3)] = True
    return F.interpolate(coarse, (height, width))[0].to(torch.uint8), masks


def method_for(backbone: Backbone, crop_batch: int) -> OVSegTF:
    """With crops in batches of this size."""
    return OVSegTF(backbone, OVSegTFOptions(crop_batch=crop_batch))


def texts(method: OVSegTF) -> Tensor:
    """A vocabulary of 20 classes."""
    return method.encode_text(Vocabulary.from_names([f"thing number {n}" for n in range(20)], templates="simple")).text


def seconds(method: OVSegTF, text: Tensor, image: Tensor, masks: Tensor) -> float:
    """CPU time to classify all masks."""
    started = time.process_time()
    classify(method.look(image, masks), text)
    return time.process_time() - started


def compare(title: str, backbone: Backbone, size: tuple[int, int], proposals: int, rounds: int) -> list[str]:
    """A row of the table."""
    image, masks = picture(*size, proposals)
    batched, single = method_for(backbone, 0), method_for(backbone, 1)
    text = texts(batched)
    found, other = (classify(one.look(image, masks[: batched.crop_batch]), text) for one in (batched, single))
    assert torch.allclose(found, other, rtol=1e-3, atol=1e-5), "batched and single crops differ"
    pairs = []
    for number in range(rounds):
        order = (batched, single) if number % 2 else (single, batched)
        took = {id(method): seconds(method, text, image, masks) for method in order}
        pairs.append((took[id(batched)], took[id(single)]))
    started = time.process_time()
    cut_masked(image, masks, backbone.mean, backbone.std, side_px=batched.crop_px)
    cutting = time.process_time() - started
    low, middle, high = np.percentile([alone / together for together, alone in pairs], [0, 50, 100])
    together, alone = (float(np.median(side)) / proposals * 1e3 for side in zip(*pairs, strict=True))
    share = 100 * cutting / float(np.median([pair[0] for pair in pairs]))
    verdict = "met" if middle >= GOAL else "MISSED"
    row = [title, f"{together:.2f}", f"{alone:.2f}", f"{middle:.2f}", f"{low:.2f} - {high:.2f}", f"{GOAL:g} {verdict}"]
    return [*row, f"{share:.0f}"]


def block_macs(tokens: int, width: int) -> int:
    """Multiply-adds of one block: projections, attention, an MLP of four times the width."""
    return 12 * tokens * width**2 + 2 * tokens**2 * width


def formula(weights: vit.VisionTransformer, size: tuple[int, int], regions: int, depth: int) -> tuple[float, float]:
    """GMAC of crops of 224 px and of region queries in an image of ``size`` px."""
    width, patch, count = weights.position.shape[1], weights.patch_px, len(weights.blocks)
    embedding = 3 * patch**2 * width
    crop_patches, patches = (224 // patch) ** 2, size[0] // patch * (size[1] // patch)
    crops = regions * (count * block_macs(1 + crop_patches, width) + crop_patches * embedding)
    image = (count - 1) * block_macs(1 + patches, width) + 3 * (1 + patches) * width**2 + patches * embedding
    queries = depth * regions * (12 * width**2 + 2 * patches * width)
    return crops / 1e9, (image + queries) / 1e9


def counted(weights: vit.VisionTransformer, size: tuple[int, int], regions: int, depth: int) -> tuple[float, float]:
    """The same, as torch counts them."""
    image, crop = (torch.empty(1, 3, *side, device="meta") for side in (size, (224, 224)))
    patch = weights.patch_px
    seen = torch.empty(regions, size[0] // patch * (size[1] // patch), dtype=torch.bool, device="meta")
    with FlopCounterMode(display=False) as fast:
        region_features(weights, image, seen, depth)
    with FlopCounterMode(display=False) as exact:
        tokens, _ = vit.run_trunk(weights, crop)
        vit.run_block(weights.blocks[-1], tokens)
    return regions * exact.get_total_flops() / 2e9, fast.get_total_flops() / 2e9


def fast_path() -> Table:
    """Multiply-adds of 100 proposals in an image of 448 px, the largest that region queries see.

    Raises ``AssertionError`` when they are not at least eight times fewer.
    """
    table = Table(title=f"Multiply-adds of {PROPOSALS} proposals, GMAC: formula (counted)")
    for column in ("", "image", "crops", "region queries", "fewer"):
        table.add_column(column)
    for name in ("ViT-B-16", "ViT-L-14"):
        config = open_clip.get_model_config(name)
        with torch.device("meta"):
            model = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
        weights = vit.read_vision(model.visual, torch.device("meta"), torch.float32)
        patch, depth = weights.patch_px, default_depth(weights)
        size = (448, 597 // patch * patch)
        said, found = (way(weights, size, PROPOSALS, depth) for way in (formula, counted))
        ratio = found[0] / found[1]
        shown = [f"{a:.0f} ({b:.0f})" for a, b in zip(said, found, strict=True)]
        table.add_row(f"{name}, k = {depth}", f"{size[0]} x {size[1]}", *shown, f"{ratio:.1f}x")
        assert ratio >= LEAST_SAVING, f"{name}: {ratio:.1f} times fewer"
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description="Crops of proposals in batches against one by one.")
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    table = Table(
        title=f"CPU time per crop, {PROPOSALS} proposals, one thread, {rounds} rounds, torch {torch.__version__}"
    )
    for column in ("", "batched ms", "single ms", "ratio", "range", "goal", "of it cutting, %"):
        table.add_column(column)
    table.add_row(*compare("tiny-clip, 96 px crops", load_backbone("tiny-clip"), (96, 96), PROPOSALS, rounds))
    table.add_row(*compare("ViT-B/16, 224 px crops", vit_b_16(), (480, 640), PROPOSALS, rounds))
    console = Console(width=140)
    console.print(table)
    console.print(fast_path())


if __name__ == "__main__":
    main()
