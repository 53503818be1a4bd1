"""count: the corner cases of mmseg's table, exactness, ignore values, and boundary bands against a plain erosion."""

from importlib import import_module

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from ovss.harness.metrics.of_counts import iou, mean_accuracy, miou, pixel_accuracy
from ovss.harness.native import door
from ovss.methods import UserError

count_module = import_module("ovss.harness.metrics.counting")
Counts, confusion, count = count_module.Counts, count_module.confusion, count_module.count
count_boundary, count_reference = count_module.count_boundary, count_module.count_reference


pytestmark = pytest.mark.usefixtures("program")


def maps(
    classes: int, ignore: int, size: tuple[int, int] = (37, 53), seed: int = 0, blocks: int = 1
) -> tuple[Tensor, Tensor]:
    """Prediction and label, int64, right at about half of the pixels, 10 % ignored."""
    generator = torch.Generator().manual_seed(seed)
    small = (-(-size[0] // blocks), -(-size[1] // blocks))
    label = torch.randint(0, classes, small, generator=generator)
    other = torch.randint(0, classes, small, generator=generator)
    prediction = torch.where(torch.rand(small, generator=generator) < 0.5, label, other)
    label[torch.rand(small, generator=generator) < 0.1] = ignore
    grow = torch.ones(blocks, blocks, dtype=torch.long)
    prediction, label = (torch.kron(m, grow)[: size[0], : size[1]].contiguous() for m in (prediction, label))
    return prediction, label


def assert_equal(a: "Counts", b: "Counts") -> None:  # type: ignore[valid-type]
    for name in ("tp", "gt", "pred"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype == np.int64 and x.shape == y.shape
        assert np.array_equal(x, y), name


def row(*values: int) -> Tensor:
    return torch.tensor([values])


# --- the rows of the corner-case table, one by one ---------------------------------------------------------------


def test_table_absent_classes() -> None:
    counts = count(row(0, 0, 1, 2), row(0, 0, 1, 1), 5)
    assert counts.tp.tolist() == [2, 1, 0, 0, 0]
    assert counts.gt.tolist() == [2, 2, 0, 0, 0]
    assert counts.pred.tolist() == [2, 1, 1, 0, 0]
    assert np.array_equal(iou(counts), [1, 0.5, 0, np.nan, np.nan], equal_nan=True)
    assert (float(miou(counts)), float(mean_accuracy(counts)), float(pixel_accuracy(counts))) == (0.5, 0.75, 0.75)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_table_label_outside_is_refused(dtype: torch.dtype) -> None:
    """mmseg makes it a false positive that accuracy does not see; here it is an error that names the value."""
    with pytest.raises(UserError, match="label values 7 are neither a class \\(0 to 2\\)"):
        count(row(0, 0, 1, 1), row(0, 0, 1, 7).to(dtype), 3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize("value", [3, 7, 255])
def test_table_prediction_outside_is_refused(dtype: torch.dtype, value: int) -> None:
    """mmseg makes it a miss without a false positive."""
    with pytest.raises(ValueError, match=f"predictions reach {value}, allowed is 0 to 2"):
        count(row(0, 0, 1, value).to(dtype), row(0, 0, 1, 1), 3)


def test_table_negative_prediction_is_refused() -> None:
    with pytest.raises(ValueError, match="allowed is 0 to 2"):
        count(row(0, 0, 1, -1), row(0, 0, 1, 1), 3)


def test_table_label_65535_with_ignore_255_is_refused() -> None:
    """mmseg drops class 255 and lets 65535 hurt the predicted class."""
    prediction, label = row(0, 255, 1, 1), row(0, 255, 1, 65535)
    with pytest.raises(UserError, match="65535"):
        count(prediction, label, 300)
    counts = count(prediction, label, 300, ignore_index=65535)
    assert counts.tp[255] == counts.gt[255] == counts.pred[255] == 1
    assert counts.pred[1] == counts.gt[1] == 1


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_table_only_ignored_pixels(dtype: torch.dtype) -> None:
    prediction = torch.randint(0, 5, (8, 9)).to(dtype)
    counts = count(prediction, torch.full((8, 9), 255).to(dtype), 5)
    assert counts.tp.sum() == counts.gt.sum() == counts.pred.sum() == 0
    assert np.isnan(miou(counts)) and np.isnan(pixel_accuracy(counts))


def test_table_one_class() -> None:
    """mmseg's histogram limits collapse for one class; here one class is counted like any other."""
    counts = count(row(0, 0, 0, 0), row(0, 0, 255, 0), 1)
    assert (counts.tp.tolist(), counts.gt.tolist(), counts.pred.tolist()) == ([3], [3], [3])
    with pytest.raises(UserError, match="label values 1"):
        count(row(0, 0, 0, 0), row(0, 0, 1, 0), 1)


def test_table_totals_are_exact_and_in_any_order() -> None:
    """Float32 totals lose counts above 2^24; ours are integers, whatever the order."""
    parts = [Counts(*(np.array([2**24 + k, 3 * k], np.int64),) * 3) for k in range(9)]
    total = sum(parts[1:], parts[0])
    assert total.tp.tolist() == [9 * 2**24 + 36, 108]
    assert_equal(total, sum(parts[-2::-1], parts[-1]))
    single = sum((torch.tensor(p.tp).float() for p in parts[1:]), torch.tensor(parts[0].tp).float())
    assert int(single[0]) != total.tp[0]


# --- exactness ----------------------------------------------------------------------------------------------------


def test_exact_beyond_two_to_the_24() -> None:
    """One image of 17.6 million pixels: a float32 counter stops at 16 777 216."""
    side = 4200
    label = torch.zeros(side, side, dtype=torch.uint8)
    label[0, :3] = 1
    label[1, :5] = 255
    prediction = torch.zeros(side, side, dtype=torch.uint8)
    prediction[0, 1] = 1
    counts = count(prediction, label, 3)
    assert counts.gt.tolist() == [side**2 - 8, 3, 0]
    assert counts.pred.tolist() == [side**2 - 6, 1, 0]
    assert counts.tp.tolist() == [side**2 - 8, 1, 0]
    assert int(np.float32(counts.gt[0] + 1)) != counts.gt[0] + 1  # why float32 would not do
    tripled = counts + counts + counts
    assert tripled.gt.tolist() == [3 * (side**2 - 8), 9, 0]


def test_sums_do_not_depend_on_how_images_are_split() -> None:
    prediction, label = maps(11, 255, (60, 80))
    whole = count(prediction, label, 11)
    strips = [count(p, t, 11) for p, t in zip(prediction.split(7), label.split(7), strict=True)]
    assert_equal(whole, sum(strips[1:], strips[0]))
    stacked = Counts(*(np.stack([getattr(s, n) for s in strips]) for n in ("tp", "gt", "pred")))
    assert_equal(whole, stacked.total())


# --- against the reference ----------------------------------------------------------------------------------------

CLASSES = [1, 2, 19, 150, 171, 255, 256, 257, 459, 847]


@pytest.mark.parametrize("seed", range(40))
def test_both_programs_say_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts and errors, whatever the types, the ignore value and what is wrong."""
    rng = np.random.default_rng(seed)
    classes, ignore = int(rng.integers(1, 300)), int(rng.choice([255, 0, 3, -1, 65535, 2**40]))
    types = [torch.uint8, torch.int16, torch.int32, torch.int64, torch.int8, torch.bool, torch.float32]
    first, second = (types[i] for i in rng.integers(0, len(types), 2))
    prediction, label = maps(classes, ignore, (23, 31), seed, blocks=int(rng.integers(1, 6)))
    if seed % 4 == 1:
        label[3, 4] = int(rng.choice([classes, 255, 7, -2]))
    if seed % 4 == 2:
        prediction[5, 6] = int(rng.choice([classes, 255, -1]))
        label[5, 6] = ignore
    prediction, label = prediction.to(first), label.to(second)
    said = []
    for asked in ("", "0"):
        monkeypatch.setenv(door.KERNELS, asked)
        try:
            said.append(count(prediction, label, classes, ignore))
        except (UserError, ValueError, RuntimeError) as error:
            said.append(f"{type(error).__name__}: {error}")
    if isinstance(said[0], str) or isinstance(said[1], str):
        assert said[0] == said[1]
    else:
        assert_equal(*said)


def test_five_thousand_classes() -> None:
    prediction, label = maps(5000, 65535, (64, 80), blocks=4)
    assert_equal(count(prediction.int(), label.int(), 5000, 65535), count_reference(prediction, label, 5000, 65535))


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("blocks", [1, 8])
@pytest.mark.parametrize("ignore", [255, 65535, -1])
def test_equals_reference(classes: int, blocks: int, ignore: int) -> None:
    prediction, label = maps(classes, ignore, (97, 131), blocks=blocks)
    counts = count(prediction, label, classes, ignore)
    assert_equal(counts, count_reference(prediction, label, classes, ignore))
    assert counts.gt.sum() == counts.pred.sum() == int((label != ignore).sum())
    assert classes == 1 or 0 < counts.tp.sum() < counts.gt.sum()


@pytest.mark.parametrize("classes", [1, 2, 19, 150, 171, 254])
@pytest.mark.parametrize("prediction_dtype", [torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize("label_dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_types_do_not_matter(classes: int, prediction_dtype: torch.dtype, label_dtype: torch.dtype) -> None:
    prediction, label = maps(classes, 255)
    counts = count(prediction.to(prediction_dtype), label.to(label_dtype), classes)
    assert_equal(counts, count_reference(prediction, label, classes))


@pytest.mark.parametrize("classes", [19, 847])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64])
def test_ignore_65535(classes: int, dtype: type) -> None:
    prediction, label = maps(classes, 65535)
    typed = torch.from_numpy(label.numpy().astype(dtype))
    assert_equal(count(prediction.int(), typed, classes, 65535), count_reference(prediction, label, classes, 65535))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize("ignore", [0, 3, 6])
def test_ignore_index_inside_the_classes(dtype: torch.dtype, ignore: int) -> None:
    prediction, label = maps(7, ignore)
    counts = count(prediction.to(dtype), label.to(dtype), 7, ignore)
    assert_equal(counts, count_reference(prediction, label, 7, ignore))
    assert counts.gt[ignore] == counts.tp[ignore] == 0 < counts.pred[ignore]  # still a false positive elsewhere


@pytest.mark.parametrize("ignore", [-1, -100, 65535])
@pytest.mark.parametrize("classes", [200, 256])
def test_ignore_index_that_bytes_cannot_hold(ignore: int, classes: int) -> None:
    """Nothing is ignored then; in particular not the class that a negative index would reach from the end."""
    prediction, label = maps(classes, 0, (97, 131))
    assert_equal(
        count(prediction.byte(), label.byte(), classes, ignore), count_reference(prediction, label, classes, ignore)
    )


@pytest.mark.parametrize("classes", [257, 847])
def test_bytes_as_labels_of_many_classes(classes: int) -> None:
    prediction, label = maps(200, 255)
    prediction[0, 0] = classes - 1
    assert_equal(count(prediction, label.byte(), classes), count_reference(prediction, label, classes))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_views_are_counted_like_copies(dtype: torch.dtype) -> None:
    prediction, label = (m.to(dtype) for m in maps(19, 255))
    for view in (lambda m: m.T, lambda m: m[::2, 1::3], lambda m: m[:, 5:9], lambda m: m.expand(3, *m.shape)):
        expected = count(view(prediction).contiguous(), view(label).contiguous(), 19)
        assert_equal(count(view(prediction), view(label), 19), expected)


@pytest.mark.parametrize("classes", [19, 5000])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_arguments_are_left_alone(dtype: torch.dtype, classes: int) -> None:
    prediction, label = (m.to(dtype) for m in maps(19, 255))
    before = prediction.clone(), label.clone()
    count(prediction, label, classes)
    count_module.count_cells(prediction, label, classes)
    assert torch.equal(prediction, before[0]) and torch.equal(label, before[1])


def test_shapes_must_match() -> None:
    with pytest.raises(ValueError, match=r"\(4, 5\) and label \(5, 4\) differ in shape"):
        count(torch.zeros(4, 5).byte(), torch.zeros(5, 4).byte(), 3)


def test_empty_image() -> None:
    for dtype in (torch.uint8, torch.int64):
        counts = count(torch.zeros(0, 5, dtype=dtype), torch.zeros(0, 5, dtype=dtype), 3)
        assert counts.gt.tolist() == counts.pred.tolist() == counts.tp.tolist() == [0, 0, 0]


def test_every_wrong_label_is_named_but_no_list_without_end() -> None:
    with pytest.raises(UserError, match=r"label values 5, 9, 254 are"):
        count(torch.zeros(1, 4).byte(), row(9, 254, 5, 255).byte(), 3)
    with pytest.raises(UserError, match=r"-3, 5, 900 are"):
        count(torch.zeros(1, 4).byte(), row(900, -3, 5, 255), 3)
    with pytest.raises(UserError, match=r"label values 3, 4, 5, 6, 7, 8, 9, 10 \.\.\. are"):
        count(torch.zeros(1, 60).byte(), torch.arange(60).view(1, 60).byte(), 3)


def test_predictions_that_would_run_into_the_next_row() -> None:
    """``label * C + C`` is the cell (label + 1, 0): without a check it would count for another class."""
    with pytest.raises(ValueError, match="predictions reach 3"):
        confusion(row(3, 0), row(0, 1), 3)


def test_confusion_rows_are_labels() -> None:
    table = confusion(row(0, 1, 1, 2, 2), row(0, 0, 0, 1, 255), 3)
    assert table.tolist() == [[1, 2, 0], [0, 0, 1], [0, 0, 0]]
    prediction, label = maps(12, 255)
    table, counts = confusion(prediction, label, 12), count(prediction, label, 12)
    assert np.array_equal(table.diagonal().numpy(), counts.tp) and table.dtype == torch.int64
    assert np.array_equal(table.sum(1).numpy(), counts.gt) and np.array_equal(table.sum(0).numpy(), counts.pred)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
@pytest.mark.parametrize("ignore", [255, 65535, 0])
def test_label_equal_to_the_number_of_classes_is_refused(dtype: torch.dtype, ignore: int) -> None:
    """What labels that count from 1 look like: the last class must not vanish without a word."""
    if dtype != torch.int64 and ignore == 65535:
        return
    with pytest.raises(UserError, match="label values 3 are"):
        count(row(0, 1, 2), row(1, 2, 3).to(dtype), 3, ignore)


# --- boundary -----------------------------------------------------------------------------------------------------


def blobs(classes: int, size: tuple[int, int], ignore: int, seed: int) -> tuple[Tensor, Tensor]:
    """Smooth random regions; the prediction is the label with moved and roughened borders."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(classes, *size)).astype(np.float32)
    fields = np.stack([cv2.GaussianBlur(n, (0, 0), 7) for n in noise])
    rough = np.stack([cv2.GaussianBlur(n, (0, 0), 2) for n in rng.normal(size=(classes, *size)).astype(np.float32)])
    label, prediction = fields.argmax(0), (fields + 0.1 * rough).argmax(0)
    void = cv2.GaussianBlur(rng.normal(size=size).astype(np.float32), (0, 0), 5)
    label[void > np.quantile(void, 0.9)] = ignore
    return torch.from_numpy(prediction), torch.from_numpy(label)


def eroded_band(mask: np.ndarray, distance: int) -> np.ndarray:
    """Pad by one zero, erode ``distance`` times with 3x3 ones, and take what is gone."""
    padded = np.pad(mask.astype(np.uint8), 1)
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1]
    return mask & (inner == 0)


@pytest.mark.parametrize("size", [(60, 80), (45, 45), (33, 120)])
@pytest.mark.parametrize(("ratio", "ignore"), [(0.02, 255), (0.05, 255), (0.0001, 65535), (0.3, 2)])
def test_boundary_equals_erosion(size: tuple[int, int], ratio: float, ignore: int) -> None:
    prediction, label = blobs(5, size, ignore, seed=size[0])
    counts = count_boundary(prediction, label, 5, ignore, ratio)
    distance = max(1, round(ratio * float(np.hypot(*size))))
    valid = (label != ignore).numpy()
    for c in range(5):
        bands = [eroded_band((m.numpy() == c) & valid, distance) for m in (prediction, label)]
        assert counts.pred[c] == bands[0].sum()
        assert counts.gt[c] == bands[1].sum()
        assert counts.tp[c] == (bands[0] & bands[1]).sum()
    assert 0 < counts.tp.sum() < counts.gt.sum()


def test_boundary_of_a_square_by_hand() -> None:
    label = torch.zeros(20, 20, dtype=torch.long)
    label[5:15, 5:15] = 1
    counts = count_boundary(label, label, 2, ratio=2 / np.hypot(20, 20))
    ring = 10 * 10 - 6 * 6
    assert counts.gt[1] == counts.pred[1] == counts.tp[1] == ring
    outer = (20 * 20 - 16 * 16) + (14 * 14 - 10 * 10)  # at the image border and around the square
    assert counts.gt[0] == outer


@pytest.mark.parametrize(
    ("height", "width", "band"),
    [
        (400, 500, 13),  # 12.806, up
        (1024, 2048, 46),  # 45.79, Cityscapes
        (333, 500, 12),  # 12.015, down
        (375, 500, 12),  # exactly 12.5: to the even number, as in the authors' code
        (600, 800, 20),  # exactly 20
        (20, 30, 1),  # 0.72: at least 1 px
        (12, 13, 1),  # 0.35, which would round to 0
    ],
)
def test_width_of_the_band(height: int, width: int, band: int) -> None:
    """2 % of the diagonal, rounded: what an image of one class keeps inside says how wide its band is."""
    label = torch.zeros(height, width, dtype=torch.uint8)
    counts = count_boundary(label, label, 1)
    assert counts.gt[0] == height * width - (height - 2 * band) * (width - 2 * band)


def test_boundary_of_perfect_and_of_ignored_maps() -> None:
    prediction, label = blobs(6, (50, 60), 255, seed=3)
    perfect = count_boundary(torch.where(label == 255, prediction, label), label, 6)
    assert np.array_equal(perfect.tp, perfect.gt) and np.array_equal(perfect.tp, perfect.pred)
    nothing = count_boundary(prediction, torch.full_like(label, 255), 6)
    assert nothing.gt.sum() == nothing.pred.sum() == 0


def test_boundary_never_exceeds_the_counts_and_meets_them_for_a_wide_band() -> None:
    prediction, label = blobs(5, (50, 60), 255, seed=4)
    whole, band = count(prediction, label, 5), count_boundary(prediction, label, 5)
    for name in ("tp", "gt", "pred"):
        assert (getattr(band, name) <= getattr(whole, name)).all()
    assert_equal(count_boundary(prediction, label, 5, ratio=1.0), whole)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_boundary_takes_what_count_takes(dtype: torch.dtype) -> None:
    prediction, label = blobs(5, (40, 50), 255, seed=5)
    expected = count_boundary(prediction, label, 5)
    assert_equal(count_boundary(prediction.to(dtype), label.to(dtype), 5), expected)


def test_boundary_refuses_what_count_refuses() -> None:
    image = torch.zeros(9, 9, dtype=torch.long)
    with pytest.raises(UserError, match="label values -1 are"):
        count_boundary(image, image - 1, 3)
    with pytest.raises(UserError, match="label values 3 are"):
        count_boundary(image, image + 3, 3)
    with pytest.raises(ValueError, match="predictions reach 3"):
        count_boundary(image + 3, image, 3)
    with pytest.raises(ValueError, match="differ in shape"):
        count_boundary(image[:1], image, 3)


@pytest.mark.parametrize("ignore", [255, -1, 65535])
def test_many_classes_are_counted_by_their_cells(ignore: int) -> None:
    """5,000 classes, of which few occur, and none of them."""
    prediction, label = (m.int() for m in maps(5000, ignore, blocks=9))
    cells = count_module.count_cells(prediction, label, 5000, ignore)
    table = confusion(prediction, label, 5000, ignore)
    assert np.array_equal(table[cells.label, cells.prediction].numpy(), cells.pixels)
    assert cells.pixels.sum() == table.sum() and cells.pixels.min() > 0
    assert_equal(count_module.tally_cells(cells, 5000), count_module.tally(table))
    assert_equal(count(prediction, label, 5000, ignore), count_reference(prediction, label, 5000, ignore))
    nothing = count(prediction, torch.full_like(label, ignore), 5000, ignore)
    assert nothing.gt.sum() == nothing.pred.sum() == 0


def test_many_classes_refuse_what_few_do() -> None:
    good, bad = torch.zeros(2, 3, dtype=torch.int32), torch.full((2, 3), 5000, dtype=torch.int32)
    with pytest.raises(UserError, match="label values 5000 are neither a class"):
        count(good, bad, 5000)
    with pytest.raises(ValueError, match="predictions reach 5000, allowed is 0 to 4999"):
        count(bad, good, 5000)
    with pytest.raises(ValueError, match="differ in shape"):
        count(good, bad[:1], 5000)


@pytest.mark.parametrize("pixels", [1, 2, 8, 9, 1023, 1024, 1025, 1026, 17000])
@pytest.mark.parametrize("run", [1, 2, 3, 7, 40, 3000])
def test_runs_of_every_length(pixels: int, run: int) -> None:
    """Runs that end at, before and after the borders of what the kernel looks at together; noise among them."""
    generator = torch.Generator().manual_seed(pixels + run)
    values = torch.randint(0, 4, (2, pixels // run + 1), generator=generator).repeat_interleave(run, 1)[:, :pixels]
    values[:, pixels // 3 : pixels // 2] = torch.randint(0, 4, (2, pixels // 2 - pixels // 3), generator=generator)
    for types in ((torch.uint8, torch.uint8), (torch.int32, torch.int16), (torch.int64, torch.uint8)):
        prediction, label = (m[None].to(t) for m, t in zip(values, types, strict=True))
        label = torch.where(label == 3, 255 if label.dtype != torch.int16 else 77, label)
        ignore = 77 if label.dtype == torch.int16 else 255
        assert_equal(count(prediction, label, 4, ignore), count_reference(prediction, label, 4, ignore))
