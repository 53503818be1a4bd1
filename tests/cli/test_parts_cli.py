"""What ``bench run`` says about weights: at once what is wrong with them, and afterwards what is not known."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PLUGIN = """
import torch
from ovss.methods import MethodInfo, WindowMethod, Words
class Grey(WindowMethod):
    info = MethodInfo("grey", title="Grey", paper="", backbone="")
    def __init__(self, device, dtype):
        super().__init__()
    def encode_text(self, vocabulary):
        return Words(vocabulary)
    def encode_windows(self, windows):
        return torch.nn.functional.avg_pool2d(windows.pixels.float().mean(1, keepdim=True), 8)
    def score_windows(self, seen, words):
        return seen.expand(-1, len(words.vocabulary.queries), -1, -1).contiguous()
"""


@pytest.mark.parametrize("verb", ["run", "segment"])
@pytest.mark.parametrize(
    ("given", "what"),
    [
        (("--backbone", "ViT-B-16", "--weights", "nothing.pt"), "weights file nothing.pt does not exist"),
        (("--backbone", "ViT-B-61/openai"), "did you mean ViT-B-16?"),
    ],
)
def test_wrong_parts_are_told_at_once(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, verb: str, given: Any, what: str
) -> None:
    """Before what the verb needs is imported, which takes seconds, and before data are looked at."""
    monkeypatch.setitem(sys.modules, f"ovss.harness.cli.{verb}", None)  # importing it now fails
    rest = ("-d", "no-data") if verb == "run" else ("no-photo.jpg", "--classes", "a, b")
    ended = bench(verb, "-m", "sclip", *rest, *given)
    assert ended.code == 2
    assert what in ended.err and "Traceback" not in ended.err


def test_a_local_file_says_that_its_activation_was_not_checked(
    bench: Callable[..., Any], random_weights: Callable[[str], Path]
) -> None:
    path = random_weights("ViT-S-32-alt")
    command = (
        *("run", "-m", "maskclip", "-d", "shapes", "--limit", "1", "--set", "templates=simple"),
        *("--backbone", "ViT-S-32-alt", "--weights", str(path)),
    )
    said = bench(*command).out
    assert "weights ViT-S-32-alt file:" in said and "(activation GELU, by name, not checked)" in said
    report = bench(*command, "--json").json()
    assert report["weights"]["activation_checked"] is False and report["unchecked"] in said
    assert report["unchecked"] in bench("show", report["run_dir"]).out
    assert bench("leaderboard", "--json").json()[0]["unchecked"] == report["unchecked"]
    assert f"({report['unchecked']})" in Path("results/LEADERBOARD.md").read_text()


def test_a_method_without_weights(bench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "grey_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    said = bench("run", "-m", "grey_plugin:Grey", "-d", "shapes", "--limit", "1").out
    assert "no weights, float32" in said and "?" not in said
    assert " grey_plugin src:" in said


def test_splits_stand_apart_wherever_runs_are_shown(bench: Callable[..., Any], tmp_path: Path) -> None:
    for dataset in ("shapes", "shapes:val"):
        assert bench("run", "-m", "maskclip", "-d", dataset, "--limit", "2").code == 0
    said = bench("leaderboard").out
    assert "shapes test" in said and "shapes val" in said
    assert r"\caption{shapes val, Shapes" in (tmp_path / "results" / "LEADERBOARD.tex").read_text()
    ended = bench("compare", "shapes-maskclip-tiny", "shapes-val-maskclip-tiny")
    assert ended.code == 2 and "not on the same images (shapes test and shapes val)" in ended.err


def test_a_decoder_that_cannot_run_is_told_at_once(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OVSS_DECODER", "triton")
    ended = bench("run", "-m", "maskclip", "-d", "shapes", "--limit", "1")
    assert ended.code == 2 and ended.err.startswith("error: $OVSS_DECODER asks for the decoder of Triton")
    assert not (tmp_path / "results").exists()
