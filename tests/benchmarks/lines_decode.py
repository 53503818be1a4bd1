"""From scores to labels, and from labels to counts."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.made_up import ADE_PX, Kind, blocky, field_of, generator, photo, scores, with_classes
from benchmarks.originals import PublishedPamr, post_process, stitched
from benchmarks.table import AbsentError, Goal, Line, Round, compared, peak_resident_bytes, timed, within
from torch import Tensor

from ovss.harness.decoding.decode import decode, decoder_name
from ovss.harness.decoding.pamr import refined
from ovss.harness.decoding.rule import DecodeRule
from ovss.harness.metrics.counting import count
from ovss.harness.mmseg.shim import import_mmseg
from ovss.harness.runs.pipeline import Clock, Pipeline
from ovss.methods import ScoreField, WindowGeometry
from ovss.methods.refine.pamr import Pamr

LOGIT_SCALE = 40.0
PLAIN = "F.interpolate + argmax"


def upsampled(field: ScoreField, size: tuple[int, int]) -> Tensor:
    return F.interpolate(field.scores, size, mode="bilinear", align_corners=False)[0]


def same_labels(ours: Tensor, peer: Tensor, share: float = 1e-4) -> None:
    differing = float((ours.long() != peer.long()).float().mean())
    assert differing <= share, f"{differing:.2%} of the pixels differ"
    assert len(peer.unique()) > 1, "one class everywhere proves nothing"


def decode_line(kind: Kind, goal: Goal, classes: int = 150, size: tuple[int, int] = ADE_PX) -> Line:
    field = field_of(kind, classes, size)
    return compared(
        f"decode {classes} classes to {size[0]} x {size[1]}, {kind}, {decoder_name('cpu')}",
        PLAIN,
        lambda: decode(field, size),
        lambda: upsampled(field, size).argmax(0),
        same_labels,
        goal,
    )


def windows_line(kind: Kind, goal: Goal) -> Line:
    """The tail alone: from scores of six windows, alike up to a little noise where they overlap, to labels."""
    geometry, frame, patch = WindowGeometry(224, 112), (336, 448), 16
    boxes = tuple(geometry.boxes(*frame))
    whole = scores(kind, 150, (frame[0] // patch, frame[1] // patch))
    edges = [tuple(side // patch for side in (b.top, b.bottom, b.left, b.right)) for b in boxes]
    grids = torch.cat([whole[:, :, top:bottom, left:right] for top, bottom, left, right in edges])
    grids += 0.002 * torch.randn(grids.shape, generator=generator(7))
    field = ScoreField(grids, boxes, boxes, frame, tuple(range(150)))

    def original() -> Tensor:
        following = iter(grids)
        maps = stitched(lambda _: next(following)[None], torch.zeros(1, 3, *frame), 150, 224, 112, ADE_PX)
        return post_process(maps, LOGIT_SCALE)

    return compared(
        f"tail of 6 windows, 150 classes, to 512 x 683, {kind}, {decoder_name('cpu')}",
        "original loop over windows",
        lambda: decode(field, ADE_PX, DecodeRule(LOGIT_SCALE)),
        original,
        same_labels,
        goal,
    )


def threshold_line(area: float, one_hot: bool, goal: Goal = Goal()) -> Line:
    """56 texts of 21 classes, as VOC 21 with synonyms."""
    size, threshold = (375, 500) if one_hot else ADE_PX, 0.4
    field = with_classes(field_of("CLIP-like", 56, size), 21)
    owners = field.query_to_class
    rule = DecodeRule(LOGIT_SCALE, probability_threshold=threshold, area_threshold=area, background=0)

    def plain() -> Tensor:
        """As the original, with a maximum over the texts of each class in place of a product with a one-hot."""
        softmax = (LOGIT_SCALE * upsampled(field, size)).softmax(0)
        found = torch.stack([softmax[[q for q in range(56) if owners[q] == c]].amax(0) for c in range(21)])
        labels = found.argmax(0)
        if area:
            pixels = torch.bincount(labels.flatten(), minlength=21)
            lost = pixels <= area * (pixels.sum() - pixels[0])
            lost[0] = False
            found[lost] = 0
            labels = found.argmax(0)
        return labels.masked_fill_(found.amax(0) < threshold, 0)

    return compared(
        f"56 texts to 21 classes, threshold{' and area rule' if area else ''}, {size[0]} x {size[1]}",
        "original, classes by a one-hot" if one_hot else "softmax, maximum by class, argmax",
        lambda: decode(field, size, rule),
        (lambda: post_process(upsampled(field, size), LOGIT_SCALE, owners, threshold, area)) if one_hot else plain,
        same_labels,
        goal,
    )


def synonyms_line() -> Line:
    """As COCO-Object; small, as the original's product of classes x texts x pixels takes 11 GB at 480 x 640."""
    size = (120, 160)
    field = with_classes(field_of("CLIP-like", 113, size, (14, 18)), 81)
    return compared(
        "113 texts to 81 classes, 120 x 160",
        "original, classes by a one-hot",
        lambda: decode(field, size, DecodeRule(LOGIT_SCALE)),
        lambda: post_process(upsampled(field, size), LOGIT_SCALE, field.query_to_class),
        same_labels,
        Goal.same(100.0),
    )


