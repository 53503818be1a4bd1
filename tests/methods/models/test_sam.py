"""SAM's masks of prompts against the library's own call, and where an image lies in its square."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ovss.methods import Picture, UserError
from ovss.methods.models.open_model import open_model
from ovss.methods.models.sam import Sam, SamView, load_sam, longest, rounded_up

from ..sam_parts import random_model, random_sam

pytestmark = pytest.mark.usefixtures("no_gradients")


def noise(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_the_embedding_is_the_library_s() -> None:
    """Of an image that fills half of the square and is not resized."""
    sam, image = random_sam(), noise(32, 64)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    square = torch.zeros(1, 3, 64, 64)
    square[0, :, :32] = (image - mean) / std
    view = sam.see(image)
    assert (view.size, view.shown, view.attention.grid) == ((32, 64), (32, 64), (2, 4))
    torch.testing.assert_close(view.embedding, sam.model.get_image_embeddings(square))


def test_masks_of_prompts_do_not_depend_on_each_other() -> None:
    """More of them than go through at once."""
    sam = random_sam()
    view, hint = sam.see(noise(64, 64)), torch.rand(16, 16, generator=torch.Generator().manual_seed(1))
    points = torch.rand(70, 2, generator=torch.Generator().manual_seed(2)) * 64
    boxes = torch.cat([points - 5, points + 5], dim=1)
    logits, sure = sam.masks(view, points, boxes, hint)
    assert logits.shape == (70, 1, 16, 16) and sure.shape == (70, 1)
    for k in (0, 63, 64, 69):
        out = sam.model(
            image_embeddings=view.embedding,
            input_points=points[None, k : k + 1, None],
            input_labels=torch.ones(1, 1, 1, dtype=torch.int64),
            input_boxes=boxes[None, k : k + 1],
            input_masks=hint[None, None],
            multimask_output=False,
        )
        torch.testing.assert_close(logits[k], out.pred_masks[0, 0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(sure[k], out.iou_scores[0, 0], atol=1e-5, rtol=1e-4)
    assert sam.masks(view, points)[0].shape == (70, 3, 16, 16)
    assert not torch.allclose(sam.masks(view, points, boxes)[0], logits), "the hint counts"


def test_masks_go_back_to_where_the_image_is() -> None:
    """The left half of the square, of an image 60 px high that was brought to 64 and then to 20 px."""
    logits = torch.full((1, 16, 16), -1.0)
    logits[:, :8, :8] = 1.0
    view = SamView((64, 64), (64, 64), torch.zeros(0), None)  # type: ignore[arg-type]
    found = random_sam().on_image(logits, view, (60, 20))[0] > 0
    assert found.shape == (60, 20) and found[:30, :10].all() and int(found.sum()) == 300
    tall = SamView((64, 16), (64, 16), torch.zeros(0), None)  # type: ignore[arg-type]
    found = random_sam().on_image(logits, tall, (64, 16))[0] > 0
    assert found[:32].all() and not found[32:].any()


def test_sizes() -> None:
    """124 x 93 px are 1024 x 768; 3 x 2 px are 2 x 1.33, hence 2 x 1."""
    assert longest((93, 124), 1024) == (768, 1024) and longest((2, 3), 2) == (1, 2)
    assert rounded_up(noise(93, 124), 16).shape == (3, 96, 128)
    assert torch.equal(rounded_up(noise(32, 48), 16), noise(32, 48))


def test_one_look_for_all_who_round_alike() -> None:
    sam = random_sam()
    picture, other = Picture.of(noise(64, 64)), Picture.of(noise(60, 64))
    assert sam.look(picture, 16) is sam.look(picture, 8) and sam.look(other, 16) is not sam.look(other, 4)
    left, right = sam.look_at_halves(picture)
    assert left.size == right.size == (64, 32) and not torch.equal(left.embedding, right.embedding)


def test_a_folder_is_loaded_once(tmp_path: Path) -> None:
    random_model().save_pretrained(tmp_path)
    found = open_model(load_sam, "sam-vitb-hf", tmp_path, torch.device("cpu"))
    assert open_model(load_sam, "sam-vitb-hf", tmp_path, torch.device("cpu")) is found
    assert found.provenance["name"] == "SAM 16x1" and found.sha256.startswith("file:")
    torch.testing.assert_close(found.see(noise(64, 64)).embedding, random_sam().see(noise(64, 64)).embedding)


def test_a_last_block_that_sees_windows_is_refused() -> None:
    model = random_model()
    model.config.vision_config.global_attn_indexes = []
    with pytest.raises(UserError, match=r"the last block of SAM .* must see the whole image"):
        Sam(model)
