"""``bench experts``, and runs with what it chose."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ..things import write_things
from .conftest import Ended

Bench = Callable[..., Ended]
TINY = ("--backbone", "tiny-clip", "--set", "templates=subset7")


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_things(tmp_path_factory.mktemp("home") / "things", 4))


def test_choosing_and_running(bench: Bench, things: str) -> None:
    told = bench("experts", "-m", "maskclip", "-d", things, *TINY, "--limit", "2", "--out", "e.json")
    assert told.code == 0, told.err
    assert "ranked by maskclip on 2 of 4 (partial) images of things all, labels not used" in told.out
    assert "protocol tiny*" in told.out and "weights tiny-clip file:" in told.out and "code " in told.out
    found = json.loads(Path("e.json").read_text())
    assert (found["images"], found["planned"], len(found["image_names"]), len(found["templates"])) == (2, 4, 2, 7)
    for entropy, pixels, chosen in zip(found["entropy"], found["pixels"], found["chosen"], strict=True):
        assert [e is None for e in entropy] == [n == 0 for n in pixels]
        best = sorted((e, t) for t, e in enumerate(entropy) if e is not None)[:4]
        assert chosen == [t for _, t in best]
    floss = ("run", "-m", "floss", "-d", things, *TINY, "--option", "base=maskclip", "--option", "experts=e.json")
    run = bench(*floss, "--json").json()
    said = "templates were chosen on 2 of the 4 images that are scored, without labels: transductive"
    assert said in run["note"]
    assert said not in bench("run", "-m", "maskclip", "-d", things, *TINY, "--json").json()["note"]
    Path("e.json").write_text(json.dumps({**found, "image_names": ["another"], "chosen": found["chosen"][::-1]}))
    other = bench(*floss, "--json").json()
    assert "templates were chosen on 1 other images, without labels" in other["note"]
    assert other["run_dir"] != run["run_dir"]


def test_entropies_add_up_over_images(bench: Bench, things: str) -> None:
    """Counts grow with the images; entropies do not depend on --count, only the choice does."""
    command = ("experts", "-m", "maskclip", "-d", things, *TINY, "--json")
    both = bench(*command, "--limit", "2").json()
    fewer = bench(*command, "--limit", "2", "--count", "1").json()
    one = bench(*command, "--limit", "1").json()
    assert (both["entropy"], both["pixels"]) == (fewer["entropy"], fewer["pixels"])
    assert [row[:1] for row in both["chosen"]] == fewer["chosen"]
    assert sum(map(sum, both["pixels"])) > sum(map(sum, one["pixels"])) > 0
    assert all(a >= b for rows in zip(both["pixels"], one["pixels"], strict=True) for a, b in zip(*rows, strict=True))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-m", "maskclip", "--set", "refine=pamr"), "--set refine=none"),
        (("-m", "maskclip", "--set", "templates=photo"), "a single template, so there is nothing to choose"),
        (("-m", "maskclip,clip"), "templates are ranked for one method"),
        (("-m", "maskclip", "--out", "."), "no plain file"),
        (("-m", "floss"), "floss needs a file of experts"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes(bench: Bench, things: str, words: tuple[str, ...], message: str) -> None:
    ended = bench("experts", "-d", things, "--backbone", "tiny-clip", *words)
    assert ended.code == 2 and message in ended.err and "Traceback" not in ended.err
    assert not Path("experts.json").exists()
