"""``--refine``: any method by any guide, the seed in every number, errors before any work."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

Command = Callable[..., Any]


def run(bench: Command, results: Path, *more: str, method: str = "maskclip") -> dict[str, Any]:
    command = ("run", "-m", method, "-d", "shapes", "--limit", "1", "--refine", "tiny-sd", "--results", str(results))
    found: dict[str, Any] = bench(*command, *more, "--json").json()
    return found


def counts(found: dict[str, Any]) -> pd.DataFrame:
    return pd.read_parquet(Path(found["run_dir"]) / "counts.parquet")


@pytest.mark.parametrize("method", ["cliper", "maskclip", "naclip"])
def test_every_method_can_be_refined(bench: Command, tmp_path: Path, method: str) -> None:
    refined = run(bench, tmp_path, method=method)
    plain = bench("run", "-m", method, "-d", "shapes", "--limit", "1", "--results", str(tmp_path), "--json").json()
    assert refined["protocol_hash"] != plain["protocol_hash"] and refined["run_dir"] != plain["run_dir"]
    assert refined["seconds_per_stage"]["refine"] > 0 and plain["seconds_per_stage"]["refine"] < 0.01
    assert refined["guide"]["name"] == "tiny-sd" and refined["guide"]["sha256"].startswith("state:")
    assert plain["guide"] is None
    assert "random-weight stand-in" in refined["note"] and "random-weight" not in plain["note"]
    assert not counts(refined).equals(counts(plain))


def test_a_seed_gives_the_same_counts_and_another_one_is_another_protocol(bench: Command, tmp_path: Path) -> None:
    first, again = run(bench, tmp_path / "a"), run(bench, tmp_path / "b")
    other = run(bench, tmp_path / "a", "--set", "seed=1")
    assert counts(first).equals(counts(again))
    assert first["protocol_hash"] == again["protocol_hash"] != other["protocol_hash"]
    assert (first["guide"]["seed"], other["guide"]["seed"]) == (0, 1)
    assert not counts(first).equals(counts(other))
    silent = [run(bench, tmp_path / "a", "--set", "refine_noise=zero", "--set", f"seed={k}") for k in (0, 1)]
    assert counts(silent[0]).equals(counts(silent[1]))
    table = bench("run", "-m", "maskclip", "-d", "shapes", "--limit", "1", "--refine", "tiny-sd", "--set", "seed=1")
    assert "seed 1" in table.out


def test_noise_depends_on_the_image_alone(bench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on how many came before, nor on how many processes there are (forked here, which is quick)."""
    forked = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: forked)
    three = ("--limit", "3")
    whole = counts(run(bench, tmp_path / "whole", *three))
    assert len(whole) == 3
    run(bench, tmp_path / "parts", "--limit", "1")
    assert counts(run(bench, tmp_path / "parts", *three)).equals(whole)
    assert counts(run(bench, tmp_path / "two", *three, "--workers", "2")).equals(whole)


def test_absent_weights_are_found_out_before_any_work(bench: Command, tmp_path: Path) -> None:
    for guide, weights in {"sd21": "stable-diffusion-2-1-base", "dino-b8": "dino-vitb8"}.items():
        ended = bench("run", "-m", "maskclip", "-d", "shapes", "--refine", guide, "--results", str(tmp_path))
        assert ended.code == 2 and f"bench weights fetch {weights}" in ended.err
        assert "Traceback" not in ended.err
    assert not list(tmp_path.rglob("*.parquet"))


def test_unknown_guide(bench: Command) -> None:
    ended = bench("run", "-m", "maskclip", "-d", "shapes", "--refine", "sd3")
    assert ended.code == 2 and "refine" in ended.err and "'sd21'" in ended.err and "Traceback" not in ended.err


def test_a_method_with_weights_of_its_own_gets_no_backbone(bench: Command) -> None:
    """Not even the default of the embedded data: what is missing is its weights."""
    ended = bench("run", "-m", "tcl", "-d", "shapes")
    assert ended.code == 2 and "bench weights fetch tcl" in ended.err
    ended = bench("run", "-m", "maskclip", "-d", "shapes", "--option", "weights=x")
    assert ended.code == 2 and "--option cannot set weights" in ended.err
