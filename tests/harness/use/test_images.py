"""Worst images and confusions of a run, by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovss.harness import every_pair, run
from ovss.harness.runs.run import Finished
from ovss.harness.use.images import confusions, draw_images, worst_images
from ovss.harness.use.label_maps import label_maps
from ovss.methods import UserError


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    (one,) = run(every_pair(["maskclip"], ["shapes"], confusion=True), tmp_path_factory.mktemp("results"), limit=5)
    return one


def test_the_worst_come_first(found: Finished) -> None:
    """Against the mean IoU over labelled classes, pixel by pixel."""
    wanted = {}
    for one in label_maps(found, found.result.ids):
        truth, said = one.sample.label, one.labels
        ious = [((truth == c) & (said == c)).sum() / ((truth == c) | (said == c)).sum() for c in np.unique(truth)]
        wanted[one.sample.id] = 100 * np.mean(ious)
    worst = worst_images(found, 3)
    assert [one.image for one in worst] == sorted(wanted, key=lambda i: wanted[i])[:3]
    assert [one.miou for one in worst] == pytest.approx([wanted[one.image] for one in worst])
    assert len(worst_images(found, 99)) == 5


def test_what_was_taken_for_what(found: Finished) -> None:
    classes, cells, totals = found.plan.record.classes, {}, {}
    for one in label_maps(found, found.result.ids):
        for truth in np.unique(one.sample.label):
            name = classes[truth]
            totals[name] = totals.get(name, 0) + int((one.sample.label == truth).sum())
            for said in np.unique(one.labels):
                pixels = int(((one.sample.label == truth) & (one.labels == said)).sum())
                if pixels and said != truth:
                    cells[name, classes[said]] = cells.get((name, classes[said]), 0) + pixels
    shown = confusions(found)
    assert {(c.label, c.prediction): c.pixels for c in shown} == cells and len(shown) == len(cells) > 10
    assert [c.pixels for c in shown] == sorted(cells.values(), reverse=True)
    assert all(c.share == pytest.approx(c.pixels / totals[c.label]) for c in shown)


def test_confusion_that_was_not_stored(tmp_path: Path) -> None:
    (plain,) = run(every_pair(["clip"], ["shapes"]), tmp_path, limit=1)
    with pytest.raises(UserError, match="bench run --method clip --dataset shapes --confusion"):
        confusions(plain)


def test_a_picture_of_some_images(found: Finished, tmp_path: Path) -> None:
    assert draw_images(found, found.result.ids[1:3], tmp_path / "worst.png")
    with Image.open(tmp_path / "worst.png") as picture:
        pixels = np.array(picture.convert("RGB"))
    sample = found.plan.spec.open_data().load(found.result.ids[1])
    height = 192
    assert pixels.shape[1] == 3 * height + 4 and pixels.shape[0] > 2 * (height + 18)
    first = np.array(Image.fromarray(sample.image).resize((height, height), Image.Resampling.BILINEAR))
    assert np.array_equal(pixels[18 : 18 + height, :height], first)
