"""decode by the compiled kernels against torch: equal bits, but for probabilities, which are equal to rounding.

What is right is said in ``test_decode``, whose tests run with both.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ovss.harness.decoding.decode import Winners, decode, decode_reference, winners_of
from ovss.harness.decoding.rule import DecodeRule
from ovss.harness.native import door
from ovss.methods import Box, ScoreField, UserError, WindowGeometry

pytestmark = pytest.mark.skipif(
    not (Path(door.__file__).parent / "libkernels.so").exists(), reason="`make setup` builds the kernels"
)


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], tuple[object, object]]:
    """What a computation gives by the kernels, and by torch."""

    def run(compute: Callable[[], object]) -> tuple[object, object]:
        monkeypatch.setenv(door.KERNELS, "1")
        compiled = compute()
        monkeypatch.setenv(door.KERNELS, "0")
        return compiled, compute()

    return run


def drawn(seed: int) -> tuple[ScoreField, tuple[int, int]]:
    """A random field and size: windows of any stride, padded or not, 1 to 300 classes, synonyms in any order."""
    generator = torch.Generator().manual_seed(seed)

    def pick(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    window = pick(20, 60)
    geometry = WindowGeometry() if seed % 3 == 0 else WindowGeometry(window, pick(window // 3, window))
    frame = (pick(24, 120), pick(24, 160))
    boxes = geometry.boxes(*frame)
    covers = boxes
    if seed % 4 == 1:
        covers = tuple(Box(b.top - 3, b.left, b.bottom + 2, b.right + 7) for b in boxes)
    classes = (1, 2, 3, 19, 21, 127, 128, 129, 150, 256, 257, 300)[seed % 12]
    owners = tuple(range(classes))
    if seed % 5 == 2:
        owners = tuple(pick(0, classes - 1) for _ in range(classes + pick(0, 9)))
    grid = (pick(1, 9), pick(1, 12)) if seed % 7 or len(boxes) * classes > 200 else frame
    scores = torch.randn(len(boxes), len(owners), *grid, generator=generator)
    # Some scores are equal, some fields have a clear winner, some are as smooth as those of a model.
    scores = (scores * 4).round() / 4 if seed % 2 else 0.2 + 0.03 * scores
    if seed % 3 == 1:
        scores[:, pick(0, len(owners) - 1)] += 0.1
    size = frame if seed % 6 == 0 else (pick(1, 150), pick(1, 170))
    return ScoreField(scores, boxes, covers, frame, owners), size


@pytest.mark.parametrize("seed", range(72))
def test_labels_and_values_have_the_same_bits(seed: int, both: Callable[..., tuple[Tensor, Tensor]]) -> None:
    field, size = drawn(seed)
    compiled, torchs = both(lambda: decode(field, size))
    assert compiled.dtype == torchs.dtype and torch.equal(compiled, torchs)
    rule = DecodeRule(activation="none")
    first, second = both(lambda: winners_of(field, size, rule))
    assert isinstance(first, Winners) and isinstance(second, Winners)
    assert torch.equal(first.labels, second.labels) and torch.equal(first.labels, torchs)
    assert first.probability is not None and second.probability is not None
    assert torch.equal(first.probability, second.probability)


@pytest.mark.parametrize("seed", range(24))
def test_probabilities_are_equal_to_rounding(seed: int, both: Callable[..., tuple[Winners, Winners]]) -> None:
    field, size = drawn(seed)
    rule = DecodeRule(logit_scale=(1.0, 40.0, 100.0)[seed % 3])
    compiled, torchs = both(lambda: winners_of(field, size, rule))
    assert torch.equal(compiled.labels, torchs.labels)
    assert compiled.probability is not None and torchs.probability is not None
    assert torch.allclose(compiled.probability, torchs.probability, rtol=2e-5, atol=0)


@pytest.mark.parametrize("seed", range(24))
def test_thresholds_differ_only_on_the_line(seed: int, both: Callable[..., tuple[Tensor, Tensor]]) -> None:
    field, size = drawn(seed)
    scale = (1.0, 3.0)[seed % 2]
    probability = winners_of(field, size, DecodeRule(scale)).probability
    assert probability is not None
    rule = DecodeRule(scale, probability_threshold=float(probability.median()), background=0)
    compiled, torchs = both(lambda: decode(field, size, rule))
    near = (probability / rule.probability_threshold - 1).abs() < 2e-5
    assert torch.equal(compiled[~near], torchs[~near])
    assert near.float().mean() < 0.2 or field.num_classes == 1 or len(probability.unique()) < 20


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("area", [0.02, 0.2, 0.9])
def test_area_rule_has_the_same_bits(seed: int, area: float, both: Callable[..., tuple[Tensor, Tensor]]) -> None:
    field, size = drawn(seed)
    rule = DecodeRule(40.0, area_threshold=area, background=(0, field.num_classes)[seed % 2])
    compiled, torchs = both(lambda: decode(field, size, rule))
    assert compiled.dtype == torchs.dtype and torch.equal(compiled, torchs)


@pytest.mark.parametrize("scale", [1.0, 40.0, 100.0, 3000.0])
@pytest.mark.parametrize("seed", range(12))
def test_deciding_without_probabilities_changes_no_label(
    seed: int, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounds and steps of the softmax's sum decide as the sum itself does, made by the same library for all pixels."""
    monkeypatch.setenv(door.KERNELS, "1")
    field, size = drawn(seed)
    if seed % 2:  # larger than its cells, so that rows change by equal steps
        size = (size[0] + 150, size[1] + 30)
    for area in (0.0, 0.05):
        said = winners_of(field, size, DecodeRule(scale, area_threshold=area, background=0))
        assert said.probability is not None
        for share in (0.2, 0.5, 0.8):
            threshold = max(1e-6, float(said.probability.flatten().quantile(share)))
            rule = DecodeRule(scale, threshold, area, background=0)
            near = (said.probability / threshold - 1).abs() < 2e-5
            wanted = said.labels.masked_fill(said.probability < threshold, 0)
            assert torch.equal(decode(field, size, rule)[~near], wanted[~near])


