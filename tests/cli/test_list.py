"""``bench list``: one method or proposer with its options, as the records have them."""

from collections.abc import Callable
from typing import Any

import pytest

from ovss.methods import find_method, list_methods
from ovss.methods.core.options import describe_options, options_type
from ovss.methods.proposals.loading import find_proposer, list_proposers

Command = Callable[..., Any]


@pytest.mark.parametrize("name", ["cliper", "ovseg-tf", "clip-dinoiser"])
def test_one_method_with_its_options(bench: Command, name: str) -> None:
    shown = bench("list", "methods", name, "--json").json()
    rows = list(describe_options(options_type(find_method(name))))
    assert [o["name"] for o in shown["options"]] == [row.name for row in rows] != []
    assert all(o["meaning"] and o["allowed"] for o in shown["options"])
    assert shown["method"] == name and shown["paper"]
    printed = bench("list", "methods", name).out
    assert all(row.name in printed for row in rows) and f"method: {name}" in printed


def test_a_method_without_a_file_of_its_own(bench: Command) -> None:
    assert "positions" in bench("list", "methods", "dino-pool").out
    assert [m["method"] for m in bench("list", "methods", "--json").json()][: len(list_methods(plugins=False))] == (
        list_methods(plugins=False)
    )


def test_proposers(bench: Command) -> None:
    rows = bench("list", "proposers", "--json").json()
    assert [row["proposer"] for row in rows] == list_proposers() and all(row["what"] for row in rows)
    shown = bench("list", "proposers", "slic", "--json").json()
    assert {o["name"] for o in shown["options"]} == set(options_type(find_proposer("slic")).model_fields)
    assert "no options" in bench("list", "proposers", "files").out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("methods", "clpier"), "did you mean cliper?"),
        (("proposers", "slick"), "did you mean slic?"),
        (("datasets", "shapes"), "bench list datasets takes no name"),
        (("metods",), "did you mean methods?"),
    ],
)
def test_mistakes_are_told(bench: Command, words: tuple[str, ...], said: str) -> None:
    ended = bench("list", *words)
    assert ended.code == 2 and ended.out == "" and said in ended.err