def pamr_line() -> Line:
    """Steps alone: the affinities are made before, on both sides from the same resized image."""
    size = (256, 342)
    image = photo(*size)  # with noise: a deviation of nearly 0 would magnify roundings
    ours = Pamr(image, size, mean=(0.0,) * 3, std=(1.0,) * 3, steps=1)
    published = PublishedPamr(image[None] / 255)
    maps = scores("CLIP-like", 150, size)

    def agree(a: Tensor, b: Tensor) -> None:
        assert float((a - b[0]).abs().max()) <= 1e-5

    what = "PAMR, one iteration, 150 classes, 256 x 342"
    return compared(
        what, "published module", lambda: refined(ours, maps[0]), lambda: published.step(maps), agree, Goal.same(40.0)
    )


def memory_line() -> Line:
    """What a decode takes beside its argument, its result and the kernels' own buffers among it."""
    field = field_of("CLIP-like", 150)
    full = 4 * 150 * ADE_PX[0] * ADE_PX[1]
    run: Callable[[], Any] = lambda: decode(field, ADE_PX)  # noqa: E731
    return Line(
        "memory of decode, 150 classes to 512 x 683, CLIP-like",
        "classes x height x width floats",
        lambda: same_labels(run(), upsampled(field, ADE_PX).argmax(0)),
        lambda _: Round(peak_resident_bytes(run), full),
        Goal.same(40.0),
        "MiB",
    )


def maps(noisy: bool, classes: int = 150) -> tuple[Tensor, Tensor]:
    """Prediction and label, int64, with ignored pixels: regions of 24 px, or every pixel by itself."""
    block = 1 if noisy else 24
    label = blocky(ADE_PX, classes, block, seed=2)
    prediction = torch.where(blocky(ADE_PX, 10, block, seed=3) < 6, label, blocky(ADE_PX, classes, block, seed=4))
    label[blocky(ADE_PX, 10, block, seed=5) == 0] = 255
    return prediction, label


def count_line(peer: str, noisy: bool = False, goal: Goal = Goal()) -> Line:
    """uint8 on our side, as labels are here; each peer gets the type that its own programs hand it."""
    classes = 150
    prediction, label = maps(noisy)
    small = prediction.byte(), label.byte()
    title, run = {"mmseg": _by_mmseg, "bincount": _by_bincount, "torchmetrics": _by_torchmetrics}[peer](
        prediction, label, classes
    )

    def agree(ours: Any, table: Any) -> None:
        tp, gt, pred = table
        assert np.array_equal(ours.tp, tp) and np.array_equal(ours.gt, gt) and np.array_equal(ours.pred, pred)

    what = f"count 150 classes, 512 x 683, {'white noise' if noisy else 'regions'}, {decoder_name('cpu')}"
    return compared(what, title, lambda: count(*small, classes), run, agree, goal)


