"""The benchmarks themselves: what they compare with is right and not ours, and the table tells what was measured."""

import ast
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))  # last: the programs here import each other as `benchmarks`

from benchmarks import lines_decode, lines_model, lines_run, machine, originals, scaling, speed  # noqa: E402
from benchmarks.document import Row, page, row_of  # noqa: E402
from benchmarks.made_up import field_of, photo, scores  # noqa: E402
from benchmarks.originals import Original, PublishedPamr, post_process, released_sclip, stitched  # noqa: E402
from benchmarks.table import (  # noqa: E402
    AbsentError,
    Goal,
    Line,
    Round,
    compared,
    measured,
    peak_resident_bytes,
    turns,
    within,
)

from ovss.harness.decoding.decode import decode  # noqa: E402
from ovss.harness.decoding.rule import DecodeRule  # noqa: E402
from ovss.methods import Picture, Vocabulary, WindowGeometry, create_method, load_backbone  # noqa: E402
from ovss.methods.refine.pamr import Pamr  # noqa: E402

# --- peers --------------------------------------------------------------------------------------------------------


def test_originals_share_nothing_with_us() -> None:
    imported = set()
    for node in ast.walk(ast.parse(Path(originals.__file__).read_text())):
        if isinstance(node, ast.Import):
            imported |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add((node.module or "").split(".")[0])
    assert "torch" in imported
    assert not imported & {"ovss", "benchmarks", "methods", "harness"}


@pytest.mark.parametrize("name", ["sclip", "naclip", "maskclip"])
@pytest.mark.parametrize("size", [(64, 96), (80, 112)])
def test_originals_agree_with_our_methods(name: Any, size: tuple[int, int]) -> None:
    """Windows that overlap, and a grid that is not the stored one; labels of another size than the image."""
    backbone = load_backbone("tiny-clip")
    classes, window, stride = 7, 64, 32
    generator = torch.Generator().manual_seed(0)
    text = F.normalize(torch.randn(classes, backbone.model.visual.output_dim, generator=generator), dim=-1)
    original = Original(name, backbone.model, text, window, stride)
    image, output = photo(*size), (70, 91)
    method = create_method(name, backbone)
    words = method.encode_text(Vocabulary.from_names([f"c{k}" for k in range(classes)], templates="simple"))
    object.__setattr__(words, "text", text)
    seen = method.encode_image(Picture.of(image), WindowGeometry(window, stride))
    with torch.inference_mode():
        ours = decode(method.score(seen, words), output, DecodeRule(40.0))
    theirs = original.predict(image, output)
    assert len(theirs.unique()) > 1
    assert float((ours.long() != theirs).float().mean()) < 2e-3


def test_attention_of_the_original_by_hand() -> None:
    """SCLIP's rows sum to two: values of ones come out as twos, through the identity."""
    attn = torch.nn.MultiheadAttention(4, 2, batch_first=True)
    with torch.no_grad():
        attn.in_proj_weight.normal_()
        attn.in_proj_weight[8:] = 0
        attn.in_proj_bias.copy_(torch.tensor([0.0] * 8 + [1.0] * 4))
        attn.out_proj.weight.copy_(torch.eye(4))
        attn.out_proj.bias.zero_()
        x, none = torch.randn(1, 5, 4), torch.zeros(0)
        for name, total in (("sclip", 2.0), ("naclip", 1.0), ("maskclip", 1.0)):
            found = Original(name, None, none).attention(attn, x, (2, 2))  # type: ignore[arg-type]  # only its name is read
            assert torch.allclose(found, torch.full((1, 5, 4), total), atol=1e-6), name


def test_post_processing_by_hand() -> None:
    """Three texts of two classes; the second pixel is unsure, and class 1 is small."""
    maps = torch.tensor([[[1.0, 0.0, 0.0, 0.0]], [[0.0, 0.01, 0.0, 0.0]], [[0.0, 0.0, 1.0, 1.0]]])
    assert post_process(maps, 40.0).tolist() == [[0, 1, 2, 2]]
    assert post_process(maps, 40.0, owners=(0, 0, 1)).tolist() == [[0, 0, 1, 1]]
    assert post_process(maps, 40.0, owners=(1, 1, 0)).tolist() == [[1, 1, 0, 0]]
    assert post_process(maps, 40.0, owners=(1, 1, 0), threshold=0.9).tolist() == [[1, 0, 0, 0]]
    assert post_process(torch.tensor([[[0.0] * 4], [[1.0, 0, 0, 0]], [[0, 1.0, 1, 1]]]), 40.0, area=0.3).tolist() == [
        [0, 2, 2, 2]
    ]


def test_a_window_loop_of_a_constant_is_that_constant() -> None:
    calls = []

    def window(pixels: Tensor) -> Tensor:
        calls.append(pixels.shape[2:])
        return torch.full((1, 2, 3, 3), 0.5)

    found = stitched(window, torch.zeros(1, 3, 50, 70), 2, 40, 20, (33, 44))
    assert len(calls) == 2 * 3 and set(calls) == {(40, 40)}
    assert torch.allclose(found, torch.full((2, 33, 44), 0.5))