@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (200, 1), (17, 31), (64, 16), (65, 33)])
@pytest.mark.parametrize("queries", [1, 2, 7, 8, 9])
def test_shapes_at_the_edges(shape: tuple[int, int], queries: int, both: Callable[..., tuple[Tensor, Tensor]]) -> None:
    generator, box = torch.Generator().manual_seed(queries), (Box(0, 0, 40, 50),)
    scores = torch.randn(1, queries, 3, 4, generator=generator)
    field = ScoreField(scores, box, box, (40, 50), tuple(range(queries)))
    assert torch.equal(*both(lambda: decode(field, shape)))
    assert torch.equal(*both(lambda: decode(field, shape, DecodeRule(2.0, 0.37, background=0))))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_no_numbers_are_refused(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(door.KERNELS, "1")
    field, size = drawn(3)
    field.scores[0, 1, 0, 0] = value
    for rule in (DecodeRule(), DecodeRule(40.0, 0.4, 0.01, background=0)):
        with pytest.raises(UserError, match=r"1 of \d+ scores are NaN or infinite"):
            decode(field, size, rule)


@pytest.mark.parametrize("seed", [1, 4, 22])
def test_threads_do_not_matter(seed: int, both: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(door.KERNELS, "1")
    field, _ = drawn(seed)
    rule = DecodeRule(40.0, 0.3, 0.01, background=0)
    for size in ((400, 501), (313, 133)):
        alone = decode(field, size), decode(field, size, rule)
        torch.set_num_threads(5)
        try:
            together = decode(field, size), decode(field, size, rule)
        finally:
            torch.set_num_threads(1)
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_bounds_leave_out_no_winner_by_a_hair(both: Callable[..., tuple[Tensor, Tensor]]) -> None:
    """Queries that differ in the last bits, and mixtures of two that a third just fails to beat."""
    generator = torch.Generator().manual_seed(0)
    box = (Box(0, 0, 64, 96),)
    for base in (0.2, 1.0, 1e-3, 3000.0):
        scores = base * (1 + 3e-7 * torch.randn(1, 40, 4, 6, generator=generator))
        scores[:, 0, :, ::2] *= 1.25
        scores[:, 1, :, 1::2] *= 1.25
        scores[:, 2:20] *= 1.125
        field = ScoreField(scores, box, box, (64, 96), tuple(range(40)))
        compiled, torchs = both(lambda field=field: decode(field, (131, 211)))
        assert len(torchs.unique()) > 5
        assert torch.equal(compiled, torchs)


def test_chunks_of_queries_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 queries, each best in one pixel: x is the best of ``2 q x - q^2``."""
    monkeypatch.setenv(door.KERNELS, "1")
    q, x = torch.arange(1000).double()[:, None], torch.arange(1000).double()
    scores = ((2 * q * x - q * q) / 1e6).float()[None, :, None]
    box = (Box(0, 0, 1, 1000),)
    labels = decode(ScoreField(scores, box, box, (1, 1000), tuple(range(1000))), (1, 1000))
    assert labels.tolist() == [list(range(1000))]


def test_a_probability_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores 0, log 2 and log 5: the best has 5 / 8."""
    monkeypatch.setenv(door.KERNELS, "1")
    box = (Box(0, 0, 2, 2),)
    scores = torch.tensor([1.0, 2.0, 5.0]).log().view(1, 3, 1, 1).expand(1, 3, 2, 2).contiguous()
    field = ScoreField(scores, box, box, (2, 2), (0, 1, 2))
    found = winners_of(field, (2, 2), DecodeRule())
    assert found.probability is not None
    assert torch.allclose(found.probability, torch.full((2, 2), 0.625), rtol=1e-6) and (found.labels == 2).all()
    far = replace(field, scores=1e4 * scores)  # the others do not count, and nothing overflows
    found = winners_of(far, (2, 2), DecodeRule(100.0))
    assert found.probability is not None and (found.probability == 1).all()


@pytest.mark.parametrize("value", [2e30, -3e38])
def test_huge_scores_are_left_to_torch(value: float, both: Callable[..., tuple[Tensor, Tensor]]) -> None:
    field, size = drawn(3)
    field.scores[0, 1, 0, 0] = value
    compiled, torchs = both(lambda: decode(field, size))
    assert torch.equal(compiled, torchs)


def test_what_torch_keeps(both: Callable[..., tuple[Tensor, Tensor]]) -> None:
    """Refiners, mixed planes and scores of other types give what they gave."""
    field, size = drawn(4)
    assert torch.equal(*both(lambda: decode(field, size, refine=lambda maps: maps**3)))
    planes, owners = torch.rand(field.scores.shape[1], 6), (0, 1, 2, 3, 4, 5)
    mixed = replace(field, mixing=planes, query_to_class=owners)
    assert torch.equal(*both(lambda: decode(mixed, size)))
    double = replace(field, scores=field.scores.double())
    assert torch.equal(*both(lambda: decode(double, size)))
    falling = winners_of(field, size, DecodeRule(-1.0)).probability
    assert falling is not None and falling.isfinite().all()


def test_strided_scores_are_read_as_they_are(both: Callable[..., tuple[Tensor, Tensor]]) -> None:
    field, size = drawn(8)
    turned = replace(field, scores=field.scores.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2))
    assert torch.equal(*both(lambda: decode(turned, size)))
    assert torch.equal(decode(turned, size), decode(field, size))


def test_agrees_with_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(door.KERNELS, "1")
    for seed in (2, 9, 12):
        field, size = drawn(seed)
        field = replace(field, scores=torch.randn(field.scores.shape, generator=torch.Generator().manual_seed(seed)))
        assert (decode(field, size) != decode_reference(field, size)).float().mean() <= 2e-4


ANY_PROCESSOR = """
import hashlib, torch
torch.set_num_threads(1)
from ovss.harness.decoding.decode import decode, decoder_name
from ovss.methods import ScoreField, WindowGeometry
said = hashlib.sha256()
for classes in (19, 150):
    boxes = WindowGeometry(224, 112).boxes(230, 300)
    scores = torch.rand(len(boxes), classes, 14, 14, generator=torch.Generator().manual_seed(classes))
    labels = decode(ScoreField(scores, boxes, boxes, (230, 300), tuple(range(classes))), (251, 333))
    said.update(labels.numpy().tobytes())
print(decoder_name("cpu"), said.hexdigest())
"""


def test_labels_do_not_depend_on_the_program_or_the_instructions_of_torch() -> None:
    found = []
    for kernels, capability in (("0", "default"), ("0", "avx2"), ("1", "default")):
        environment = os.environ | {door.KERNELS: kernels, "ATEN_CPU_CAPABILITY": capability}
        command = [sys.executable, "-c", ANY_PROCESSOR]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-500:]
        found.append(done.stdout.split())
    assert [program for program, _ in found] == ["torch", "torch", "compiled"]
    assert len({said for _, said in found}) == 1