def _by_mmseg(prediction: Tensor, label: Tensor, classes: int) -> tuple[str, Callable[[], Any]]:
    """int64, as mmseg's test loop hands them over."""
    metric = import_mmseg().evaluation.IoUMetric

    def run() -> Any:
        intersection, _, predicted, labelled = metric.intersect_and_union(prediction, label, classes, 255)
        return intersection.numpy(), labelled.numpy(), predicted.numpy()

    return "mmseg intersect_and_union", run


def _by_bincount(prediction: Tensor, label: Tensor, classes: int) -> tuple[str, Callable[[], Any]]:
    small, truth = prediction.byte().numpy(), label.byte().numpy()

    def run() -> Any:
        kept = truth != 255
        index = truth[kept].astype(np.int64) * classes + small[kept]
        table = np.bincount(index, minlength=classes * classes).reshape(classes, classes)
        return table.diagonal(), table.sum(1), table.sum(0)

    return "masked np.bincount", run


def _by_torchmetrics(prediction: Tensor, label: Tensor, classes: int) -> tuple[str, Callable[[], Any]]:
    try:
        from torchmetrics.classification import MulticlassConfusionMatrix
    except ImportError as error:
        raise AbsentError("torchmetrics is not installed") from error
    metric = MulticlassConfusionMatrix(classes, ignore_index=255, validate_args=False)

    def run() -> Any:
        metric.reset()
        metric.update(prediction, label)
        table = metric.compute().numpy()
        return table.diagonal(), table.sum(1), table.sum(0)

    return "torchmetrics confusion matrix", run


def many_classes_line(confusion: bool) -> Line:
    """What a run does with an image of very many classes, with and without its confusion matrix."""
    classes = 5000
    prediction, label = (m.int() for m in maps(noisy=False, classes=classes))
    label[label == 255] = 65535
    pipeline = Pipeline.__new__(Pipeline)  # no method is needed to compare two maps
    pipeline.record = SimpleNamespace(classes=range(classes), ignore_index=65535)  # type: ignore[assignment]  # all it reads
    pipeline.num_classes, pipeline.boundary, pipeline.confusion = classes, False, confusion
    sample: Any = SimpleNamespace(label=label.numpy().astype(np.uint16))

    def run() -> Any:
        return pipeline.compare(prediction, sample, Clock())

    def agree() -> None:
        found, kept = run(), label != 65535
        right = label[kept & (label == prediction)]
        for ours, values in (
            (found.counts.tp, right),
            (found.counts.gt, label[kept]),
            (found.counts.pred, prediction[kept]),
        ):
            assert np.array_equal(ours, torch.bincount(values, minlength=classes).numpy())

    what = f"count 5,000 classes, 512 x 683{', with the confusion matrix' if confusion else ''}"
    return within(what, 0.005, timed(run), agree)


LINES: dict[str, Callable[[], Line]] = {
    "decode-smooth": lambda: decode_line("smooth", Goal()),
    "decode-clip": lambda: decode_line("CLIP-like", Goal.same(120.0)),
    "decode-noise": lambda: decode_line("white noise", Goal(39.0, 43.0)),
    "decode-171": lambda: decode_line("CLIP-like", Goal(), 171, (480, 640)),
    "windows": lambda: windows_line("CLIP-like", Goal.same(120.0)),
    "windows-noise": lambda: windows_line("white noise", Goal()),
    "threshold": lambda: threshold_line(0.0, one_hot=False),
    "area": lambda: threshold_line(0.02, one_hot=False),
    "threshold-original": lambda: threshold_line(0.0, one_hot=True, goal=Goal.same(100.0)),
    "area-original": lambda: threshold_line(0.02, one_hot=True, goal=Goal.same(60.0)),
    "synonyms": synonyms_line,
    "pamr": pamr_line,
    "memory": memory_line,
    "count-mmseg": lambda: count_line("mmseg", goal=Goal.same(150.0)),
    "count-bincount": lambda: count_line("bincount", goal=Goal.same(10.0)),
    "count-torchmetrics": lambda: count_line("torchmetrics"),
    "count-noise": lambda: count_line("mmseg", noisy=True),
    "count-noise-bincount": lambda: count_line("bincount", noisy=True),
    "count-5000": lambda: many_classes_line(confusion=False),
    "count-5000-confusion": lambda: many_classes_line(confusion=True),
}