def test_published_pamr_agrees_with_ours() -> None:
    image, maps = photo(40, 56), scores("CLIP-like", 3, (40, 56))
    ours = Pamr(image, (40, 56), mean=(0.0,) * 3, std=(1.0,) * 3, steps=1)(maps[0])
    theirs = PublishedPamr(image[None] / 255).step(maps)[0]
    assert float((ours - theirs).abs().max()) < 1e-5 and not torch.equal(theirs, maps[0])


STAND_IN = """
import types
import torch

class CLIPForSegmentation:
    def __init__(self, clip_path, name_path, device, slide_crop, slide_stride):
        self.state = torch.load(clip_path)
        assert open(name_path).read() and (slide_crop, slide_stride) == (224, 112) and device.type == "cpu"

    def predict(self, inputs, samples):
        assert inputs.shape[:2] == (1, 3) and inputs.dtype == torch.float32
        height, width = samples[0].ori_shape
        assert self.query_features.shape[0] == self.num_classes == self.num_queries == len(self.query_idx)
        labels = torch.full((1, height, width), int(self.state["bias"].sum()))
        return [types.SimpleNamespace(pred_sem_seg=types.SimpleNamespace(data=labels))]
"""


def test_the_door_for_the_released_program(tmp_path: Path) -> None:
    """A checkout that stands in for it gets weights, texts and a picture, and is forgotten afterwards."""
    (tmp_path / "clip_segmentor.py").write_text(STAND_IN)
    model = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(model.bias, 3.0)
    before = list(sys.path)
    with released_sclip(tmp_path, model, torch.zeros(4, 8), (30, 40)) as predict:
        labels = predict(photo(20, 24))
    assert labels.shape == (30, 40) and labels.unique().tolist() == [6]
    assert sys.path == before and "clip_segmentor" not in sys.modules
    with pytest.raises(ModuleNotFoundError), released_sclip(tmp_path / "none", model, torch.zeros(4, 8), (30, 40)):
        pass


# --- lines --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["smooth", "CLIP-like", "white noise"])
def test_fields_have_winners_everywhere(kind: Any) -> None:
    labels = decode(field_of(kind, 12, (60, 80), (6, 8)), (60, 80))
    assert len(labels.unique()) > 3
    again = decode(field_of(kind, 12, (60, 80), (6, 8)), (60, 80))
    assert torch.equal(labels, again)


def test_neighbours_have_less_in_common_from_kind_to_kind() -> None:
    found = []
    for kind in ("smooth", "CLIP-like", "white noise"):
        best = scores(kind, 40, (28, 37))[0].argmax(0)  # type: ignore[arg-type]  # a literal
        found.append(float((best[:, 1:] != best[:, :-1]).float().mean()))
    assert found[0] < found[1] < found[2]


def test_sides_take_turns() -> None:
    order: list[str] = []

    def side(name: str, cost: float) -> Callable[[], float]:
        return lambda: order.append(name) or cost  # type: ignore[func-returns-value]  # None, on purpose

    found = measured(Line("w", "p", lambda: order.append("agree"), turns(side("ours", 2.0), side("peer", 6.0))), 4)
    assert order == ["agree", "peer", "ours", "ours", "peer", "peer", "ours", "ours", "peer"]
    assert (found.ours, found.peer, found.low, found.middle, found.high) == (2.0, 6.0, 3.0, 3.0, 3.0)


def test_sides_that_differ_are_not_timed() -> None:
    def agree(ours: int, peer: int) -> None:
        assert ours == peer, "they differ"

    with pytest.raises(AssertionError, match="they differ"):
        measured(compared("w", "p", lambda: 1, lambda: 2, agree), 1)


@pytest.mark.parametrize(("zen5", "met"), [(False, True), (True, False)])
def test_the_lower_quartile_decides_by_the_machine(zen5: bool, met: bool) -> None:
    """Ratios 1, 2, 3, 4, 5: the lower quartile is 2."""
    line = Line("w", "p", lambda: None, lambda n: Round(1.0, 1.0 + n), Goal(2.0, 2.5))
    row = row_of("name", line, measured(line, 5), zen5)
    assert (row.ratio, row.quartiles, row.goals, row.met) == ("3.00", "2.00 - 4.00", ("2", "2.5"), met)
    assert row.markdown.endswith("| met |" if met else "| **MISSED** |") and row.markdown.count("|") == 11


def test_a_limit_is_a_peer() -> None:
    line = within("start", 0.5, lambda: 0.25, lambda: None)
    assert measured(line, 1).middle == 2.0 and line.goal == Goal(1.0, 1.0)


def test_growth_of_resident_memory_is_seen() -> None:
    """Whoever asks for it: numpy's pages are none of torch's."""
    small, large = (peak_resident_bytes(lambda n=n: np.ones(n << 20, np.uint8)) for n in (1, 64))  # type: ignore[misc]  # n=n
    assert small < 8 << 20 and 60 << 20 < large < 80 << 20


def test_lines_that_cannot_be_measured_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.classification", None)
    with pytest.raises(AbsentError, match="torchmetrics is not installed"):
        lines_decode.LINES["count-torchmetrics"]()
    monkeypatch.setattr(lines_model, "has_bf16", lambda: False)
    made = lines_model.lines(tmp_path, None, ExitStack())
    with pytest.raises(AbsentError, match="no bf16 instructions"):
        made["sclip-bf16"]()
    with pytest.raises(AbsentError, match="no checkout"):
        made["sclip-released"]()
    (row,) = speed.rows_of({"sclip-bf16": made["sclip-bf16"]}, 1, zen5=False)
    assert row.met is None and "not measured: this processor" in row.markdown and row.markdown.count("|") == 11


def test_a_command_that_fails_is_told_with_what_it_said() -> None:
    with pytest.raises(AssertionError, match=r"bench nonsense ended with 2: (.|\n)*nonsense"):
        lines_run.bench("nonsense")


# --- the program --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("goal", "code"), [(1.5, 0), (2.5, 1), (None, 0)])
def test_a_goal_that_is_missed_is_the_exit_code(
    goal: float | None, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = Line("made up", "peer", lambda: None, lambda n: Round(1.0, 2.0), Goal(goal, goal))
    monkeypatch.setenv("OVSS_CACHE", str(tmp_path))
    monkeypatch.setattr(lines_decode, "LINES", {"made-up": lambda: line, "other": lambda: pytest.fail("not asked for")})
    output = tmp_path / "benchmarks.md"
    assert speed.main(["--only", "made", "--rounds", "2", "--output", str(output)]) == code
    text = output.read_text()
    assert "| made-up | made up | peer | 1000.00 ms | 2000.00 ms | 2.00 |" in text
    for part in ("load ", torch.__version__, torch.backends.cpu.get_cpu_capability(), "src:", "2 rounds"):
        assert part in text
    assert ("below the goal: made-up: 2.00" in capsys.readouterr().err) == bool(code)


def test_unknown_lines_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"count-a": lambda: None, "count-b": lambda: None, "decode": lambda: None}
    # Lines are not looked into, so plain values do.
    assert list(speed.picked(made, ("count",))) == ["count-a", "count-b"]  # type: ignore[arg-type]
    assert list(speed.picked(made, ())) == list(made)  # type: ignore[arg-type]
    with pytest.raises(SystemExit, match="no line begins with speed; there are count-a, count-b, decode"):
        speed.picked(made, ("decode", "speed"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "instructions", "expected"),
    [
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 26\n", "AVX512", True),
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 25\n", "AVX512", False),  # Zen 4
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 26\n", "AVX2", False),
        ("vendor_id\t: GenuineIntel\ncpu family\t: 26\n", "AVX512", False),
        ("processor\t: 0\n", "NO AVX", False),
    ],
)
def test_zen5(text: str, instructions: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(machine, "_CPUS", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
    assert machine.is_zen5() is expected


# --- scaling ------------------------------------------------------------------------------------------------------


def test_exponents_and_cliffs_by_hand() -> None:
    square = scaling.Curve("w", (10, 100, 1000), (0.01, 1.0, 100.0))
    assert square.exponent == pytest.approx(2.0) and square.cliffs == []
    assert "Exponent 2.00, no cliff." in square.markdown and "| 10.00 | 1,000 | 100,000 |" in square.markdown
    step = scaling.Curve("w", (10, 100, 1000, 10_000), (0.1, 1.0, 100.0, 1000.0))  # steps 1, 2, 1; the fit is 1.4
    assert step.exponent == pytest.approx(1.4) and step.cliffs == ["100 to 1,000: 2.00"]
    assert "steeper steps: 100 to 1,000: 2.00." in step.markdown


def test_sizes_up_to_a_flag() -> None:
    assert scaling.up_to(scaling.RUNS, 100) == [10, 30, 100] == scaling.up_to(scaling.RUNS, 5)
    assert scaling.up_to(scaling.IMAGES, 20_000)[-1] == 10_000


def test_the_best_of_rounds_is_kept() -> None:
    costs = {size: iter([3.0 * size, 1.0 * size, 2.0 * size]) for size in (1, 2, 4)}
    found = scaling.curve("w", (1, 2, 4), lambda size: lambda: next(costs[size]))
    assert found.seconds == (1.0, 2.0, 4.0) and found.exponent == pytest.approx(1.0)


def test_curves_of_runs_that_were_made_up(tmp_path: Path) -> None:
    assert scaling.merging(12)() > 0 and scaling.comparing(3)() > 0


def test_a_page_with_curves() -> None:
    told = machine.Machine("cpu (x)", "AVX2", 2, 1, "0.10, 0.20", "3 %", "2.0", "0.1.0 abc")
    curve = scaling.Curve("by size", (1, 10), (0.001, 0.01))
    text = page([Row("a", skipped="no reason")], [curve], 7, told)
    assert "## Scaling" in text and "| by size | 1 | 10 |" in text and "load 0.10, 0.20 before and after" in text
    assert "## Scaling" not in page([], [], 7, told)
